"""What a study's runs showed early on, and what became of them, from training and score records: what replay and audit look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sftstudy import records
from sftstudy.averages import comparable
from sftstudy.config import Looks
from sftstudy.paths import BASE_STAGE, Layout
from sftstudy.records import StepMetrics
from sftstudy.screen import History, Signals, joined, rung_step, signals
from sftstudy.spec import PlannedStage, StudySpec
from sftstudy.tables.aggregate import Pair, Results, peak
from sftstudy.tables.collect import read_training


@dataclass(frozen=True)
class Member:
    """A run of a competitor: the stages that its own recipe trains, in order."""

    seed: int
    stages: tuple[PlannedStage, ...]


@dataclass(frozen=True)
class Competitor:
    """A recipe with all its seeds, or a single run, as a screen counts."""

    name: str
    recipe: str
    group: tuple[str, ...]
    members: tuple[Member, ...]


def competitors(study: StudySpec, looks: Looks, pair: Pair) -> list[Competitor]:
    """Who competes in a study, for one model and data set."""
    runs: dict[str, dict[int, list[PlannedStage]]] = {}
    for stage in study.stages:
        if stage.stage != BASE_STAGE and (stage.model, stage.data) == pair:
            runs.setdefault(stage.recipe, {}).setdefault(stage.seed, []).append(stage)
    found = []
    for recipe, seeds in sorted(runs.items()):
        members = [Member(seed, tuple(sorted(stages, key=lambda stage: stage.stage))) for seed, stages in sorted(seeds.items())]
        group = tuple(str(members[0].stages[0].factors[key]) for key in looks.group_by)
        if looks.seeds == "together":
            found.append(Competitor(recipe, recipe, group, tuple(members)))
        else:
            found += [Competitor(f"{recipe}/seed{member.seed}", recipe, group, (member,)) for member in members]
    return found


def final_score(results: Results, benchmark: str, pair: Pair, competitor: Competitor) -> float | None:
    """Mean over seeds of the peak over checkpoints, counted so that more is better; None unless all of them have every score."""
    seeds = {member.seed for member in competitor.members}
    runs = [run for run in results.runs(pair, competitor.recipe, benchmark) if run.seed in seeds]
    if len(runs) < len(seeds) or not all(run.complete for run in runs):
        return None
    best = [peak(run.points) for run in runs]
    return comparable(fmean((1 if point.higher_is_better else -1) * (point.value or 0.0) for point in best))


def history(results: Results, looks: Looks, pair: Pair, competitor: Competitor, *, layout: Layout) -> History | None:
    """A competitor's history; None unless all its stages were trained to the end and scored."""
    final = final_score(results, looks.benchmark, pair, competitor)
    trainings = [[read_training(stage, layout=layout) for stage in member.stages] for member in competitor.members]
    finished = [[training for training in stages if training and training.status == "finished"] for stages in trainings]
    if final is None or any(len(found) < len(planned) for found, planned in zip(finished, trainings, strict=True)):
        return None
    steps = [stage_metrics(member.stages[0], layout=layout) for member in competitor.members]
    seen_at = {
        rung: [shown[: rung_step(rung, num_steps=stages[0].num_steps)] for shown, stages in zip(steps, finished, strict=True)]
        for rung in looks.rungs
    }
    return History(
        name=competitor.name,
        group=competitor.group,
        signals={rung: mean_signals(shown, looks) for rung, shown in seen_at.items()},
        cost_at={
            rung: sum(len(cut) * _batch(member.stages[0]) for cut, member in zip(shown, competitor.members, strict=True))
            for rung, shown in seen_at.items()
        },
        cost=sum(
            training.num_steps * _batch(stage)
            for member, stages in zip(competitor.members, finished, strict=True)
            for stage, training in zip(member.stages, stages, strict=True)
        ),
        final=final,
    )


def mean_signals(shown: list[list[StepMetrics]], looks: Looks) -> Signals:
    """Signals of several runs' steps as one."""
    return joined([signals(steps, window=looks.window) for steps in shown])


def stage_metrics(stage: PlannedStage, *, layout: Layout) -> list[StepMetrics]:
    """The steps of a stage that has its training record."""
    folder = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    return records.read_metrics(folder / "metrics.jsonl")


def early_mean(steps: Sequence[StepMetrics], signal: str, until: float) -> float:
    """Mean of `loss` or `grad_norm` over the steps within a share of a stage's samples; of the first step if there is none."""
    start = steps[0].samples_seen - (steps[-1].samples_seen - steps[0].samples_seen) / max(len(steps) - 1, 1)
    limit = start + until * (steps[-1].samples_seen - start)
    early = [float(getattr(step, signal)) for step in steps if step.samples_seen <= limit * (1 + 1e-9)]
    return fmean(early) if early else float(getattr(steps[0], signal))


def _batch(stage: PlannedStage) -> int:
    return int(stage.factors["effective_batch_size"])
