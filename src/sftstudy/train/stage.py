"""Trains one stage of a run: checks what goes in, continues where an earlier attempt ended, publishes records.

Everything that is costly to lose lies under scratch: checkpoints, resume state and a metrics file per attempt. The records are
written last. torch is imported only if there is something to train.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import TrainingRecord, write_bytes, write_record
from sftstudy.screen import rung_name
from sftstudy.spec import StageSpec, spec_hash
from sftstudy.train.attempts import claim, is_finished
from sftstudy.train.checkpoints import USUAL, Saving, disk_errors
from sftstudy.train.inputs import read_inputs
from sftstudy.train.lease import held
from sftstudy.train.rungs import at_rung, find_stopped, read_finished

Device = Literal["auto", "cpu", "cuda"]


def _nobody_asks() -> None:
    """Only the first process writes, and holds the lease."""


def train_stage(
    spec: StageSpec,
    *,
    layout: Layout,
    saving: Saving = USUAL,
    device: Device = "auto",
    patience_s: float = 0.0,
    rung: float | None = None,
    verdict: Path | None = None,
) -> None:
    """Train a stage to its end, or only publish it if it is finished and its checkpoints are whole.

    With `rung`, a share of its steps, train it so far, and publish what it showed until then under `rungs/`. `verdict` is the
    `screen.json` of the rung before, if any: a stage that it stops, and one that continues from a stopped stage, is only published
    as what it was then.

    Every process that torchrun started calls it with the same arguments; the first one reads, writes and publishes. `device` is
    `auto`, `cpu` or `cuda`. If other processes are at the same stage, it waits `patience_s` for their end. Raises StudyError for
    inputs that are missing or not those planned, for training that cannot go on, or if other processes stay at the stage;
    StoppedError after SIGTERM or SIGUSR1, OutOfTimeError before the end of its job, once saved.
    """
    if spec.training is None:
        raise StudyError(f"{spec.stage}: an untouched base is not trained; its weights are those of the model")
    names = (spec.model, spec.data, spec.recipe, spec.seed, spec.stage)
    results, scratch = layout.stage_results(*names), layout.stage_scratch(*names)
    is_first, is_alone = os.environ.get("RANK", "0") == "0", os.environ.get("WORLD_SIZE", "1") == "1"
    published = layout.rung(results, rung_name(rung)) if rung else results
    if stopped := find_stopped(spec, verdict, layout=layout):
        if is_first:
            publish(published, *stopped)
        return
    inputs = read_inputs(spec, layout=layout)
    identity = {"spec_hash": spec_hash(spec), "content_hash": inputs.content_hash}
    reached = partial(at_rung, spec, rung, scratch=scratch, results=results, identity=identity) if rung else None
    if reached and is_alone and (known := reached()):
        publish(published, *known)
        return
    with held(scratch, patience_s=patience_s) if is_first else nullcontext() as lease:
        finished = False
        if is_first:
            claim(scratch, identity)
            finished = reached() is not None if reached else is_finished(spec, scratch, identity)
            if finished and not reached:
                print(f"{scratch}: finished before, only published again; remove it to have it trained again", file=sys.stderr)
        if not (finished and is_alone):
            from sftstudy.train.engine import run_stage
            from sftstudy.train.parallel import joined

            with joined(device) as world:
                if not world.first_decides(lambda: finished):
                    run_stage(
                        spec,
                        spec.training,
                        inputs,
                        layout=layout,
                        identity=identity,
                        world=world,
                        saving=saving,
                        still_ours=lease.check if lease else _nobody_asks,
                        rung=rung,
                    )
        if is_first:
            found = reached() if reached else read_finished(scratch)
            assert found is not None, "the rung was reached just now"
            publish(published, *found)


def publish(folder: Path, record: TrainingRecord, metrics: bytes) -> None:
    """Write a stage's declared outputs, the record last."""
    with disk_errors(folder):
        write_bytes(folder / "metrics.jsonl", metrics)
        write_record(folder / "training.json", record)
