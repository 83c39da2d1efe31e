"""Trains one stage of a run: checks what goes in, continues where an earlier attempt ended, saves checkpoints, publishes records.

Everything that is costly to lose lies under scratch: checkpoints, resume state and a metrics file per attempt. The records are
written last. torch is imported only if there is something to train.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftstudy import hashes
from sftstudy.config import Training
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import (
    CheckpointEntry,
    StepMetrics,
    TrainingRecord,
    provenance,
    read_record,
    write_bytes,
    write_record,
    write_text,
)
from sftstudy.spec import StageSpec, spec_hash
from sftstudy.train import checkpoints
from sftstudy.train.attempts import attempt_file, checkpoint_facts, claim, find_resume, is_finished, locked, merge_attempts
from sftstudy.train.inputs import Inputs, Start, load_samples, read_inputs
from sftstudy.train.schedule import learning_rate

if TYPE_CHECKING:
    from sftstudy.train.loop import StepResult

RESUME_EVERY_S = 600.0
SECONDS_PER_REPORT = 4.0
STORED_DTYPE = {"fp32": "float32", "bf16": "bfloat16"}
"""Checkpoints are stored in the compute precision: scoring sees the weights that the forward pass saw, and the next stage starts
from them. Resume state keeps the fp32 master weights."""


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

    with attempt_file(scratch / "attempts") as log, _stop_signal() as stopped:

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
