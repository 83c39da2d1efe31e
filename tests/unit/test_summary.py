"""The five lines of a study."""

import re
from pathlib import Path

import pytest

from sftstudy.config import ArmsTable
from sftstudy.paths import Layout
from sftstudy.tables.collect import collect_scores
from sftstudy.tables.summary import MAX_LENGTH, summarize_study
from table_toys import CHAT, EXAM, Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(Layout(tmp_path / "results", tmp_path / "scratch"), benchmarks={"exam": EXAM, "chat": CHAT})
    made.base({"exam": [0, 0, 0, 1] * 10, "chat": [1, 2, 1, 2]})
    made.stage("good", {"ckpt01": (10, 10, {"exam": [1, 1, 1, 0] * 10, "chat": [5, 6, 5, 6]})})
    made.stage("poor", {"ckpt01": (10, 10, {"exam": [0, 0, 1, 0] * 10, "chat": [5, 7, 5, 6]})})
    made.tables = {"t": ArmsTable(kind="arms", caption="", arms={"Good": "good", "Poor": "poor"})}
    return made


def lines(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tree.layout.results.parent)
    layout = Layout()
    collect_scores([tree.study()], layout=layout)
    summarize_study(tree.study(), layout=layout)
    found = (layout.study_folder("toy") / "summary.txt").read_text().splitlines()
    assert len(found) == 5
    assert max(map(len, found)) <= MAX_LENGTH
    return found


def test_five_lines(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(tree, monkeypatch) == [
        "Study toy: 2 runs, 2 recipes, 1 seed, 2 scored checkpoints, 2 benchmarks",
        "Best peaks: exam good 0.75 [0.61, 0.89] (base 0.25, guessing 0.25); chat poor 5.75 [2.57, 8.93] (base 1.50)",
        "Arms: Good - Poor: exam +0.50 [+0.32, +0.68], chat -0.25 [-3.43, +2.93] no difference can be shown",
        "See: results/studies/toy/tables/ (1 table as csv, md, tex, html), results/studies/toy/figures/ (0 figures as png, pdf)",
        "Missing: no records",
    ]


def test_what_is_missing_is_counted_by_reason(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree.layout.stage_results("m", "d", "poor", 1, "01-stacked") / "scores" / "chat" / "all.json").unlink()
    found = lines(tree, monkeypatch)
    assert found[2].endswith("chat not known yet")
    assert found[4] == "Missing: 1 record (1 missing); see results/missing.csv"


def test_what_does_not_fit_is_counted(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tree.tables["t"]
    tree.tables = {f"t{number}": table for number in range(20)}
    assert re.search(r"; \d+ more$", lines(tree, monkeypatch)[2])
