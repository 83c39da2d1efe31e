"""Tables that need no scores, the paper's numbers beside ours, marks of what is assumed, and LaTeX that compiles."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from sftstudy.config import ArmsTable, ConfigurationTable, GridTable, Normalised, PublishedNumbers, PublishedRow
from sftstudy.paths import Layout
from sftstudy.registry import load
from sftstudy.spec import Setting, StudySpec
from sftstudy.tables.collect import collect_scores
from sftstudy.tables.render import FORMATS, render_table
from table_toys import Page, Tree

GOLDEN = Path(__file__).parents[1] / "golden"
REGISTRY = load(Path(__file__).parents[2] / "config")[0]
PAPER = [f"table-{number}" for number in range(10, 14)]
SETTINGS = [
    Setting(subject="study", name="toy", key="model", value=["m"], origin="paper"),
    Setting(subject="data", name="d", part="one 1", key="from", value="hub x [train]", origin="assumed"),
    Setting(subject="recipe", name="r16", key="epochs", value=4, origin="assumed"),
    Setting(subject="recipe", name="r16", key="learning_rate", value=2e-5, origin="paper"),
    Setting(subject="recipe", name="r64", key="epochs", value=4, origin="assumed"),
    Setting(subject="recipe", name="r64", key="learning_rate", value=1e-6, origin="assumed"),
    Setting(subject="recipe", name="r64", key="beta1", value=0.9, origin="code"),
    Setting(subject="benchmark", name="arc-challenge", key="num_fewshot", value=25, origin="cited"),
    Setting(subject="benchmark", name="gsm8k", key="tasks", value=[f"t{n}" for n in range(8)], origin=None),
]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Two recipes scored on one of the two benchmarks of a paper's table."""
    made = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    made.benchmarks = {"arc-challenge": made.benchmarks["exam"], "gsm8k": made.benchmarks["exam"]}
    for name, batch in (("r16", 16), ("r64", 64)):
        scores = {"arc-challenge": [1] * batch + [0] * (80 - batch), "gsm8k": [0, 1] * 40}
        made.stage(name, {"ckpt01": (1000, 1000, scores)}, factors={"batch": batch, "rate": 1})
    made.sweeps = {"grid": ["r16", "r64"]}
    made.tables = {
        "arms": ArmsTable(kind="arms", caption="Ours.", arms={"LAB": "r16", "TULU": "r64"}, paper="table-10"),
        "grid": GridTable(kind="grid", caption="Ours.", sweep="grid", rows="batch", columns="rate"),
        "published": PublishedNumbers(
            kind="published", caption="Published.", tables=PAPER, quoted=["batch-size-mt-bench", "figure-4a-submission"]
        ),
        "configuration": ConfigurationTable(kind="configuration", caption="Settings & sources."),
    }
    return made


def study_of(tree: Tree) -> StudySpec:
    update = {
        "settings": SETTINGS,
        "published": {name: REGISTRY.published[name] for name in PAPER},
        "quoted": {name: REGISTRY.quoted[name] for name in ("batch-size-mt-bench", "figure-4a-submission")},
    }
    return tree.study().model_copy(update=update)


def render(tree: Tree, table: str) -> dict[str, str]:
    render_table(study_of(tree), table, FORMATS, layout=tree.layout)
    folder = tree.layout.study_folder("toy") / "tables"
    return {kind: (folder / f"{table}.{kind}").read_text() for kind in FORMATS}


@pytest.mark.parametrize("table", ["published", "configuration"])
def test_tables_from_the_spec_alone_are_the_goldens(tree: Tree, table: str, pytestconfig: pytest.Config) -> None:
    assert not tree.layout.scores_csv().exists()
    text = render(tree, table)["md"]
    golden = GOLDEN / f"table-{table}.md"
    if pytestconfig.getoption("--fix"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_published_number_is_a_line_with_its_grade(tree: Tree) -> None:
    lines = list(csv.DictReader(render(tree, "published")["csv"].splitlines()))
    rows = {"Table 10": 4, "Table 11": 4, "Table 12": 7, "Table 13": 7}
    not_printed = 2  # the base model's MTBench
    assert len(lines) == 5 * sum(rows.values()) - not_printed + 2 + 3
    chosen = {(line["place"], line["benchmark"], line["column"], line["quantity"]): line for line in lines}
    phased = chosen["Table 12", "leaderboard-musr", "Phased", "samples"]
    assert (phased["value"], phased["grade"], phased["better"]) == ("4988983", "A", "True")
    assert {line["grade"] for line in lines if line["quantity"] == "quoted"} == {"B"}


def test_the_papers_rows_stand_below_ours_at_the_peak_only(tree: Tree) -> None:
    collect_scores([tree.study()], layout=tree.layout)
    text = render(tree, "arms")["md"]
    peak, last = text.split("Last checkpoint")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in peak.splitlines() if line.startswith("| paper")]
    assert rows == [
        ["paper, ARC", "0.78", "**0.75**", "0.68", "2,745,290", "*247,372*"],
        ["paper, GSM8K", "0.27", "**0.69**", "0.66", "12,225,143", "*5,450,009*"],
    ]
    assert "| paper" not in last
    assert "paper: Table 10 as printed, LLaMA 3B, MRC (evidence A: seen in a copy of the paper)" in text


def test_leaderboard_scores_are_shown_on_the_papers_scale(tree: Tree) -> None:
    tree.benchmarks["gsm8k"] = tree.benchmarks["gsm8k"].model_copy(update={"normalised": Normalised(num_choices=4)})
    collect_scores([tree.study()], layout=tree.layout)
    scores = pd.read_csv(tree.layout.scores_csv())
    ours = scores[(scores["benchmark"] == "gsm8k") & (scores["recipe"] == "r16")]
    scaled = ours.assign(metric="normalised", value=1 / 3)
    pd.concat([scores, scaled]).to_csv(tree.layout.scores_csv(), index=False)
    texts = render(tree, "arms")
    rows = [line for line in texts["md"].splitlines() if line.startswith("| gsm8k, normalised")]
    assert [[cell.strip() for cell in row.split("|")[2:-1]] for row in rows] == [["", "0.33", "", "1,000", ""]] * 2
    assert "normalised: on the leaderboard's scale, where guessing is 0" in texts["md"]
    lines = [line for line in csv.DictReader(texts["csv"].splitlines()) if line["measure"] == "normalised peak"]
    assert [(line["arm"], line["value"][:6]) for line in lines] == [("base", ""), ("LAB", "0.3333"), ("TULU", "")]


def test_assumptions_are_marked_and_listed(tree: Tree) -> None:
    collect_scores([tree.study()], layout=tree.layout)
    text = render(tree, "arms")["md"]
    assert "| LAB  " in text
    assert "| TULUᵃ " in text
    assert "in all cells: from, epochs; in TULU: learning\\_rate." in text
    grid = render(tree, "grid")["md"]
    assert "in r64: learning\\_rate." in grid
    (marked,) = [line for line in grid.split("gsm8k")[0].splitlines() if line.startswith("| 64")]
    assert marked.count("ᵃ") == 1
    unsourced = study_of(tree).model_copy(update={"settings": [s.model_copy(update={"origin": None}) for s in SETTINGS]})
    render_table(unsourced, "arms", ["md"], layout=tree.layout)
    text = (tree.layout.study_folder("toy") / "tables" / "arms.md").read_text()
    assert "ᵃ" not in text
    assert "Assumed" not in text


def test_every_value_opens_where_it_comes_from(tree: Tree) -> None:
    collect_scores([tree.study()], layout=tree.layout)
    folder = tree.layout.study_folder("toy") / "tables"
    for table in tree.tables:
        page = Page(render(tree, table)["html"])
        cells = json.loads((folder / f"{table}.pedigree.json").read_text())["cells"]
        assert page.depth == 0
        assert page.outside == []
        assert len(page.ids) == len(set(page.ids))
        assert set(page.ids) == set(page.targets) <= set(cells)
    text = (folder / "published.html").read_text()
    assert "<dt>Printed in</dt><dd>Table 12</dd>" in text
    assert "<dd>A: seen in a copy of the paper</dd>" in text
    assert "<li>recipe r64: epochs 4, learning_rate 1e-6</li>" in (folder / "arms.html").read_text()
    settings = json.loads((folder / "configuration.pedigree.json").read_text())["cells"]
    assert settings["recipe/r64/own"]["values"][0]["source"] == "assumed"


def test_equal_scores_are_both_marked(tree: Tree) -> None:
    assert REGISTRY.published["table-10"].rows["leaderboard-math"].scores == {"LAB": 0.04, "TULU": 0.04}
    text = render(tree, "published")["md"]
    row = next(line for line in text.splitlines() if "MATH" in line)
    assert row.count("**0.04**") == 2


def test_a_paper_without_a_row_for_a_benchmark_adds_none(tree: Tree) -> None:
    collect_scores([tree.study()], layout=tree.layout)
    table = REGISTRY.published["table-10"]
    rows: dict[str, PublishedRow] = {"arc-challenge": table.rows["arc-challenge"]}
    study = study_of(tree).model_copy(update={"published": {"table-10": table.model_copy(update={"rows": rows})}})
    render_table(study, "arms", ["md"], layout=tree.layout)
    text = (tree.layout.study_folder("toy") / "tables" / "arms.md").read_text()
    assert text.count("| paper") == 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_all_kinds_of_tables_compile(tree: Tree, tmp_path: Path) -> None:
    collect_scores([tree.study()], layout=tree.layout)
    texts = [render(tree, table)["tex"] for table in tree.tables]
    texts += [path.read_text() for path in sorted(GOLDEN.glob("table-*.tex"))]
    assert len(texts) == 4 + 2
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs}\usepackage{longtable}\usepackage{xcolor}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}" + "\n".join(texts) + r"\end{document}"
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout
