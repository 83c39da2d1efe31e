"""What the active studies will take, added up before anything runs: with all that is shared trained once, and without.

docs/planning.md does the same sums by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from sftstudy import config, spec
from sftstudy.config import Lora, Training
from sftstudy.environment import Site
from sftstudy.forecast import Forecast, Need
from sftstudy.gpus import GPUS
from sftstudy.plan import Plan
from sftstudy.study import Run

PLACES = {"1 x 24 GB": ("RTX 4090", 1), "1 x 80 GB": ("H100", 1), "8 x 80 GB": ("H100", 8)}
"""Where a recipe may fit: number and memory of the GPUs -> their kind, and how many of them."""
ADAPTERS = Lora(rank=16, alpha=32, dropout=0.0, target_modules=None)
RUNG, KEEP = 0.25, 0.5
"""Of a screen that a study does not have: after this share of a run's first own stage, this share of its runs goes on."""


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
    stopped: Work
    too_large: list[str] = field(default_factory=list)
    chain: list[Link] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)


def outlook(plan: Plan, site: Site) -> Outlook:
    """Sums over the active studies on a site."""
    forecast = Forecast(plan, site)
    by_study = {name: _study_work(forecast, name) for name in plan.studies}
    todo = [
        (stage, plan.suites_of(stage)) for stage in plan.stages.values() if not (plan.records_of(stage) / "training.json").exists()
    ]
    return Outlook(
        forecast=forecast,
        shared=replace(
            work(forecast, ((stage, plan.suites_of(stage)) for stage in plan.stages.values())), runs=len(set(_all_runs(plan)))
        ),
        no_reuse=sum(by_study.values(), Work()),
        nothing_shared=sum((_alone(forecast, name) for name in plan.studies), Work()),
        studies=by_study,
        left=work(forecast, todo),
        stopped=stopped_early(forecast),
        too_large=too_large(forecast),
        chain=longest_chain(forecast),
        fits=fits(forecast),
    )


def work(forecast: Forecast, stages: Iterable[tuple[spec.StageSpec, list[str]]]) -> Work:
    """Training these stages and scoring each on its suites."""
    total = Work()
    for stage, suites in stages:
        need = forecast.training(stage)
        scoring = [_scoring(forecast, stage, suite) for suite in suites]
        number = len(stage.checkpoints)
        total += Work(
            stages=1 if stage.training else 0,
            checkpoints=len(stage.checkpoints) if stage.training else 0,
            training_hours=need.gpu_hours if need else 0.0,
            scoring_hours=sum(scoring),
            judge_calls=sum(forecast.judge_calls(suite, num_checkpoints=number) for suite in suites),
            judge_cost=sum(forecast.judge_cost(suite, num_checkpoints=number) for suite in suites),
            unknown=frozenset() if forecast.size(stage.model) else frozenset({stage.model}),
        )
    return total


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


def stopped_early(forecast: Forecast) -> Work:
    """What is left of the plan, on average, if every study stops weak runs early: as its screen says, or at RUNG all but KEEP.

    Runs compete within a study, model and data. What several studies have goes on if one of them says so.
    """
    plan = forecast.plan
    shares: dict[Path, float] = {}
    for name, runs in plan.runs.items():
        first_share, later_share = expected_shares(plan.registry.studies[name])
        sizes = Counter((run.model, run.data) for run in runs)
        for run in runs:
            own = [plan.records_of(stage) for stage in plan.stages_of(run) if stage.recipe == run.recipe]
            competes = sizes[run.model, run.data] > 1
            for folder, share in zip(own, [first_share, *[later_share] * len(own)], strict=False):
                shares[folder] = max(shares.get(folder, 0.0), share if competes else 1.0)
    total = Work()
    for folder, stage in plan.stages.items():
        whole, share = work(forecast, [(stage, plan.suites_of(stage))]), shares.get(folder, 1.0)
        total += Work(
            training_hours=share * whole.training_hours,
            scoring_hours=share * whole.scoring_hours,
            judge_calls=round(share * whole.judge_calls),
            judge_cost=share * whole.judge_cost,
        )
    return total


def expected_shares(study: config.Study) -> tuple[float, float]:
    """Shares of the first and of the later own stages of a study's runs that are trained, on average."""
    screen = getattr(study, "screen", None)
    rungs = [*(screen.rungs if screen else [RUNG]), 1.0]
    keep = getattr(screen.rule, "keep", KEEP) if screen else KEEP
    first = rungs[0] + sum(keep**number * (after - before) for number, (before, after) in enumerate(pairwise(rungs), start=1))
    return first, keep ** (len(rungs) - 1)


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
    """Jobs that wait for one another and together take longest: nothing finishes sooner, however many GPUs there are."""
    plan = forecast.plan
    trained: dict[Path, list[Link]] = {}
    best: list[Link] = []
    for folder, stage in sorted(plan.stages.items(), key=lambda item: _depth(plan, item[1])):
        need = forecast.training(stage)
        parent = plan.parent_of(stage)
        before = [*trained[parent], _slowest_suite(forecast, plan.stages[parent], selects=True)] if parent else []
        trained[folder] = [*before, Link(f"train {_name(stage)}", need.seconds / 3600)] if need else before
        chain = [*trained[folder], _slowest_suite(forecast, stage, selects=False)]
        if hours(chain) > hours(best):
            best = chain
    return [link for link in best if link.hours]


def hours(chain: list[Link]) -> float:
    """How long a chain takes."""
    return sum(link.hours for link in chain)


def _depth(plan: Plan, stage: spec.StageSpec) -> int:
    parent = plan.parent_of(stage)
    return 0 if parent is None else 1 + _depth(plan, plan.stages[parent])


def _slowest_suite(forecast: Forecast, stage: spec.StageSpec, *, selects: bool) -> Link:
    """The job of a suite that takes longest, its judge's with it: of all suites, or of the one that selects the checkpoint."""
    plan, selection = forecast.plan, forecast.plan.selection_of(stage)
    chosen_by = selection.benchmarks if selects and selection else []
    suites = [plan.registry.benchmarks[name] for name in chosen_by] or plan.suites_of(stage)
    links = [Link("", 0.0)]
    for suite in suites:
        for part, ckpts in plan.parts(stage, suite).items():
            need = forecast.scoring(stage, suite, num_checkpoints=len(ckpts))
            if need:
                seconds = need.seconds + forecast.judging(suite, num_checkpoints=len(ckpts)).seconds
                links.append(Link(f"score {_name(stage)} on {suite}, {part}", seconds / 3600))
    return max(links, key=lambda link: link.hours)


def _name(stage: spec.StageSpec) -> str:
    return "/".join(name for name in (stage.model, stage.data, stage.recipe, stage.stage) if name != config.NO_NAME)


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
    place = Forecast(forecast.plan, replace(forecast.site, gpu=GPUS[gpu], gpus_per_node=number, gpus_per_stage=number))
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
