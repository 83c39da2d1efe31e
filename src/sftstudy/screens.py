"""Rungs and decisions of the active studies' screens: where they lie, what they hang on, and the programs' work on them.

A stage waits at the rungs of all studies that screen it. Each study decides at its own rungs, about its own runs alone. A stage
goes on beyond a rung if any active study keeps it: one that decided so at this rung or, if it has none here, at its last one; one
that has not decided yet; one without a screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from sftstudy import screen as rules
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import (
    GO,
    DecisionRecord,
    Ruling,
    ScreenRecord,
    TrainingRecord,
    provenance,
    read_metrics,
    read_record,
    stopped_status,
)
from sftstudy.screen import Candidate, Signals, joined, rung_name, signals
from sftstudy.spec import ScreenedStage, ScreenSpec, StageSpec, decision_hash, digest, screen_hash, spec_hash


@dataclass(frozen=True)
class Screens:
    """The screens of the active studies. `always`: folder of a screened stage -> active studies that need it in any case."""

    specs: Mapping[str, ScreenSpec]
    always: Mapping[Path, Sequence[str]]
    layout: Layout

    @cached_property
    def rungs(self) -> dict[Path, list[float]]:
        """Folder of a screened stage -> its rungs, over all studies that screen it."""
        found: dict[Path, set[float]] = {}
        for name, screen in self.specs.items():
            for folder in self.folders[name]:
                found.setdefault(folder, set()).update(screen.screen.rungs)
        return {folder: sorted(rungs) for folder, rungs in found.items()}

    @cached_property
    def folders(self) -> dict[str, dict[Path, ScreenedStage]]:
        """Study -> folder -> stage that it screens."""
        return {name: {stage_folder(stage, self.layout): stage for stage in screen.stages} for name, screen in self.specs.items()}

    def may_stop(self, folder: Path) -> bool:
        """Whether a stage is screened, and nobody needs it whatever is decided."""
        return folder in self.rungs and not self.always[folder]

    def before(self, folder: Path, rung: float | None) -> float | None:
        """The rung before one, or the last one of all; None if there is none."""
        return max((other for other in self.rungs.get(folder, []) if rung is None or other < rung), default=None)

    def decided(self, folder: Path, rung: float) -> dict[str, float | None]:
        """Study that screens a stage -> its newest rung up to this one, None if it has not decided yet."""
        return {
            name: max((other for other in screen.screen.rungs if other <= rung), default=None)
            for name, screen in self.specs.items()
            if folder in self.folders[name]
        }

    def kept_anyway(self, folder: Path, rung: float) -> list[str]:
        """Studies that keep a stage at a rung without a decision."""
        return sorted({*self.always[folder], *(name for name, last in self.decided(folder, rung).items() if last is None)})

    def decisions(self, folder: Path, rung: float) -> dict[str, Path]:
        """Study -> its decision that counts for a stage at a rung."""
        return {name: self.decision(name, last) for name, last in self.decided(folder, rung).items() if last is not None}

    def decision(self, study: str, rung: float) -> Path:
        """Record of a study's decision."""
        return self.layout.screens(study) / f"{rung_name(rung)}.json"

    @property
    def decision_records(self) -> list[Path]:
        """All studies' decisions."""
        return [self.decision(name, rung) for name, screen in self.specs.items() for rung in screen.screen.rungs]

    @cached_property
    def expected_hashes(self) -> dict[Path, str]:
        """Every decision, and every verdict that is written, with the spec hash that it must answer to."""
        found = {
            self.decision(name, rung): decision_hash(screen, rung_name(rung))
            for name, screen in self.specs.items()
            for rung in screen.screen.rungs
        }
        hashes = {stage_folder(stage, self.layout): stage.spec_hash for screen in self.specs.values() for stage in screen.stages}
        for folder in filter(self.may_stop, self.rungs):
            for rung in self.rungs[folder]:
                decisions = {name: found[path] for name, path in self.decisions(folder, rung).items()}
                anyway = self.kept_anyway(folder, rung)
                path = self.layout.rung(folder, rung_name(rung)) / "screen.json"
                found[path] = screen_hash(hashes[folder], rung_name(rung), decisions, anyway)
        return found


def stage_folder(stage: ScreenedStage, layout: Layout) -> Path:
    """Where a screened stage's records lie."""
    return layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)


# --- decide ------------------------------------------------------------------------------------------------------------


def decide_screen(spec: ScreenSpec, rung: str, *, layout: Layout) -> DecisionRecord:
    """A study's decision at one of its rungs, from what all of its runs showed up to it.

    Who was stopped at an earlier rung is out; who is audited since then stays so. Raises StudyError for an unknown rung, or if a
    record is missing or answers to another spec.
    """
    names = [rung_name(known) for known in spec.screen.rungs]
    if rung not in names:
        raise StudyError(f"--rung {rung}: study {spec.study} decides at {', '.join(names)}; name one of them")
    earlier = names[: names.index(rung)]
    out = _out_before(spec, earlier[-1], layout) if earlier else {}
    shown = {_key(stage): _shown(stage, rung, spec, layout) for stage in spec.stages if _key(stage) not in out}
    members: dict[str, list[Signals]] = {}
    for stage in spec.stages:
        if found := shown.get(_key(stage)):
            members.setdefault(competitor(spec, stage), []).append(found[1])
    groups = {competitor(spec, stage): tuple(stage.group) for stage in spec.stages}
    means = {name: joined(found) for name, found in members.items()}
    verdicts = rules.decide([Candidate(name, groups[name], found) for name, found in means.items()], spec.screen.rule)
    stopped = [name for name, verdict in verdicts.items() if verdict.call == "stop"]
    audit = spec.screen.audit
    audited = rules.audited(stopped, share=audit.share, seed=audit.seed) if audit else []
    rulings = {}
    for stage in spec.stages:
        name = competitor(spec, stage)
        if call := out.get(_key(stage)):
            rulings[_key(stage)] = Ruling(call=call, competitor=name, group=stage.group)
        else:
            verdict = verdicts[name]
            rulings[_key(stage)] = Ruling(
                call="audit" if name in audited else verdict.call,
                competitor=name,
                group=stage.group,
                place=verdict.place,
                num_rivals=verdict.num_rivals,
                grad_norm=means[name].grad_norm,
                loss=means[name].loss,
            )
    return DecisionRecord(
        spec_hash=decision_hash(spec, rung),
        content_hash=digest([{key: [content, vars(found)] for key, (content, found) in shown.items()}, out]),
        **provenance(),
        study=spec.study,
        rung=rung,
        rulings=rulings,
    )


def _shown(stage: ScreenedStage, rung: str, spec: ScreenSpec, layout: Layout) -> tuple[str, Signals]:
    """Content hash and signals of a stage's records at a rung."""
    folder = layout.rung(stage_folder(stage, layout), rung)
    record = read_record(folder / "training.json", TrainingRecord)
    if record.spec_hash != stage.spec_hash:
        raise StudyError(f"{folder / 'training.json'}: made from another spec than today's; build it again with `snakemake -c all`")
    return record.content_hash, signals(read_metrics(folder / "metrics.jsonl"), window=spec.screen.window)


def _out_before(spec: ScreenSpec, rung: str, layout: Layout) -> dict[str, Literal["audit", "out"]]:
    """Stages that do not compete any more since a rung."""
    path = layout.screens(spec.study) / f"{rung}.json"
    decision = read_record(path, DecisionRecord)
    if decision.spec_hash != decision_hash(spec, rung):
        raise StudyError(f"{path}: not today's decision; build it again with `snakemake -c all`")
    return {key: "audit" if ruling.call == "audit" else "out" for key, ruling in decision.rulings.items() if ruling.call != "go"}


def competitor(spec: ScreenSpec, stage: ScreenedStage) -> str:
    """The seeds of a recipe have one name if they go on or stop together."""
    name = f"{stage.model}/{stage.data}/{stage.recipe}"
    return name if spec.screen.seeds == "together" else f"{name}/seed{stage.seed}"


def _key(stage: ScreenedStage | StageSpec) -> str:
    return f"{stage.model}/{stage.data}/{stage.recipe}/seed{stage.seed}/{stage.stage}"


# --- what follows for a stage ------------------------------------------------------------------------------------------


def write_screen(
    stage: StageSpec, rung: str, *, decisions: Sequence[Path], always: Sequence[str], before: Path | None
) -> ScreenRecord:
    """Whether a stage goes on: it does if any study keeps it, by its decision or `always`, unless it was stopped `before`."""
    records = [read_record(path, DecisionRecord) for path in decisions]
    kept = [record.study for record in records if record.rulings[_key(stage)].call in ("go", "audit")]
    earlier = stopped_status(before) if before else None
    status = earlier or (GO if kept or always else f"stopped at rung {rung}")
    return ScreenRecord(
        spec_hash=screen_hash(spec_hash(stage), rung, {record.study: record.spec_hash for record in records}, always),
        content_hash=digest([[record.content_hash for record in records], status]),
        **provenance(),
        status=status,
        kept_by=sorted({*kept, *always}) if status == GO else [],
    )
