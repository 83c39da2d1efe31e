"""Shares of training jobs that screens leave, against counts by hand and against the decisions themselves."""

from pathlib import Path

import pytest

from sftstudy.config import Screen
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.screen import Candidate, Signals, audited, decide
from sftstudy.survival import shares, with_assumed_screens

CONFIG = Path(__file__).parents[2] / "config"
TRAINING = "effective_batch_size: 8, learning_rate: 1e-5, epochs: 1, num_checkpoints: 2"
FLAT = [f"flat{number}" for number in range(1, 7)]
RECIPES = (
    "recipes:\n"
    + "".join(f"  {name}: {{strategy: stacked, training: {{{TRAINING}, weight_decay: 0.{name[-1]}}}}}\n" for name in FLAT)
    + f"  phased:\n    strategy: phased\n    training: {{{TRAINING}}}\n"
    "    select: {instruct: &s {benchmark: tiny-mmlu}, knowledge: *s}\n"
)
STUDY = "question: q\nruns: [{{model: [tiny-llama], data: [tiny], recipe: [{recipes}], seed: [1, 2]}}]\nbenchmarks: [tiny-mmlu]\n"
TWO_RUNGS = "screen: {benchmark: tiny-mmlu, rungs: [0.1, 0.25], rule: {kind: paper, keep: 0.6}, audit: {share: 0.25}}\n"


def plan_of(root: Path, studies: dict[str, str]) -> Plan:
    """Study -> its file; all of them active."""
    (root / "studies").mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(f"studies: [{', '.join(studies)}]")
    (root / "recipes.yaml").write_text(RECIPES)
    for name, text in studies.items():
        (root / "studies" / f"{name}.yaml").write_text(text)
    planned = Plan.from_config(CONFIG, overlay=root)
    return Plan(planned.registry, planned.studies, planned.folder, Layout(root / "results", root / "scratch"))


def shares_of(plan: Plan) -> dict[str, dict[float | None, float]]:
    """`recipe/stage` -> shares of its jobs, of the first seed."""
    return {
        f"{stage.recipe}/{stage.stage}": shares(plan)[folder]
        for folder, stage in plan.stages.items()
        if stage.training and stage.seed == 1
    }


def test_six_recipes_by_hand(tmp_path: Path) -> None:
    found = shares_of(plan_of(tmp_path, {"own": STUDY.format(recipes=", ".join([*FLAT[:5], "phased"])) + TWO_RUNGS}))
    # of 6 recipes 4 go on and 1 of the stopped is audited; of the 4 then 3, and 1 more audited
    expected = {0.1: 1.0, 0.25: pytest.approx(5 / 6), None: pytest.approx(5 / 6)}
    assert found["flat1/01-stacked"] == found["phased/01-instruct"] == expected
    assert found["phased/03-skills"] == {None: pytest.approx(5 / 6)}


@pytest.mark.parametrize("rule", ["{kind: top, signal: loss, keep: 0.3}", "{kind: median, signal: loss}", "{kind: random}"])
def test_as_many_go_on_as_a_rule_decides(rule: str, tmp_path: Path) -> None:
    text = f"screen: {{benchmark: tiny-mmlu, rungs: [0.2], rule: {rule}, audit: {{share: 0.5}}}}\n"
    plan = plan_of(tmp_path, {"own": STUDY.format(recipes=", ".join(FLAT)) + text})
    screen = plan.registry.studies["own"].screen
    assert isinstance(screen, Screen)
    assert screen.audit
    verdicts = decide([Candidate(name, (), Signals(1.0, float(name[-1]))) for name in FLAT], screen.rule)
    stopped = [name for name, verdict in verdicts.items() if verdict.call == "stop"]
    num_kept = len(FLAT) - len(stopped) + len(audited(stopped, share=screen.audit.share, seed=1))
    assert shares_of(plan)["flat1/01-stacked"][None] == pytest.approx(num_kept / len(FLAT))


def test_a_margin_is_taken_to_keep_half_and_groups_compete_apart(tmp_path: Path) -> None:
    text = "screen: {benchmark: tiny-mmlu, rungs: [0.2], rule: {kind: margin, signal: loss, margin: 0.1}}\n"
    plan = plan_of(tmp_path / "one", {"own": STUDY.format(recipes=", ".join(FLAT)) + text})
    assert shares_of(plan)["flat1/01-stacked"] == {0.2: 1.0, None: 0.5}
    apart = text.replace("rungs", "group_by: [weight_decay], rungs")
    plan = plan_of(tmp_path / "apart", {"own": STUDY.format(recipes=", ".join(FLAT)) + apart})
    assert shares_of(plan)["flat1/01-stacked"] == {0.2: 1.0, None: 1.0}  # nobody to lose against, but both seeds


def test_the_most_generous_study_counts_and_one_without_a_screen_keeps_all(tmp_path: Path) -> None:
    screens = {
        share: f"screen: {{benchmark: tiny-mmlu, rungs: [0.2], rule: {{kind: paper, keep: {share}}}}}\n" for share in (0.5, 0.9)
    }
    mild, hard = STUDY.format(recipes="flat1, flat2") + screens[0.9], STUDY.format(recipes=", ".join(FLAT[:4])) + screens[0.5]
    found = shares_of(plan_of(tmp_path / "both", {"mild": mild, "hard": hard}))
    assert (found["flat1/01-stacked"][None], found["flat3/01-stacked"][None]) == (1.0, 0.5)
    keeps = STUDY.format(recipes="flat1")
    found = shares_of(plan_of(tmp_path / "keeps", {"keeps": keeps, "hard": hard}))
    assert found["flat1/01-stacked"] == {None: 1.0}  # it does not even wait


def test_what_is_assumed_goes_the_same_way_as_a_screen_that_is_written_down(tmp_path: Path) -> None:
    without = STUDY.format(recipes=", ".join(FLAT[:3]))
    written = without + "screen: {benchmark: tiny-mmlu, rungs: [0.25], rule: {kind: paper, keep: 0.5}}\n"
    assumed = shares_of(with_assumed_screens(plan_of(tmp_path / "assumed", {"own": without})))
    assert assumed == shares_of(plan_of(tmp_path / "written", {"own": written}))
    assert assumed["flat1/01-stacked"] == {0.25: 1.0, None: pytest.approx(2 / 3)}  # half of three, rounded up
