"""Which records enter the tidy table, and what is said about the others."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from sftstudy.config import Normalised
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.tables.aggregate import load_results
from sftstudy.tables.collect import collect_scores
from table_toys import CHAT, EXAM, Tree, edit


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(Layout(tmp_path / "results", tmp_path / "scratch"), benchmarks={"exam": EXAM, "chat": CHAT})
    made.base({"exam": [0, 0, 1, 0], "chat": [1, 2, 1, 2]})
    made.stage("r", {"ckpt01": (10, 10, {"exam": [1, 0, 1, 0], "chat": [5, 6, None, 7]})})
    return made


def collect(tree: Tree) -> tuple[pd.DataFrame, pd.DataFrame]:
    collect_scores([tree.study()], layout=tree.layout)
    return pd.read_csv(tree.layout.scores_csv(), keep_default_na=False), pd.read_csv(
        tree.layout.missing_csv(), keep_default_na=False
    )


def record(tree: Tree, suite: str = "exams") -> Path:
    return tree.layout.stage_results("m", "d", "r", 1, "01-stacked") / "scores" / suite / "all.json"


def test_good_records_make_a_row_each_and_nothing_is_missing(tree: Tree) -> None:
    scores, missing = collect(tree)
    assert list(zip(scores["recipe"], scores["benchmark"], scores["value"], strict=True)) == [
        ("r", "chat", 6.0), ("r", "exam", 0.5), ("none", "chat", 1.5), ("none", "exam", 0.25),
    ]  # fmt: skip
    assert missing.empty


def test_two_studies_share_a_stage_and_give_the_same_bytes_twice(tree: Tree) -> None:
    studies = [tree.study("one"), tree.study("two")]
    collect_scores(studies, layout=tree.layout)
    once = tree.layout.scores_csv().read_bytes()
    collect_scores(studies[::-1], layout=tree.layout)
    assert tree.layout.scores_csv().read_bytes() == once
    assert once.count(b"\n") == 1 + 4


def problem(tree: Tree) -> tuple[str, str, list[str]]:
    """The one problem, as (file, reason), and the benchmarks still known of recipe r."""
    scores, missing = collect(tree)
    assert len(missing) == 1
    return (
        Path(missing.iloc[0]["path"]).relative_to(tree.layout.results).as_posix(),
        missing.iloc[0]["reason"],
        list(scores[scores["recipe"] == "r"]["benchmark"]),
    )


EXAMS = "runs/m/d/r/seed1/01-stacked/scores/exams/all.json"


def test_missing_record(tree: Tree) -> None:
    record(tree).unlink()
    assert problem(tree) == (EXAMS, "missing", ["chat"])


def test_stale_spec_is_refused_by_name(tree: Tree) -> None:
    edit(record(tree), spec_hash="yesterday")
    assert problem(tree) == (EXAMS, "stale spec", ["chat"])


def test_unreadable_record(tree: Tree) -> None:
    record(tree).write_text('{"schema_version": 1')
    assert problem(tree) == (EXAMS, "broken", ["chat"])


def test_record_without_items(tree: Tree) -> None:
    record(tree).with_suffix(".parquet").unlink()
    assert problem(tree) == (EXAMS, "broken", ["chat"])


def test_record_of_another_run(tree: Tree) -> None:
    edit(record(tree), recipe="q")
    assert problem(tree) == (EXAMS, "broken", ["chat"])


def test_items_that_do_not_average_to_the_score(tree: Tree) -> None:
    path = record(tree).with_suffix(".parquet")
    pd.read_parquet(path).assign(value=1.0).to_parquet(path)
    assert problem(tree) == (EXAMS, "broken", ["chat"])


@pytest.mark.parametrize(
    ("further", "detail"),
    [
        ({"task": "half", "value": 0.5, "num_items": 2}, None),
        ({"task": "half", "value": 0.75, "num_items": 2}, "exam, half at ckpt01: items average to 0.500000 (acc)"),
        ({"task": "half", "value": 0.5, "num_items": 3}, "exam, half at ckpt01: 2 items by acc, the score says 3"),
        ({"task": "exam-b", "value": 0.0, "num_items": 2}, "exam, exam-b at ckpt01: items average to 0.500000 (acc)"),
        ({"metric": "acc_macro"}, None),
        ({"metric": "acc_macro", "value": 0.25}, "exam, exam at ckpt01: items average to 0.500000 (acc_macro)"),
        ({"metric": "normalised", "value": 1 / 3}, None),
        ({"metric": "normalised", "value": 0.5}, "exam, exam at ckpt01: items average to 0.333333 (normalised)"),
        ({"metric": "f1"}, "exam, exam at ckpt01: 0 items by f1, the score says 4"),
        ({}, "exam, exam at ckpt01: two scores by acc"),
    ],
)
def test_every_score_of_a_record_is_checked_against_its_items(tree: Tree, further: dict, detail: str | None) -> None:
    shared = {"groups": {"half": ["exam-a"]}, "normalised": Normalised(num_choices=4)}
    tree.benchmarks["exam"] = EXAM.model_copy(update=shared)
    path = record(tree)
    scores = json.loads(path.read_text())["scores"]
    edit(path, scores=[*scores, scores[0] | further])
    found, missing = collect(tree)
    assert [text.startswith(detail or "") for text in missing["detail"]] == ([True] if detail else [])
    assert len(found[(found["recipe"] == "r") & (found["benchmark"] == "exam")]) == (0 if detail else 2)


def test_failed_score_stays_without_a_value(tree: Tree) -> None:
    tree.stage("q", {"ckpt01": (10, 10, {"exam": [1, 0, 1, 0], "chat": [None, None, None, 9]})})
    scores, missing = collect(tree)
    assert list(missing["reason"]) == ["failed verdicts"]
    assert list(missing["detail"]) == ["chat at ckpt01: 75% of its verdicts failed"]
    assert list(scores[(scores["recipe"] == "q") & (scores["benchmark"] == "chat")]["value"]) == [""]


def test_other_weights_than_training_left(tree: Tree) -> None:
    path = tree.layout.stage_results("m", "d", "r", 1, "01-stacked") / "training.json"
    path.write_text(path.read_text().replace("w-ckpt01", "w-new"))
    scores, missing = collect(tree)
    assert list(missing["reason"]) == ["other weights"] * 2
    assert list(scores["recipe"]) == ["none", "none"]


def test_without_the_training_record_weights_cannot_be_checked(tree: Tree) -> None:
    (tree.layout.stage_results("m", "d", "r", 1, "01-stacked") / "training.json").unlink()
    scores, missing = collect(tree)
    assert sorted(missing["reason"]) == ["missing", "other weights", "other weights"]
    assert "r" not in set(scores["recipe"])


def test_other_items_than_the_majority_are_left_out(tree: Tree) -> None:
    tree.stage("q", {"ckpt01": (10, 10, {"exam": [1, 1, 1, 0, 1, 1], "chat": [5, 6, 7, 8]})})
    scores, missing = collect(tree)
    assert list(missing["reason"]) == ["mixed items"]
    assert list(scores[scores["recipe"] == "q"]["benchmark"]) == ["chat"]
    assert set(scores[scores["benchmark"] == "exam"]["items_hash"]) == {"items-exam-4"}


@pytest.mark.parametrize(
    ("suite", "changes"),
    [
        ("exams", {"protocol_hash": "edited doc_to_text"}),
        ("exams", {"task_version": "2"}),
        ("exams", {"harness_version": "2"}),
        ("exams", {"harness": "another", "harness_version": "2"}),
        ("chat", {"protocol_hash": "edited judge prompt"}),
        ("chat", {"judge": "another"}),
    ],
)
def test_another_protocol_than_the_majoritys_is_left_out(tree: Tree, suite: str, changes: dict[str, str]) -> None:
    tree.stage("q", {"ckpt01": (10, 10, {"exam": [1, 1, 1, 0], "chat": [5, 6, 7, 8]})})
    path, name = record(tree, suite), {"exams": "exam", "chat": "chat"}[suite]
    edit(path, scores=[score | changes for score in json.loads(path.read_text())["scores"]])
    scores, missing = collect(tree)
    assert [tuple(row) for row in missing[["reason", "detail"]].to_numpy()] == [
        ("mixed protocols", f"{name}: {', '.join(changes)}")
    ]
    assert Path(missing.iloc[0]["path"]) == path
    assert list(scores[scores["benchmark"] == name]["recipe"]) == ["q", "none"]


@pytest.mark.parametrize("name", ["scores.csv", "missing.csv"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:30],
        lambda whole: whole[:-1],
        lambda whole: whole[:-9],
        lambda whole: whole + b"a,b\n",
        lambda whole: whole + b"\xff\n",
        lambda whole: whole.partition(b"\n")[2],
        lambda _: b"null\n",
        lambda _: b"",
    ],
)
def test_a_table_that_is_not_whole_is_refused(tree: Tree, name: str, damage: Callable[[bytes], bytes]) -> None:
    record(tree).unlink()
    collect(tree)
    load_results(tree.study(), layout=tree.layout)
    path = tree.layout.results / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StudyError, match=rf"^{path}: cut off, or not made by this version; make it again with `python .*collect"):
        load_results(tree.study(), layout=tree.layout)
