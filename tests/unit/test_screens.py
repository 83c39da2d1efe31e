"""The barrier after a rung: who waits where, what a study decides, and who goes on when several studies share a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from sftstudy import adopt, spec
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.records import DecisionRecord, ScreenRecord, StepMetrics, TrainingRecord, read_record, write_record, write_text
from sftstudy.screens import decide_screen, stage_folder, write_screen
from table_toys import COMMON

SHIPPED = Path(__file__).parents[2] / "config"
LAB, TULU = "tiny-lab-stacked", "tiny-tulu-stacked"
RULE = "{kind: top, signal: loss, keep: 0.5}"


def plan_of(folder: Path, **screens: str) -> Plan:
    """The shipped registries with studies of four recipes, one seed each; a study's screen is what it names, or none."""
    (folder / "studies").mkdir(parents=True, exist_ok=True)
    for name, screen in screens.items():
        text = f"question: What for?\nruns: [{{model: [tiny-llama], data: [tiny], recipe: [tiny-batch-lr, {TULU}], seed: [1]}}]\n"
        (folder / "studies" / f"{name}.yaml").write_text(text + f"benchmarks: [tiny-mmlu]\n{screen}\n")
    (folder / "config.yaml").write_text(f"studies: [{', '.join(screens)}]\n")
    plan = Plan.from_config(SHIPPED, overlay=folder)
    return Plan(plan.registry, plan.studies, plan.folder, Layout(folder / "results", folder / "scratch"))


def screen(rungs: str, rule: str = RULE, more: str = "") -> str:
    return f"screen: {{benchmark: tiny-mmlu, rungs: {rungs}, rule: {rule}{more}}}"


def show(plan: Plan, study: str, rung: str, losses: dict[str, float]) -> None:
    """Records of a rung, as training leaves them; a recipe that is not named shows a loss of 9."""
    for stage in plan.screens.specs[study].stages:
        folder = plan.layout.rung(stage_folder(stage, plan.layout), rung)
        record = TrainingRecord(
            **COMMON, spec_hash=stage.spec_hash, status=f"at rung {rung}", num_steps=1, samples_seen=1, samples_spent=1,
            checkpoints=[], loss_normalisation="", precision="fp32", attention="sdpa", packed=False, sharding="none",
            optimizer="adamw", device="cpu", num_processes=1, num_threads=1, num_attempts=1, time_s=1, tokens_per_s=1,
            peak_memory_gb=1,
        )  # fmt: skip
        step = StepMetrics(
            step=1, samples_seen=1, loss=losses.get(stage.recipe, 9.0), grad_norm=1, learning_rate=1, num_supervised_tokens=1,
            num_tokens=1, time_s=1, tokens_per_s=1,
        )  # fmt: skip
        write_record(folder / "training.json", record)
        write_text(folder / "metrics.jsonl", step.model_dump_json() + "\n")


def decide(plan: Plan, study: str, rung: str) -> DecisionRecord:
    record = decide_screen(plan.screens.specs[study], rung, layout=plan.layout)
    write_record(plan.layout.screens(study) / f"{rung}.json", record)
    return record


def calls(record: DecisionRecord) -> dict[str, str]:
    return {key.split("/")[2]: ruling.call for key, ruling in record.rulings.items()}


def verdict(plan: Plan, recipe: str, rung: float) -> ScreenRecord:
    """What `write_screen` writes of a recipe's stage, as its rule would call it."""
    folder, stage = next((folder, stage) for folder, stage in plan.stages.items() if stage.recipe == recipe)
    screens = plan.screens
    earlier = screens.before(folder, rung)
    record = write_screen(
        stage,
        f"{rung:g}",
        decisions=list(screens.decisions(folder, rung).values()),
        always=screens.kept_anyway(folder, rung),
        before=plan.layout.rung(folder, f"{earlier:g}") / "screen.json" if earlier else None,
    )
    write_record(plan.layout.rung(folder, f"{rung:g}") / "screen.json", record)
    return record


def test_a_decision_keeps_the_best_and_later_rungs_ask_only_those(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, hot=screen("[0.1, 0.25]"))
    cells = plan.registry.sweeps["tiny-batch-lr"]
    assert len(cells) == 4
    show(plan, "hot", "0.1", {LAB: 1, TULU: 2, cells[0]: 3})
    assert calls(decide(plan, "hot", "0.1")) == {
        recipe: "go" if recipe in (LAB, TULU, cells[0]) else "stop" for recipe in [*cells, TULU]
    }
    assert verdict(plan, TULU, 0.1).kept_by == verdict(plan, LAB, 0.1).kept_by == ["hot"]
    stopped = verdict(plan, cells[1], 0.1)
    assert (stopped.status, stopped.kept_by) == ("stopped at rung 0.1", [])
    show(plan, "hot", "0.25", {LAB: 3, TULU: 2, cells[0]: 1, cells[1]: 0})
    found = calls(decide(plan, "hot", "0.25"))
    assert found == {LAB: "stop", TULU: "go", cells[0]: "go"} | {cell: "out" for cell in cells if cell not in (LAB, cells[0])}
    assert verdict(plan, cells[1], 0.25).status == "stopped at rung 0.1"
    assert verdict(plan, LAB, 0.25).status == "stopped at rung 0.25"


def test_the_audited_go_on_to_their_end_and_compete_no_more(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, hot=screen("[0.1, 0.25]", more=", audit: {share: 0.4}"))
    show(plan, "hot", "0.1", {LAB: 1, TULU: 2, plan.registry.sweeps["tiny-batch-lr"][0]: 3})
    first = calls(decide(plan, "hot", "0.1"))
    assert sorted(first.values()) == ["audit", "go", "go", "go", "stop"]
    audited = next(recipe for recipe, call in first.items() if call == "audit")
    assert verdict(plan, audited, 0.1).kept_by == ["hot"]
    show(plan, "hot", "0.25", {audited: 0})
    assert calls(decide(plan, "hot", "0.25"))[audited] == "audit"
    assert verdict(plan, audited, 0.25).status == "go"


def test_a_study_decides_as_if_alone_and_a_run_goes_on_if_any_study_keeps_it(tmp_path: Path) -> None:
    alone = plan_of(tmp_path / "alone", hot=screen("[0.1]"))
    both = plan_of(tmp_path / "both", hot=screen("[0.1]"), slow=screen("[0.25]", RULE.replace("loss", "grad-norm")))
    for plan in (alone, both):
        show(plan, "hot", "0.1", {LAB: 1, TULU: 2})
    assert decide(alone, "hot", "0.1").rulings == decide(both, "hot", "0.1").rulings
    stage = next(folder for folder, stage in both.stages.items() if stage.recipe == LAB)
    assert both.screens.rungs[stage] == [0.1, 0.25]
    worst = max(set(both.registry.sweeps["tiny-batch-lr"]) - {LAB, TULU})  # ties go by name
    assert verdict(alone, worst, 0.1).status == "stopped at rung 0.1"
    assert verdict(both, worst, 0.1).kept_by == ["slow"]  # which has not decided yet
    assert verdict(both, LAB, 0.1).kept_by == verdict(both, TULU, 0.1).kept_by == ["hot", "slow"]
    show(both, "slow", "0.25", {})
    decide(both, "slow", "0.25")
    statuses = {recipe: verdict(both, recipe, 0.25) for recipe in (LAB, TULU, worst)}
    assert statuses[LAB].kept_by == ["hot", "slow"]  # all norms are equal, so the first by name stay
    assert statuses[TULU].kept_by == ["hot"]
    assert statuses[worst].status == "stopped at rung 0.25"


def test_whoever_has_no_screen_keeps_its_runs_and_nobody_waits_for_a_decision(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, hot=screen("[0.1]"), cold="")
    folders = list(plan.screens.rungs)
    assert len(folders) == 5
    assert not any(plan.screens.may_stop(folder) for folder in folders)
    assert {tuple(plan.screens.kept_anyway(folder, 0.1)) for folder in folders} == {("cold",)}
    assert all(plan_of(tmp_path, hot=screen("[0.1]")).screens.may_stop(folder) for folder in folders)


def test_a_screen_changes_no_hash_of_training(tmp_path: Path) -> None:
    hashes = [
        {folder: spec.spec_hash(stage) for folder, stage in plan_of(tmp_path, hot=text).stages.items()}
        for text in ("", screen("[0.1]"), screen("[0.25]", "{kind: paper}"))
    ]
    assert hashes[0] == hashes[1] == hashes[2]


def test_records_of_other_results_are_asked_for_their_decisions(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, hot=screen("[0.1]"))
    show(plan, "hot", "0.1", {LAB: 1})
    decision = decide(plan, "hot", "0.1")
    expected = adopt.expected_hashes(plan)
    assert expected[plan.layout.screens("hot") / "0.1.json"] == decision.spec_hash
    folder = next(folder for folder, stage in plan.stages.items() if stage.recipe == LAB)
    assert expected[folder / "rungs" / "0.1" / "screen.json"] == verdict(plan, LAB, 0.1).spec_hash
    assert expected[folder / "rungs" / "0.1" / "training.json"] == spec.spec_hash(plan.stages[folder])
    changed = plan_of(tmp_path, hot=screen("[0.1]", "{kind: paper}"))
    other = adopt.expected_hashes(changed)
    assert {path.name for path, value in expected.items() if other[path] != value} == {"0.1.json", "screen.json"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (screen("[0.001, 0.002]"), "fall together"),
        (screen("[0.999]"), "fall together"),
        (screen("[0.1]").replace("tiny-mmlu", "tiny-mml"), "no benchmark of this study 'tiny-mml'; did you mean 'tiny-mmlu'"),
    ],
)
def test_a_screen_that_cannot_be_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=words):
        plan_of(tmp_path, hot=text)


def test_a_rung_of_other_training_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, hot=screen("[0.1]"))
    show(plan, "hot", "0.1", {})
    path = next(tmp_path.rglob("rungs/0.1/training.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spec_hash": "other"}))
    with pytest.raises(StudyError, match="made from another spec"):
        decide(plan, "hot", "0.1")
    with pytest.raises(StudyError, match=r"study hot decides at 0\.1; name one of them"):
        decide(plan, "hot", "0.2")


def test_a_study_knows_which_decisions_its_audit_may_take(tmp_path: Path) -> None:
    def planned(text: str) -> spec.StudySpec:
        return plan_of(tmp_path, hot=text).study_spec("hot")

    plan = plan_of(tmp_path, hot=screen("[0.1, 0.25]"))
    show(plan, "hot", "0.1", {LAB: 1})
    first, kept_more = planned(screen("[0.1, 0.25]")).screen, planned(screen("[0.1, 0.25]", RULE.replace("0.5", "0.9"))).screen
    assert first
    assert kept_more
    assert list(first.decisions) == list(kept_more.decisions) == ["0.1", "0.25"]
    assert first.decisions["0.1"] == decide(plan, "hot", "0.1").spec_hash
    assert not set(first.decisions.values()) & set(kept_more.decisions.values())
    assert planned("").screen is None


def test_two_programs_read_what_the_first_wrote(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, hot=screen("[0.1]"))
    show(plan, "hot", "0.1", {LAB: 1})
    made: Any = decide(plan, "hot", "0.1")
    assert read_record(plan.layout.screens("hot") / "0.1.json", DecisionRecord) == made
