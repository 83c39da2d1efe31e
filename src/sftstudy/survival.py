"""Which share of each training job is left to do, on average, where screens stop runs: by the numbers that their rules keep.

Pure, and known before anything has run: what a rule will decide is not, but how many it keeps is.
"""

from __future__ import annotations

import math
from pathlib import Path

from sftstudy.config import Screen
from sftstudy.plan import Plan
from sftstudy.screen import number_kept
from sftstudy.screens import competitor
from sftstudy.spec import ScreenSpec

RUNG, KEEP = 0.25, 0.5
"""Of a screen that a study does not have: after this share of a run's first own stage, this share of its runs goes on."""


def with_assumed_screens(plan: Plan) -> Plan:
    """The plan if every study had a screen: its own, or the one of RUNG and KEEP. A stage of a single step cannot be screened."""
    studies = dict(plan.registry.studies)
    for name, runs in plan.runs.items():
        study = studies[name]
        steps = [stage.num_steps for run in runs for stage in plan.stages_of(run) if stage.training]
        if study.screen is None and min(steps) > 1:
            assumed = {"benchmark": study.benchmarks[0], "rungs": [RUNG], "rule": {"kind": "paper", "keep": KEEP}}
            studies[name] = study.model_copy(update={"screen": Screen.model_validate(assumed)})
    return Plan(plan.registry.model_copy(update={"studies": studies}), plan.studies, plan.folder, plan.layout)


def shares(plan: Plan) -> dict[Path, dict[float | None, float]]:
    """Stage folder -> rung, or None for its end -> share of such stages whose job has something to train.

    Of studies that decide about the same stage the most generous counts: they look at the same signals. What stops takes its later
    stages with it.
    """
    screens = plan.screens
    left = {name: _left(spec) for name, spec in screens.specs.items()}

    def beyond(folder: Path, rung: float) -> float:
        if screens.kept_anyway(folder, rung):
            return 1.0
        decided = screens.decided(folder, rung)
        return max(left[name][tuple(screens.folders[name][folder].group)][last] for name, last in decided.items() if last)

    found: dict[Path, dict[float | None, float]] = {}
    for folder, stage in plan.stages.items():
        parent = plan.parent_of(stage)
        coming = found[parent][None] if parent else 1.0
        found[folder] = {}
        for rung in plan.rungs_of(stage):
            before = screens.before(folder, rung) if screens.may_stop(folder) else None
            found[folder][rung] = coming * (beyond(folder, before) if before else 1.0)
    return found


def _left(spec: ScreenSpec) -> dict[tuple[str, ...], dict[float, float]]:
    """Group -> rung -> share of the group's competitors that is trained beyond it, those that are audited included."""
    screen = spec.screen
    members: dict[tuple[str, ...], set[str]] = {}
    for stage in spec.stages:
        members.setdefault(tuple(stage.group), set()).add(competitor(spec, stage))
    alive = {group: len(names) for group, names in members.items()}
    audited = dict.fromkeys(members, 0.0)
    found: dict[tuple[str, ...], dict[float, float]] = {group: {} for group in members}
    for rung in screen.rungs:
        kept = {group: _num_kept(screen, number) for group, number in alive.items()}
        stopped = {group: alive[group] - kept[group] for group in alive}
        # a share of all that stop at a rung, whatever their group
        num_stopped = sum(stopped.values())
        num_audited = math.ceil(screen.audit.share * num_stopped - 1e-9) if screen.audit else 0
        for group in members:
            audited[group] += num_audited * stopped[group] / num_stopped if num_stopped else 0.0
            found[group][rung] = (kept[group] + audited[group]) / len(members[group])
        alive = kept
    return found


def _num_kept(screen: Screen, number: int) -> int:
    """How many of a group go on; of a median rule half, and of a margin, which depends on what they show, as many."""
    return number_kept(getattr(screen.rule, "keep", KEEP), number)
