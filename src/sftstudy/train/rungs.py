"""A stage on its way: what it had shown at a rung, kept under scratch, and what is published of one that was stopped there."""

from __future__ import annotations

from pathlib import Path

from sftstudy.paths import Layout
from sftstudy.records import FINISHED, TrainingRecord, read_record, stopped_status, write_record, write_text
from sftstudy.screen import rung_name, rung_step
from sftstudy.spec import StageSpec, digest, spec_hash


def write_at_rung(scratch: Path, rung: float, record: TrainingRecord, metrics: str) -> None:
    """Keep a stage's record and metrics up to a rung. They are made once, and published as often as asked for."""
    folder = scratch / "rungs" / rung_name(rung)
    write_text(folder / "metrics.jsonl", metrics)
    write_record(folder / "training.json", record)


def read_finished(scratch: Path) -> tuple[TrainingRecord, bytes]:
    """Record and metrics of a finished stage."""
    return _read(scratch / "finished.json")


def at_rung(
    spec: StageSpec, rung: float, *, scratch: Path, results: Path, identity: dict[str, str]
) -> tuple[TrainingRecord, bytes] | None:
    """Record and metrics of a stage up to a rung, kept or, of a finished stage, cut out of its records; None before it is there.

    The records under `results` will do if scratch has none: nothing is trained for a rung that can be read off. Nothing is written.
    """
    kept, *whole = scratch / "rungs" / rung_name(rung) / "training.json", scratch / "finished.json", results / "training.json"
    for path in (kept, *whole):
        if not (path.is_file() and path.with_name("metrics.jsonl").is_file()):
            continue
        record, metrics = _read(path)
        if identity != {"spec_hash": record.spec_hash, "content_hash": record.content_hash}:
            continue
        if path == kept:
            return record, metrics
        if record.status == FINISHED:
            return _cut(spec, rung, record, metrics)
    return None


def _read(path: Path) -> tuple[TrainingRecord, bytes]:
    return read_record(path, TrainingRecord), path.with_name("metrics.jsonl").read_bytes()


def _cut(spec: StageSpec, rung: float, finished: TrainingRecord, metrics: bytes) -> tuple[TrainingRecord, bytes]:
    num_steps = rung_step(rung, num_steps=spec.num_steps)
    untrained = (spec.num_steps - num_steps) * (spec.training.effective_batch_size if spec.training else 0)
    cut = {
        "status": f"at rung {rung_name(rung)}",
        "num_steps": num_steps,
        "samples_seen": finished.samples_seen - untrained,
        "samples_spent": finished.samples_spent - untrained,
        "checkpoints": [entry for entry in finished.checkpoints if entry.step <= num_steps],
        "time_s": finished.time_s * num_steps / spec.num_steps,
    }
    return finished.model_copy(update=cut), b"".join(metrics.splitlines(keepends=True)[:num_steps])


def find_stopped(spec: StageSpec, verdict: Path | None, *, layout: Layout) -> tuple[TrainingRecord, bytes] | None:
    """Record and metrics to publish of a stage that `verdict` stopped, or whose parent was stopped; None of one that goes on.

    The former is published as it was at the rung, the latter as nothing at all.
    """
    if verdict and (status := stopped_status(verdict)):
        names = (spec.model, spec.data, spec.recipe, spec.seed, spec.stage)
        folder = layout.rung(layout.stage_results(*names), status.rpartition(" ")[2])
        record = read_record(folder / "training.json", TrainingRecord)
        return record.model_copy(update={"status": status}), (folder / "metrics.jsonl").read_bytes()
    if spec.parent is None:
        return None
    path = layout.stage_results(spec.model, spec.data, spec.parent.recipe, spec.seed, spec.parent.stage) / "training.json"
    parent = read_record(path, TrainingRecord)
    if not parent.status.startswith("stopped"):
        return None
    nothing = {
        "spec_hash": spec_hash(spec),
        "content_hash": digest([parent.content_hash, parent.status]),
        "num_steps": 0,
        "checkpoints": [],
        "num_attempts": 0,
        "time_s": 0.0,
    }
    return parent.model_copy(update=nothing), b""
