"""Compares records that were made elsewhere with today's plan, so that copied results can be taken over."""

from __future__ import annotations

from pathlib import Path

from sftstudy import spec
from sftstudy.errors import StudyError
from sftstudy.plan import Plan
from sftstudy.records import read_content
from sftstudy.screen import rung_name


def expected_hashes(plan: Plan) -> dict[Path, str]:
    """Every record of the plan -> the spec hash that it must answer to."""
    names = {
        "world": "world.json",
        "model": "model.json",
        "data": "validation.json",
        "overlap": "overlap.json",
        "phase": "phase.json",
        "stage": "training.json",
    }
    found = {
        folder / names[value.kind]: spec.spec_hash(value)
        for folder, value in plan.specs.items()
        if value.kind in names and spec.programs(value)
    }
    for folder, value in plan.specs.items():
        if "fetch_suite" in spec.programs(value):
            found[folder / "suite.json"] = spec.spec_hash(value, "fetch_suite")
    for folder, stage in plan.stages.items():
        if stage.training:
            found[folder / "data.json"] = spec.spec_hash(stage, "mix_stage")
        if stage.parent and (parent := plan.parent_of(stage)):
            found[parent / "selection.json"] = stage.parent.selection_hash
        for suite, expected in plan.score_hashes(stage, plan.suites_of(stage)).items():
            stems = plan.score_stems(stage, suite)
            found |= {Path(f"{stem}.json"): scored for stem, scored in zip(stems, expected.values(), strict=True)}
            if (race := plan.race_of(stage, suite)) and (raced := plan.race_hash(stage, suite)):
                found[race] = raced
    for folder, rungs in plan.screens.rungs.items():
        found |= {
            plan.layout.rung(folder, rung_name(rung)) / "training.json": spec.spec_hash(plan.stages[folder]) for rung in rungs
        }
    return found | plan.screens.expected_hashes


def problems(plan: Plan) -> list[str]:
    """One line per record that is missing, is broken or answers to another spec; empty if the results are those of today's plan."""
    lines = []
    for path, expected in expected_hashes(plan).items():
        if not path.exists():
            lines.append(f"{path}: missing")
            continue
        try:
            found = read_content(path).get("spec_hash")
        except StudyError as error:
            lines.append(str(error))
            continue
        if found != expected:
            lines.append(f"{path}: made from another spec ({found}, the plan says {expected})")
    return lines
