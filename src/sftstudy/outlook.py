"""What the active studies will take, added up before anything runs: with all that is shared trained once, and without; with what
screens stop, and without.

docs/planning.md does the same sums by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from sftstudy import limits, spec
from sftstudy.config import Lora, Training
from sftstudy.environment import Site
from sftstudy.forecast import Forecast, Need, stage_name
from sftstudy.gpus import GPUS
from sftstudy.plan import Plan
from sftstudy.screen import rung_name
from sftstudy.study import Run
from sftstudy.survival import shares, with_assumed_screens

PLACES = {"1 x 24 GB": ("RTX 4090", 1), "1 x 80 GB": ("H100", 1), "8 x 80 GB": ("H100", 8)}
"""Where a recipe may fit: number and memory of the GPUs -> their kind, and how many of them."""
ADAPTERS = Lora(rank=16, alpha=32, dropout=0.0, target_modules=None)


@dataclass(frozen=True)
class Work:
    """A sum over stages. Hours are GPU-hours; of stages in `unknown` models nothing is counted but their number."""

    runs: int = 0
    stages: int = 0
    checkpoints: int = 0
    training_hours: float = 0.0
    scoring_hours: float = 0.0
    judge_calls: int = 0
    judge_cost: float = 0.0
    unknown: frozenset[str] = frozenset()

    @property
    def gpu_hours(self) -> float:
        """All of them."""
        return self.training_hours + self.scoring_hours

    def __add__(self, other: Work) -> Work:
        return Work(
            self.runs + other.runs,
            self.stages + other.stages,
            self.checkpoints + other.checkpoints,
            self.training_hours + other.training_hours,
            self.scoring_hours + other.scoring_hours,
            self.judge_calls + other.judge_calls,
            self.judge_cost + other.judge_cost,
            self.unknown | other.unknown,
        )


@dataclass(frozen=True)
class Link:
    """One job of a chain."""

    job: str
    hours: float
    is_barrier: bool = False


@dataclass(frozen=True)
class Fit:
    """A model, the recipes that are alike in what memory hangs on, and way of training -> place -> need of their longest run."""

    model: str
    recipes: list[str]
    ways: dict[str, dict[str, Need]]


@dataclass(frozen=True)
class Outlook:
    """Everything that the plan's page shows, but for jobs and disk."""

    forecast: Forecast
    shared: Work
    no_reuse: Work
    nothing_shared: Work
    studies: dict[str, Work]
    left: Work
    screened: Work
    stopped: Work
    too_large: list[str] = field(default_factory=list)
    chain: list[Link] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def outlook(plan: Plan, site: Site) -> Outlook:
    """Sums over the active studies on a site."""
    forecast = Forecast(plan, site)
    by_study = {name: _study_work(forecast, name) for name in plan.studies}
    return Outlook(
        forecast=forecast,
        shared=replace(
            work(forecast, ((stage, plan.suites_of(stage)) for stage in plan.stages.values())), runs=len(set(_all_runs(plan)))
        ),
        no_reuse=sum(by_study.values(), Work()),
        nothing_shared=sum((_alone(forecast, name) for name in plan.studies), Work()),
        studies=by_study,
        left=left_to_do(forecast),
        screened=expected(forecast),
        stopped=expected(Forecast(with_assumed_screens(plan), site)),
        too_large=too_large(forecast),
        chain=longest_chain(forecast),
        fits=fits(forecast),
        starts=limits.several_starts(forecast),
        warnings=limits.warnings(forecast),
    )


def work(forecast: Forecast, stages: Iterable[tuple[spec.StageSpec, list[str]]]) -> Work:
    """Training these stages and scoring each on its suites."""
    return sum((_stage_work(forecast, stage, suites) for stage, suites in stages), Work())


def _stage_work(
    forecast: Forecast, stage: spec.StageSpec, suites: list[str], shares: Mapping[float | None, float] | None = None
) -> Work:
    """Of a stage and its suites; with `shares`, only that of each of its jobs. What was stopped is not scored."""
    jobs, number = forecast.jobs(stage), len(stage.checkpoints)
    share = shares[None] if shares else 1.0
    return Work(
        stages=1 if stage.training else 0,
        checkpoints=number if stage.training else 0,
        training_hours=sum((shares[rung] if shares else 1.0) * need.gpu_hours for rung, need in jobs.items()),
        scoring_hours=share * sum(_scoring(forecast, stage, suite) for suite in suites),
        judge_calls=round(share * sum(forecast.judge_calls(suite, num_checkpoints=number) for suite in suites)),
        judge_cost=share * sum(forecast.judge_cost(suite, num_checkpoints=number) for suite in suites),
        unknown=frozenset() if forecast.size(stage.model) else frozenset({stage.model}),
    )


def _scoring(forecast: Forecast, stage: spec.StageSpec, suite: str) -> float:
    """GPU-hours of a suite's jobs on a stage, served judges included."""
    numbers = [len(ckpts) for ckpts in forecast.plan.parts(stage, suite).values()]
    found = [forecast.scoring(stage, suite, num_checkpoints=number) for number in numbers]
    judged = [forecast.judging(suite, num_checkpoints=number) for number in numbers]
    return sum(need.gpu_hours for need in [*found, *judged] if need)


def _study_work(forecast: Forecast, name: str) -> Work:
    """Of one study by itself: runs that others have too are trained again, its own first stages once."""
    plan = forecast.plan
    stages = {plan.records_of(stage): stage for run in plan.runs[name] for stage in plan.stages_of(run)}
    found = work(forecast, ((stage, plan.wanted_by([name], stage)) for stage in stages.values()))
    return replace(found, runs=len(plan.runs[name]))


def _alone(forecast: Forecast, name: str) -> Work:
    """Of a study whose every run is trained from the base on, all its stages, and the base scored once."""
    plan = forecast.plan
    bases = {run.model: plan.stages_of(run)[0] for run in plan.runs[name]}
    stages = [*bases.values(), *(stage for run in plan.runs[name] for stage in plan.stages_of(run)[1:])]
    return replace(work(forecast, ((stage, plan.wanted_by([name], stage)) for stage in stages)), runs=len(plan.runs[name]))


def left_to_do(forecast: Forecast) -> Work:
    """Of the stages that have no record yet, as if nothing were stopped."""
    plan = forecast.plan
    todo = [stage for folder, stage in plan.stages.items() if not (folder / "training.json").exists()]
    return work(forecast, ((stage, plan.suites_of(stage)) for stage in todo))


def expected(forecast: Forecast) -> Work:
    """What the plan takes on average with its screens."""
    plan = forecast.plan
    shares_of = shares(plan)
    found = (_stage_work(forecast, stage, plan.suites_of(stage), shares_of[folder]) for folder, stage in plan.stages.items())
    return replace(sum(found, Work()), stages=0, checkpoints=0)


def too_large(forecast: Forecast) -> list[str]:
    """`model/data/recipe` of the runs that do not fit on the site, as their recipes say."""
    return sorted(
        {
            f"{stage.model}/{stage.data}/{stage.recipe}"
            for stage in forecast.plan.stages.values()
            if (need := forecast.training(stage)) and not need.fits
        }
    )


def _all_runs(plan: Plan) -> list[Run]:
    return [run for runs in plan.runs.values() for run in runs]


# --- the longest chain -----------------------------------------------------------------------------------------------


def longest_chain(forecast: Forecast) -> list[Link]:
    """Jobs that wait for one another and together take longest: nothing finishes sooner, however many GPUs there are.

    If nothing is stopped. A screen's decision waits for the slowest run of its study.
    """
    chains = _Chains(forecast)
    best: list[Link] = []
    for folder, stage in forecast.plan.stages.items():
        best = max(best, [*chains.to(folder, None), _slowest_suite(forecast, stage, selects=False)], key=hours)
    return [link for link in best if link.hours or link.is_barrier]


class _Chains:
    """The longest chain up to each job and each decision of a plan. Stages go by their folders."""

    def __init__(self, forecast: Forecast) -> None:
        self.forecast, self.plan = forecast, forecast.plan

    @cache
    def to(self, folder: Path, rung: float | None) -> list[Link]:
        """Up to the end of the job that trains a stage to a rung, or to its end."""
        if rung and not self.plan.screens.may_stop(folder):
            return self.to(folder, None)  # read off
        stage = self.plan.stages[folder]
        need = self.forecast.training(stage, rung=rung)
        what = f"train {stage_name(stage)}" + (f" to {rung_name(rung)}" if rung else "")
        return [*self._before(folder, rung), *([Link(what, need.seconds / 3600)] if need else [])]

    def _before(self, folder: Path, rung: float | None) -> list[Link]:
        screens = self.plan.screens
        before = screens.before(folder, rung) if screens.may_stop(folder) else None
        if before:
            decided = [self.decided(study, last) for study, last in screens.decided(folder, before).items() if last]
            return max([self.to(folder, before), *decided], key=hours)
        parent = self.plan.parent_of(self.plan.stages[folder])
        if parent is None:
            return []
        return [*self.to(parent, None), _slowest_suite(self.forecast, self.plan.stages[parent], selects=True)]

    @cache
    def decided(self, study: str, rung: float) -> list[Link]:
        """Up to a study's decision, which waits for all of its runs."""
        slowest = max((self.to(folder, rung) for folder in self.plan.screens.folders[study]), key=hours)
        return [*slowest, Link(f"{study} decides at {rung_name(rung)}", 0.0, is_barrier=True)]


def hours(chain: list[Link]) -> float:
    """How long a chain takes."""
    return sum(link.hours for link in chain)


def _slowest_suite(forecast: Forecast, stage: spec.StageSpec, *, selects: bool) -> Link:
    """The job of a suite that takes longest, its judge's with it: of all suites, or of the one that selects the checkpoint."""
    plan, selection = forecast.plan, forecast.plan.selection_of(stage)
    chosen_by = selection.benchmarks if selects and selection else []
    if selects and selection and selection.race and (race := forecast.racing(stage)):
        return Link(f"race {stage_name(stage)} on {selection.benchmark}", race.seconds / 3600)
    suites = [plan.registry.benchmarks[name] for name in chosen_by] or plan.suites_of(stage)
    links = [Link("", 0.0)]
    for suite in suites:
        for part, ckpts in plan.parts(stage, suite).items():
            need = forecast.scoring(stage, suite, num_checkpoints=len(ckpts))
            if need:
                seconds = need.seconds + forecast.judging(suite, num_checkpoints=len(ckpts)).seconds
                links.append(Link(f"score {stage_name(stage)} on {suite}, {part}", seconds / 3600))
    return max(links, key=lambda link: link.hours)


# --- does it fit -----------------------------------------------------------------------------------------------------


def fits(forecast: Forecast) -> list[Fit]:
    """For each model and each kind of recipe: its longest run, as the recipe says and in ways that save memory, at each place."""
    plan = forecast.plan
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in sorted(set(_all_runs(plan))):
        first = plan.stages_of(run)[1].training
        if first and forecast.size(run.model):
            groups.setdefault((run.model, *_alike(first)), []).append(run)
    found = []
    for (model, *_), runs in groups.items():
        longest = max(runs, key=lambda run: sum(forecast.num_tokens(stage) for stage in plan.stages_of(run) if stage.training))
        stages = [stage for stage in plan.stages_of(longest) if stage.training]
        kinds = {way: {place: _at(forecast, stages, change, *PLACES[place]) for place in PLACES} for way, change in WAYS.items()}
        found.append(Fit(str(model), sorted({run.recipe for run in runs}), kinds))
    return found


WAYS: dict[str, dict[str, object]] = {
    "as the recipe says": {},
    "full": {"sharding": "full", "activation_checkpointing": True, "lora": None},
    "full, offloaded": {"sharding": "full", "activation_checkpointing": True, "lora": None, "cpu_offload": True},
    f"LoRA, rank {ADAPTERS.rank}": {"sharding": "full", "activation_checkpointing": True, "lora": ADAPTERS},
    "LoRA, offloaded": {"sharding": "full", "activation_checkpointing": True, "lora": ADAPTERS, "cpu_offload": True},
}
"""Ways of training -> keys of the recipe that differ. All but the recipe's own take the largest micro-batches that fit."""
MICROBATCHES = (16, 8, 4, 2, 1)
"""In longest samples."""


def _alike(training: Training) -> tuple[object, ...]:
    """What memory and hours hang on."""
    keys = ("precision", "optimizer", "max_tokens_per_microbatch", "sharding", "cpu_offload", "activation_checkpointing")
    return (*(getattr(training, key) for key in keys), training.lora.rank if training.lora else None)


def _at(forecast: Forecast, stages: list[spec.StageSpec], change: dict[str, object], gpu: str, number: int) -> Need:
    """Need of training all stages, one after the other, in a place."""
    one_node = Site(GPUS[gpu], gpus_per_node=number, gpus_per_stage=number)  # that no partition limits
    place = Forecast(forecast.plan, one_node)
    total: Need | None = None
    for stage in stages:
        need = _best(place, stage, change)
        total = need if total is None else replace(need, seconds=total.seconds + need.seconds, fits=total.fits and need.fits)
    assert total is not None, "a run has a stage"
    return total


def _best(place: Forecast, stage: spec.StageSpec, change: dict[str, object]) -> Need:
    """Of a stage, with the largest micro-batches that fit if anything is to be changed."""
    assert stage.training is not None, "only stages that train are asked"
    longest = place.plan.registry.data[stage.data].max_length
    tried = [{"max_tokens_per_microbatch": times * longest} for times in MICROBATCHES] if change else [{}]
    changed = [stage.model_copy(update={"training": stage.training.model_copy(update=change | tokens)}) for tokens in tried]
    found = [need for one in changed if (need := place.training(one))]
    return next((need for need in found if need.fits), found[-1])
