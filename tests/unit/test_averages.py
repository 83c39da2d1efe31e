"""Averages over items, tasks, families and groups, and the leaderboard's scale: by hand on a few numbers."""

import pytest

from sftstudy.averages import Row, rows, weighted_mean
from sftstudy.config import Averages, Normalised

ITEMS = {"a": [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)], "b": [(0.0, 1.0), (1.0, 1.0)], "c": [(0.0, 1.0), (0.0, 1.0)]}


def made(averages: Averages, items: dict | None = None) -> dict[tuple[str, str], Row]:
    found = rows("all", averages, items or {"acc": ITEMS})
    table = {(row.task, row.metric): row for row in found}
    assert len(table) == len(found)
    return table


def values(averages: Averages, items: dict | None = None) -> dict[tuple[str, str], float]:
    return {key: row.value for key, row in made(averages, items).items()}


def test_both_averages_and_every_task() -> None:
    macro = (3 / 4 + 1 / 2 + 0) / 3
    tasks = {("a", "acc"): 0.75, ("b", "acc"): 0.5, ("c", "acc"): 0.0}
    assert values(Averages(metric="acc")) == {("all", "acc"): 0.5, ("all", "acc_macro"): pytest.approx(macro)} | tasks
    assert (
        values(Averages(metric="acc", average="macro")) == {("all", "acc"): pytest.approx(macro), ("all", "acc_micro"): 0.5} | tasks
    )
    assert rows("all", Averages(metric="acc"), {"acc": ITEMS})[0].metric == "acc"


def test_groups_average_their_own_tasks_in_the_same_way() -> None:
    groups = {"two": ["a", "b"], "one": ["c"]}
    micro = values(Averages(metric="acc", groups=groups))
    assert (micro["two", "acc"], micro["one", "acc"]) == (pytest.approx(4 / 6), 0)
    assert values(Averages(metric="acc", groups=groups, average="macro"))["two", "acc"] == pytest.approx(5 / 8)
    assert made(Averages(metric="acc", groups=groups))["two", "acc"].tasks == ("a", "b")


def test_a_family_counts_once_in_a_macro_average() -> None:
    averages = Averages(metric="acc", average="macro", families={"bc": ["b", "c"]})
    assert values(averages)["all", "acc"] == pytest.approx((3 / 4 + 1 / 4) / 2)


def test_instructions_weigh_and_not_items() -> None:
    items = [(1.0, 1.0), (0.5, 2.0), (0.0, 3.0)]  # 1 of 1, 1 of 2 and 0 of 3 instructions followed
    mean, stderr = weighted_mean(items)
    assert mean == pytest.approx(2 / 6)
    assert stderr is not None
    assert stderr > 0
    equal, plain = weighted_mean([(value, 2.0) for value, _ in items]), weighted_mean([(value, 1.0) for value, _ in items])
    assert equal == pytest.approx(plain)


def test_normalised_by_task_then_averaged() -> None:
    averages = Averages(metric="acc", average="macro", normalised=Normalised(num_choices={"a": 2, "b": 4, "c": 4}))
    found = values(averages)
    assert [found[task, "normalised"] for task in "abc"] == [pytest.approx(0.5), pytest.approx(1 / 3), 0]  # never below 0
    assert found["all", "normalised"] == pytest.approx((0.5 + 1 / 3) / 3)


def test_normalised_over_all_items() -> None:
    found = values(Averages(metric="acc", normalised=Normalised(num_choices=4)))
    assert found["all", "normalised"] == pytest.approx((0.5 - 0.25) / 0.75)
    assert ("a", "normalised") not in found


def test_normalised_from_the_mean_of_two_metrics() -> None:
    items = {"prompt": {"t": [(1.0, 1.0), (0.0, 1.0)]}, "inst": {"t": [(1.0, 1.0), (0.5, 2.0)]}}
    averages = Averages(metric="prompt", metrics=["inst"], normalised=Normalised(num_choices=0, metrics=["prompt", "inst"]))
    found = values(averages, items)
    assert (found["all", "prompt"], found["all", "inst"]) == (0.5, pytest.approx(2 / 3))
    assert found["all", "normalised"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert made(averages, items)["all", "normalised"].stderr is None
