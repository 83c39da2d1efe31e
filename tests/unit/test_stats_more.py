"""Equivalence, ranks, peaks, pooling and power against scipy, published examples and hand-made cases."""

import dataclasses
import itertools
import math
from functools import partial

import numpy as np
import pytest
from scipy import stats as reference

from sftstudy.screen import number_kept
from sftstudy.stats import Difference, ItemScores, paired_difference
from sftstudy.stats.equivalence import Effect, below, equivalence, relevance, superiority
from sftstudy.stats.meta import pool
from sftstudy.stats.peaks import (
    Curves,
    Optimism,
    Ratio,
    in_first_half,
    optimism,
    optimism_of_peak,
    ratio_to_peak,
    samples_to_peak,
)
from sftstudy.stats.power import Question, needed, needed_effects, needed_pairs
from sftstudy.stats.ranks import rank_correlation, stop_regret

# Vaccination against tuberculosis: (cases, others) with and without vaccine in 13 trials; Colditz et al. 1994, JAMA 271:698
BCG = [
    (4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619), (33, 5036, 47, 5761), (180, 1361, 372, 1079),
    (8, 2537, 10, 619), (505, 87886, 499, 87892), (29, 7470, 45, 7232), (17, 1699, 65, 1600), (186, 50448, 141, 27197),
    (5, 2493, 3, 2338), (27, 16886, 29, 17825),
]  # fmt: skip


def arm(*rows: list[float]) -> ItemScores:
    items = tuple(str(number) for number in range(len(rows[0])))
    return ItemScores(tuple(range(len(rows))), items, ("t",) * len(items), items, np.array(rows, dtype=float))


def effect(one: np.ndarray, two: np.ndarray) -> Effect:
    found = paired_difference(arm(list(one)), arm(list(two)), unit="rating")
    assert found is not None
    return Effect(found.value, found.error, found.freedom, found.p)


def test_tost_is_the_larger_of_two_one_sided_paired_t_tests() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(5, 1, size=50)
    two = one + rng.normal(0.05, 0.5, size=50)
    tests = [
        reference.ttest_1samp(one - two, side * 0.2, alternative=other).pvalue for side, other in ((1, "less"), (-1, "greater"))
    ]
    assert equivalence(effect(one, two), 0.2) == pytest.approx(max(tests))
    assert below(effect(one, two), 0.2) == pytest.approx(2 * tests[0])
    assert superiority(effect(two, one)) == pytest.approx(reference.ttest_rel(two, one).pvalue)
    assert superiority(effect(one, two)) == 1
    shifted = effect(one + 0.4, two)
    assert relevance(shifted, 0.2) == pytest.approx(2 * reference.ttest_1samp(one + 0.4 - two, 0.2, alternative="greater").pvalue)


def test_equal_answers_are_equivalent_only_with_enough_items() -> None:
    def p(num_items: int) -> float:
        found = paired_difference(arm([1.0] * num_items), arm([1.0] * num_items), unit="fraction")
        assert found is not None
        return equivalence(Effect(found.value, found.error, found.freedom, found.p), 0.02)

    assert p(50) > 0.05 > p(400)


def test_rank_correlation_is_spearmans_with_an_exact_p() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=7), rng.normal(size=7)
    found = rank_correlation(list(first), list(second))
    assert found is not None
    assert found.value == pytest.approx(reference.spearmanr(first, second).statistic)
    orders = [reference.spearmanr(first, order).statistic for order in itertools.permutations(second)][::1]
    assert found.p == pytest.approx(np.mean(np.array(orders) >= found.value - 1e-9))
    half = 1.959964 * math.sqrt((1 + found.value**2 / 2) / 4)
    assert (found.low, found.high) == pytest.approx((math.tanh(found.z - half), math.tanh(found.z + half)))


def test_nothing_has_no_rank_correlation() -> None:
    assert rank_correlation([], []) is None
    assert rank_correlation([], [], groups=[]) is None


def test_within_groups_a_difference_between_them_does_not_count() -> None:
    """Large batches have small norms and low scores; within a batch size, small norms go with high scores."""
    norm, score = [1, 2, 3, 11, 12, 13], [0.3, 0.2, 0.1, 0.9, 0.8, 0.7]
    groups = ["large"] * 3 + ["small"] * 3
    whole, within = rank_correlation(norm, score), rank_correlation(norm, score, groups=groups)
    assert whole is not None
    assert whole.value > 0.4
    assert within is not None
    assert (within.value, within.p) == (-1, 1)
    mirrored = rank_correlation([-value for value in norm], score, groups=groups)
    assert mirrored is not None
    assert mirrored.p == pytest.approx(1 / 36)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_regret_is_what_the_kept_runs_lack() -> None:
    half = partial(number_kept, 0.5)
    found = stop_regret([3, 2, 1, 0], [0.5, 0.6, 0.9, 0.1], keep=half)
    pairs = [max(pair) for pair in itertools.combinations([0.5, 0.6, 0.9, 0.1], 2)]
    assert (found.value, found.num_kept) == (pytest.approx(0.3), 2)
    assert found.at_random == pytest.approx(0.9 - np.mean(pairs))
    assert stop_regret([1, 2], [0.4, 0.8], keep=half).value == 0
    assert stop_regret(range(25), range(25), keep=partial(number_kept, 0.28)).num_kept == 7


def test_regret_within_groups_keeps_the_best_of_each() -> None:
    """Every signal of the second group is higher, and says nothing about the first one."""
    signal, final, groups = [4, 3, 2, 1, 14, 13, 12, 11], [0.9, 0.8, 0.5, 0.4, 0.7, 0.6, 0.3, 0.2], "aaaabbbb"
    half = partial(number_kept, 0.5)
    assert stop_regret(signal, final, keep=half).value == pytest.approx(0.2)
    found = stop_regret(signal, final, keep=half, groups=groups)
    assert (found.value, found.num_kept) == (0, 4)
    draws = itertools.product(itertools.combinations(final[:4], 2), itertools.combinations(final[4:], 2))
    assert found.at_random == pytest.approx(0.9 - np.mean([max(*mine, *theirs) for mine, theirs in draws]))


def test_pooling_gives_the_published_numbers_of_the_bcg_trials() -> None:
    """metafor's `rma(yi, vi, data = dat.bcg, test = "knha")`: mean -0.7145, error 0.1807, tau2 0.3132, Q 152.23."""
    effects = [math.log(a / (a + b)) - math.log(c / (c + d)) for a, b, c, d in BCG]
    errors = [math.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)) for a, b, c, d in BCG]
    found = pool(effects, errors)
    assert (found.effect.value, found.tau2) == (pytest.approx(-0.7145, abs=1e-4), pytest.approx(0.3132, abs=1e-4))
    assert found.q == pytest.approx(152.23, abs=0.01)
    assert found.effect.error == pytest.approx(0.1807, abs=1e-4)
    assert (found.low, found.high) == (pytest.approx(-1.1082, abs=3e-4), pytest.approx(-0.3208, abs=3e-4))
    assert found.i2 == pytest.approx((152.2330 - 12) / 152.2330, abs=1e-4)


def test_equal_effects_have_no_heterogeneity_and_no_narrower_interval_than_a_fixed_one() -> None:
    found = pool([0.1, 0.1, 0.1], [0.05, 0.05, 0.05])
    assert (found.tau2, found.i2, found.q) == (0, 0, pytest.approx(0))
    assert found.effect.error == pytest.approx(0.05 / math.sqrt(3))
    with pytest.raises(ValueError, match="two or more"):
        pool([0.1], [0.05])


def curves(*rates: tuple[float, ...], num_items: int = 400, seed: int = 0, samples: tuple[int, ...] = (10, 20, 30)) -> Curves:
    """An arm with a row of true scores per seed; an item's luck is shared by the checkpoints."""
    luck = np.random.default_rng(seed).uniform(size=num_items)
    values = np.array([[luck < rate for rate in row] for row in rates], dtype=float)
    names = tuple(str(number) for number in range(num_items))
    return Curves(np.array([samples] * len(rates), dtype=float), values, names, ("t",) * num_items, names)


def test_samples_to_peak_are_the_first_best_checkpoints() -> None:
    found = samples_to_peak(curves((0.3, 0.6, 0.6), (0.3, 0.4, 0.6)), average="micro", seed=0)
    assert found.value == 25
    assert (found.low, found.high) == (20, 30)
    sure = samples_to_peak(curves((0.3, 0.6, 0.4)), average="micro", seed=0)
    assert (sure.value, sure.low, sure.high) == (20, 20, 20)


def ratio(first: Curves, second: Curves) -> Ratio:
    found = ratio_to_peak(first, second, average="micro", seed=0)
    assert found is not None
    return found


def test_a_ratio_of_samples_to_peak_is_shown_or_left_open() -> None:
    shown = ratio(curves((0.6, 0.4, 0.3)), curves((0.3, 0.4, 0.6)))
    assert shown.value == pytest.approx(1 / 3)
    assert 5 / 35 < shown.low < 1 / 3 < shown.high < 15 / 25
    assert (shown.p_sooner, shown.p_not_sooner) == (1 / 2001, 1)
    flat = curves((0.5, 0.5, 0.5), num_items=40)
    rng = np.random.default_rng(2)
    noisy = [Curves(flat.samples, rng.permuted(flat.values, axis=2), flat.items, flat.tasks, flat.clusters) for _ in range(2)]
    unclear = ratio(*noisy)
    assert min(unclear.p_sooner, unclear.p_not_sooner) > 0.05
    assert unclear.low < 1 / 3 < 3 < unclear.high


def test_a_peak_that_never_moves_is_known_to_within_the_spacing_of_checkpoints() -> None:
    """Uniform over 1 % of the samples in either arm, and over 2 % in one that has half of the checkpoints."""
    close, wide = (990, 1000, 1010), (970, 990, 1010)
    for samples, spread in ((close, 0.01 * math.sqrt(2 / 12)), (wide, math.sqrt((0.01**2 + 0.02**2) / 12))):
        for num_seeds in (1, 3):
            first = curves(*[(0.3, 0.6, 0.3)] * num_seeds, samples=close)
            found = ratio(first, curves(*[(0.3, 0.3, 0.6)] * num_seeds, samples=samples))
            assert found.log_error == pytest.approx(spread, rel=0.05)


def test_arms_that_are_best_at_the_same_checkpoint_show_neither() -> None:
    """Whole steps of another batch size put it a little later: that decides nothing either."""
    hump = (0.3, 0.9, 0.3)
    for samples in ((249_600, 499_200, 748_800), (249_984, 499_968, 749_952)):
        found = ratio(curves(hump, samples=(249_600, 499_200, 748_800)), curves(hump, samples=samples))
        assert min(found.p_sooner, found.p_not_sooner) > 0.3
        assert found.low < 1 < found.high


def few(num_deciding: int, num_items: int, *, per_cluster: int = 1) -> tuple[Curves, Curves]:
    """Two arms, the first best at its first checkpoint and the second at its last, by some items and in all others equal."""
    falling = np.zeros((1, 3, num_items))
    falling[0, 0, :num_deciding] = 1
    names = tuple(map(str, range(num_items)))
    clusters = tuple(str(number // per_cluster) for number in range(num_items))
    samples = np.array([[10.0, 20.0, 30.0]])
    first, second = (Curves(samples, values, names, ("t",) * num_items, clusters) for values in (falling, falling[:, ::-1]))
    return first, second


def test_a_few_items_show_no_more_than_a_sign_test_on_them() -> None:
    assert ratio_to_peak(*few(1, 1), average="micro", seed=0) is None
    assert ratio_to_peak(*few(4, 4, per_cluster=4), average="micro", seed=0) is None  # one question with four turns
    for num_deciding, num_items, per_cluster in ((2, 2, 1), (5, 5, 1), (4, 400, 1), (10, 10, 2)):
        found = ratio(*few(num_deciding, num_items, per_cluster=per_cluster))
        num_clusters = num_deciding // per_cluster
        assert found.p_sooner == 2**-num_clusters
        assert 2 * found.p_sooner > 0.05
        assert found.low < 1 / 3 < 1 < found.high
        assert found.log_error == pytest.approx(math.log(3) / reference.norm.isf(2**-num_clusters))
        assert ratio(*few(num_deciding, num_items, per_cluster=per_cluster)[::-1]).p_not_sooner == found.p_sooner
    enough = ratio(*few(6, 6))
    assert (enough.p_sooner, enough.p_not_sooner) == (2**-6, 1)
    assert enough.high < 1


def test_items_count_in_which_the_peak_differs_from_what_would_turn_the_answer() -> None:
    """The first arm is best at 10, by a hair before 20: that decides if the second arm is best at 20, and not if it is at 30."""
    hair = curves((0.6, 0.59, 0.2))
    num_items = int((hair.values[0, 0] != hair.values[0, 1]).sum())
    assert 0 < num_items < 6
    assert ratio(hair, curves((0.2, 0.6, 0.2))).p_sooner == 2**-num_items
    assert ratio(hair, curves((0.2, 0.2, 0.6))).p_sooner == 1 / 2001


def test_optimism_is_zero_without_a_choice_and_positive_among_equals() -> None:
    rng = np.random.default_rng(3)
    values = (rng.uniform(size=(20, 100)) < 0.5).astype(float)
    half = [number % 2 == 0 for number in range(100)]
    assert optimism(values[:1], half, ["t"] * 100, average="micro") == 0
    assert 0.05 < optimism(values, half, ["t"] * 100, average="micro") < 0.25


def test_optimism_of_a_peak_is_that_of_its_seeds_with_an_interval_that_covers_it() -> None:
    """Over runs whose checkpoints are all alike; the mean of all estimates stands for the truth."""
    found, inside = [], 0
    for seed in range(60):
        some = curves((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), seed=seed, num_items=100)
        rng = np.random.default_rng(seed)
        noisy = Curves(some.samples, rng.permuted(some.values, axis=2), some.items, some.tasks, some.clusters)
        one = optimism_of_peak(noisy, average="micro")
        assert one is not None
        half = [in_first_half(item) for item in noisy.items]
        assert one.value == pytest.approx(np.mean([optimism(run, half, noisy.tasks, average="micro") for run in noisy.values]))
        found.append(one)
    truth = float(np.mean([one.value for one in found]))
    assert 0.01 < truth < 0.1
    inside = sum(one.low is None or one.high is None or one.low <= truth <= one.high for one in found)
    assert inside >= 54


def test_optimism_of_a_peak_without_a_choice_has_no_interval() -> None:
    alone = curves((0.5,), samples=(10,))
    assert optimism_of_peak(alone, average="micro") == Optimism(0.0, None, None)
    few = Curves(alone.samples, alone.values[:, :, :1], alone.items[:1], alone.tasks[:1], alone.clusters[:1])
    assert optimism_of_peak(few, average="micro") is None


def test_needed_seeds_and_items_make_the_test_strong_enough() -> None:
    """What is asked for is tried out: with so many items the share of significant tests is about 80 %."""
    rng = np.random.default_rng(4)

    def tried(num_items: int) -> float:
        found = 0
        for _ in range(400):
            luck = rng.uniform(size=num_items)
            one = (np.where(rng.uniform(size=num_items) < 0.5, luck, rng.uniform(size=num_items)) < 0.6).astype(float)
            found += superiority(_fraction(one, (luck < 0.5).astype(float))) <= 0.05
        return found / 400

    luck = rng.uniform(size=2000)
    one = (np.where(rng.uniform(size=2000) < 0.5, luck, rng.uniform(size=2000)) < 0.6).astype(float)
    pilot = paired_difference(arm(list(one)), arm(list((luck < 0.5).astype(float))), unit="fraction")
    assert pilot is not None
    found = needed(pilot, 0.1, "direction")
    assert found.seeds is None
    assert found.items is not None
    assert tried(found.items) == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize(("margin", "least"), [(0.02, 153), (0.01, 308)])
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_equal_arms_need_the_items_with_which_they_pass(margin: float, least: int, num_seeds: int) -> None:
    pilot = paired_difference(arm(*[[1.0, 0.0] * 25] * num_seeds), arm(*[[1.0, 0.0] * 25] * num_seeds), unit="fraction")
    assert pilot is not None
    found = needed(pilot, margin, "equivalence")
    assert (found.seeds, found.items) == (None, least)

    def passes(num_items: int) -> bool:
        one = paired_difference(arm(*[[1.0] * num_items] * num_seeds), arm(*[[1.0] * num_items] * num_seeds), unit="fraction")
        assert one is not None
        return equivalence(Effect(one.value, one.error, one.freedom, one.p), margin) <= 0.05

    assert passes(least)
    assert not passes(least - 1)


def test_equal_arms_with_a_small_task_need_more_of_its_items() -> None:
    def equal(small: int, large: int) -> Difference:
        items = tuple(str(number) for number in range(small + large))
        one = ItemScores((1,), items, ("a",) * small + ("b",) * large, items, np.ones((1, small + large)))
        found = paired_difference(one, one, unit="fraction", average="macro")
        assert found is not None
        return found

    found = needed(equal(10, 90), 0.05, "equivalence")
    assert found.items is not None
    small = found.items / 100 * 10

    def p(share: float) -> float:
        one = equal(math.ceil(share * small), math.ceil(share * 9 * small))
        return equivalence(Effect(one.value, one.error, one.freedom, one.p), 0.05)

    assert p(1) <= 0.05 < p(0.9)


@pytest.mark.parametrize("num_differing", [0, 1, 3, 10])
@pytest.mark.parametrize("question", ["direction", "equivalence"])
def test_needed_items_are_strong_enough_where_few_differ(num_differing: int, question: Question) -> None:
    """Of 50 items so many differ, as often for one arm as for the other; half of the items needed are too few."""
    rng, margin = np.random.default_rng(6), 0.05
    gaps = [(-1.0) ** number for number in range(num_differing)] + [0.0] * (50 - num_differing)
    pilot = paired_difference(arm(gaps), arm([0.0] * 50), unit="fraction")
    assert pilot is not None
    found = needed(pilot, margin, question).items
    assert found is not None
    effect = margin if question == "direction" else 0.0
    share = max(num_differing / 50, effect)

    def passed(num_items: int) -> float:
        hits = 0
        for _ in range(300):
            luck = rng.uniform(size=num_items)
            gap = np.where(luck < (share + effect) / 2, 1.0, np.where(luck < share, -1.0, 0.0))
            seen = _fraction(gap, np.zeros(num_items))
            hits += (superiority(seen) if question == "direction" else equivalence(seen, margin)) <= 0.05
        return hits / 300

    assert passed(found) >= 0.7
    assert passed(found // 2) < 0.7


def test_an_arm_with_one_seed_is_taken_to_vary_as_the_other_one() -> None:
    rng = np.random.default_rng(7)
    luck = rng.uniform(size=400)
    several = [list((np.roll(luck, seed) < level).astype(float)) for seed, level in enumerate((0.56, 0.6, 0.64))]
    one, two = (
        paired_difference(arm(*several), arm(several[1]), unit="fraction"),
        paired_difference(arm(*several), arm(*several), unit="fraction"),
    )
    assert one is not None
    assert two is not None
    assert len(one.seed_variances) == 1
    alike = dataclasses.replace(two, item_variance=one.item_variance)
    assert needed(one, 0.15, "equivalence").seeds == needed(alike, 0.15, "equivalence").seeds is not None


def _fraction(one: np.ndarray, two: np.ndarray) -> Effect:
    found = paired_difference(arm(list(one)), arm(list(two)), unit="fraction")
    assert found is not None
    return Effect(found.value, found.error, found.freedom, found.p)


def test_items_do_not_help_against_the_variance_of_seeds() -> None:
    one, two = [[1.0] * 30 + [0.0] * 70, [1.0] * 70 + [0.0] * 30], [[1.0] * 40 + [0.0] * 60, [1.0] * 60 + [0.0] * 40]
    found = paired_difference(arm(*one), arm(*two), unit="fraction")
    assert found is not None
    need = needed(found, 0.05, "equivalence")
    assert need.items is None
    assert need.seeds is None or need.seeds > 20


def test_pairs_for_a_correlation() -> None:
    assert needed_pairs(0.5) == pytest.approx(3 + 1.125 * ((1.96 + 0.8416) / 0.5493) ** 2, abs=1)


def test_more_models_and_data_make_a_pooled_effect_strong_enough() -> None:
    """The least number whose t-test, at its smaller error, has the margin in reach; a margin out of reach has none."""
    pooled = Effect(0.0, 0.02, 2, 1.0)
    number = needed_effects(pooled, 3, 0.03, "direction")
    assert number is not None

    def reach(count: int) -> float:
        return float(reference.t.ppf(0.975, count - 1) + reference.t.ppf(0.8, count - 1)) * 0.02 * math.sqrt(3 / count)

    assert reach(number) <= 0.03 < reach(number - 1)
    assert needed_effects(pooled, 3, 0.001, "direction") is None
