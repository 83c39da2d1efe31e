"""The account of hours on attempts written by hand: what is useful, wasted and overhead, with SLURM's accounting and without."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from sftstudy.accounting import Allocation
from sftstudy.hours import Charge, Hours, Spent, charge, comments, count_hours, planned_jobs, rows_of, split, wanted_by, work_of
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.records import AttemptRecord, write_record, write_text
from sftstudy.tables.hours_page import to_csv, to_html, to_text

ROOT = Path(__file__).parents[2]
STAGE = {"model": "m", "data": "d", "recipe": "r", "seed": "1", "stage": "01-stacked"}
LONG_AGO = 1e6
"""When nothing runs any more."""


def attempt(started: float = 0.0, elapsed_s: float = 100.0, **changes: Any) -> AttemptRecord:
    """An attempt at a stage: 10 seconds of start-up, then a step a second, all of them safe."""
    steps = int(elapsed_s - 10)
    done: dict[str, Any] = {
        "rule": "train_stage",
        "job": STAGE,
        "spec_hash": "a",
        "num_gpus": 0,
        "num_processes": 1,
        "host": "node",
        "process": 1,
        "outcome": "finished",
        "units": steps,
        "work_s": float(steps),
        "safe_units": steps,
        "safe_work_s": float(steps),
        "safe_after_s": elapsed_s,
    }
    return AttemptRecord(started=started, elapsed_s=elapsed_s, **{**done, **changes})


def killed(started: float = 0.0, elapsed_s: float = 100.0, *, safe: int, **changes: Any) -> AttemptRecord:
    """One that was killed, `safe` of its steps behind a state; the first ten seconds were start-up."""
    at_safety = {"safe_units": safe, "safe_work_s": float(safe), "safe_after_s": 10.0 + safe if safe else 0.0}
    return attempt(started, elapsed_s, **{"outcome": None, **at_safety, **changes})


NOTHING = {"units": 0, "work_s": 0.0, "safe_units": 0, "safe_work_s": 0.0, "safe_after_s": 0.0}


@pytest.mark.parametrize(
    ("attempts", "published", "expected"),
    [
        pytest.param([attempt()], "a", [("finished", Spent(90, 0, 10))], id="finished"),
        pytest.param(
            [killed(safe=40), attempt(200, units_before=40)],
            "a",
            [("killed", Spent(40, 50, 10)), ("finished", Spent(90, 0, 10))],
            id="killed, and continued from what was safe",
        ),
        pytest.param(
            [killed(safe=0), attempt(200)],
            "a",
            [("killed", Spent(0, 100, 0)), ("finished", Spent(90, 0, 10))],
            id="killed before anything was safe",
        ),
        pytest.param(
            [attempt(rule="score_harness"), attempt(200, rule="score_harness", spec_hash="b", **NOTHING | {"units_before": 90})],
            "b",
            [("finished", Spent(90, 0, 10)), ("finished", Spent(0, 0, 100))],
            id="a new average of answers that were there",
        ),
        pytest.param(
            [killed(safe=40, rule="judge_mt_bench"), attempt(200, rule="judge_mt_bench", spec_hash="b", units_before=40)],
            "b",
            [("killed", Spent(40, 50, 10)), ("finished", Spent(90, 0, 10))],
            id="killed, and its judgments used under another spec",
        ),
        pytest.param(
            [attempt(rule="score_harness"), attempt(200, rule="score_harness", spec_hash="b")],
            "b",
            [("finished", Spent(0, 100, 0)), ("finished", Spent(90, 0, 10))],
            id="other answers were asked for",
        ),
        pytest.param([killed(safe=40, outcome="failed")], None, [("failed", Spent(40, 50, 10))], id="failed, and may be continued"),
        pytest.param(
            [killed(safe=90, outcome="out of time"), attempt(200, units_before=90)],
            None,
            [("out of time", Spent(90, 0, 10)), ("finished", Spent(90, 0, 10))],
            id="out of time, all saved",
        ),
        pytest.param(
            [killed(safe=80), attempt(200, units_before=60)],
            "a",
            [("killed", Spent(60, 30, 10)), ("finished", Spent(90, 0, 10))],
            id="a later attempt went back further",
        ),
        pytest.param(
            [attempt(), attempt(200)],
            "a",
            [("finished", Spent(0, 100, 0)), ("finished", Spent(90, 0, 10))],
            id="the weights were lost, and all was trained again",
        ),
        pytest.param(
            [attempt(), attempt(200, 12, **NOTHING, units_before=90)],
            "a",
            [("finished", Spent(90, 0, 10)), ("finished", Spent(0, 0, 12))],
            id="finished work is only published again",
        ),
        pytest.param(
            [attempt(spec_hash="old"), attempt(200)],
            "a",
            [("finished", Spent(0, 100, 0)), ("finished", Spent(90, 0, 10))],
            id="its record was replaced by another spec's",
        ),
        pytest.param(
            [attempt(), attempt(200, 30, **NOTHING, spec_hash="new", outcome="failed")],
            "a",
            [("finished", Spent(90, 0, 10)), ("failed", Spent(0, 30, 0))],
            id="another spec has not come to a record yet",
        ),
        pytest.param([killed(LONG_AGO - 100, safe=40)], None, [("running", Spent(90, 0, 10))], id="still running"),
        pytest.param(
            [attempt(job=STAGE | {"rung": "0.1"}, rule="train_rung"), attempt(200, units_before=90)],
            "a",
            [("finished", Spent(90, 0, 10)), ("finished", Spent(90, 0, 10))],
            id="a stage goes on from its rung",
        ),
        pytest.param(
            [attempt(rule="score_harness", safe_units=0, units=0)], "a", [("finished", Spent(90, 0, 10))], id="a cross-check alone"
        ),
    ],
)
def test_where_the_time_of_attempts_went(attempts: list[AttemptRecord], published: str | None, expected: list[Any]) -> None:
    assert len({work_of(one.rule, one.job) for one in attempts}) == 1
    assert split(attempts, published=published, now=LONG_AGO) == expected
    for (_, spent), one in zip(expected, attempts, strict=True):
        assert spent.allocated == one.elapsed_s


def of_attempts(attempts: list[AttemptRecord], allocations: list[Allocation] | None = None, **more: Any) -> list[Charge]:
    return charge(attempts, allocations, published={}, now=LONG_AGO, **more)


def test_hours_are_of_gpus_or_else_of_processes() -> None:
    found = of_attempts([attempt(num_gpus=4, num_processes=2), attempt(200, num_processes=2, units_before=90)])
    assert [(one.unit, one.spent, one.source) for one in found] == [
        ("GPU", Spent(360, 0, 40), "attempts"),
        ("process", Spent(180, 0, 20), "attempts"),
    ]


def allocation(began: float, elapsed_s: float, job: str = "7", **changes: Any) -> Allocation:
    facts: dict[str, Any] = {"name": "sftstudy_1", "state": "COMPLETED", "num_gpus": 4, "comment": "", "folder": "/study"}
    return Allocation(job=job, began=began, elapsed_s=elapsed_s, **{**facts, **changes})


def test_slurm_says_how_long_its_gpus_were_held() -> None:
    """A job was preempted, its program killed, queued again under its number, and finished."""
    attempts = [killed(1005, 85, safe=40, slurm_job="7"), attempt(2010, slurm_job="7", units_before=40)]
    allocations = [allocation(1000, 120, state="PREEMPTED"), allocation(2000, 130)]
    first, second = of_attempts(attempts, allocations)
    # held from 5 s before the program until 115 s after its start, of which 50 s had come to safety
    assert (first.end, first.source, first.spent) == ("killed", "sacct", Spent(4 * 40, 4 * 65, 4 * 15))
    assert (second.end, second.spent) == ("finished", Spent(4 * 90, 0, 4 * 40))
    assert first.spent.allocated + second.spent.allocated == 4 * (120 + 130)


def test_an_allocation_around_an_attempt_that_came_to_nothing_is_wasted_whole() -> None:
    (found,) = of_attempts([killed(1005, 85, safe=0, outcome="failed", slurm_job="7")], [allocation(1000, 100, state="FAILED")])
    assert found.spent == Spent(wasted=400)


def test_attempts_of_one_job_share_its_time() -> None:
    one_after_the_other = [attempt(1000, slurm_job="7"), attempt(1100, slurm_job="7", job=STAGE | {"seed": "2"})]
    side_by_side = [attempt(1000, slurm_job="7"), attempt(1000, slurm_job="7", job=STAGE | {"seed": "2"})]
    assert sum(one.spent.allocated for one in of_attempts(one_after_the_other, [allocation(1000, 210)])) == pytest.approx(840)
    assert [one.spent for one in of_attempts(side_by_side, [allocation(1000, 100)])] == [Spent(180, 0, 20)] * 2


def test_where_accounting_does_not_count_gpus_the_attempts_say_how_many() -> None:
    (found,) = of_attempts([attempt(1000, num_gpus=2, slurm_job="7")], [allocation(1000, 110, num_gpus=None)])
    assert (found.unit, found.source, found.spent.allocated) == ("GPU", "sacct", 220)


def test_a_number_that_was_used_before_is_another_job() -> None:
    (found,) = of_attempts([attempt(5000, num_gpus=1, slurm_job="7")], [allocation(1000, 100, name="other")])
    assert found.source == "attempts"


def test_allocations_in_which_no_program_began_are_found_by_folder_and_comment() -> None:
    jobs = [("train_stage", STAGE)]
    allocations = [
        allocation(1000, 50, "8", state="NODE_FAIL", comment="rule_train_stage_wildcards_m_d_r_1_01-stacked"),
        allocation(1100, 50, "9", state="FAILED"),
        allocation(1200, 50, "10", state="RUNNING"),
        allocation(1300, 50, "11", folder="/other"),
        allocation(1400, 50, "12", name="mine"),
        allocation(1500, 50, "13", num_gpus=None),
    ]
    found = of_attempts([], allocations, folders={"/study"}, jobs_by_comment=comments(jobs))
    assert [(one.rule, dict(one.job), one.end, one.spent) for one in found] == [
        ("train_stage", STAGE, "never began", Spent(wasted=200)),
        ("unknown", {}, "never began", Spent(wasted=200)),
        ("unknown", {}, "running", Spent(overhead=200)),
    ]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.from_config(ROOT / "config", studies=["tiny", "tiny-screen"])


def test_comments_tell_all_planned_jobs_apart(plan: Plan) -> None:
    jobs = planned_jobs(plan)
    assert {rule for rule, _ in jobs} == {
        "pretrain_model",
        "train_rung",
        "train_stage",
        "score_harness",
        "answer_mt_bench",
        "judge_mt_bench",
    }
    assert len(comments(jobs)) == len(jobs) > 100


def test_rows_add_up_and_work_that_studies_share_is_told(plan: Plan) -> None:
    shared = [names for names, studies in wanted_by(plan).items() if len(studies) == 2 and len(names) == 5]
    keys = ("model", "data", "recipe", "seed", "stage")
    job = dict(zip(keys, shared[0], strict=True))
    parts = [job | {"suite": "s", "part": part} for part in ("part01", "part02")]
    charges = of_attempts(
        [attempt(job=job), *(attempt(rule="score_harness", job=one) for one in parts), attempt(num_gpus=1, slurm_job="3")]
    )
    rows = rows_of(charges, wanted_by(plan))
    assert [(row.unit, row.rule, row.num_attempts, row.spent.allocated, row.studies) for row in rows] == [
        ("GPU", "train_stage", 1, 100, ()),
        ("process", "train_stage", 1, 100, ("tiny", "tiny-screen")),
        ("process", "score_harness", 2, 200, ("tiny", "tiny-screen")),
    ]


def tree(root: Path) -> Plan:
    """The tiny study's plan over a folder with two attempts and the record of one."""
    planned = Plan.from_config(ROOT / "config", studies=["tiny"])
    plan = Plan(planned.registry, planned.studies, planned.folder, Layout(root / "results", root / "scratch"))
    stages = [stage for stage in plan.stages.values() if stage.training][:3]
    for number, stage in enumerate(stages):
        write_text(plan.records_of(stage) / "training.json", '{"spec_hash": "a"}')
        job = {key: str(getattr(stage, key)) for key in STAGE}
        if number < 2:
            one = killed(safe=30, num_gpus=2, job=job) if number else attempt(3600 * 30, 3600 * 30, num_gpus=8, job=job)
            write_record(plan.layout.attempts("train_stage", job) / f"{number}.json", one)
    write_text(plan.layout.all_attempts() / "torn.json", "{")
    return plan


def test_the_page_has_its_numbers_units_and_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    hours = count_hours(tree(tmp_path), folders=(), now=LONG_AGO)
    assert isinstance(hours, Hours)
    text, page, table = to_text(hours), to_html(hours), list(csv.DictReader(io.StringIO(to_csv(hours))))
    assert re.search(r"^GPU-hours +attempts +not finished +allocated +useful +wasted +overhead$", text, flags=re.MULTILINE)
    assert re.search(r"^train_stage +2 +1 +240 +240 +0\.0333 +0\.0278$", text, flags=re.MULTILINE)
    assert "(there is no sacct here)" in text
    assert "not counted, as no attempt of theirs is on file: the finished jobs train_stage 1" in text
    assert "process-hours" not in text
    assert [row["ends"] for row in table] == ["finished 1", "killed 1"]
    assert float(table[0]["gpu_hours_allocated"]) == 240
    total = sum(float(row[f"gpu_hours_{part}"]) for row in table for part in ("useful", "wasted", "overhead"))
    assert total == pytest.approx(sum(float(row["gpu_hours_allocated"]) for row in table), abs=1e-5)
    assert page.startswith("<!DOCTYPE html>")
    assert "240 GPU-hours" in page
    again = count_hours(tree(tmp_path), folders=(), now=2 * LONG_AGO)
    assert (to_html(again), to_csv(again)) == (page, to_csv(hours))


def test_a_checkout_without_attempts_says_so(tmp_path: Path) -> None:
    planned = Plan.from_config(ROOT / "config", studies=["tiny"])
    plan = Plan(planned.registry, planned.studies, planned.folder, Layout(tmp_path / "results", tmp_path / "scratch"))
    assert "no attempt is on file" in to_text(count_hours(plan, folders=(), now=0.0))
