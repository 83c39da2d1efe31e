"""Intervals and tests against scipy, a bootstrap and simulated truth."""

import dataclasses
import math
from typing import get_args

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as reference

from sftstudy.stats import Average, Estimate, ItemScores, estimate, holm, mean, paired_difference


def arm(*rows: list[float], tasks: str = "", clusters: list[str] | None = None, first: int = 1) -> ItemScores:
    items = tuple(str(number) for number in range(len(rows[0])))
    seeds = tuple(range(first, first + len(rows)))
    return ItemScores(seeds, items, tuple(tasks or "t" * len(items)), tuple(clusters or items), np.array(rows, dtype=float))


def random_arm(seed: int, num_seeds: int, num_items: int, level: float = 0.6) -> ItemScores:
    rng = np.random.default_rng(seed)
    return arm(*(list((rng.uniform(size=num_items) < level).astype(float)) for _ in range(num_seeds)))


def interval(found: Estimate | None) -> tuple[float, float]:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_one_seed_is_the_t_interval_over_items() -> None:
    values = [3.0, 5.0, 6.0, 9.0, 4.0]
    assert interval(estimate(arm(values), "rating")) == pytest.approx(
        reference.t.interval(0.95, 4, loc=np.mean(values), scale=reference.sem(values))
    )


def test_several_seeds_add_the_variance_between_them() -> None:
    rows = [1, 1, 0, 1, 0, 1, 1, 0], [1, 0, 0, 1, 0, 0, 1, 0]
    found = estimate(arm(*rows), "fraction")
    items = np.var(np.mean(rows, axis=0), ddof=1) / 8
    seeds = np.var(np.mean(rows, axis=1), ddof=1) / 2
    freedom = (items + seeds) ** 2 / (items**2 / 7 + seeds**2 / 1)
    half = reference.t.ppf(0.975, freedom) * math.sqrt(items + seeds)
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert interval(found) == pytest.approx((max(0, 0.5 - half), min(1, 0.5 + half)))


def test_interval_agrees_with_a_bootstrap_over_items() -> None:
    scores = random_arm(0, 1, 300)
    row, rng = scores.values[0], np.random.default_rng(1)
    means = row[rng.integers(0, 300, size=(4000, 300))].mean(axis=1)
    assert interval(estimate(scores, "fraction")) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_turns_of_a_question_are_drawn_together_as_in_a_bootstrap_over_questions() -> None:
    rng = np.random.default_rng(3)
    level = rng.normal(6, 2, size=80)
    turns = np.clip(np.stack([level + rng.normal(0, 0.5, 80), level - 1 + rng.normal(0, 0.5, 80)], axis=1), 1, 10)
    means = turns[rng.integers(0, 80, size=(4000, 80))].mean(axis=(1, 2))
    clusters = [str(question) for question in range(80) for _ in range(2)]
    low, high = interval(estimate(arm(turns.ravel().tolist(), clusters=clusters), "rating"))
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.05)
    alone = interval(estimate(arm(turns.ravel().tolist()), "rating"))
    assert high - low > 1.2 * (alone[1] - alone[0])


def test_interval_covers_the_truth_over_items_and_seeds() -> None:
    rng, covered = np.random.default_rng(2), 0
    for _ in range(300):
        difficulty, luck = rng.normal(size=80), rng.normal(scale=0.4, size=(3, 1))
        chance = 1 / (1 + np.exp(-(difficulty + luck)))
        low, high = interval(estimate(arm(*(rng.uniform(size=(3, 80)) < chance).astype(float).tolist()), "fraction"))
        covered += low <= 0.5 <= high
    assert covered >= 0.94 * 300


@pytest.mark.parametrize(("value", "side"), [(0.0, 1), (1.0, 0)])
def test_all_wrong_or_all_right_has_the_exact_binomial_bound(value: float, side: int) -> None:
    exact = reference.binomtest(int(value * 20), 20).proportion_ci(0.95, method="exact")
    assert interval(estimate(arm([value] * 20), "fraction"))[side] == pytest.approx((exact.low, exact.high)[side])


def tasks_of(*sizes: int) -> str:
    return "".join(name * size for name, size in zip("abcdef", sizes, strict=False))


def exact_reach(*sizes: int) -> float:
    """The largest mean of p_k with which all tasks are all wrong in 2.5 of 100 draws, by a general optimizer."""
    draws = np.array(sizes)
    found = optimize.minimize(
        lambda logs: np.mean(np.exp(logs)),
        np.full(draws.size, math.log(0.025) / draws.sum()),
        bounds=[(-20, 0)] * draws.size,
        constraints={"type": "ineq", "fun": lambda logs: draws @ logs - math.log(0.025)},
        tol=1e-12,
    )
    return 1 - float(found.fun)


@pytest.mark.parametrize("sizes", [(80,), (20, 20, 20, 20), (10, 990), (5, 12, 60), (1, 1, 30)])
def test_all_wrong_has_the_exact_bound_of_a_macro_average_too(sizes: tuple[int, ...]) -> None:
    wrong = arm([0.0] * sum(sizes), tasks=tasks_of(*sizes))
    assert interval(estimate(wrong, "fraction", average="macro")) == pytest.approx((0, exact_reach(*sizes)), abs=1e-5)
    same = paired_difference(wrong, wrong, unit="fraction", average="macro")
    assert same is not None
    assert (same.low, same.high) == pytest.approx((-exact_reach(*sizes), exact_reach(*sizes)), abs=1e-5)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_tasks_that_are_all_right_and_all_wrong_leave_an_interval(num_seeds: int) -> None:
    row, reach = [1.0] * 20 + [0.0] * 60, 1 - 0.025 ** (1 / 80)
    found = estimate(arm(*[row] * num_seeds, tasks=tasks_of(20, 20, 20, 20)), "fraction", average="macro")
    assert interval(found) == pytest.approx((0.25 - reach, 0.25 + reach))
    assert interval(estimate(arm([0.5] * 80), "fraction")) == pytest.approx((0.5 - reach, 0.5 + reach))
    assert interval(estimate(arm([0.001] * 80), "fraction")) == pytest.approx((0, 0.001 + reach))


@pytest.mark.parametrize("sizes", [(20,), (200,), (10, 190)])
def test_few_right_items_do_not_say_more_than_none(sizes: tuple[int, ...]) -> None:
    arms = [arm([1.0] * right + [0.0] * (sum(sizes) - right), tasks=tasks_of(*sizes)) for right in range(6)]
    highs = [interval(estimate(one, "fraction", average="macro"))[1] for one in arms]
    assert highs == sorted(highs)
    gaps = [paired_difference(one, arms[0], unit="fraction", average="macro") for one in arms]
    upper = [gap.high for gap in gaps if gap is not None]
    assert len(upper) == len(arms)
    assert upper == sorted(upper)


def test_interval_of_a_rare_score_covers_it() -> None:
    """Exactly, over all numbers of right items: a t interval alone covers 85 % at worst."""
    size = 100
    found = [interval(estimate(arm([1.0] * right + [0.0] * (size - right)), "fraction")) for right in range(31)]
    for share in np.linspace(0.002, 0.12, 60):
        chances = reference.binom.pmf(np.arange(31), size, share)
        assert sum(chance for chance, (low, high) in zip(chances, found, strict=True) if low <= share <= high) > 0.89


def test_a_small_task_is_not_forgotten_beside_a_large_one() -> None:
    rng, covered = np.random.default_rng(5), 0
    for _ in range(300):
        values = [*(rng.uniform(size=10) < 0.1).astype(float), *(rng.uniform(size=490) < 0.004).astype(float)]
        low, high = interval(estimate(arm(values, tasks=tasks_of(10, 490)), "fraction", average="macro"))
        covered += low <= 0.052 <= high
    assert covered >= 0.95 * 300


def test_values_on_another_scale_say_how_far_they_may_differ() -> None:
    """Where arms are alike, a task whose items can differ by three has three times the reach."""
    plain = arm([0.0] * 40, tasks=tasks_of(20, 20))
    scaled = dataclasses.replace(plain, spans=np.repeat([3.0, 3.0], 20))
    one, three = (paired_difference(scores, scores, unit="fraction", average="macro") for scores in (plain, scaled))
    assert one is not None
    assert three is not None
    assert three.high == pytest.approx(3 * one.high)
    assert scaled.take([0, 39]).spans is not None


def test_failed_verdicts_are_left_out_and_scales_clip() -> None:
    found = estimate(arm([9.0, math.nan, 10.0, 10.0]), "rating")
    assert found is not None
    assert (found.value, found.num_items, found.high) == (pytest.approx(29 / 3), 3, 10.0)
    assert estimate(arm([math.nan, math.nan]), "rating") is None


def test_one_item_has_no_interval() -> None:
    assert estimate(arm([1.0]), "fraction") == Estimate(1.0, None, None, 1, 1)


def test_macro_average_weighs_tasks_equally_and_is_stratified() -> None:
    rows = [1, 1, 1, 0] * 4 + [0, 1] * 4
    found = estimate(arm(rows, tasks="a" * 16 + "b" * 8), "fraction", average="macro")
    parts = np.var(rows[:16], ddof=1) / 16, np.var(rows[16:], ddof=1) / 8
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 15 + parts[1] ** 2 / 7)
    assert found is not None
    assert found.value == pytest.approx(0.625)
    assert found.low == pytest.approx(0.625 - reference.t.ppf(0.975, freedom) * math.sqrt(sum(parts)) / 2)
    assert mean(np.array(rows, dtype=float), "a" * 16 + "b" * 8, "micro") == pytest.approx(16 / 24)


def test_turns_of_a_question_count_as_one_draw() -> None:
    values = [2.0, 2.0, 8.0, 8.0, 5.0, 5.0]
    doubled = estimate(arm(values, clusters=["1", "1", "2", "2", "3", "3"]), "rating")
    assert interval(doubled) == pytest.approx(interval(estimate(arm(values[::2]), "rating")))


def test_paired_difference_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    one, two = rng.normal(5, 1, size=40), rng.normal(5, 1, size=40)
    found = paired_difference(arm(list(one)), arm(list(two)), unit="rating")
    expected = reference.ttest_rel(one, two)
    assert found is not None
    assert (found.value, found.p) == pytest.approx((np.mean(one - two), expected.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_pairing_is_by_item_and_not_by_place() -> None:
    one = arm([1, 0, 1, 0])
    two = ItemScores((1,), ("3", "1", "0", "x"), ("t",) * 4, ("3", "1", "0", "x"), np.array([[0.0, 0.0, 1.0, 1.0]]))
    found = paired_difference(one, two, unit="fraction")
    assert found is not None
    assert (found.value, found.num_items, found.p) == (0.0, 3, 1.0)


def test_few_differing_items_get_mcnemars_p_and_an_interval_that_agrees() -> None:
    found = paired_difference(arm([1.0] * 5 + [0.0] * 55), arm([0.0] * 60), unit="fraction")
    assert found is not None
    assert found.p == pytest.approx(reference.binomtest(5, 5).pvalue)
    assert found.low < 0 < found.high


def test_no_false_alarms_beyond_five_percent() -> None:
    alarms = 0
    for number in range(400):
        found = paired_difference(random_arm(2 * number, 2, 60), random_arm(2 * number + 1, 2, 60), unit="fraction")
        assert found is not None
        alarms += found.p <= 0.05
    assert alarms <= 0.07 * 400


def test_arms_with_unequal_numbers_of_seeds_are_compared() -> None:
    found = paired_difference(random_arm(1, 3, 200, 0.9), random_arm(2, 1, 200, 0.3), unit="fraction")
    assert found is not None
    assert found.p < 1e-6


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_one_cluster_over_all_tasks_has_no_interval(average: Average) -> None:
    row = [1.0] * 19 + [0.0] * 21 + [1.0] * 30 + [0.0] * 10
    mine, theirs = (arm(values, tasks="a" * 40 + "b" * 40, clusters=["one"] * 80) for values in (row, row[::-1]))
    found = estimate(mine, "fraction", average=average)
    assert found is not None
    assert (found.low, found.high) == (None, None)
    assert paired_difference(mine, theirs, unit="fraction", average=average) is None


def test_clusters_over_several_tasks_are_drawn_whole() -> None:
    """Thirty books with two items in each of two tasks, all right or all wrong; tasks of one size, so both averages agree."""
    books = [str(number) for number in range(30) for _ in range(2)] * 2
    mine = arm([float(int(book) < 12) for book in books], tasks="a" * 60 + "b" * 60, clusters=books)
    micro, macro = (interval(estimate(mine, "fraction", average=average)) for average in get_args(Average))
    assert macro == pytest.approx(micro)
