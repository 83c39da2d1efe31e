"""From a printed cell to the records behind it and back; pages, statuses and numbers for prose."""

import csv
import json
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sftstudy.averages import normalise
from sftstudy.config import ArmsTable, GridTable, Normalised
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.pedigree import DifferenceCell, PedigreeRecord, ScoreCell
from sftstudy.records import ScoreRecord, TrainingRecord, read_record
from sftstudy.tables import cells
from sftstudy.tables.numbers import write_numbers
from sftstudy.tables.render import build_table
from table_toys import CHAT, EXAM, Page, Tree, drop, edit, render

ARMS = ArmsTable(kind="arms", caption="A & B.", arms={"A": "a", "B %": "b"}, show=["samples-interval", "optimism"])


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Two recipes of two seeds and three checkpoints, one in two stages; scores jump about, so that peaks are a matter of luck."""
    made = Tree(Layout(tmp_path / "results", tmp_path / "scratch"), benchmarks={"exam": EXAM, "chat": CHAT})
    rng = np.random.default_rng(7)

    def scores() -> dict[str, list[float]]:
        return {"exam": rng.integers(0, 2, 40).tolist(), "chat": rng.integers(1, 11, 40).tolist()}

    made.base(scores())
    for seed in (1, 2):
        factors = {"batch": 1, "rate": 2}
        made.stage("a", {f"ckpt{n}": (10 * n, 10 * n, scores()) for n in (1, 2, 3)}, seed=seed, factors=factors)
        made.stage("b", {"ckpt1": (10, 10, scores()), "ckpt2": (20, 20, scores())}, seed=seed, stage="01-x", last=False)
        made.stage("b", {"ckpt1": (25, 35, scores())}, seed=seed, stage="02-y", factors={"batch": 3, "rate": 2})
    made.sweeps = {"all": ["a", "b"]}
    made.tables = {
        "arms": ARMS,
        "grid": GridTable(kind="grid", caption="Grid.", sweep="all", rows="batch", columns="rate"),
    }
    return made


def lines_of(texts: dict[str, str]) -> dict[str, dict[str, str]]:
    return {line["key"]: line for line in csv.DictReader(texts["csv"].splitlines())}


@pytest.mark.parametrize("table", ["arms", "grid"])
def test_from_a_cell_to_its_records_and_back(tree: Tree, table: str) -> None:
    texts = render(tree, table)
    pedigree, lines = PedigreeRecord.model_validate_json(texts["pedigree.json"]), lines_of(texts)
    assert set(pedigree.cells) == set(lines)
    results, behind = tree.layout.results, {}
    for key, cell in pedigree.cells.items():
        if isinstance(cell, DifferenceCell):
            first, second = (pedigree.cells[name] for name in cell.cells)
            assert cell.value == pytest.approx(float(lines[cell.cells[0]]["value"]) - float(lines[cell.cells[1]]["value"]))
            assert {first.kind, second.kind} == {"score"}
            continue
        assert isinstance(cell, ScoreCell)
        values = []
        for source in cell.checkpoints:
            items = pd.read_parquet(results / source.items)
            mine = items[(items["ckpt"] == source.ckpt) & (items["benchmark"] == cell.benchmark) & (items["metric"] == cell.metric)]
            values.append(mine["value"].mean())
            score = next(
                score
                for score in read_record(results / source.scores, ScoreRecord).scores
                if (score.ckpt, score.benchmark) == (source.ckpt, cell.benchmark)
            )
            asked = pedigree.benchmarks[cell.benchmark]
            assert (score.value, score.weights_hash, score.samples_seen) == (source.value, source.weights_hash, source.samples_seen)
            assert (score.items_hash, score.protocol_hash) == (asked.items_hash, asked.protocol_hash)
            if cell.measure != "base":
                training = read_record(results / source.training, TrainingRecord)
                assert source.weights_hash in {entry.weights_hash for entry in training.checkpoints}
                assert pedigree.records[source.training].spec_hash == training.spec_hash
            behind.setdefault(source.scores, set()).add(key)
        assert float(np.mean(values)) == pytest.approx(float(lines[key]["value"]), abs=1e-12)
    scored = {path.relative_to(results).as_posix() for path in results.glob("runs/m/*/*/*/*/scores/*/*.json")}
    assert {path for path in scored if "01-x" not in path} <= set(behind) <= scored
    assert all(f"/scores/{key.split('/')[0]}" in path for path, keys in behind.items() for key in keys)


@pytest.mark.parametrize("table", ["arms", "grid"])
def test_a_table_that_was_made_before_draws_nothing_and_is_the_same(
    tree: Tree, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = render(tree, table)
    made = build_table(tree.study(), table, layout=tree.layout)
    for name in ("samples_to_peak", "optimism_of_peak"):
        monkeypatch.delattr(cells, name)
    drawn = PedigreeRecord.model_validate_json(texts["pedigree.json"])
    again = build_table(tree.study(), table, layout=tree.layout, drawn=drawn)
    assert again.blocks == made.blocks
    assert again.pedigree == made.pedigree
    with pytest.raises(NameError):
        build_table(tree.study(), table, layout=tree.layout)


def test_a_judged_cell_opens_its_answers_and_judgments(tree: Tree) -> None:
    folder = tree.layout.stage_results("m", "d", "a", 1, "01-stacked") / "scores" / "chat"
    for name in ("answers", "judgments"):
        (folder / f"all.{name}.jsonl").write_text("{}\n")
    texts = render(tree)
    cell = PedigreeRecord.model_validate_json(texts["pedigree.json"]).cells["chat/A/peak"]
    assert isinstance(cell, ScoreCell)
    below = "runs/m/d/a/seed1/01-stacked/scores/chat/all"
    assert cell.checkpoints[0].judged == [f"{below}.answers.jsonl", f"{below}.judgments.jsonl"]
    assert cell.checkpoints[1].judged == []
    assert f'<a href="../../../{below}.judgments.jsonl">judgments</a>' in texts["html"]


def test_a_normalised_cell_is_that_of_its_items(tree: Tree) -> None:
    tree.benchmarks["exam"] = EXAM.model_copy(update={"normalised": Normalised(num_choices=4)})
    for path in tree.layout.results.glob("runs/m/*/*/*/*/scores/exams/all.json"):
        scores = json.loads(path.read_text())["scores"]
        scaled = [score | {"metric": "normalised", "value": normalise(score["value"], 4)} for score in scores]
        edit(path, scores=[*scores, *scaled])
    for table in ("arms", "grid"):
        texts = render(tree, table)
        pedigree, found = PedigreeRecord.model_validate_json(texts["pedigree.json"]), 0
        for key, line in lines_of(texts).items():
            cell = pedigree.cells[key]
            if not isinstance(cell, ScoreCell) or "normalised" not in cell.measure:
                continue
            values = []
            for source in cell.checkpoints:
                items = pd.read_parquet(tree.layout.results / source.items)
                mine = items[(items["ckpt"] == source.ckpt) & (items["benchmark"] == "exam")]
                values.append(normalise(mine["value"].mean(), 4))
            assert float(line["value"]) == pytest.approx(np.mean(values))
            found += 1
        assert found == 1 + 2 + 2  # base; two recipes at the peak and at the last checkpoint
        assert "normalised: on the leaderboard's scale" in texts["md"]
    assert "exam, normalised, base" in texts["md"]


def test_peaks_have_an_interval_of_their_samples_and_their_optimism(tree: Tree) -> None:
    texts = render(tree)
    line = lines_of(texts)["exam/A/peak"]
    low, seen, high = (float(line[name]) for name in ("samples_low", "samples_seen", "samples_high"))
    assert 10 <= low < high <= 30
    assert low <= seen <= high
    assert float(line["optimism"]) > 0
    assert float(line["optimism_low"]) <= float(line["optimism"]) <= float(line["optimism_high"])
    assert lines_of(texts)["exam/A/last"]["optimism"] == ""
    assert "| A optimism " in texts["md"]
    assert f"{seen:,.0f} [{low:,.0f}, {high:,.0f}]" in texts["md"].replace("*", "")
    tree.tables["arms"] = ARMS.model_copy(update={"show": []})
    plain = render(tree)
    assert "optimism" not in plain["md"].split("- Mean over")[0]
    assert plain["csv"] == texts["csv"]


@pytest.mark.parametrize("table", ["arms", "grid"])
def test_a_page_stands_alone_and_every_number_opens_its_pedigree(tree: Tree, table: str) -> None:
    texts = render(tree, table)
    page = Page(texts["html"])
    assert page.depth == 0
    assert page.outside == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) == set(page.ids)
    assert set(page.ids) <= set(lines_of(texts))
    assert "popovertargetaction" in texts["html"]
    if table == "arms":
        assert "chat/B/peak" in page.targets
        difference = json.loads(texts["pedigree.json"])["cells"]["chat/A-minus-B/peak"]
        shown = f"{difference['value']:.2f} [{difference['low']:.2f}, {difference['high']:.2f}]"
        assert texts["html"].count(f"A less B %: {shown.replace('-', '&minus;')}, p = {difference['p']:.3f}") == 2
        assert r"\SftNumber{arms/chat/B/peak/value}" in texts["html"]


def stop(tree: Tree, recipe: str, seed: int, status: str) -> None:
    """The records of a run that was ended at a rung."""
    folder = tree.layout.stage_results("m", "d", recipe, seed, "01-stacked")
    edit(folder / "training.json", status=status, checkpoints=[])
    for suite in ("exams", "chat"):
        edit(folder / "scores" / suite / "all.json", status=status, scores=[])


def test_a_stopped_run_is_a_value_with_a_note_in_all_formats(tree: Tree) -> None:
    for seed in (1, 2):
        stop(tree, "a", seed, "stopped at rung 0.1")
    texts = render(tree)
    for kind, cell in {
        "md": "| stopped at rung 0.1 ",
        "tex": r"& stopped {\scriptsize at rung 0.1}",
        "html": ">stopped <small>",
    }.items():
        assert cell in texts[kind]
        assert "stopped at rung 0.1: by a rule of the study" in unescape(texts[kind])
        assert "Empty: a record" not in texts[kind]
    line = lines_of(texts)["exam/A/peak"]
    assert (line["value"], line["status"], line["num_seeds"]) == ("", "stopped at rung 0.1", "0")
    cell = PedigreeRecord.model_validate_json(texts["pedigree.json"]).cells["exam/A/peak"]
    assert isinstance(cell, ScoreCell)
    assert set(cell.missing.values()) == {"stopped at rung 0.1"}
    assert r"& stopped {\scriptsize at rung 0.1}" in render(tree, "grid")["tex"]


def test_one_stopped_seed_leaves_the_others_value_with_its_status(tree: Tree) -> None:
    stop(tree, "a", 2, "stopped at rung 0.1")
    texts = render(tree)
    line = lines_of(texts)["exam/A/peak"]
    assert (line["num_seeds"], line["num_planned_seeds"], line["status"]) == ("1", "2", "stopped at rung 0.1")
    assert "‡: fewer seeds than planned" in texts["md"]


def test_a_raced_cell_is_marked_in_all_formats_and_has_no_intervals_of_its_choice(tree: Tree) -> None:
    path = tree.layout.stage_results("m", "d", "b", 1, "01-x") / "scores" / "exams" / "all.json"
    scores = json.loads(path.read_text())["scores"]
    drop(tree, "b", "ckpt2", after=32, stage="01-x")
    texts = render(tree)
    lines = lines_of(texts)
    assert (lines["exam/B/peak"]["status"], lines["exam/B/peak"]["num_seeds"]) == ("raced", "2")
    assert (lines["exam/B/peak"]["optimism"], lines["exam/B/peak"]["samples_low"]) == ("", "")
    assert (lines["exam/A/peak"]["status"], lines["chat/B/peak"]["status"]) == ("", "")
    cell = PedigreeRecord.model_validate_json(texts["pedigree.json"]).cells["exam/B/peak"]
    assert isinstance(cell, ScoreCell)
    kept = [score["value"] for score in scores if score["ckpt"] == "ckpt1"]
    assert cell.checkpoints[0].ckpt == "ckpt1"
    assert cell.checkpoints[0].value is not None
    assert cell.checkpoints[0].value >= kept[0]
    for kind, mark in {"md": "]†§", "tex": r"$^{\mathsection}$", "html": 'could not win">§'}.items():
        assert mark in texts[kind]
        assert "exam: checkpoints of b raced for a phase" in texts[kind]


def test_an_empty_cell_says_which_record_is_missing(tree: Tree) -> None:
    for seed in (1, 2):
        (tree.layout.stage_results("m", "d", "a", seed, "01-stacked") / "scores" / "exams" / "all.json").unlink()
    texts = render(tree)
    cell = PedigreeRecord.model_validate_json(texts["pedigree.json"]).cells["exam/A/peak"]
    assert isinstance(cell, ScoreCell)
    assert cell.missing == {f"runs/m/d/a/seed{seed}/01-stacked/scores/exams/all.json": "missing" for seed in (1, 2)}
    assert "&ndash;" in texts["html"]


def test_two_arms_of_one_key_are_refused(tree: Tree) -> None:
    tree.tables["arms"] = ArmsTable(kind="arms", caption="", arms={"A %": "a", "A &": "b"})
    with pytest.raises(StudyError, match="table arms: two cells are called exam/A/peak"):
        render(tree)


def test_several_models_are_told_apart_by_their_keys(tree: Tree) -> None:
    tree.stage("a", {"ckpt1": (10, 10, {"exam": [1] * 40, "chat": [9] * 40})}, pair=("n", "d"))
    assert {"m/d/exam/A/peak", "n/d/exam/A/peak"} <= set(lines_of(render(tree)))


def test_numbers_for_prose_are_those_of_the_tables(tree: Tree) -> None:
    texts = render(tree)
    render(tree, "grid")
    write_numbers(tree.study(), layout=tree.layout)
    folder = tree.layout.study_folder("toy") / "numbers"
    numbers = json.loads((folder / "numbers.json").read_text())["numbers"]
    line = lines_of(texts)["exam/A/peak"]
    number = numbers["arms/exam/A/peak"]
    assert (number["value"], number["low"]) == (float(line["value"]), float(line["low"]))
    assert f"| {number['text']['value']} {number['text']['interval']}" in texts["md"].replace("*", "")
    assert number["pedigree"] == "tables/arms.pedigree.json#exam/A/peak"
    assert set(numbers) == {f"arms/{key}" for key in lines_of(texts)} | {f"grid/{key}" for key in lines_of(render(tree, "grid"))}
    assert "A-minus-B" in "".join(numbers)


def test_numbers_need_their_tables(tree: Tree) -> None:
    with pytest.raises(StudyError, match=r"arms\.csv: missing; build it"):
        write_numbers(tree.study(), layout=tree.layout)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_paper_inputs_the_numbers(tree: Tree, tmp_path: Path) -> None:
    for table in tree.tables:
        (tmp_path / f"{table}.tex").write_text(render(tree, table)["tex"])
    write_numbers(tree.study(), layout=tree.layout)
    source = (tree.layout.study_folder("toy") / "numbers" / "numbers.tex").read_text()
    (tmp_path / "one.tex").write_text(source)
    (tmp_path / "two.tex").write_text(source.replace("define{toy}", "define{other}"))

    def compiles(inputs: str, key: str) -> subprocess.CompletedProcess[str]:
        body = rf"\section{{\SftNumber{{{key}}}}}\edef\twice{{\SftNumber{{{key}}}}}\twice\input{{arms}}\input{{grid}}"
        packages = r"\usepackage{booktabs}\usepackage{xcolor}"
        paper = rf"\documentclass{{article}}{packages}{inputs}\begin{{document}}{body}\end{{document}}"
        (tmp_path / "paper.tex").write_text(paper)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    key = "arms/chat/A-minus-B/peak/interval"
    assert compiles(r"\input{one}", key).returncode == 0
    assert compiles(r"\input{one}\input{one}", key).returncode == 0
    assert "No number arms/chat/C/peak/value" in compiles(r"\input{one}", "arms/chat/C/peak/value").stdout
    assert "Several studies have a number arms" in compiles(r"\input{one}\input{two}", key).stdout
    assert compiles(r"\input{one}\input{two}", f"toy/{key}").returncode == 0
