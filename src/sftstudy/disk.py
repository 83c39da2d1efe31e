"""How much disk the plan's checkpoints will take, in one line that is printed before anything runs."""

from __future__ import annotations

import math

from sftstudy import spec
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.records import ModelRecord, read_record
from sftstudy.sizes import size_of

BYTES_PER_PARAMETER = {"fp32": 4, "bf16": 2}
"""Checkpoints are stored in the compute precision."""

BYTES_OF_RESUME_STATE = 12 * (2 + 1)
"""Per parameter, at most: fp32 weights and two moments, in the newest two states and in the one that is being written."""


def planned_disk(plan: Plan) -> str:
    """One line: how many stages and checkpoints, their bytes at the peak, resume state, and what stays.

    The peak is an upper bound for what training leaves: all checkpoints of the plan at once, since Snakemake may train everything
    before it scores anything; weights that are scored earlier go earlier. Resume state is that of the largest model, and there is
    one for each stage that trains at the moment, was interrupted, or waits at a rung. Base models, tokeniser files and prepared
    data are not counted.
    """
    stages = [stage for stage in plan.stages.values() if stage.training]
    sizes: dict[str, int] = {}
    notes: list[str] = []
    for model in sorted({stage.model for stage in stages}):
        size, note = _num_parameters(plan.model_spec(model), plan.layout)
        sizes |= {model: size} if size else {}
        notes += [note] if note else []
    peak = stay = 0
    for stage in stages:
        if stage.training and stage.model in sizes:
            each = sizes[stage.model] * BYTES_PER_PARAMETER[stage.training.precision]
            peak += each * len(stage.checkpoints)
            stay += each * _num_kept(plan, stage)
    num_checkpoints = sum(len(stage.checkpoints) for stage in stages)
    resume = BYTES_OF_RESUME_STATE * max(sizes.values(), default=0)
    counts = f"{len(stages)} stages, {num_checkpoints} checkpoints"
    num_waiting = sum(map(plan.screens.may_stop, plan.screens.rungs))
    waiting = f" and per stage at a rung ({num_waiting})" if num_waiting else ""
    bytes_text = f"peak {_gb(peak)} of weights + {_gb(resume)} resume state per training job{waiting}; {_gb(stay)} stay"
    return f"disk: {counts}" + (f": {bytes_text}" if sizes else "") + "".join(f"; {note}" for note in notes)


def _num_kept(plan: Plan, stage: spec.StageSpec) -> int:
    """How many checkpoints of a stage stay: those that may not go, and of a continued stage the one that is selected."""
    num_removable = len(plan.removable(stage))
    return len(stage.checkpoints) - num_removable + (num_removable > 0 and plan.selection_of(stage) is not None)


def _num_parameters(model: spec.ModelSpec, layout: Layout) -> tuple[int | None, str]:
    """Parameters of a base model as far as they are known yet, and what is to be said of that."""
    try:
        record = read_record(layout.model_record(model.name), ModelRecord)
        if record.spec_hash == spec.spec_hash(model):
            return record.num_parameters, ""
    except StudyError:  # not made yet, or broken: the job that makes it, or reads it, will say so
        pass
    size = size_of(model, layout)
    if size is None:
        return None, f"not counted: {model.name}, whose size is known once it is here"
    note = "" if size.vocab_size else f"not counted: the embeddings of {model.name}, whose vocabulary is not made yet"
    return size.num_parameters, note


def _gb(size: int) -> str:
    return f"{math.ceil(size / 1e7) / 100:,.2f} GB"
