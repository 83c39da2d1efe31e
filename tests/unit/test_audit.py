"""What a screen saved and lost, from decisions, training records and scores: counts against a case worked out by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sftstudy.config import PaperRule
from sftstudy.paths import Layout
from sftstudy.records import DecisionRecord, Ruling, write_record
from sftstudy.spec import PlannedScreen
from sftstudy.tables.aggregate import load_results
from sftstudy.tables.audit import audit_pair
from sftstudy.tables.audit_figures import short_names
from sftstudy.tables.audit_files import audit_study
from sftstudy.tables.audit_page import rule_text
from sftstudy.tables.collect import collect_scores
from table_toys import COMMON, Tree, edit

PAIR = ("m", "d")
SCREEN = PlannedScreen(
    benchmark="exam",
    rungs=[0.25, 0.5],
    rule=PaperRule(kind="paper", keep=0.5),
    decisions={"0.25": "decision-0.25", "0.5": "decision-0.5"},
)
RIGHT = {"r1": 1, "r2": 6, "r3": 3, "r4": 4, "r5": 5}
CALLS = {"0.25": {"r1": "stop", "r2": "audit", "r3": "go", "r4": "go", "r5": "go"}, "0.5": {"r3": "go", "r4": "go", "r5": "stop"}}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Five recipes of eight steps of 10 samples: r1 stopped at a quarter, r5 at half, r2 audited and the best of all."""
    made = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    made.base({"exam": [0.0] * 8})
    for recipe, right in RIGHT.items():
        steps = [(10 * step, 1.0, 1.0) for step in range(1, 9)]
        scores = {"ckpt01": (80, 80, {"exam": [1.0] * right + [0.0] * (8 - right)})}
        made.stage(recipe, scores, steps=steps, factors={"effective_batch_size": 10})
    made.stages[1:] = [stage.model_copy(update={"num_steps": 8}) for stage in made.stages[1:]]
    for recipe in RIGHT:
        folder = made.layout.stage_results(*PAIR, recipe, 1, "01-stacked")
        stopped = {"r1": ("0.25", 2), "r5": ("0.5", 4)}.get(recipe)
        if stopped:
            edit(folder / "training.json", status=f"stopped at rung {stopped[0]}", num_steps=stopped[1], time_s=3600 * stopped[1])
            edit(folder / "scores" / "exams" / "all.json", status=f"stopped at rung {stopped[0]}", scores=[])
        else:
            edit(folder / "training.json", time_s=8 * 3600)
            lines = (folder / "metrics.jsonl").read_text().replace('"time_s":1.0', '"time_s":1800.0')
            (folder / "metrics.jsonl").write_text(lines)
    for rung, calls in CALLS.items():
        rulings = {
            f"m/d/{recipe}/seed1/01-stacked": Ruling(
                call=call, competitor=recipe, group=[], place=1, num_rivals=5, grad_norm=-RIGHT[recipe], loss=1.0
            )
            for recipe, call in calls.items()
        }
        record = DecisionRecord(**COMMON, spec_hash=SCREEN.decisions[rung], study="toy", rung=rung, rulings=rulings)
        write_record(made.layout.screens("toy") / f"{rung}.json", record)
    return made


def study_of(tree: Tree) -> Any:
    study = tree.study().model_copy(update={"screen": SCREEN})
    collect_scores([study], layout=tree.layout)
    return study


def test_the_report_counts_what_was_saved_lost_and_told(tree: Tree) -> None:
    report = audit_pair(load_results(study_of(tree), layout=tree.layout), SCREEN, PAIR, layout=tree.layout)
    assert {row.name: (row.stopped_at, row.audited, row.final) for row in report.competitors} == {
        "r1": ("0.25", False, None),
        "r2": ("0.25", True, 0.75),
        "r3": (None, False, 0.375),
        "r4": (None, False, 0.5),
        "r5": ("0.5", False, None),
    }
    assert (report.num_stopped, report.num_checked, report.num_false_stops, report.num_above_median) == (3, 1, 1, 1)
    assert (report.false_stop_rate, report.regret) == (1.0, 0.25)
    assert (report.false_stop_low, report.false_stop_high) == (pytest.approx(0.025), 1.0)
    assert report.samples_saved == report.samples_saved_alone == pytest.approx((60 + 40) / 400)
    assert report.samples_saved_unaudited == pytest.approx((60 + 60 + 40) / 400)
    assert report.hours == pytest.approx(3 * 8 + 2 + 4)
    assert report.hours_saved == pytest.approx(0.5 * (6 + 4))  # half an hour a step, by the median step of the finished
    assert (report.lead, report.device) == (pytest.approx(0.25), "cpu")
    assert report.lead_low is not None
    assert report.lead_low < 0.25
    first, second = report.rungs
    assert (first.saved, first.regret) == (pytest.approx(120 / 400), pytest.approx(0.25))
    assert (second.saved, second.regret) == (pytest.approx(160 / 400), pytest.approx(0.25))
    # of the three with a final score one is stopped: the best one, at 0.25, in a third of all draws
    assert first.regret_at_random == second.regret_at_random == pytest.approx(0.25 / 3, abs=0.01)
    assert [rung.calls for rung in report.rungs] == [{"go": 3, "stop": 1, "audit": 1}, {"go": 2, "stop": 1, "audit": 0}]
    told = report.rungs[0].correlations
    assert (told["grad_norm"].rho, told["grad_norm"].num_competitors) == (-1.0, 3)
    assert (told["loss"].rho, told["loss"].num_competitors) == (None, 3)


def test_signals_of_unlike_places_in_training_are_told(tree: Tree) -> None:
    study = study_of(tree)
    audit_study(study, layout=tree.layout)
    page = tree.layout.study_folder("toy") / "screen" / "screen.html"
    assert "Unlike" not in page.read_text()
    stages = [stage.model_copy(update={"num_steps": 16 if stage.recipe == "r3" else stage.num_steps}) for stage in study.stages]
    audit_study(study.model_copy(update={"stages": stages}), layout=tree.layout)
    assert "Unlike places: at 25% a run had seen 20 samples (r1) to 40 (r3)" in page.read_text()


def test_chance_stops_as_many_of_each_group(tree: Tree) -> None:
    """Of those with a final score r2 has a group for itself, so chance has no choice but to stop it."""
    tree.stages = [
        stage.model_copy(update={"factors": {"effective_batch_size": 10, "learning_rate": int(stage.recipe == "r2")}})
        for stage in tree.stages
    ]
    screen = SCREEN.model_copy(update={"group_by": ["learning_rate"]})
    report = audit_pair(load_results(study_of(tree), layout=tree.layout), screen, PAIR, layout=tree.layout)
    assert [rung.regret_at_random for rung in report.rungs] == [pytest.approx(0.25)] * 2


def test_what_another_study_trained_on_is_told_apart_from_what_the_decisions_allow(tree: Tree) -> None:
    study = study_of(tree)
    edit(tree.layout.stage_results(*PAIR, "r5", 1, "01-stacked") / "training.json", status="finished", num_steps=8)
    report = audit_pair(load_results(study, layout=tree.layout), SCREEN, PAIR, layout=tree.layout)
    assert (report.samples_saved, report.samples_saved_alone) == (pytest.approx(60 / 400), pytest.approx(100 / 400))


def test_the_report_is_written_the_same_each_time_and_before_anything_is_decided(tree: Tree) -> None:
    study = study_of(tree)
    folder = tree.layout.study_folder("toy") / "screen"
    made = []
    for _ in range(2):
        audit_study(study, layout=tree.layout)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    figures = {f"{name}.{kind}" for name in ("signals", "savings") for kind in ("png", "pdf")}
    assert set(made[0]) == {"audit.json", "audit.md", "screen.html", *figures}
    assert made[0] == made[1]
    page = made[0]["screen.html"].decode()
    for text in (made[0]["audit.md"].decode(), page):
        assert "Stopped: 3 of 5, 1 of these for the audit only" in text
        assert (
            "Saved: 25% of the samples and about 5 of 35 process-hours. The rule alone would have saved 40%, with its audit 25%."
            in text
        )
        assert "False stops: 1 of 1 checked ended above the best that was kept, 100% [3%, 100%]" in text
        assert "Lost: at least 0.25 on exam, by the best that was stopped against the best kept. Stopped less kept" in text
    assert page.count('<span class="badge fails">stopped at') == 2
    assert page.count("data:image/png;base64,") == 2
    assert not re.findall(r'(?:src|href)="(?!data:)', page)  # nothing outside of the page
    for path in tree.layout.screens("toy").iterdir():
        path.unlink()
    audit_study(study, layout=tree.layout)
    assert json.loads((folder / "audit.json").read_text())[0]["num_stopped"] == 0
    assert "Nothing is decided yet." in (folder / "screen.html").read_text()


def test_the_rule_is_said_in_words() -> None:
    said = rule_text(SCREEN.model_copy(update={"group_by": ["effective_batch_size"], "seeds": "apart"}))
    assert "the 50% with the lowest gradient norm go on" in said
    assert "among those of equal effective batch size, each run by itself; the others stop." in said


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["tiny-lab-phased", "tiny-lab-stacked", "tiny-tulu"], ["lab-phased", "lab-stacked", "tulu"]),
        (["lab", "lab-cosine"], ["lab", "lab-cosine"]),
        (["lab-stacked"], ["lab-stacked"]),
    ],
)
def test_names_are_cut_where_all_begin_alike(names: list[str], short: list[str]) -> None:
    assert list(short_names(names).values()) == short
