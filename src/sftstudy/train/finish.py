"""The end of a stage: all that was planned was done, with the learning rates of the schedule, and stands in one record."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from sftstudy.config import Training
from sftstudy.errors import StudyError
from sftstudy.records import FINISHED, CheckpointEntry, StepMetrics, TrainingRecord, provenance, write_record, write_text
from sftstudy.screen import rung_name, rung_step
from sftstudy.spec import Place, StageSpec
from sftstudy.train.attempts import checkpoint_facts, merge_attempts
from sftstudy.train.inputs import Inputs, Start
from sftstudy.train.loop import LOSS_NORMALISATION
from sftstudy.train.parallel import World
from sftstudy.train.rungs import write_at_rung
from sftstudy.train.schedule import learning_rate


def finish(
    spec: StageSpec,
    training: Training,
    inputs: Inputs,
    scratch: Path,
    identity: dict[str, str],
    *,
    world: World,
    packed: bool,
    attention: str,
    rung: float | None,
) -> None:
    """Check that all was done as planned, and write the record and the merged metrics.

    At the end the resume state is dropped; at a `rung` it stays, for those that go on.
    """
    num_steps = rung_step(rung, num_steps=spec.num_steps) if rung else spec.num_steps
    metrics = merge_attempts(scratch / "attempts")[:num_steps]
    check_metrics(metrics, training=training, num_steps=num_steps, planned_steps=spec.num_steps)
    trained = num_steps * training.effective_batch_size
    record = TrainingRecord(
        spec_hash=identity["spec_hash"],
        content_hash=identity["content_hash"],
        **provenance("torch", "transformers", "numpy"),
        status=f"at rung {rung_name(rung)}" if rung else FINISHED,
        num_steps=num_steps,
        samples_seen=inputs.start.samples_seen + trained,
        samples_spent=inputs.start.samples_spent + trained,
        checkpoints=checkpoint_entries(
            [place for place in spec.checkpoints if place.step <= num_steps],
            inputs.start,
            metrics,
            batch_size=training.effective_batch_size,
            scratch=scratch,
            identity=identity,
        ),
        loss_normalisation=LOSS_NORMALISATION,
        precision=training.precision,
        attention=attention,
        packed=packed,
        sharding=training.sharding,
        optimizer=training.optimizer,
        device=world.device_name,
        num_processes=world.size,
        num_nodes=world.num_nodes,
        num_threads=torch.get_num_threads(),
        num_attempts=len(list((scratch / "attempts").glob("metrics-*.jsonl"))),
        time_s=sum(entry.time_s for entry in metrics),
        tokens_per_s=median(entry.tokens_per_s for entry in metrics),
        peak_memory_gb=max(entry.peak_memory_gb for entry in metrics),
    )
    lines = "".join(entry.model_dump_json() + "\n" for entry in metrics)
    if rung:
        write_at_rung(scratch, rung, record, lines)
        return
    write_text(scratch / "metrics.jsonl", lines)
    write_record(scratch / "finished.json", record)
    for leftover in (scratch / "resume", *scratch.glob("aside-*")):
        shutil.rmtree(leftover, ignore_errors=True)


def check_metrics(metrics: list[StepMetrics], *, training: Training, num_steps: int, planned_steps: int) -> None:
    """Raise StudyError unless there is one entry for each of `num_steps`, and each used the learning rate that the schedule of all
    `planned_steps` says.

    The 8-bit optimizer keeps its rate as an fp32 number, hence a tolerance of 1e-6.
    """
    if [entry.step for entry in metrics] != list(range(1, num_steps + 1)):
        raise StudyError(f"metrics hold {len(metrics)} steps of {num_steps}; delete the stage's scratch folder and train again")
    for entry in metrics:
        planned = learning_rate(entry.step - 1, num_steps=planned_steps, training=training)
        if not math.isclose(entry.learning_rate, planned, rel_tol=1e-6):
            raise StudyError(
                f"step {entry.step}: learning rate {entry.learning_rate} was used, the schedule says {planned}; this is a bug"
            )


def checkpoint_entries(
    places: Sequence[Place],
    start: Start,
    metrics: list[StepMetrics],
    *,
    batch_size: int,
    scratch: Path,
    identity: dict[str, str],
) -> list[CheckpointEntry]:
    """Entries of the checkpoints at these places. Raises StudyError if one was not saved."""
    entries = []
    for place in places:
        facts = checkpoint_facts(scratch / place.ckpt, identity)
        if facts is None or facts["step"] != place.step:
            raise StudyError(f"{scratch / place.ckpt}: declared, but not saved whole; start the stage again")
        entries.append(
            CheckpointEntry(
                ckpt=place.ckpt,
                step=place.step,
                samples_seen=start.samples_seen + place.step * batch_size,
                samples_spent=start.samples_spent + place.step * batch_size,
                supervised_tokens_seen=start.supervised_tokens_seen
                + sum(entry.num_supervised_tokens for entry in metrics[: place.step]),
                weights_hash=facts["weights_hash"],
            )
        )
    return entries
