"""Peaks, last checkpoints and verdicts from toy records."""

from pathlib import Path

import numpy as np
import pytest

from sftstudy.paths import Layout
from sftstudy.stats import ItemScores, estimate
from sftstudy.tables.aggregate import Cell, Point, Results, judge, load_results, peak
from sftstudy.tables.collect import collect_scores
from table_toys import CHAT, EXAM, Tree

PAIR = ("m", "d")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(Layout(tmp_path / "results", tmp_path / "scratch"), benchmarks={"exam": EXAM, "chat": CHAT})
    made.base({"exam": [0, 0, 1, 0], "chat": [1, 2, 1, 2]})
    return made


def load(tree: Tree) -> Results:
    collect_scores([tree.study()], layout=tree.layout)
    return load_results(tree.study(), layout=tree.layout)


def point(ckpt: str, samples: int, value: float | None, *, higher: bool = True) -> Point:
    return Point("01-stacked", ckpt, samples, samples, value, higher, Path())


def test_peak_ties_go_to_the_fewest_samples() -> None:
    points = [point("ckpt03", 30, 0.5), point("ckpt01", 10, 0.4), point("ckpt02", 20, 0.5)]
    assert peak(points).ckpt == "ckpt02"
    assert peak(points[::-1]).ckpt == "ckpt02"


def test_scores_that_differ_by_the_order_of_their_sums_are_equal() -> None:
    """Macro means of four tasks of 20 items, three of them right: all in one task, or in two."""
    spread, together = (0 / 20 + 0 / 20 + 1 / 20 + 2 / 20) / 4, (0 / 20 + 0 / 20 + 0 / 20 + 3 / 20) / 4
    assert spread > together
    assert peak([point("ckpt01", 10, together), point("ckpt02", 20, spread)]).ckpt == "ckpt01"
    # in the mean of two seeds, 1 + 5 of 100 items and 0 + 6
    costly, cheap = (two_seeds(first, 6 - first, samples) for first, samples in ((1, 9), (0, 3)))
    assert costly.estimate is not None
    assert cheap.estimate is not None
    assert costly.estimate.value > cheap.estimate.value
    assert [verdict.best for verdict in judge([costly, cheap], EXAM)] == [False, True]


def two_seeds(first: int, second: int, samples: float) -> Cell:
    names = tuple(map(str, range(100)))
    scores = ItemScores((1, 2), names, names, names, np.array([[1.0] * n + [0.0] * (100 - n) for n in (first, second)]))
    return Cell(scores, estimate(scores, "fraction"), samples, samples, (1, 2), (1, 2))


def test_peak_is_the_least_where_less_is_better() -> None:
    assert peak([point("ckpt01", 10, 0.4, higher=False), point("ckpt02", 20, 0.5, higher=False)]).ckpt == "ckpt01"


def test_each_seed_has_its_own_peak_and_means_are_over_seeds(tree: Tree) -> None:
    weak, strong = {"exam": [1, 0, 0, 0], "chat": [2, 2, 2, 2]}, {"exam": [1, 1, 1, 0], "chat": [8, 8, 8, 6]}
    tree.stage("r", {"ckpt01": (10, 10, strong), "ckpt02": (20, 20, weak)}, seed=1)
    tree.stage("r", {"ckpt01": (10, 10, weak), "ckpt02": (20, 20, strong)}, seed=2)
    results = load(tree)
    top, last = results.cell(PAIR, "r", "exam", "peak"), results.cell(PAIR, "r", "exam", "last")
    assert top.estimate is not None
    assert last.estimate is not None
    assert (top.estimate.value, top.samples_seen, top.seeds) == (0.75, 15.0, (1, 2))
    assert (last.estimate.value, last.samples_seen) == (0.5, 20.0)


def test_peak_looks_at_all_stages_and_counts_what_was_spent(tree: Tree) -> None:
    low, high = {"exam": [1, 0, 0, 0], "chat": [2, 2, 2, 2]}, {"exam": [1, 1, 1, 0], "chat": [3, 3, 3, 3]}
    tree.stage("p", {"ckpt01": (10, 10, low), "ckpt02": (20, 20, low)}, stage="01-facts", last=False)
    tree.stage("p", {"ckpt01": (15, 25, high), "ckpt02": (25, 35, low)}, stage="02-skills")
    cell = load(tree).cell(PAIR, "p", "exam", "peak")
    assert (cell.samples_seen, cell.samples_spent) == (15.0, 25.0)


def test_a_run_that_lacks_a_score_has_no_peak(tree: Tree) -> None:
    scores = {"exam": [1, 1, 1, 0], "chat": [3, 3, 3, 3]}
    tree.stage("p", {"ckpt01": (10, 10, scores)}, stage="01-facts", last=False)
    tree.stage("p", {"ckpt01": (20, 20, scores)}, stage="02-skills")
    folder = tree.layout.stage_results("m", "d", "p", 1, "01-facts")
    (folder / "scores" / "exams" / "all.json").unlink()
    results = load(tree)
    assert results.cell(PAIR, "p", "exam", "peak").estimate is None
    assert results.cell(PAIR, "p", "chat", "peak").estimate is not None


def test_a_seed_with_too_many_failed_verdicts_is_left_out_and_seen(tree: Tree) -> None:
    tree.stage("r", {"ckpt01": (10, 10, {"exam": [1, 1, 1, 0], "chat": [3, None, None, None]})}, seed=1)
    tree.stage("r", {"ckpt01": (10, 10, {"exam": [1, 1, 1, 0], "chat": [3, 5, 4, 4]})}, seed=2)
    cell = load(tree).cell(PAIR, "r", "chat", "peak")
    assert (cell.seeds, cell.planned_seeds) == ((2,), (1, 2))


def test_turns_of_a_question_are_clusters_only_where_the_plan_says_so(tree: Tree) -> None:
    results = load(tree)
    chat, exam = results.base("m", "chat").scores, results.base("m", "exam").scores
    assert chat is not None
    assert exam is not None
    assert chat.clusters == ("0", "0", "1", "1")
    assert len(set(exam.clusters)) == 4


def test_rows_of_another_plan_are_not_seen(tree: Tree) -> None:
    tree.stage("r", {"ckpt01": (10, 10, {"exam": [1, 1, 1, 0], "chat": [3, 5, 4, 4]})})
    collect_scores([tree.study()], layout=tree.layout)
    tree.stages = [
        stage.model_copy(update={"scores": {"exams": {"all": "today"}, "chat": stage.scores["chat"]}}) for stage in tree.stages
    ]
    results = load_results(tree.study(), layout=tree.layout)
    assert results.cell(PAIR, "r", "exam", "peak").estimate is None
    assert results.cell(PAIR, "r", "chat", "peak").estimate is not None


def cell(values: list[float], samples: float) -> Cell:
    names = tuple(map(str, range(len(values))))
    scores = ItemScores((1,), names, names, names, np.array([values], dtype=float))
    return Cell(scores, estimate(scores, "fraction"), samples, samples, (1,), (1,))


def test_best_and_who_cannot_be_told_from_it() -> None:
    good, near, bad = [1.0] * 36 + [0.0] * 4, [1.0] * 35 + [0.0] * 5, [0.0] * 36 + [1.0] * 4
    verdicts = judge([cell(near, 1), cell(good, 1), cell(bad, 1), Cell(None, None, None, None, (), (1,))], EXAM)
    assert [verdict.best for verdict in verdicts] == [False, True, False, False]
    assert [verdict.tied for verdict in verdicts] == [True, False, False, False]


def test_equal_scores_the_best_has_spent_least() -> None:
    assert [verdict.best for verdict in judge([cell([1, 0], 9), cell([0, 1], 3)], EXAM)] == [False, True]


def test_nobody_is_best_alone() -> None:
    assert [verdict.best for verdict in judge([cell([1, 0], 9)], EXAM)] == [False]
