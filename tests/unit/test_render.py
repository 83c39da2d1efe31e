"""Tables as text: two goldens, and what happens when something is missing."""

import csv
from pathlib import Path

import pytest

from sftstudy.config import ArmsTable, GridTable
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.tables.printed import factor_text, number_text
from sftstudy.tables.render import render_table
from table_toys import CHAT, EXAM, Tree, edit, render

GOLDEN = Path(__file__).parents[1] / "golden"
LEVELS = {"r16": (16, 1e-3), "r64": (64, 1e-3), "q16": (16, 3e-3), "q64": (64, 3e-3)}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Four recipes of a grid; two of them, one phased, are arms."""
    made = Tree(Layout(tmp_path / "results", tmp_path / "scratch"), benchmarks={"exam_5%": EXAM, "chat": CHAT})
    made.base({"exam_5%": [0, 1] * 10, "chat": [1, 2, 3, 2]})
    for number, (recipe, (batch, rate)) in enumerate(LEVELS.items()):
        scores = {"exam_5%": [1] * (10 + 3 * number) + [0] * (10 - 3 * number), "chat": [4, 5, number, 6]}
        factors = {"effective_batch_size": batch, "learning_rate": rate}
        for seed in (1, 2):
            made.stage(recipe, {"ckpt01": (1000, 1500 if recipe == "q64" else 1000, scores)}, seed=seed, factors=factors)
    made.sweeps = {"grid": list(LEVELS)}
    made.tables = {
        "arms": ArmsTable(kind="arms", caption="R & Q, 100 % of the data.", arms={"R_16": "r16", "Q": "q64"}),
        "grid": GridTable(kind="grid", caption="Grid.", sweep="grid", rows="effective_batch_size", columns="learning_rate"),
    }
    return made


@pytest.mark.parametrize("table", ["arms", "grid"])
def test_tables_are_the_goldens_and_the_same_twice(tree: Tree, table: str, pytestconfig: pytest.Config) -> None:
    texts = render(tree, table)
    assert render(tree, table) == texts
    compared = 0
    for kind in ("md", "tex", "html") if table == "arms" else ("md", "tex"):
        golden = GOLDEN / f"table-{table}.{kind}"
        if pytestconfig.getoption("--fix"):
            golden.write_text(texts[kind])
        assert texts[kind] == golden.read_text()
        compared += 1
    assert compared == (3 if table == "arms" else 2)


def test_csv_has_a_row_per_cell_unrounded(tree: Tree) -> None:
    lines = list(csv.DictReader(render(tree)["csv"].splitlines()))
    assert len(lines) == 2 * 2 * (1 + 2 + 1)  # benchmarks, measures; base, arms, their difference
    arm = next(line for line in lines if line["arm"] == "Q" and line["benchmark"] == "exam_5%" and line["measure"] == "peak")
    assert (float(arm["value"]), arm["num_seeds"], float(arm["samples_spent"])) == (0.95, "2", 1500.0)
    assert float(arm["low"]) < 0.95 < float(arm["high"])


def test_how_much_a_score_moves_between_judgings_is_noted(tree: Tree) -> None:
    assert "judged again" not in render(tree)["md"]
    tree.spread = 0.164
    tree.base({"exam_5%": [0, 1] * 10, "chat": [1, 2, 3, 2]})
    assert "chat: judged again, a score moves by 0.16 (standard deviation between judgings" in render(tree)["md"]


def test_a_missing_record_is_an_empty_cell(tree: Tree) -> None:
    for seed in (1, 2):
        (tree.layout.stage_results("m", "d", "r16", seed, "01-stacked") / "scores" / "exams" / "all.json").unlink()
    texts = render(tree)
    cells = [cell.strip() for cell in next(line for line in texts["md"].splitlines() if line.startswith("| exam")).split("|")]
    assert cells[3:6] == ["", "0.95 [0.79, 1.00]", ""]
    assert "missing.csv names it" in texts["md"]
    assert tree.layout.missing_csv().read_text().count(",missing,") == 2
    row = next(line for line in csv.DictReader(texts["csv"].splitlines()) if line["arm"] == "R_16")
    assert row["value"] == ""


def test_a_stale_record_of_one_seed_leaves_the_other_with_a_mark(tree: Tree) -> None:
    edit(tree.layout.stage_results("m", "d", "r16", 2, "01-stacked") / "scores" / "exams" / "all.json", spec_hash="old")
    text = render(tree)["md"]
    assert "‡: fewer seeds than planned" in text
    assert text.count("‡") == 2 + 1


def test_nothing_at_all_is_a_table_of_empty_cells(tmp_path: Path, tree: Tree) -> None:
    tree.layout = Layout(tmp_path / "fresh", tmp_path / "scratch")
    rows = list(csv.DictReader(render(tree, "grid")["csv"].splitlines()))
    assert len(rows) == 2 * 2 * 5
    assert {row["value"] for row in rows} == {""}


def test_several_models_are_stacked_blocks(tree: Tree) -> None:
    tree.stage("r16", {"ckpt01": (10, 10, {"exam_5%": [1] * 20, "chat": [9, 9, 9, 9]})}, pair=("n", "d"))
    text = render(tree)["md"]
    assert text.count("m, d: Peak over checkpoints") == text.count("n, d: Peak over checkpoints") == 1


def test_two_recipes_in_one_place_of_a_grid_are_refused(tree: Tree) -> None:
    tree.tables["grid"] = GridTable(kind="grid", caption="", sweep="grid", rows="learning_rate", columns="learning_rate")
    with pytest.raises(StudyError, match="r16 and r64 share learning_rate"):
        render(tree, "grid")


def test_unknown_table_and_format_are_named(tree: Tree) -> None:
    with pytest.raises(StudyError, match="no table nix; it has arms, grid"):
        render(tree, "nix")
    with pytest.raises(StudyError, match="unknown format pdf"):
        render_table(tree.study(), "arms", ["pdf"], layout=tree.layout)


def test_numbers_have_two_decimals_and_small_ones_three() -> None:
    assert [number_text(x) for x in (0.566, 0.0, -0.0, 0.003, -0.003, -0.0004, -0.46)] == [
        "0.57", "0.00", "0.00", "0.003", "-0.003", "0.00", "-0.46",
    ]  # fmt: skip


def test_factors_print_as_people_write_them() -> None:
    assert [factor_text(x) for x in (2e-5, 0.01, 0.03, 3840, 3.0, None, "cosine", True)] == [
        "2e-5", "1e-2", "0.03", "3,840", "3", "none", "cosine", "True",
    ]  # fmt: skip


def test_a_broken_training_record_is_no_exception_either(tree: Tree) -> None:
    (tree.layout.stage_results("m", "d", "r16", 1, "01-stacked") / "training.json").write_text("{")
    assert "‡: fewer seeds than planned" in render(tree)["md"]
