"""What the time limits of a site's partitions mean for a plan: which jobs start several times, and what cannot go well."""

from __future__ import annotations

from collections.abc import Iterator

from sftstudy.forecast import START_S, Forecast, Need, stage_name
from sftstudy.needs import state_seconds
from sftstudy.screen import rung_name
from sftstudy.train.checkpoints import RESUME_EVERY_S

MAX_NAMES = 3


def several_starts(forecast: Forecast) -> dict[str, int]:
    """Job -> how often it starts, of those whose work is longer than their partition allows. Seeds are alike and count once."""
    if forecast.site.gpu_max_runtime is None and forecast.site.cpu_max_runtime is None:
        return {}
    return {job: need.starts for job, need in _jobs(forecast) if need.starts > 1}


def _jobs(forecast: Forecast) -> Iterator[tuple[str, Need]]:
    plan = forecast.plan
    for stage in plan.stages.values():
        for rung, need in forecast.jobs(stage).items():
            yield f"train {stage_name(stage)}" + (f" to {rung_name(rung)}" if rung else ""), need
        for suite in plan.suites_of(stage):
            for ckpts in plan.parts(stage, suite).values():
                what = f"{stage_name(stage)} on {suite}"
                if scoring := forecast.scoring(stage, suite, num_checkpoints=len(ckpts)):
                    yield f"score {what}", scoring
                yield f"judge {what}", forecast.judging(suite, num_checkpoints=len(ckpts))


def warnings(forecast: Forecast) -> list[str]:
    """One line for the stages that a limit ends before their first resume state on the way is saved, if there are any."""
    limit = forecast.site.gpu_max_runtime
    found: dict[str, tuple[int, float]] = {}
    for stage in forecast.plan.stages.values() if limit else []:
        size, training = forecast.size(stage.model), stage.training
        starts = max((need.starts for need in forecast.jobs(stage).values()), default=1)
        if limit and size and training and starts > 1:
            first_state_s = START_S + max(RESUME_EVERY_S, 20 * state_seconds(size, training))
            if 60 * limit < first_state_s:
                found[stage_name(stage)] = (starts, first_state_s)
    if not found:
        return []
    names, starts = list(found), max(number for number, _ in found.values())
    first_min = max(seconds for _, seconds in found.values()) / 60
    rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return [
        f"STUDY_GPU_MAX_RUNTIME: a job ends after {limit} min, its first state on the way is saved after {first_min:.0f}: "
        f"{', '.join(names[:MAX_NAMES])}{rest} would start up to {starts:,} times; name a partition with a longer limit, or give "
        "stages more GPUs (STUDY_GPUS_PER_STAGE)"
    ]
