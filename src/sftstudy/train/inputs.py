"""What goes into a stage: the records of model, parent, mixture and phases, checked against the plan, and every step's samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sftstudy import order
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import MixtureRecord, ModelRecord, PhaseRecord, Record, SelectionRecord, TrainingRecord, read_record
from sftstudy.retired import remedy
from sftstudy.rows import Rows, read_rows
from sftstudy.spec import StageSpec, digest, spec_hash

if TYPE_CHECKING:
    from sftstudy.train.batches import Sample

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Start:
    """The weights that a stage starts from, and the counters that they bring along."""

    folder: Path
    weights_hash: str
    samples_seen: int
    samples_spent: int
    supervised_tokens_seen: int
    remedy: str


@dataclass(frozen=True)
class Inputs:
    """What the records say goes into a stage. No weights and no rows were read for it."""

    start: Start
    model: ModelRecord
    mixture: MixtureRecord
    data_hashes: dict[str, str]
    rows_keys: dict[str, str]
    content_hash: str


def read_inputs(spec: StageSpec, *, layout: Layout) -> Inputs:
    """Read the records of model, parent, mixture and phases. Raises StudyError if one is missing or answers to another spec."""
    path = layout.model_record(spec.model)
    model = _current(path, ModelRecord, spec.model_hash)
    start = Start(layout.model_folder(spec.model), model.weights_hash, 0, 0, 0, f"snakemake -c1 --forcerun {path}")
    if spec.parent is not None:
        start = _start_from_parent(spec, layout)
    path = layout.stage_results(spec.model, spec.data, spec.recipe, spec.seed, spec.stage) / "data.json"
    mixture = _current(path, MixtureRecord, spec_hash(spec, "mix_stage"))
    data_hashes, rows_keys = {}, {}
    for part in spec.mixture:
        phase = _current(layout.phase_record(spec.model, spec.data, part.phase), PhaseRecord, part.spec_hash)
        data_hashes[part.phase], rows_keys[part.phase] = phase.data_hash, phase.rows_key
    phases, rows = order.mixture_rows(spec.mixture, seed=spec.seed)
    hash_of_rows = order.rows_hash(spec.mixture, phases, rows)
    if mixture.content_hash != order.content_hash(data_hashes, hash_of_rows=hash_of_rows) or mixture.rows_hash != hash_of_rows:
        raise StudyError(f"{path}: not the mixture of today's phases; build it again with `snakemake -c1 --forcerun {path}`")
    content_hash = digest({"mixture": mixture.content_hash, "start": start.weights_hash, "tokenizer": model.tokenizer_hash})
    return Inputs(start, model, mixture, data_hashes, rows_keys, content_hash)


def _start_from_parent(spec: StageSpec, layout: Layout) -> Start:
    parent = spec.parent
    assert parent is not None, "called for stages that continue another"
    names = (spec.model, spec.data, parent.recipe, spec.seed, parent.stage)
    training_path, selection_path = (layout.stage_results(*names) / name for name in ("training.json", "selection.json"))
    training = _current(training_path, TrainingRecord, parent.spec_hash)
    selection = _current(selection_path, SelectionRecord, parent.selection_hash)
    entries = {entry.ckpt: entry for entry in training.checkpoints}
    entry = entries.get(selection.ckpt)
    if entry is None or (entry.weights_hash, entry.samples_seen) != (selection.weights_hash, selection.samples_seen):
        raise StudyError(
            f"{selection_path}: names weights that {training_path.name} does not have; `snakemake -c1 --forcerun {selection_path}`"
        )
    return Start(
        layout.stage_scratch(*names) / selection.ckpt,
        selection.weights_hash,
        samples_seen=selection.samples_seen,
        samples_spent=training.samples_spent,
        supervised_tokens_seen=entry.supervised_tokens_seen,
        remedy=remedy(training_path, layout.stage_scratch(*names)),
    )


def _current(path: Path, kind: type[R], expected: str) -> R:
    record = read_record(path, kind)
    if record.spec_hash != expected:
        raise StudyError(f"{path}: made from another spec than today's; build it again with `snakemake -c1 {path}`")
    return record


def load_samples(spec: StageSpec, inputs: Inputs, *, layout: Layout) -> Callable[[int], list[Sample]]:
    """Function from the 0-based step to its samples. Raises StudyError if the prepared rows are not those of their records."""
    prepared: list[Rows] = []
    for part in spec.mixture:
        remedy = f"snakemake -c1 --forcerun {layout.phase_record(spec.model, spec.data, part.phase)}"
        path = layout.tokenised_rows(inputs.rows_keys[part.phase])
        prepared.append(read_rows(path, remedy=remedy))
        if prepared[-1].data_hash() != inputs.data_hashes[part.phase]:
            raise StudyError(f"{path}: not the rows of its record; {remedy}")
    phases, rows = order.mixture_rows(spec.mixture, seed=spec.seed)
    batch_size = spec.training.effective_batch_size if spec.training else 0

    def samples_of(step_index: int) -> list[Sample]:
        taken = order.samples_of_step(step_index, batch_size=batch_size, num_samples=len(rows), seed=spec.seed)
        return [prepared[phases[sample]].row(rows[sample]) for sample in taken]

    return samples_of
