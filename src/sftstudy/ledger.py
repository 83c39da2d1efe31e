"""What a run had cost when it saved a checkpoint, in every currency, and where two runs stand at an equal budget.

The paper's arms had unequal budgets, so a comparison says in which currency it is fair. Costs count from the base model on and
hold everything that was trained to get there: of an earlier stage all of it, also what lies beyond the checkpoint that was
selected. Only `samples_seen` leaves that out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from sftstudy import spec
from sftstudy.config import Currency
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import CheckpointEntry, StepMetrics, TrainingRecord, read_metrics, read_record

CURRENCIES: tuple[Currency, ...] = get_args(Currency)

HOURS_SLACK = 0.02
"""Hours are measured: the same steps take a little longer one time than another, so a budget of hours pays for so much more."""


@dataclass(frozen=True)
class Cost:
    """A checkpoint and what the run had cost by then: samples, supervised tokens, steps, and hours of all its processes.

    Hours are of optimizer steps, each on one device (on a CPU: one process); saving and scoring are not counted.
    """

    stage: str
    ckpt: str
    costs: dict[Currency, float]


@dataclass(frozen=True)
class TrainedStage:
    """What a ledger needs of one finished stage."""

    stage: str
    checkpoints: Sequence[CheckpointEntry]
    steps: Sequence[StepMetrics]
    num_processes: int


def make_ledger(stages: Sequence[TrainedStage]) -> list[Cost]:
    """Costs of all checkpoints of stages that continue each other, in order."""
    found: list[Cost] = []
    before = {"supervised_tokens": 0.0, "gpu_hours": 0.0, "steps": 0.0}
    for stage in stages:
        tokens = [0, *itertools.accumulate(step.num_supervised_tokens for step in stage.steps)]
        hours = [0.0, *itertools.accumulate(step.time_s * stage.num_processes / 3600 for step in stage.steps)]
        for entry in stage.checkpoints:
            costs: dict[Currency, float] = {
                "samples_seen": entry.samples_seen,
                "samples_spent": entry.samples_spent,
                "supervised_tokens": before["supervised_tokens"] + tokens[entry.step],
                "steps": before["steps"] + entry.step,
                "gpu_hours": before["gpu_hours"] + hours[entry.step],
            }
            found.append(Cost(stage.stage, entry.ckpt, costs))
        before["supervised_tokens"] += tokens[-1]
        before["gpu_hours"] += hours[-1]
        before["steps"] += len(stage.steps)
    return found


def common_budget(ledgers: Sequence[Sequence[Cost]], currency: Currency) -> float:
    """The most that every one of these runs has spent."""
    return min(ledger[-1].costs[currency] for ledger in ledgers)


def latest_within(ledger: Sequence[Cost], currency: Currency, budget: float) -> Cost | None:
    """The last checkpoint of a run that the budget pays for; None if it does not pay for the first."""
    slack = HOURS_SLACK if currency == "gpu_hours" else 1e-9
    affordable = [cost for cost in ledger if cost.costs[currency] <= budget * (1 + slack)]
    return affordable[-1] if affordable else None


def read_ledger(folder: Path, *, spec_hash: str, layout: Layout) -> list[Cost]:
    """The ledger of the run whose last stage has its records in `folder`, with the stages of other recipes that it starts from.

    `spec_hash` is what that stage must answer to. Raises StudyError if a record is missing, or answers to another spec than the
    stage that continues from it.
    """
    stages: list[TrainedStage] = []
    expected, here = spec_hash, folder
    while True:
        stage = spec.read(here / "spec.yaml")
        if not isinstance(stage, spec.StageSpec):
            raise StudyError(f"{here / 'spec.yaml'}: is no stage's; build it again with `snakemake -c1 --forcerun write_spec`")
        training = read_record(here / "training.json", TrainingRecord)
        if training.spec_hash != expected:
            raise StudyError(f"{here / 'training.json'}: answers to another spec than today's; train that stage again")
        steps = read_metrics(here / "metrics.jsonl")
        if len(steps) != training.num_steps:
            raise StudyError(
                f"{here / 'metrics.jsonl'}: {len(steps)} steps, training.json says {training.num_steps}; publish them again"
            )
        stages.append(TrainedStage(stage.stage, training.checkpoints, steps, training.num_processes))
        if stage.parent is None:
            return make_ledger(stages[::-1])
        expected = stage.parent.spec_hash
        here = layout.stage_results(stage.model, stage.data, stage.parent.recipe, stage.seed, stage.parent.stage)
