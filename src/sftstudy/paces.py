"""What scoring and judging took, by the attempts that are on file: seconds for a checkpoint, without start-up and loading."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from pydantic import ValidationError

from sftstudy import spec
from sftstudy.gpus import Gpu, gpu_named
from sftstudy.plan import Plan
from sftstudy.records import AttemptRecord

MOST = 5
"""Jobs that are looked at: a plan may hold thousands, which are alike."""


def seconds_per_checkpoint(plan: Plan, rule: str, suite: str, *, gpu: Gpu | None, model: str | None = None) -> float | None:
    """Median over finished jobs of a rule on a suite; None if there is none yet. `model` leaves out those of other base models.

    Only what ran on this kind of GPU counts, or, with None, on none, and only what today's plan asks for.
    """
    if not (plan.layout.all_attempts() / rule).is_dir():
        return None
    found: list[float] = []
    for stage in plan.stages.values():
        if model in (None, stage.model) and suite in plan.suites_of(stage):
            for part, ckpts in plan.parts(stage, suite).items():
                folder = plan.layout.attempts(rule, {**spec.stage_names(stage), "suite": suite, "part": part})
                if folder.is_dir() and (seconds := _seconds(folder, _hash(plan, stage, suite, ckpts), gpu)):
                    found.append(seconds / len(ckpts))
                if len(found) == MOST:
                    return median(found)
    return median(found) if found else None


def _hash(plan: Plan, stage: spec.StageSpec, suite: str, ckpts: list[str]) -> str:
    return spec.score_hash(spec.spec_hash(stage), spec.spec_hash(plan.suite_spec(suite)), ckpts)


def _seconds(folder: Path, spec_hash: str, gpu: Gpu | None) -> float | None:
    """What all units of a job take, by the newest attempt that finished it and did most of them itself."""
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            attempt = AttemptRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):  # cut off by a kill
            continue
        device = gpu_named(attempt.device) if attempt.num_gpus else None
        alike = device is not None and device.bf16_flops == gpu.bf16_flops if gpu else not attempt.num_gpus
        if attempt.spec_hash == spec_hash and attempt.outcome == "finished" and alike and attempt.units > attempt.units_before:
            return attempt.work_s * (attempt.units_before + attempt.units) / attempt.units
    return None
