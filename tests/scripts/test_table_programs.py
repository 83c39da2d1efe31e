"""The programs after the records, run by hand as their docstrings say."""

import subprocess
import sys
from pathlib import Path

import pytest

from sftstudy import spec
from sftstudy.config import ArmsClaim, ArmsTable, ScoresFigure, Training
from sftstudy.paths import Layout
from table_toys import Tree, stacked

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
STUDY = "results/studies/toy/spec.yaml"


def program(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tree = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    tree.base({"exam": [0, 0, 1, 0]})
    for rate, recipe in enumerate("ab", start=1):
        factors = Training(effective_batch_size=4, learning_rate=rate, epochs=1, num_checkpoints=1).model_dump()
        tree.stage(recipe, {"ckpt01": (10, 10, {"exam": [1, 1, 1, 0]})}, factors=factors)
    tree.tables = {"arms": ArmsTable(kind="arms", caption="", arms={"A": "a", "B": "b"})}
    tree.figures = {"scores": ScoresFigure(kind="scores", caption="", arms={"A": "a", "B": "b"})}
    claim = ArmsClaim(
        kind="direction", finding=None, statement="A is better.", first="a", second="b", margins={"exam": 0.1}, at="last"
    )
    spec.write(tmp_path / STUDY, stacked(tree.study()).model_copy(update={"claims": {"better": claim}}))
    return tmp_path


def test_records_to_table_figure_claims_and_summary(folder: Path) -> None:
    calls = [
        "collect_scores", "render_table arms", "write_numbers", "render_figure scores", "check_claims", "write_guide",
        "summarize_study",
    ]  # fmt: skip
    for name, *arguments in map(str.split, [*calls, "write_report"]):
        done = program(folder, name, STUDY, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
    study = folder / "results" / "studies" / "toy"
    made = sorted(path.relative_to(study).as_posix() for path in study.rglob("*") if path.is_file())
    assert made == [
        "claims.html", "claims.json", "figures/scores.pdf", "figures/scores.png", "guide.html", "guide.json",
        "numbers/numbers.json", "numbers/numbers.tex", "report.html", "spec.yaml", "summary.txt",
        "tables/arms.csv", "tables/arms.html", "tables/arms.md", "tables/arms.pedigree.json", "tables/arms.tex",
    ]  # fmt: skip


def test_a_table_before_the_collection_ends_in_one_line(folder: Path) -> None:
    done = program(folder, "render_table", STUDY, "arms")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: results/scores.csv: missing; make it with `python workflow/scripts/collect_scores.py STUDY_SPEC...`"
    ]


def test_importing_the_tables_loads_no_torch() -> None:
    modules = ["tables.summary", "tables.figures", "tables.report", "claims.check", "guide.write", "outside"]
    names = ", ".join(f"sftstudy.{name}" for name in modules)
    code = f"import sys, {names}\nprint(sorted({{'torch', 'transformers', 'lm_eval'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
