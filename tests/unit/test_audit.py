"""What a screen saved and lost, from decisions, training records and scores: counts against a case worked out by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sftstudy.config import PaperRule
from sftstudy.paths import Layout
from sftstudy.records import DecisionRecord, Ruling, write_record
from sftstudy.spec import PlannedScreen, StudySpec
from sftstudy.tables.aggregate import load_results
from sftstudy.tables.audit import PairReport, audit_pair
from sftstudy.tables.audit_figures import short_names
from sftstudy.tables.audit_files import audit_study
from sftstudy.tables.audit_page import plain_words, rule_text
from sftstudy.tables.collect import collect_scores
from table_toys import COMMON, Tree, edit

PAIR = ("m", "d")
RUNGS = ("0.25", "0.5")
SCREEN = PlannedScreen(
    benchmark="exam",
    rungs=[0.25, 0.5],
    rule=PaperRule(kind="paper", keep=0.5),
    decisions={rung: f"decision-{rung}" for rung in RUNGS},
)
RIGHT = {"r1": 1, "r2": 6, "r3": 3, "r4": 4, "r5": 5}
CALLS = {"r1": ("stop", "out"), "r2": ("audit", "audit"), "r3": ("go", "go"), "r4": ("go", "go"), "r5": ("go", "stop")}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Five recipes of eight steps of 10 samples: r1 stopped at a quarter, r5 at half, r2 audited and the best of all."""
    made = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    made.base({"exam": [0.0] * 8})
    for recipe, right in RIGHT.items():
        finish(made, recipe, right)
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
    decide(made, CALLS)
    return made


def finish(tree: Tree, recipe: str, right: int) -> None:
    """A finished stage that has some of eight items right."""
    steps = [(10 * step, 1.0, 1.0) for step in range(1, 9)]
    scores = {"ckpt01": (80, 80, {"exam": [1.0] * right + [0.0] * (8 - right)})}
    tree.stage(recipe, scores, steps=steps, factors={"effective_batch_size": 10})


def decide(tree: Tree, calls: Any) -> None:
    """Decisions at both rungs. Who is out, or audited, since the first one is not looked at again."""
    for number, rung in enumerate(RUNGS):
        rulings = {}
        for recipe, both in calls.items():
            still_in = number == 0 or both[0] == "go"
            shown = {"place": 1, "num_rivals": 5, "grad_norm": -RIGHT[recipe], "loss": 1.0} if still_in else {}
            rulings[f"m/d/{recipe}/seed1/01-stacked"] = Ruling(call=both[number], competitor=recipe, group=[], **shown)
        record = DecisionRecord(**COMMON, spec_hash=SCREEN.decisions[rung], study="toy", rung=rung, rulings=rulings)
        write_record(tree.layout.screens("toy") / f"{rung}.json", record)


def training_of(tree: Tree, recipe: str) -> Path:
    return tree.layout.stage_results(*PAIR, recipe, 1, "01-stacked") / "training.json"


def study_of(tree: Tree, screen: PlannedScreen = SCREEN) -> StudySpec:
    study = tree.study().model_copy(update={"screen": screen})
    collect_scores([study], layout=tree.layout)
    return study


def audit(tree: Tree, screen: PlannedScreen = SCREEN) -> PairReport:
    return audit_pair(load_results(study_of(tree, screen), layout=tree.layout), screen, PAIR, layout=tree.layout)


def grouped(tree: Tree, weak: set[str]) -> PlannedScreen:
    """The screen if some recipes compete by themselves, since they have another learning rate."""
    tree.stages = [
        stage.model_copy(update={"factors": {"effective_batch_size": 10, "learning_rate": int(stage.recipe in weak)}})
        for stage in tree.stages
    ]
    return SCREEN.model_copy(update={"group_by": ["learning_rate"]})


def test_the_report_counts_what_was_saved_lost_and_told(tree: Tree) -> None:
    report = audit(tree)
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
    assert (report.undecided, report.num_kept, report.num_kept_scored, report.samples_open) == ({}, 2, 2, 0)
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
    """Of those with a final score only r2 and r3 compete, so chance stops the best of all in half of its draws, not in a third."""
    report = audit(tree, grouped(tree, {"r2", "r3"}))
    assert [rung.regret_at_random for rung in report.rungs] == [pytest.approx(0.25 / 2, abs=0.01)] * 2


def test_a_wrong_stop_in_a_weak_group_is_one_though_the_best_of_all_was_kept(tree: Tree) -> None:
    """r4, which is audited, ends above r3, the only one that it competed with, and below r2 of the other group."""
    decide(tree, CALLS | {"r2": ("go", "go"), "r4": ("audit", "audit")})
    alone = audit(tree)
    assert (alone.num_false_stops, alone.num_above_median, alone.regret) == (0, 0, 0)
    screen = grouped(tree, {"r3", "r4"})
    report = audit(tree, screen)
    assert (report.num_checked, report.num_false_stops, report.num_above_median, report.regret) == (1, 1, 1, 0)
    words = "\n".join(plain_words(screen, report))
    assert "Lost: nothing that is known on exam, by the best that was stopped against the best kept of all groups." in words
    assert "False stops: 1 of 1 checked ended above the best that was kept of its group, 100%" in words


@pytest.mark.parametrize("fault", ["missing", "stale"])
def test_what_is_not_trained_saves_nothing_and_what_is_lost_waits_for_all_that_were_kept(fault: str, tree: Tree) -> None:
    before = audit(tree)
    path = training_of(tree, "r4")  # a kept one
    path.unlink() if fault == "missing" else edit(path, spec_hash="another")
    report = audit(tree)
    for name in ("samples_saved", "samples_saved_alone", "samples_saved_unaudited", "hours_saved", "num_checked"):
        assert getattr(report, name) == getattr(before, name)
    assert {row.name: row.samples_open for row in report.competitors if row.samples_open} == {"r4": 80}
    assert (report.samples_open, report.num_kept, report.num_kept_scored) == (pytest.approx(0.2), 2, 1)
    assert {report.num_false_stops, report.false_stop_rate, report.num_above_median, report.regret, report.lead} == {None}
    assert {value for rung in report.rungs for value in (rung.regret, rung.regret_at_random)} == {None}
    assert [rung.saved for rung in report.rungs] == [rung.saved for rung in before.rungs]
    words = plain_words(SCREEN, report)
    assert words[1].startswith("Saved: 25% of the samples and about 5 process-hours. The rule alone")
    assert words[2:] == [
        "Not trained yet: 20% of the samples, of r4. They count neither as trained nor as saved.",
        "Lost: not known, 1 of 2 kept have no final score yet.",
    ]


def test_a_stop_has_saved_something_once_its_own_record_says_so(tree: Tree) -> None:
    """Another study may be training r1; an audited one that was stopped before is to be trained on."""
    training_of(tree, "r1").unlink()
    report = audit(tree)
    assert (report.samples_saved, report.samples_saved_alone) == (pytest.approx(40 / 400), pytest.approx(100 / 400))
    assert report.samples_open == pytest.approx(80 / 400)
    edit(training_of(tree, "r2"), status="stopped at rung 0.25", num_steps=2)
    assert {row.name: row.samples_open for row in audit(tree).competitors if row.samples_open} == {"r1": 80, "r2": 60}


def test_stages_behind_a_stopped_one_are_saved_with_it_and_behind_a_finished_one_are_open(tree: Tree) -> None:
    tree.stages = [stage.model_copy(update={"last": False}) if stage.recipe in RIGHT else stage for stage in tree.stages]
    first = [stage for stage in tree.stages if stage.recipe in ("r1", "r3")]
    tree.stages += [stage.model_copy(update={"stage": "02-more", "last": True, "scores": {}}) for stage in first]
    rows = {row.name: row for row in audit(tree).competitors}
    assert {name: (rows[name].samples_trained, rows[name].samples_saved, rows[name].samples_open) for name in ("r1", "r3")} == {
        "r1": (20, 140, 0),
        "r3": (80, 0, 80),
    }


def test_decisions_of_another_rule_are_none_and_are_named(tree: Tree) -> None:
    rule = PaperRule(kind="paper", keep=0.9)
    other = SCREEN.model_copy(update={"rule": rule, "decisions": SCREEN.decisions | {"0.25": "another"}})
    report = audit(tree, other)
    assert report.undecided == {"0.25": "stale spec", "0.5": "no decision before it"}
    assert [rung.calls for rung in report.rungs] == [{"go": 0, "stop": 0, "audit": 0}] * 2
    assert (report.num_stopped, report.samples_saved, report.hours_saved, report.regret) == (0, 0, 0, None)
    assert plain_words(other, report) == [
        "Nothing is decided yet. Without a decision: 25% (stale spec), 50% (no decision before it); "
        "results/missing.csv names the records."
    ]
    named = tree.layout.screens("toy") / "0.25.json"
    assert f'{named},toy,stale spec,"record has decision-0.25, today\'s is another"' in tree.layout.missing_csv().read_text()


def test_before_the_last_rung_has_decided_nothing_is_said_of_what_is_lost(tree: Tree) -> None:
    (tree.layout.screens("toy") / "0.5.json").write_text("{")
    report = audit(tree)
    assert report.undecided == {"0.5": "broken"}
    assert (report.num_stopped, report.num_checked, report.num_false_stops, report.regret) == (2, 1, None, None)
    assert report.samples_saved == pytest.approx(60 / 400)
    words = plain_words(SCREEN, report)
    assert words[-1].startswith("Lost: not known before all rungs have decided. Without a decision: 50% (broken);")


def test_who_stops_later_is_no_rival_at_an_earlier_rung(tree: Tree) -> None:
    """r5 competes at a quarter, is stopped at half and was trained on by another study: not what the stops up to a quarter left."""
    finish(tree, "r5", right=7)
    tree.stages.pop()  # it is planned already
    report = audit(tree)
    assert [rung.regret for rung in report.rungs] == [pytest.approx(0.25), pytest.approx(0.375)]
    assert report.regret == pytest.approx(0.375)


def test_what_another_study_trained_on_is_told_apart_from_what_the_decisions_allow(tree: Tree) -> None:
    edit(training_of(tree, "r5"), status="finished", num_steps=8)
    report = audit(tree)
    assert (report.samples_saved, report.samples_saved_alone) == (pytest.approx(60 / 400), pytest.approx(100 / 400))
    assert "with its audit 25%; other studies wanted some of that." in plain_words(SCREEN, report)[1]


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
