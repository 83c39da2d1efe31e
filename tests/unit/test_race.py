"""Racing: its error rate by simulation, what it saves, and the replay's choice."""

import math

import numpy as np
import pytest

from sftstudy.config import Race
from sftstudy.race import Result, item_weights, log_wealth, looks, race, random_order

RULES = Race()


def run(values: np.ndarray, weights: np.ndarray, *, at: list[int], error_rate: float = 0.05) -> Result:
    return race(lambda place, number: values[place, :number], weights, num_candidates=len(values), at=at, error_rate=error_rate)


def raced(values: np.ndarray, rng: np.random.Generator, error_rate: float = 0.05) -> Result:
    order = rng.permutation(values.shape[1])
    at = looks(len(order), first=RULES.first, growth=RULES.growth)
    return run(values[:, order], np.ones(len(order)), at=at, error_rate=error_rate)


def test_the_whole_benchmarks_choice_is_dropped_at_most_as_often_as_stated():
    """Twelve checkpoints one item apart, half of whose items differ: the hardest case, and a loose error rate to see it bite."""
    rng, dropped, num_races = np.random.default_rng(0), 0, 400
    for _ in range(num_races):
        values = (rng.uniform(size=(12, 200)) < 0.5).astype(float)
        for place, row in enumerate(values):  # 101 right in the first, 100 in the others
            right = 101 if place == 0 else 100
            row[:] = rng.permutation([1.0] * right + [0.0] * (200 - right))
        dropped += 0 not in raced(values, rng, error_rate=0.3).survivors
    assert dropped <= 0.3 * num_races


def test_wealth_rarely_grows_where_the_bet_is_wrong():
    rng, reached = np.random.default_rng(1), 0
    for _ in range(2000):
        reached += log_wealth(rng.permutation([1.0] * 30 + [-1.0] * 30 + [0.0] * 60), num_items=120).max() >= math.log(20)
    assert 0 < reached <= 0.05 * 2000


def test_a_lead_that_the_rest_cannot_make_up_for_is_certain():
    differences = np.array([1.0] * 6 + [-1.0] * 4)
    wealth = log_wealth(differences, num_items=10)
    assert np.isfinite(wealth[:5]).all()
    assert wealth[6] == math.inf
    assert (log_wealth(differences[:5], num_items=10) == wealth[:5]).all()  # what is to come is not known yet


def test_clear_losers_are_dropped_early_and_the_choice_is_the_same():
    rng = np.random.default_rng(2)
    values = (rng.uniform(size=(6, 2000)) < np.array([[0.3], [0.35], [0.4], [0.45], [0.5], [0.7]])).astype(float)
    found = raced(values, rng)
    assert found.survivors == (5,)
    assert found.saved > 0.85
    assert found.num_items[0] < found.num_items[4]


def test_a_single_candidate_is_scored_on_nothing():
    assert run(np.ones((1, 9)), np.ones(9), at=[9]) == Result((0,), (0,), 9)


def test_who_is_dropped_or_alone_is_not_asked_again():
    rng, asked = np.random.default_rng(4), []
    values = (rng.uniform(size=(3, 1000)) < np.array([[0.2], [0.8], [0.75]])).astype(float)

    def read(place: int, number: int) -> np.ndarray:
        asked.append((place, number))
        return values[place, :number]

    at = looks(1000, first=RULES.first, growth=RULES.growth)
    found = race(read, np.ones(1000), num_candidates=3, at=at, error_rate=0.05)
    assert len(set(asked)) == len(asked)
    assert [max(number for other, number in asked if other == place) for place in range(3)] == list(found.num_items)
    assert found.num_items[0] < min(found.num_items[1:])


def test_equal_checkpoints_are_all_scored_to_the_end():
    found = raced(np.tile((np.arange(300) % 2).astype(float), (3, 1)), np.random.default_rng(3))
    assert (found.survivors, found.num_items, found.saved) == ((0, 1, 2), (300, 300, 300), 0)


def test_a_macro_average_counts_tasks_alike():
    tasks = ["a"] * 6 + ["b"] * 2
    values = np.array([[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 1, 1.0]])
    assert item_weights(tasks, "macro") @ values.T == pytest.approx([5 / 12, 3 / 4])


def test_order_is_the_seeds_and_looks_grow_to_all():
    items = [str(number) for number in range(50)]
    assert random_order(items, seed=1) == random_order(items, seed=1) != random_order(items, seed=2)
    assert sorted(random_order(items, seed=1)) == list(range(50))
    assert looks(100, first=32, growth=1.25) == [32, 40, 50, 63, 79, 99, 100]
    assert looks(5, first=32, growth=1.25) == [5]
    assert looks(100, first=32, growth=1e308) == looks(100, first=32, growth=math.inf) == [32, 100]
