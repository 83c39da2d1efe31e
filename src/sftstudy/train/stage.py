"""Trains one stage of a run: checks what goes in, continues where an earlier attempt ended, saves checkpoints, publishes records.

Everything that is costly to lose lies under scratch: checkpoints, resume state and a metrics file per attempt. The records are
written last. torch is imported only if there is something to train.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pydantic import ValidationError

from sftstudy import hashes, order
from sftstudy.config import Training
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import (
    CheckpointEntry,
    MixtureRecord,
    ModelRecord,
    PhaseRecord,
    R,
    SelectionRecord,
    StepMetrics,
    TrainingRecord,
    provenance,
    read_record,
    write_bytes,
    write_record,
    write_text,
)
from sftstudy.rows import Rows, read_rows
from sftstudy.spec import StageSpec, digest, spec_hash
from sftstudy.train import checkpoints
from sftstudy.train.schedule import learning_rate

if TYPE_CHECKING:
    from sftstudy.train.loop import Sample, StepResult

RESUME_EVERY_S = 600.0
SECONDS_PER_REPORT = 4.0
STORED_DTYPE = {"fp32": "float32", "bf16": "bfloat16"}
"""Checkpoints are stored in the compute precision: scoring sees the weights that the forward pass saw, and the next stage starts
from them. Resume state keeps the fp32 master weights."""


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
    content_hash: str


def train_stage(
    spec: StageSpec, *, layout: Layout, resume_every_s: float = RESUME_EVERY_S, resume_every_steps: int | None = None
) -> None:
    """Train a stage to its end, or only publish it if it is finished and its checkpoints are whole.

    Resume state is saved at each declared checkpoint, every `resume_every_s` seconds, and every `resume_every_steps` steps.
    Raises StudyError for inputs that are missing or not those planned, a loss that is not finite, after SIGTERM, once saved, or if
    another process is at the same stage.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise StudyError("train_stage: several processes aren't supported yet; start it without torchrun")
    if spec.training is None:
        raise StudyError(f"{spec.stage}: an untouched base is not trained; its weights are those of the model")
    inputs = read_inputs(spec, layout=layout)
    names = (spec.model, spec.data, spec.recipe, spec.seed, spec.stage)
    results, scratch = layout.stage_results(*names), layout.stage_scratch(*names)
    identity = {"spec_hash": spec_hash(spec), "content_hash": inputs.content_hash}
    with locked(scratch):
        claim(scratch, identity)
        if not is_finished(spec, scratch, identity):
            _train(spec, spec.training, inputs, layout, scratch, identity, resume_every_s, resume_every_steps)
        write_bytes(results / "metrics.jsonl", (scratch / "metrics.jsonl").read_bytes())
        write_record(results / "training.json", read_record(scratch / "finished.json", TrainingRecord))


# --- what goes in ----------------------------------------------------------------------------------------------------


def read_inputs(spec: StageSpec, *, layout: Layout) -> Inputs:
    """Read the records of model, parent, mixture and phases. Raises StudyError if one is missing or answers to another spec."""
    path = layout.model_record(spec.model)
    model = _current(path, ModelRecord, spec.model_hash)
    start = Start(layout.model_folder(spec.model), model.weights_hash, 0, 0, 0, f"snakemake -c1 --forcerun {path}")
    if spec.parent is not None:
        start = _start_from_parent(spec, layout)
    path = layout.stage_results(spec.model, spec.data, spec.recipe, spec.seed, spec.stage) / "data.json"
    mixture = _current(path, MixtureRecord, spec_hash(spec, "mix_stage"))
    data_hashes = {}
    for part in spec.mixture:
        phase = _current(layout.phase_record(spec.model, spec.data, part.phase), PhaseRecord, part.spec_hash)
        data_hashes[part.phase] = phase.data_hash
    phases, rows = order.mixture_rows(spec.mixture, seed=spec.seed)
    hash_of_rows = order.rows_hash(spec.mixture, phases, rows)
    if mixture.content_hash != order.content_hash(data_hashes, hash_of_rows=hash_of_rows) or mixture.rows_hash != hash_of_rows:
        raise StudyError(f"{path}: not the mixture of today's phases; build it again with `snakemake -c1 --forcerun {path}`")
    content_hash = digest({"mixture": mixture.content_hash, "start": start.weights_hash, "tokenizer": model.tokenizer_hash})
    return Inputs(start, model, mixture, data_hashes, content_hash)


def _start_from_parent(spec: StageSpec, layout: Layout) -> Start:
    parent = spec.parent
    assert parent is not None, "called for stages that continue another"
    names = (spec.model, spec.data, spec.recipe, spec.seed, parent.stage)
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
        remedy=f"snakemake -c1 --forcerun {training_path}",
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
        path = layout.phase_rows(spec.model, spec.data, part.phase)
        prepared.append(read_rows(path, remedy=remedy))
        if prepared[-1].data_hash() != inputs.data_hashes[part.phase]:
            raise StudyError(f"{path}: not the rows of its record; {remedy}")
    phases, rows = order.mixture_rows(spec.mixture, seed=spec.seed)
    batch_size = spec.training.effective_batch_size if spec.training else 0

    def samples_of(step_index: int) -> list[Sample]:
        taken = order.samples_of_step(step_index, batch_size=batch_size, num_samples=len(rows), seed=spec.seed)
        return [prepared[phases[sample]].row(rows[sample]) for sample in taken]

    return samples_of


# --- what an earlier attempt left ------------------------------------------------------------------------------------


@contextmanager
def locked(scratch: Path) -> Iterator[None]:
    """Within it, no other process trains this stage. Raises StudyError if one does.

    The lock file lies beside the folder, which may be moved, and stays: the kernel gives it free when its holder ends, however.
    """
    path = scratch.with_name(f".{scratch.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StudyError(f"{scratch}: another process trains this stage ({holder}); wait for its end, or end it") from None
        except OSError as error:  # some cluster file systems are mounted without locks
            print(f"{scratch}: cannot be locked ({error.strerror}); see to it that only one process trains it", file=sys.stderr)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def claim(scratch: Path, identity: dict[str, str]) -> None:
    """Make the stage's scratch folder ours.

    One of another spec or of other data is never continued, and never deleted: it is moved to `<stage>.stale-<digest>`, and taken
    back once its spec and data are today's again.
    """
    found = _identity_of(scratch)
    if found == identity:
        return
    if scratch.is_dir() and any(scratch.iterdir()):
        stale = free = _stale(scratch, found)
        number = 1
        while free.exists():
            number += 1
            free = stale.with_name(f"{stale.name}-{number}")
        print(f"{scratch}: from another spec or other data; moved to {free}, which may be deleted", file=sys.stderr)
        os.replace(scratch, free)
    ours = _stale(scratch, identity)
    if _identity_of(ours) == identity:
        print(f"{scratch}: taken back from {ours}", file=sys.stderr)
        os.replace(ours, scratch)
        return
    write_text(scratch / "identity.json", json.dumps(identity) + "\n")


def _identity_of(folder: Path) -> Any:
    """What a stage's folder was claimed for; None if it was not, or its mark is broken."""
    try:
        return json.loads((folder / "identity.json").read_bytes())
    except (OSError, ValueError):
        return None


def _stale(scratch: Path, identity: Any) -> Path:
    return scratch.with_name(f"{scratch.name}.stale-{'unknown' if identity is None else digest(identity)}")


def is_finished(spec: StageSpec, scratch: Path, identity: dict[str, str]) -> bool:
    """Whether all is there to publish: the finished record, merged metrics, and every declared checkpoint, whole.

    A finished stage whose weights are gone starts anew, since nothing can bring them back but training.
    """
    if not (scratch / "finished.json").is_file():
        return False
    finished = read_record(scratch / "finished.json", TrainingRecord)
    hashes_of = {entry.ckpt: entry.weights_hash for entry in finished.checkpoints}
    broken = [
        place.ckpt
        for place in spec.checkpoints
        if (facts := checkpoint_facts(scratch / place.ckpt, identity)) is None or facts["weights_hash"] != hashes_of.get(place.ckpt)
    ]
    if not broken and (scratch / "metrics.jsonl").is_file():
        return True
    print(f"{scratch}: finished, but {', '.join(broken) or 'metrics.jsonl'} is gone or broken; training again", file=sys.stderr)
    (scratch / "finished.json").unlink()
    shutil.rmtree(scratch / "resume", ignore_errors=True)
    shutil.rmtree(scratch / "attempts", ignore_errors=True)
    return False


def checkpoint_facts(folder: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    """The facts of a checkpoint that is whole and was made from these inputs, else None."""
    facts = checkpoints.facts_of(folder)
    return facts if facts is not None and identity.items() <= facts.items() else None


def merge_attempts(folder: Path) -> list[StepMetrics]:
    """Metrics of all attempts, oldest first: from the step where it resumed, a later attempt replaces the earlier ones.

    An attempt counts up to its first line that is cut off by a kill or garbled by a loss of power; whether what is left suffices to
    continue is for `find_resume` to judge.
    """
    merged: list[StepMetrics] = []
    for path in sorted(folder.glob("metrics-*.jsonl")):
        found: list[StepMetrics] = []
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                found.append(StepMetrics.model_validate_json(line))
            except ValidationError:
                break
        if found:
            merged = [entry for entry in merged if entry.step < found[0].step] + found
    return merged


def find_resume(spec: StageSpec, scratch: Path, identity: dict[str, str]) -> tuple[int, Path] | None:
    """(steps done, file) of the newest resume state that is whole and before which no checkpoint and no metrics are missing."""
    steps = [entry.step for entry in merge_attempts(scratch / "attempts")]
    for step, path in checkpoints.resume_states(scratch / "resume", **identity):
        due = [place.ckpt for place in spec.checkpoints if place.step <= step]
        if steps[:step] == list(range(1, step + 1)) and all(checkpoint_facts(scratch / ckpt, identity) for ckpt in due):
            return step, path
    return None


# --- training --------------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """A line on stderr every few seconds."""

    num_steps: int
    first_step: int
    began: float = field(default_factory=time.monotonic)
    reported: float = 0.0
    num_tokens: int = 0

    def report(self, metrics: StepMetrics) -> None:
        """Count a step; print if it is time, or if it was the last."""
        self.num_tokens += metrics.num_tokens
        now = time.monotonic()
        if now - self.reported < SECONDS_PER_REPORT and metrics.step < self.num_steps:
            return
        self.reported = now
        elapsed = now - self.began
        left = elapsed / (metrics.step - self.first_step) * (self.num_steps - metrics.step)
        print(
            f"step {metrics.step}/{self.num_steps}, {metrics.samples_seen} samples seen, loss {metrics.loss:.4f}, "
            f"{self.num_tokens / elapsed:.0f} tokens/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def _train(
    spec: StageSpec,
    training: Training,
    inputs: Inputs,
    layout: Layout,
    scratch: Path,
    identity: dict[str, str],
    resume_every_s: float,
    resume_every_steps: int | None,
) -> None:
    base, remedy = layout.model_folder(spec.model), f"snakemake -c1 --forcerun {layout.model_record(spec.model)}"
    if not base.is_dir() or hashes.tokenizer_hash(base) != inputs.model.tokenizer_hash:
        raise StudyError(f"{base}: gone or changed; `{remedy}`")
    samples_of = load_samples(spec, inputs, layout=layout)
    resume = find_resume(spec, scratch, identity)
    if resume is None:
        _check_weights(inputs.start.folder, inputs.start.weights_hash, inputs.start.remedy)
        shutil.rmtree(scratch / "resume", ignore_errors=True)
        shutil.rmtree(scratch / "attempts", ignore_errors=True)
    else:
        _check_weights(base, inputs.model.weights_hash, remedy)
        checkpoints.forget_after(scratch / "resume", resume[0])

    import torch

    from sftstudy.train import loop

    torch.manual_seed(spec.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # the resume state overwrites the weights of `base`, which then lends only its config
    model = load_model(inputs.start.folder if resume is None else base, device=device)
    optimizer = loop.make_optimizer(model, training)
    first_step = 0
    if resume is not None:
        first_step = resume[0]
        state = torch.load(resume[1], map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        print(f"continuing after step {first_step} of {spec.num_steps}", file=sys.stderr)

    def write_state(path: Path) -> None:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}, path)

    places = {place.step: place.ckpt for place in spec.checkpoints}
    progress = Progress(spec.num_steps, first_step)
    step_began = saved = time.monotonic()

    with _attempt_file(scratch / "attempts") as log, _stop_signal() as stopped:

        def after_step(step: int, result: StepResult) -> None:
            nonlocal step_began, saved
            time_s = time.monotonic() - step_began
            metrics = StepMetrics(
                step=step,
                samples_seen=inputs.start.samples_seen + step * training.effective_batch_size,
                loss=result.loss,
                grad_norm=result.grad_norm,
                learning_rate=result.learning_rate,
                num_supervised_tokens=result.num_supervised_tokens,
                num_tokens=result.num_tokens,
                time_s=time_s,
                tokens_per_s=result.num_tokens / time_s,
            )
            log.write(metrics.model_dump_json() + "\n")
            log.flush()
            progress.report(metrics)
            if step in places:
                checkpoints.save_weights(
                    scratch / places[step], model, base=base, dtype=STORED_DTYPE[training.precision], step=step, **identity
                )
            stop = stopped() if step < spec.num_steps else None
            due = time.monotonic() - saved >= resume_every_s or (resume_every_steps and step % resume_every_steps == 0)
            if step in places or due or stop:
                os.fsync(log.fileno())
                checkpoints.save_resume(scratch / "resume", step=step, write=write_state, **identity)
                saved = time.monotonic()
            if stop:
                raise StudyError(
                    f"stopped by {stop} after step {step} of {spec.num_steps}, state saved; start it again to continue"
                )
            step_began = time.monotonic()

        loop.train(
            model,
            optimizer,
            first_step=first_step,
            num_steps=spec.num_steps,
            training=training,
            samples_of=samples_of,
            rate_of=lambda step_index: learning_rate(step_index, num_steps=spec.num_steps, training=training),
            after_step=after_step,
        )
    metrics = merge_attempts(scratch / "attempts")
    check_metrics(metrics, num_steps=spec.num_steps, training=training)
    cuda = device.type == "cuda"
    record = TrainingRecord(
        spec_hash=identity["spec_hash"],
        content_hash=identity["content_hash"],
        **provenance("torch", "transformers", "numpy"),
        num_steps=spec.num_steps,
        samples_seen=inputs.start.samples_seen + spec.num_steps * training.effective_batch_size,
        samples_spent=inputs.start.samples_spent + spec.num_steps * training.effective_batch_size,
        checkpoints=checkpoint_entries(spec, inputs.start, metrics, scratch=scratch, identity=identity),
        loss_normalisation=loop.LOSS_NORMALISATION,
        precision=training.precision,
        attention=str(model.config._attn_implementation),
        device=torch.cuda.get_device_name(device) if cuda else "cpu",
        num_processes=1,
        num_threads=torch.get_num_threads(),
        num_attempts=len(list((scratch / "attempts").glob("metrics-*.jsonl"))),
        time_s=sum(entry.time_s for entry in metrics),
        peak_memory_gb=(torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        / 1e9,
    )
    write_text(scratch / "metrics.jsonl", "".join(entry.model_dump_json() + "\n" for entry in metrics))
    write_record(scratch / "finished.json", record)
    shutil.rmtree(scratch / "resume", ignore_errors=True)


def load_model(folder: Path, *, device: Any) -> Any:
    """A causal model with fp32 weights, whatever its folder stores. Only the modules of its own architecture are imported."""
    import torch
    import transformers

    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).to(device)


def check_metrics(metrics: list[StepMetrics], *, num_steps: int, training: Training) -> None:
    """Raise StudyError unless there is one entry per step, and each used exactly the scheduled learning rate."""
    if [entry.step for entry in metrics] != list(range(1, num_steps + 1)):
        raise StudyError(
            f"metrics hold {len(metrics)} steps, {num_steps} were planned; delete the stage's scratch folder and train again"
        )
    for entry in metrics:
        planned = learning_rate(entry.step - 1, num_steps=num_steps, training=training)
        if entry.learning_rate != planned:
            raise StudyError(
                f"step {entry.step}: learning rate {entry.learning_rate} was used, the schedule says {planned}; this is a bug"
            )


def checkpoint_entries(
    spec: StageSpec, start: Start, metrics: list[StepMetrics], *, scratch: Path, identity: dict[str, str]
) -> list[CheckpointEntry]:
    """Entries of all declared checkpoints. Raises StudyError if one was not saved."""
    batch_size = spec.training.effective_batch_size if spec.training else 0
    entries = []
    for place in spec.checkpoints:
        facts = checkpoint_facts(scratch / place.ckpt, identity)
        if facts is None or facts["step"] != place.step:
            raise StudyError(f"{scratch / place.ckpt}: declared, but not saved whole; start the stage again")
        entries.append(
            CheckpointEntry(
                ckpt=place.ckpt,
                step=place.step,
                samples_seen=start.samples_seen + place.step * batch_size,
                samples_spent=start.samples_spent + place.step * batch_size,
                supervised_tokens_seen=start.supervised_tokens_seen
                + sum(entry.num_supervised_tokens for entry in metrics[: place.step]),
                weights_hash=facts["weights_hash"],
            )
        )
    return entries


def _check_weights(folder: Path, weights_hash: str, remedy: str) -> None:
    if not (folder / "config.json").is_file():
        raise StudyError(f"{folder}: weights are gone; to make them again: `{remedy}`")
    if hashes.weights_hash(folder) != weights_hash:
        raise StudyError(f"{folder}: other weights or another config than its record says; to make them again: `{remedy}`")


@contextmanager
def _attempt_file(folder: Path) -> Iterator[TextIO]:
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.stem.split("-")[1]) for path in folder.glob("metrics-*.jsonl")), default=0)
    with (folder / f"metrics-{number:04d}.jsonl").open("x") as file:
        yield file


@contextmanager
def _stop_signal() -> Iterator[Callable[[], str | None]]:
    """Within it, SIGTERM and SIGUSR1 (a cluster's warning) only raise a flag; the function yielded names the signal, or None."""
    received: list[str] = []
    watched = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, lambda number, _: received.append(signal.Signals(number).name)) for number in watched]
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in zip(watched, before, strict=True):
            signal.signal(number, handler)
