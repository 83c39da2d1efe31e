# The plan of the active studies, the lists that targets ask for, and the input functions of all rules. No rules here.
import gc
import os
import sys
from functools import cache
from pathlib import Path

from sftstudy.environment import Site, config_flags, require_site_facts, share_with_jobs, switch_hub_off
from sftstudy.errors import StudyError
from sftstudy.paths import BASE_STAGE
from sftstudy.plan import Plan
from sftstudy.resources import JobResources
from sftstudy.screen import rung_name
from sftstudy.semantics import SEMANTICS
from sftstudy.spec import to_text

share_with_jobs(config)

CHECKOUT = Path(workflow.current_basedir).parent.parent
SCRIPTS = CHECKOUT / "workflow" / "scripts"
try:
    require_site_facts(workflow.resource_settings.default_resources, num_gpus=workflow.global_resources.get("gpu").value)
    switch_hub_off(in_job=workflow.remote_exec)
    PLAN = Plan.from_settings(config, folder=Path(os.path.relpath(CHECKOUT / "config")))
    NEEDS = JobResources(PLAN, Site.from_environment(), overrides=workflow.resource_settings.overwrite_resources)
except StudyError as error:
    sys.exit(f"error: {error}")

LAYOUT = PLAN.layout

# a DAG only grows while it is built, and the collector would walk all of it again and again: a fifth of a dry run's time
gc.freeze()
gc.set_threshold(100_000, 50, 100)


pathvars:
    results="results",
    scratch="scratch",
    logs="logs",
    run="results/runs/{model}/{data}/{recipe}/seed{seed}",


wildcard_constraints:
    model=r"[^/]+",
    data=r"[^/]+",
    recipe=r"[^/]+",
    seed=r"\d+",
    stage=r"\d\d-[^/]+",
    phase=r"[^/]+",
    suite=r"[^/]+",
    part=r"part\d+",
    study=r"[^/]+",
    rung=r"0\.\d{1,3}",
    world=r"[^/]+",


FETCHED = [str(record) for record in PLAN.fetched]
PREPARED = [str(folder / "phase.json") for folder, value in PLAN.specs.items() if value.kind == "phase"]
PASSPORTS = sorted({str(LAYOUT.passport(value.model, value.data)) for value in PLAN.specs.values() if value.kind == "phase"})
TRAINED = [str(folder / "training.json") for folder, stage in PLAN.stages.items() if stage.training]
DECIDED = [str(path) for path in PLAN.screens.decision_records]
SCORED = [
    f"{stem}.json" for stage in PLAN.stages.values() for suite in PLAN.suites_of(stage) for stem in PLAN.score_stems(stage, suite)
]
RETAINED = [str(record) for record in PLAN.retention_records]
# what the tables are made of; an entry point says which of them it collects
RECORDS = SCORED + TRAINED + DECIDED
TABLES_OF_SCORES = {
    study: [
        str(LAYOUT.study_folder(study) / f"tables/{table}.csv")
        for table, definition in PLAN.registry.studies[study].tables.items()
        if definition.kind in ("arms", "grid")
    ]
    for study in PLAN.studies
}
# what is made of a study, and shown by its report
PRODUCTS = {
    study: [
        str(LAYOUT.study_folder(study) / name)
        for name in [
            *(f"tables/{table}.md" for table in PLAN.registry.studies[study].tables),
            *(["numbers/numbers.json"] if TABLES_OF_SCORES[study] else []),
            *(f"figures/{figure}.png" for figure in PLAN.registry.studies[study].figures),
            *(["claims.json"] if PLAN.registry.studies[study].claims else []),
            *(["replay/replay.png"] if PLAN.registry.studies[study].replay else []),
            *(["screen/screen.html"] if PLAN.registry.studies[study].screen else []),
            "guide.json",
            "summary.txt",
        ]
    ]
    for study in PLAN.studies
}
REPORTS = [str(LAYOUT.study_folder(study) / "report.html") for study in PLAN.studies]
TABLES = [product for products in PRODUCTS.values() for product in products] + REPORTS + [str(LAYOUT.index())]


NOTHING = "(?!)"


def model_names(scratch):
    """Regular expression for the planned models that are pretrained here, or for those that are fetched."""
    models = [value for value in PLAN.specs.values() if value.kind == "model"]
    return "|".join(value.name for value in models if (value.model.source == "scratch") == scratch) or NOTHING


def suite_names(kind):
    """Regular expression for the planned suites of a kind."""
    suites = [value for value in PLAN.specs.values() if value.kind == "suite"]
    return "|".join(value.name for value in suites if value.suite.kind == kind) or NOTHING


def planned(folder):
    """The spec in a folder. A target that lies in none of the plan ends here: what a function raises would be told as a traceback."""
    try:
        return PLAN.spec_in(folder)
    except StudyError as error:
        sys.exit(f"error: {error}")


def stage_of(wildcards):
    """Spec of the stage that the wildcards name."""
    return planned(
        LAYOUT.stage_results(
            wildcards.model,
            wildcards.data,
            wildcards.recipe,
            wildcards.seed,
            wildcards.stage,
        )
    )


def study_of(wildcards):
    """Name of the active study that the wildcards name."""
    return planned(LAYOUT.study_folder(wildcards.study)).name


def spec_text(wildcards):
    """Canonical text of the spec that belongs into a folder: the trigger of everything that is planned anew."""
    return to_text(planned(LAYOUT.results / wildcards.subject))


def semantics(program):
    """A program's semantics number: a rule that has it in its params is planned anew when it is raised."""
    return SEMANTICS[program]


@cache
def files_of_job(folder):
    """Records of the generated worlds that the job of a spec reads, and the user's own files."""
    value = planned(folder)
    return [LAYOUT.world_record(world) for world in PLAN.worlds_of(value)] + PLAN.local_files(value)


def model_files(wildcards):
    return files_of_job(LAYOUT.model_record(wildcards.model).parent)


def data_files(wildcards):
    return files_of_job(LAYOUT.data_record(wildcards.data).parent)


def overlap_files(wildcards):
    return files_of_job(LAYOUT.overlap_record(wildcards.data).parent)


def phase_files(wildcards):
    return files_of_job(LAYOUT.phase_record(wildcards.model, wildcards.data, wildcards.phase).parent)


def suite_files(wildcards):
    return files_of_job(LAYOUT.suite_spec(wildcards.suite).parent)


def judged_with(wildcards):
    """Records of judges' weights, and the base model's answers where a suite compares with them."""
    return PLAN.judged_with(stage_of(wildcards), wildcards.suite)


def phases_of_data(wildcards):
    """Records of all phases of a data set."""
    phases = planned(LAYOUT.data_record(wildcards.data).parent).phases
    return [str(LAYOUT.phase_record(wildcards.model, wildcards.data, phase)) for phase in phases]


def phases_of(wildcards):
    """Records of the phases in a stage's mixture."""
    stage = stage_of(wildcards)
    return [str(LAYOUT.phase_record(stage.model, stage.data, part.phase)) for part in stage.mixture]


def start_of(wildcards):
    """What a stage starts from: its parent's training and selection records, or the base model's record."""
    stage = stage_of(wildcards)
    parent = PLAN.parent_of(stage)
    if parent is None:
        return [str(LAYOUT.model_record(stage.model))]
    return [str(parent / "selection.json"), str(parent / "training.json")]


def rung_number(wildcards):
    """The rung that the wildcards name; None for a job at a stage's end."""
    return float(wildcards.rung) if "rung" in wildcards.keys() else None


def folder_before(wildcards):
    """Where the records of the rung before lie, as a list: empty before the first one, and for a stage that no study screens."""
    folder = PLAN.records_of(stage_of(wildcards))
    rung = PLAN.screens.before(folder, rung_number(wildcards))
    return [] if rung is None else [LAYOUT.rung(folder, rung_name(rung))]


def rung_before(wildcards):
    """Training record of the rung before: a stage is at one place at a time.

    A stage that goes on in any case does not wait at its rungs: what it showed there is read off when it is finished.
    """
    folder = PLAN.records_of(stage_of(wildcards))
    if PLAN.screens.may_stop(folder):
        return [str(before / "training.json") for before in folder_before(wildcards)]
    return [] if rung_number(wildcards) is None else [str(folder / "training.json")]


def verdict_before(wildcards):
    """Whether the stage goes on beyond the rung before; nothing where it does in any case."""
    if not PLAN.screens.may_stop(PLAN.records_of(stage_of(wildcards))):
        return []
    return [str(folder / "screen.json") for folder in folder_before(wildcards)]


def rungs_of_study(wildcards):
    """What all runs of a study showed at a rung."""
    study = planned(LAYOUT.screens(wildcards.study)).study
    return [str(LAYOUT.rung(folder, wildcards.rung) / "training.json") for folder in PLAN.screens.folders[study]]


def decision_before(wildcards):
    """A study's decision at its rung before."""
    earlier = [rung for rung in PLAN.screens.specs[wildcards.study].screen.rungs if rung < float(wildcards.rung)]
    return [str(PLAN.screens.decision(wildcards.study, earlier[-1]))] if earlier else []


def decisions_of(wildcards):
    """The studies' decisions that count for a stage at a rung."""
    return [str(path) for path in PLAN.screens.decisions(PLAN.records_of(stage_of(wildcards)), float(wildcards.rung)).values()]


def kept_anyway(wildcards):
    """Studies that keep a stage at a rung without a decision."""
    return PLAN.screens.kept_anyway(PLAN.records_of(stage_of(wildcards)), float(wildcards.rung))


def children_of(wildcards):
    """Training records of the stages that continue from a stage."""
    return [str(child / "training.json") for child in PLAN.children.get(PLAN.records_of(stage_of(wildcards)), [])]


def scores_of(wildcards):
    """Score records of a stage that the active studies want, and those that select its checkpoint."""
    stage = stage_of(wildcards)
    return [f"{stem}.json" for suite in PLAN.suites_of(stage) for stem in PLAN.score_stems(stage, suite)]


def weights_of(wildcards):
    """The record that vouches for a stage's checkpoints."""
    if wildcards.stage == BASE_STAGE:
        return str(LAYOUT.model_record(wildcards.model))
    return str(PLAN.records_of(stage_of(wildcards)) / "training.json")


def selection_of(wildcards):
    """The rule by which a stage's checkpoint is chosen."""
    return PLAN.selection_of(stage_of(wildcards))


def selection_suites(wildcards):
    """Specs of the suites that score the benchmarks by which a stage's checkpoint is chosen."""
    return [str(LAYOUT.suite_spec(suite)) for suite in PLAN.selection_suites(selection_of(wildcards))]


def race_of(wildcards):
    """Record of the race that drops some of a stage's checkpoints on a benchmark of the suite, as a list: mostly empty."""
    race = PLAN.race_of(stage_of(wildcards), wildcards.suite)
    return [str(race)] if race else []


def raced_suite(wildcards):
    """The suite on a benchmark of which a stage's checkpoints race."""
    (suite,) = PLAN.selection_suites(selection_of(wildcards))
    return suite


def raced_files(wildcards):
    """As `suite_files`, of that suite."""
    return files_of_job(LAYOUT.suite_spec(raced_suite(wildcards)).parent)


def race_flags(wildcards):
    """On which benchmark a stage's checkpoints race and by which rules, as arguments of the programs that ask."""
    selection = selection_of(wildcards)
    return ["--benchmark", selection.benchmark, "--race", selection.race.model_dump_json()]


def selection_race(wildcards):
    """Record of the race that chooses a stage's checkpoint; empty where scores do."""
    return f"<run>/{wildcards.stage}/race.json" if selection_of(wildcards).race else []


def selection_scores(wildcards):
    """Score records that the choice of a stage's checkpoint reads; none where a race chooses."""
    stage = stage_of(wildcards)
    if selection_of(wildcards).race:
        return []
    return [f"{stem}.json" for suite in PLAN.selection_suites(selection_of(wildcards)) for stem in PLAN.score_stems(stage, suite)]


def selection_flags(wildcards):
    """How a stage's checkpoint is chosen, as arguments of the program that does it."""
    selection = selection_of(wildcards)
    if selection.race:
        return race_flags(wildcards)
    weights = [f"{benchmark}={weight!r}" for benchmark, weight in selection.weights.items()]
    by = ["--weights", *weights] if weights else ["--benchmark", selection.benchmark]
    return [*by, "--rule", selection.rule, *(["--holdout"] if selection.holdout else [])]


def claims_of(wildcards):
    """A study's claims with their verdicts, if it makes any."""
    study = study_of(wildcards)
    return [str(LAYOUT.study_folder(study) / "claims.json")] if PLAN.registry.studies[study].claims else []
