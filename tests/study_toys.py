"""A study of one stage on disk, which tests in several processes can hand over."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftstudy import config, spec
from sftstudy.paths import Layout
from sftstudy.records import write_record


@dataclass
class ToyStudy:
    """A model and one phase of data on disk, prepared on demand, and specs of stages over them."""

    layout: Layout
    model: spec.ModelSpec
    phase: spec.PhaseSpec

    def prepare(self) -> None:
        """Bring the model in and prepare the phase."""
        from sftstudy.data.prepare import prepare_phase
        from sftstudy.models import fetch_model

        write_record(self.layout.model_record("toy"), fetch_model(self.model, layout=self.layout))
        write_record(self.layout.phase_record("toy", "facts", "facts"), prepare_phase(self.phase, layout=self.layout))

    def stage(self, *, num_steps: int = 12, places: tuple[int, ...] = (4, 8, 12), **training: Any) -> spec.StageSpec:
        """A stacked stage of `num_steps` steps of 4 samples, its spec and mixture written."""
        settings = {
            "effective_batch_size": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 3,
            "schedule": "cosine",
            "budget_samples": 4 * num_steps,
        }
        num_samples = self.phase.definition.num_samples
        made = spec.StageSpec(
            model="toy",
            data="facts",
            recipe="short",
            seed=3,
            stage="01-stacked",
            model_hash=spec.spec_hash(self.model),
            mixture=[
                spec.MixPart(phase="facts", spec_hash=spec.spec_hash(self.phase), num_samples=num_samples, available=num_samples)
            ],
            training=config.Training(**{**settings, "num_checkpoints": len(places), **training}),
            num_steps=num_steps,
            checkpoints=[
                spec.Place(ckpt=f"ckpt{number:02d}", step=step, num_samples=4 * step) for number, step in enumerate(places, start=1)
            ],
        )
        self.write(made)
        return made

    def write(self, stage: spec.StageSpec) -> None:
        """Spec and mixture of a stage."""
        from sftstudy.data.mix import mix_stage

        spec.write(self.results(stage) / "spec.yaml", stage)
        write_record(self.results(stage) / "data.json", mix_stage(stage, layout=self.layout))

    def results(self, stage: spec.StageSpec) -> Path:
        """Folder of the stage's records."""
        return self.layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)

    def scratch(self, stage: spec.StageSpec) -> Path:
        """Folder of the stage's weights."""
        return self.layout.stage_scratch(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)


def make_study(root: Path, model_folder: Path, rows: list[dict[str, Any]], **changes: Any) -> ToyStudy:
    """A study's specs over `rows` in `root`; `changes` replace fields of the phase's spec."""
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = spec.ModelSpec(name="toy", model=config.FolderModel(source="folder", path=str(model_folder)))
    source = config.Source(location=config.LocalFile(path=str(root / "rows.jsonl")))
    settings = {
        "definition": config.Phase(sources=[source], num_samples=len(rows)),
        "max_length": 64,
        "over_length": "fail",
        "empty_replies": "fail",
    }
    phase = spec.PhaseSpec(
        model="toy",
        data="facts",
        phase="facts",
        model_hash=spec.spec_hash(model),
        libraries={},
        **{**settings, **changes},
    )
    return ToyStudy(Layout(root / "results", root / "scratch"), model, phase)
