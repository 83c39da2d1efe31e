"""The paper as config: its grids, budgets and run sharing against the plan, and its printed numbers against each other."""

from functools import cache
from pathlib import Path

import pytest
import yaml

from sftstudy import spec
from sftstudy.config import ArmsTable, PublishedTable, TwoArms
from sftstudy.plan import Plan
from sftstudy.registry import Registry, load
from sftstudy.study import Run

CONFIG = Path(__file__).parents[2] / "config"
STUDIES = sorted(path.stem for path in (CONFIG / "studies").glob("paper-*.yaml"))
GOLDEN = Path(__file__).parents[1] / "golden" / "paper.yaml"

SAVES = {  # place of each peak in saves, as docs/paper.md derives it: table -> row -> arms
    "table-10": {"leaderboard-math": (40, 14), "leaderboard-musr": (68, 12), "arc-challenge": (11, 1), "gsm8k": (49, 22)},
    "table-11": {"leaderboard-math": (40, 74), "leaderboard-musr": (68, 73), "arc-challenge": (11, 60), "gsm8k": (49, 60)},
    "table-12": {
        "leaderboard-bbh": (31, 27),
        "leaderboard-math": (1, 18),
        "leaderboard-musr": (44, 20),
        "mmlu": (28, 23),
        "arc-challenge": (11, 30),
        "gsm8k": (15, 27),
        "mt-bench": (37, 27),
    },
    "table-13": {
        "leaderboard-bbh": (31, 10),
        "leaderboard-math": (1, 3),
        "leaderboard-musr": (44, 7),
        "mmlu": (28, 10),
        "arc-challenge": (11, 10),
        "gsm8k": (15, 10),
        "mt-bench": (37, 10),
    },
}


@cache
def plan(*studies: str) -> Plan:
    return Plan.from_config(CONFIG, studies=list(studies))


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load(CONFIG)[0]


def stages_of(study: str, recipe: str) -> list[spec.StageSpec]:
    return [stage for stage in plan(study).stages.values() if stage.recipe == recipe]


def test_all_experiments_are_there_and_plan_as_before(pytestconfig: pytest.Config) -> None:
    assert [name.split("-")[1] for name in STUDIES] == ["e01", "e01b", *(f"e{number:02d}" for number in range(2, 20))]
    found = {}
    for study in STUDIES:
        stages = [stage for stage in plan(study).stages.values() if stage.training]
        places = sum(len(stage.checkpoints) for stage in stages)
        found[study] = {"runs": len(plan(study).runs[study]), "stages": len(stages), "checkpoints": places}
    together = plan(*STUDIES)
    trained = [stage for stage in together.stages.values() if stage.training]
    found["together"] = {
        "runs": len({run for runs in together.runs.values() for run in runs}),
        "stages": len(trained),
        "checkpoints": sum(len(stage.checkpoints) for stage in trained),
    }
    if pytestconfig.getoption("--fix"):
        GOLDEN.write_text(yaml.safe_dump(found, sort_keys=False))
    assert found == yaml.safe_load(GOLDEN.read_text())


@pytest.mark.parametrize(("recipe", "steps_per_epoch", "steps_per_save"), [
    ("lab-stacked-bs128-lr2e-05", 6_449, 1_953),
    ("lab-stacked", 215, 65),
    ("lab-stacked-bs7680-lr2e-05", 107, 32),
])  # fmt: skip
def test_epochs_and_saves_are_those_that_follow_from_the_paper(recipe: str, steps_per_epoch: int, steps_per_save: int) -> None:
    (stage,) = stages_of("paper-e03-batch-size", recipe)
    assert stage.training is not None
    assert stage.num_samples == 825_487
    assert round(stage.num_samples / stage.training.effective_batch_size) == steps_per_epoch
    assert stage.num_steps == int(4 * 825_487 / stage.training.effective_batch_size)
    steps = [place.step for place in stage.checkpoints]
    assert steps[:-1] == list(range(steps_per_save, stage.num_steps, steps_per_save))
    assert steps[-1] == stage.num_steps


def test_phases_and_halves_add_up(registry: Registry) -> None:
    counts = {
        name: [phase.num_samples for phase in registry.data[name].phases.values()] for name in ("paper-phases", "paper-halves")
    }
    assert counts["paper-phases"] == [308_343, 231_178, 285_966]
    assert sum(counts["paper-halves"]) == sum(counts["paper-phases"]) == 825_487
    assert counts["paper-halves"][0] - counts["paper-halves"][1] == 1
    second = stages_of("paper-e02-length-split", "lab-halves")[1]
    assert [(part.phase, part.num_samples) for part in second.mixture] == [("longer", 412_743), ("shorter", 4_127)]


def test_grids_have_the_levels_of_the_paper(registry: Registry) -> None:
    used = {run.recipe for runs in plan(*STUDIES).runs.values() for run in runs}
    trainings = [registry.recipes[name].training for name in used]
    assert {t.learning_rate for t in trainings} == {1e-6, 5e-6, 2e-5, 3e-5, 4e-5, 6e-5, 8e-5, 1e-4}
    assert {t.effective_batch_size for t in trainings} == {128, 3_840, 7_680}
    assert {t.warmup_steps for t in trainings} == {None, 0, 25, 100}
    assert {t.schedule for t in trainings} == {"constant", "cosine", "linear"}
    assert {t.save_every for t in trainings} == {250_000}
    tulu = registry.recipes["tulu-stacked"].training
    assert (tulu.effective_batch_size, tulu.learning_rate, tulu.schedule, tulu.warmup_ratio) == (128, 2e-5, "linear", 0.03)


def test_llama_has_three_runs_per_data_set_and_not_four() -> None:
    for first, second in (
        ("paper-e11-domain-recipe", "paper-e12-domain-strategy"),
        ("paper-e16-llama-strategy", "paper-e17-llama-recipe"),
    ):
        runs = plan(first, second).runs
        assert (len(runs[first]), len(runs[second]), len({*runs[first], *runs[second]})) == (2, 2, 3)


def test_runs_are_shared_across_experiments() -> None:
    """One stacked LAB run of Granite serves ten experiments; the cells of E14 are cells of E13, those of E9 others' runs."""
    runs = {study: set(found) for study, found in plan(*STUDIES).runs.items()}
    common = Run("granite-7b", "paper-phases", "lab-stacked", 42)
    assert sum(common in found for found in runs.values()) == 10
    assert runs["paper-e14-mistral-learning-rate"] < runs["paper-e13-mistral-batch-size"]
    others = set().union(*(found for study, found in runs.items() if study != "paper-e09-early-dynamics"))
    assert runs["paper-e09-early-dynamics"] <= others
    assert {stage.recipe for stage in stages_of("paper-e05-learning-rate-by-batch", "lab-stacked")} == {"lab-stacked"}


def test_each_finding_is_claimed_and_the_last_one_over_runs_that_others_train() -> None:
    claims = [claim for study in STUDIES for claim in plan(study).study_spec(study).claims.values()]
    assert {claim.finding for claim in claims} >= {"i", "ii", "iii", "iv", "v"}
    robust = set(plan("robustness").runs["robustness"])
    assert robust <= set().union(*plan(*STUDIES).runs.values())
    found = plan("robustness").study_spec("robustness").claims
    planned = {
        pair: {run.recipe for run in robust if (run.model, run.data) == pair} for pair in {(r.model, r.data) for r in robust}
    }
    pairs = {
        name: sum(claim.arms_among(recipes) is not None for recipes in planned.values())
        for name, claim in found.items()
        if isinstance(claim, TwoArms)
    }
    assert pairs == {"large-batch": 2, "low-rate": 2, "lab-above-tulu": 4, "stacked-equals-phased": 4, "stacked-is-sooner": 4}


def test_the_same_runs_have_the_same_columns_in_the_paper(registry: Registry) -> None:
    compared = 0
    for first, second in (("table-10", "table-11"), ("table-13", "table-12")):
        for name, row in registry.published[first].rows.items():
            other = registry.published[second].rows[name]
            assert (row.base, row.scores["LAB"], row.samples["LAB"]) == (
                other.base,
                other.scores["Stacked"],
                other.samples["Stacked"],
            )
            compared += 1
    assert compared == 4 + 7


def test_printed_samples_are_whole_numbers_of_saves(registry: Registry) -> None:
    """Nominal saves are 65 steps of 3,840 and 1,953 steps of 128; batches that are not quite full make printed counts smaller."""
    compared = 0
    for table, rows in SAVES.items():
        published = registry.published[table]
        assert rows.keys() == published.rows.keys()
        for name, numbers in rows.items():
            for arm, number in zip(published.arms, numbers, strict=True):
                nominal = 1_953 * 128 if arm == "TULU" else 65 * 3_840
                assert 0.985 < published.rows[name].samples[arm] / (number * nominal) < 1.003, (table, name, arm)
                compared += 1
    assert compared == 2 * (4 + 4 + 7 + 7)


def test_runs_are_long_enough_for_the_printed_peaks_and_tables_use_the_papers_rows(registry: Registry) -> None:
    compared = 0
    for study in STUDIES:
        for table in registry.studies[study].tables.values():
            if not isinstance(table, ArmsTable) or table.paper is None:
                continue
            published = registry.published[table.paper]
            wanted = {name for row in published.rows for name in (row, *published.rows[row].also)}
            assert set(registry.studies[study].benchmarks) == wanted
            for arm, recipe in table.arms.items():
                saves = sum(len(stage.checkpoints) for stage in stages_of(study, recipe))
                assert saves >= max(SAVES[table.paper][name][published.arms.index(arm)] for name in published.rows), recipe
                compared += 1
    assert compared == 8


def test_every_value_of_every_experiment_has_a_source() -> None:
    for study in [*STUDIES, "learning-rate-search", "recipes-challenged", "robustness"]:
        settings = plan(study).study_spec(study).settings
        assert len(settings) > 30
        assert [setting for setting in settings if setting.origin is None] == []


def test_values_carry_the_grade_that_is_known(registry: Registry) -> None:
    def origin(study: str, subject: str, name: str, key: str) -> set[str | None]:
        settings = plan(study).study_spec(study).settings
        return {s.origin for s in settings if (s.subject, s.name, s.key) == (subject, name, key)}

    assert origin("paper-e01-strategy", "study", "paper-e01-strategy", "model") == {"assumed"}
    assert origin("paper-e01-strategy", "recipe", "lab-stacked", "epochs") == {"assumed"}
    assert origin("paper-e01-strategy", "recipe", "lab-stacked", "effective_batch_size") == {"paper"}
    assert origin("paper-e01-strategy", "recipe", "lab-stacked", "beta2") == {"code"}
    assert origin("paper-e01-strategy", "recipe", "lab-stacked", "learning_rate") == {"assumed"}
    assert origin("paper-e02-length-split", "recipe", "lab-stacked", "learning_rate") == {"paper"}
    assert origin("paper-e01-strategy", "data", "paper-phases", "num_samples") == {"paper"}
    assert origin("paper-e01-strategy", "data", "paper-phases", "from") == {"assumed"}
    assert origin("paper-e08-lab-against-tulu", "recipe", "tulu-stacked", "warmup_ratio") == {"cited"}
    assert origin("paper-e05-learning-rate-by-batch", "recipe", "lab-stacked-bs7680-lr4e-05", "learning_rate") == {"assumed"}
    assert origin("paper-e06-warm-up", "recipe", "lab-stacked-warmup25", "warmup_steps") == {"paper"}
    assert origin("paper-e17-llama-recipe", "recipe", "llama-lab-stacked", "learning_rate") == {"assumed"}


def test_sources_enter_no_job_and_no_hash() -> None:
    study = "paper-e02-length-split"
    registry, _ = load(CONFIG)
    for held in (registry.models, registry.data, registry.recipes):
        held.update({name: definition.model_copy(update={"sources": None}) for name, definition in held.items()})
    marked, bare = plan(study), Plan(registry, [study], CONFIG)
    jobs = {folder: value for folder, value in bare.specs.items() if value.kind != "study"}
    assert len(jobs) > 10
    for folder, value in jobs.items():
        assert spec.to_text(value) == spec.to_text(marked.specs[folder])
        assert spec.spec_hash(value) == spec.spec_hash(marked.specs[folder])
    assert marked.specs[Path("results/studies") / study] != bare.specs[Path("results/studies") / study]


def test_a_table_whose_rows_lack_an_arm_is_refused(registry: Registry) -> None:
    table = registry.published["table-10"].model_dump()
    del table["rows"]["arc-challenge"]["samples"]["TULU"]
    with pytest.raises(ValueError, match=r"rows.arc-challenge: scores and samples are those of LAB, TULU"):
        PublishedTable.model_validate(table)
