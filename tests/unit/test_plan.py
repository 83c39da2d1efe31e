"""The static plan: places of checkpoints, stages of runs, sharing, and hashes that change with what matters and nothing else."""

import json
from pathlib import Path

import pytest

from sftstudy import adopt, records, semantics, spec
from sftstudy.config import Judge, Training
from sftstudy.errors import StudyError
from sftstudy.plan import Plan, places
from sftstudy.registry import Registry

CONFIG = Path(__file__).parents[2] / "config"


def training(**changes: object) -> Training:
    return Training.model_validate({"effective_batch_size": 10, "learning_rate": 1e-3, "epochs": 2, "num_checkpoints": 2} | changes)


@pytest.mark.parametrize(
    ("changes", "steps", "expected"),
    [
        ({}, 20, [(10, 100), (20, 200)]),
        ({"num_checkpoints": 3}, 20, [(7, 70), (14, 140), (20, 200)]),
        ({"effective_batch_size": 30}, 6, [(3, 90), (6, 180)]),
        ({"epochs": None, "budget_samples": 55, "num_checkpoints": 1}, 5, [(5, 50)]),
        ({"num_checkpoints": None, "save_every": 64}, 20, [(6, 60), (12, 120), (18, 180), (20, 200)]),
        ({"num_checkpoints": None, "save_every": 100}, 20, [(10, 100), (20, 200)]),
        ({"num_checkpoints": None, "save_every": 1000}, 20, [(20, 200)]),
    ],
)
def test_places(changes: dict[str, object], steps: int, expected: list[tuple[int, int]]) -> None:
    found, saves = places(training(**changes), 100)
    assert found == steps
    assert [(place.step, place.num_samples) for place in saves] == expected


def test_paper_cadence() -> None:
    """250,000 samples a save at batch 3,840 and 825,487 rows: saves every 65 steps, as the paper's code does."""
    _, saves = places(training(effective_batch_size=3840, num_checkpoints=None, save_every=250_000, epochs=1), 825_487)
    assert [place.step for place in saves] == [65, 130, 195, 214]


def test_impossible_places_say_why() -> None:
    with pytest.raises(StudyError, match="exceeds the 5 samples"):
        places(training(), 5)
    with pytest.raises(StudyError, match="too few"):
        places(training(num_checkpoints=50), 100)


def test_phased_run_is_a_chain_and_the_base_is_shared() -> None:
    plan = Plan.from_config(CONFIG)
    stages = {folder.name: stage for folder, stage in plan.stages.items() if stage.recipe == "tiny-lab-phased" and stage.seed == 1}
    assert list(stages) == ["01-instruct", "02-knowledge", "03-skills"]
    assert [stage.parent and stage.parent.stage for stage in stages.values()] == [None, "01-instruct", "02-knowledge"]
    assert sum(stage.stage == "00-base" for stage in plan.stages.values()) == 1
    assert plan.children[plan.records_of(stages["01-instruct"])] == [plan.records_of(stages["02-knowledge"])]


BRANCHES = """
recipes:
  trunk:
    strategy: phased
    training: &training {effective_batch_size: 8, learning_rate: 1e-3, epochs: 1, num_checkpoints: 2}
    select: {instruct: {benchmark: tiny-mt-bench}}
  branch:
    strategy: phased
    training: {<<: *training, replay: 0.5}
    starts_from: {recipe: trunk, phase: instruct}
    select: {knowledge: {benchmark: tiny-mmlu}}
  joined: {strategy: stacked, training: *training, starts_from: {recipe: branch, phase: knowledge}}
sweeps:
  rates: {base: branch, vary: {learning_rate: [2e-3, 3e-3]}, name: "{base}-lr{learning_rate}"}
"""


def plan_of(folder: Path, *recipes: str, settings: str = "") -> Plan:
    """The plan of a study with one run per recipe of BRANCHES, scored by tiny-mmlu."""
    (folder / "studies").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"studies: [own]\n{settings}")
    (folder / "recipes.yaml").write_text(BRANCHES)
    grid = f"{{model: [tiny-llama], data: [tiny], recipe: [{', '.join(recipes)}], seed: [1]}}"
    (folder / "studies" / "own.yaml").write_text(f"question: q\nruns: [{grid}]\nbenchmarks: [tiny-mmlu]")
    return Plan.from_config(CONFIG, overlay=folder)


def test_a_weighted_selection_has_its_benchmarks_scored_and_hangs_on_their_chance_level(tmp_path: Path) -> None:
    weighted = "{weights: {tiny-mmlu: 0.7, tiny-mt-bench: 0.3}, rule: earliest}"
    found = []
    for name, chance in (("one", 0.25), ("two", 0.2)):
        plan = plan_of(tmp_path / name, "branch")
        recipes = tmp_path / name / "recipes.yaml"
        recipes.write_text(recipes.read_text().replace("{benchmark: tiny-mmlu}", weighted))
        registry = Plan.from_config(CONFIG, overlay=tmp_path / name).registry
        suite = registry.suites["tiny-harness"]
        exam = suite.benchmarks["tiny-mmlu"].model_copy(update={"chance": chance})
        changed = suite.model_copy(update={"benchmarks": suite.benchmarks | {"tiny-mmlu": exam}})
        plan = Plan(registry.model_copy(update={"suites": registry.suites | {"tiny-harness": changed}}), ["own"], CONFIG)
        assert plan.suites_of(named(plan)["branch/02-knowledge"]) == ["tiny-harness", "tiny-mt-bench"]
        parent = named(plan)["branch/03-skills"].parent
        assert parent is not None
        found.append(parent.selection_hash)
    assert found[0] != found[1]


def test_a_race_changes_the_choice_and_the_scores_that_it_drops_and_no_other_hash(tmp_path: Path) -> None:
    plain, raced = plan_of(tmp_path / "plain", "branch"), plan_of(tmp_path / "raced", "branch")
    recipes = tmp_path / "raced" / "recipes.yaml"
    recipes.write_text(recipes.read_text().replace("{benchmark: tiny-mmlu}", "{benchmark: tiny-mmlu, race: {error_rate: 0.1}}"))
    raced = Plan.from_config(CONFIG, overlay=tmp_path / "raced")
    stages, before = named(raced), named(plain)
    assert all("race" not in spec.to_text(stage) for stage in before.values())
    assert {name for name in before if spec.spec_hash(stages[name]) != spec.spec_hash(before[name])} == {"branch/03-skills"}
    knowledge = stages["branch/02-knowledge"]
    assert [raced.race_of(stage, "tiny-harness") for stage in stages.values()] == [
        raced.records_of(knowledge) / "race.json" if stage is knowledge else None for stage in stages.values()
    ]
    assert raced.race_of(knowledge, "tiny-mt-bench") is None
    suites = ["tiny-harness", "tiny-mt-bench"]
    hashes, old = raced.score_hashes(knowledge, suites), plain.score_hashes(before["branch/02-knowledge"], suites)
    assert {suite for suite in suites if hashes[suite] != old[suite]} == {"tiny-harness"}
    expected = adopt.expected_hashes(raced)
    assert expected[raced.records_of(knowledge) / "race.json"] == raced.race_hash(knowledge, "tiny-harness")


def test_what_cannot_race_says_so(tmp_path: Path) -> None:
    plan_of(tmp_path, "branch")
    recipes = tmp_path / "recipes.yaml"
    text = recipes.read_text()
    for selection, fault in (
        ("{benchmark: tiny-mt-bench, race: {}}", r"select.knowledge.race: tiny-mt-bench is judged"),
        ("{benchmark: tiny-mmlu, race: {}, holdout: true}", r"race: finds the best on one benchmark"),
        ("{weights: {tiny-mmlu: 1}, race: {}}", r"race: finds the best on one benchmark"),
        ("{benchmark: tiny-mmlu, race: {}, rule: earliest}", r"race: finds the best on one benchmark"),
    ):
        recipes.write_text(text.replace("{benchmark: tiny-mmlu}", selection))
        with pytest.raises(StudyError, match=fault):
            Plan.from_config(CONFIG, overlay=tmp_path)


def named(plan: Plan) -> dict[str, spec.StageSpec]:
    return {f"{stage.recipe}/{stage.stage}": stage for stage in plan.stages.values() if stage.training}


def test_a_recipe_starts_from_another_ones_stage_which_is_trained_once_and_scored_for_selection_alone(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "branch", "rates", "joined")
    stages = named(plan)
    swept = [f"branch-lr{rate}/{stage}" for rate in (0.002, 0.003) for stage in ("02-knowledge", "03-skills")]
    assert sorted(stages) == sorted(["trunk/01-instruct", "branch/02-knowledge", "branch/03-skills", "joined/03-stacked", *swept])
    parents = {name: f"{stage.parent.recipe}/{stage.parent.stage}" for name, stage in stages.items() if stage.parent}
    assert {child for child, parent in parents.items() if parent == "trunk/01-instruct"} == {
        "branch/02-knowledge", "branch-lr0.002/02-knowledge", "branch-lr0.003/02-knowledge",
    }  # fmt: skip
    assert parents["joined/03-stacked"] == parents["branch/03-skills"] == "branch/02-knowledge"
    assert len(plan.children[plan.records_of(stages["trunk/01-instruct"])]) == 3
    assert [part.phase for part in stages["branch/02-knowledge"].mixture] == ["knowledge", "instruct"]
    assert [part.phase for part in stages["joined/03-stacked"].mixture] == ["skills"]
    # tiny-mt-bench is asked of the trunk alone, and nothing else
    assert plan.suites_of(stages["trunk/01-instruct"]) == ["tiny-mt-bench"]
    assert plan.suites_of(stages["branch/02-knowledge"]) == ["tiny-harness"]
    assert {stage.recipe for stage in plan.study_spec("own").stages} == {
        "none", "branch", "branch-lr0.002", "branch-lr0.003", "joined",
    }  # fmt: skip


def test_a_start_has_the_same_hash_as_the_stage_of_its_own_run(tmp_path: Path) -> None:
    alone = named(plan_of(tmp_path / "alone", "branch"))["trunk/01-instruct"]
    joined = plan_of(tmp_path / "joined", "joined")
    assert spec.spec_hash(named(joined)["trunk/01-instruct"]) == spec.spec_hash(alone)
    assert list(named(joined)) == ["trunk/01-instruct", "branch/02-knowledge", "joined/03-stacked"]


def test_where_a_parent_lies_changes_no_hash() -> None:
    """Which one it is stands in its own hash; so stages that were trained before parents had a recipe stay trained."""
    child = next(stage for stage in Plan.from_config(CONFIG).stages.values() if stage.parent)
    assert child.parent
    elsewhere = child.model_copy(update={"parent": child.parent.model_copy(update={"recipe": "another"})})
    assert spec.spec_hash(elsewhere) == spec.spec_hash(child)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [("", [2, 2, 1, 1]), ("keep: [branch, rates]", [2, 0, 0, 1]), ("keep_weights: all", [0, 0, 0, 0])],
)
def test_which_weights_may_go(settings: str, expected: list[int], tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "branch", "joined", settings=settings)
    assert list(named(plan)) == ["trunk/01-instruct", "branch/02-knowledge", "branch/03-skills", "joined/03-stacked"]
    assert [plan.removable(stage) for stage in named(plan).values()] == [["ckpt01", "ckpt02"][:number] for number in expected]
    assert [plan.removable(stage) for stage in plan.stages.values() if not stage.training] == [[]]


def stage_hashes(plan: Plan) -> dict[Path, str]:
    return {folder: spec.spec_hash(stage) for folder, stage in plan.stages.items()}


def hashes(registry: Registry) -> dict[Path, str]:
    return stage_hashes(Plan(registry, ["tiny"], CONFIG))


def test_a_changed_learning_rate_changes_that_recipe_and_no_other() -> None:
    registry = Plan.from_config(CONFIG).registry
    recipe = registry.recipes["tiny-tulu-stacked"]
    changed = recipe.model_copy(update={"training": recipe.training.model_copy(update={"learning_rate": 0.5})})
    after = hashes(registry.model_copy(update={"recipes": registry.recipes | {"tiny-tulu-stacked": changed}}))
    before = hashes(registry)
    assert {folder.parts[4] for folder in before if before[folder] != after[folder]} == {"tiny-tulu-stacked"}


def test_what_cannot_change_a_number_changes_no_hash() -> None:
    def changed(suite: str, **keys: object) -> Registry:
        definition = registry.suites[suite].model_copy(update=keys)
        return registry.model_copy(update={"suites": registry.suites | {suite: definition}})

    registry = Plan.from_config(CONFIG).registry
    judge = registry.suites["tiny-mt-bench"].judges[0]
    harness = registry.suites["tiny-harness"]
    other = harness.benchmarks["tiny-leaderboard"].model_copy(update={"average": "micro"})
    kept = [
        changed("tiny-mt-bench", judges=[judge.model_copy(update={"concurrency": 99, "num_retries": 9, "max_cost": 1.0})]),
        changed("tiny-harness", checkpoints_per_job=1),
        # the second phase's checkpoint is chosen by tiny-mmlu alone
        changed("tiny-harness", benchmarks=harness.benchmarks | {"tiny-leaderboard": other}),
    ]
    assert [hashes(after) for after in kept] == [hashes(registry)] * len(kept)
    assert hashes(changed("tiny-mt-bench", judges=[judge.model_copy(update={"model": "another"})])) != hashes(registry)
    assert hashes(changed("tiny-harness", batch_size=1)) != hashes(registry)


def test_what_judging_needs_is_planned() -> None:
    registry = Plan.from_config(CONFIG).registry
    judge = Judge(model="own", server="transformers", weights="other")
    suite = registry.suites["tiny-mt-bench"].model_copy(update={"judges": [judge], "against": "base"})
    changes = {
        "suites": registry.suites | {"tiny-mt-bench": suite},
        "models": registry.models | {"other": registry.models["tiny-llama"]},
    }
    plan = Plan(registry.model_copy(update=changes), ["tiny"], CONFIG)
    model = Path("results/models/other/model.json")
    assert plan.specs[model.parent].name == "other"
    base, *stages = plan.stages.values()
    assert plan.judged_with(base, "tiny-mt-bench") == [model]
    opponent = Path("results/runs/tiny-llama/none/none/seed0/00-base/scores/tiny-mt-bench/part01.answers.jsonl")
    assert {tuple(plan.judged_with(stage, "tiny-mt-bench")) for stage in stages} == {(model, opponent)}
    assert plan.judged_with(stages[0], "tiny-harness") == []
    benchmark = plan.study_spec("tiny").benchmarks["tiny-mt-bench"]
    assert (benchmark.unit, benchmark.chance, benchmark.judge, benchmark.clustered) == ("fraction", 0.5, "own", True)
    # other weights of the judge are another judge
    changes["models"] |= {"other": registry.models["tiny-llama"].model_copy(update={"seed": 7})}
    other = Plan(registry.model_copy(update=changes), ["tiny"], CONFIG)
    assert spec.spec_hash(other.suite_spec("tiny-mt-bench")) != spec.spec_hash(plan.suite_spec("tiny-mt-bench"))
    changes["suites"] |= {"tiny-mt-bench": suite.model_copy(update={"judges": [judge.model_copy(update={"weights": "othr"})]})}
    with pytest.raises(StudyError, match=r"benchmarks.yaml: tiny-mt-bench.judges: no model 'othr'; did you mean 'other'\?"):
        Plan(registry.model_copy(update=changes), ["tiny"], CONFIG).suite_spec("tiny-mt-bench")


def test_a_new_benchmark_replans_the_overlap_report_and_the_tables_alone() -> None:
    def texts(*benchmarks: str) -> dict[str, str]:
        study = registry.studies["tiny"].model_copy(update={"benchmarks": list(benchmarks), "claims": {}, "figures": {}})
        suites = registry.suites | {"new": registry.suites["tiny-mt-bench"]}
        plan = Plan(registry.model_copy(update={"studies": {"tiny": study}, "suites": suites}), ["tiny"], CONFIG)
        return {str(folder): spec.to_text(value) for folder, value in plan.specs.items()}

    registry = Plan.from_config(CONFIG).registry
    before, after = texts("tiny-mmlu"), texts("tiny-mmlu", "new")
    assert after.keys() - before.keys() == {"results/suites/new"}
    assert {folder for folder in before if before[folder] != after[folder]} == {"results/overlap/tiny", "results/studies/tiny"}


def test_an_overlay_has_the_same_hashes_wherever_it_lies(tmp_path: Path) -> None:
    data = """
own:
  phases:
    all: {num_samples: 100, sources: [{from: {path: chats.jsonl}}]}
"""
    training = "{effective_batch_size: 10, learning_rate: 1e-3, epochs: 1, num_checkpoints: 1}"
    found = []
    for name, file in {"here": "chats.jsonl", "there": "chats.jsonl", "other": "talks.jsonl"}.items():
        folder = tmp_path / name
        (folder / "studies").mkdir(parents=True)
        (folder / "config.yaml").write_text("studies: [own]")
        (folder / "data.yaml").write_text(data.replace("chats.jsonl", file))
        (folder / "recipes.yaml").write_text(f"recipes: {{own: {{strategy: stacked, training: {training}}}}}")
        grid = "{model: [tiny-llama], data: [own], recipe: [own], seed: [1]}"
        (folder / "studies" / "own.yaml").write_text(f"question: q\nruns: [{grid}]\nbenchmarks: [tiny-mmlu]")
        found.append(stage_hashes(Plan.from_config(CONFIG, overlay=folder)))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("program", "changed"),
    [("train_stage", "stages"), ("score_harness", "scores"), ("prepare_phase", "stages"), ("pretrain_model", "everything")],
)
def test_semantics_reach_what_the_program_makes(program: str, changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot() -> dict[str, set[tuple[str, str]]]:
        plan = Plan.from_config(CONFIG)
        planned = plan.study_spec("tiny").stages
        return {
            "base": {(stage.stage, stage.spec_hash) for stage in planned if stage.stage == "00-base"},
            "first stages": {(stage.recipe, stage.spec_hash) for stage in planned if stage.stage.startswith("01")},
            "harness": {(stage.stage, text) for stage in planned for text in stage.scores["tiny-harness"].values()},
        }

    before = snapshot()
    monkeypatch.setitem(semantics.SEMANTICS, program, 99)
    after = snapshot()
    differing = {name for name in before if before[name] != after[name]}
    assert (
        differing
        == {
            "stages": {"first stages", "harness"},
            "everything": {"base", "first stages", "harness"},
            # selection of the phased stages reads other scores, so no first stage changes
            "scores": {"harness"},
        }[changed]
    )


def test_specs_survive_their_text() -> None:
    specs = Plan.from_config(CONFIG).specs
    assert len(specs) > 20
    for value in specs.values():
        assert spec.parse(spec.to_text(value)) == value


def test_copied_results_that_are_not_the_plans_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan.from_config(CONFIG)
    monkeypatch.chdir(tmp_path)
    expected = adopt.expected_hashes(plan)
    for path, known in expected.items():
        records.write_text(path, json.dumps({"spec_hash": known}))
    assert adopt.problems(plan) == []
    gone, cut, null, other = list(expected)[:4]
    gone.unlink()
    cut.write_text('{"spec_hash": "')
    null.write_text("null")
    other.write_text('{"spec_hash": "other"}')
    assert adopt.problems(plan) == [
        f"{gone}: missing",
        f"{cut}: not a record; delete the file and build it again",
        f"{null}: not a record; delete the file and build it again",
        f"{other}: made from another spec (other, the plan says {expected[other]})",
    ]
