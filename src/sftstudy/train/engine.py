"""Runs a stage's optimizer steps from the last good state to the end, saving checkpoints, resume state and metrics on the way."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sftstudy import hashes, timesheet
from sftstudy.config import Training
from sftstudy.errors import OutOfTimeError, StoppedError, StudyError
from sftstudy.paths import Layout
from sftstudy.records import StepMetrics
from sftstudy.screen import rung_step
from sftstudy.spec import StageSpec
from sftstudy.train import checkpoints, loop, models
from sftstudy.train.attempts import find_resume, set_aside
from sftstudy.train.attention import attention_of, is_packed
from sftstudy.train.checkpoints import Saving, disk_errors
from sftstudy.train.finish import finish
from sftstudy.train.flops import peak_flops, step_flops
from sftstudy.train.inputs import Inputs, load_samples
from sftstudy.train.loop import StepResult
from sftstudy.train.notes import Notes, taking_notes
from sftstudy.train.parallel import World, spread
from sftstudy.train.saving import load_state, save_checkpoint, save_state
from sftstudy.train.schedule import learning_rate

DIVERGED_STEPS = 10
"""Steps in a row with a loss above twice that of guessing, ln(vocabulary), after which a run is given up."""


def run_stage(
    spec: StageSpec,
    training: Training,
    inputs: Inputs,
    *,
    layout: Layout,
    identity: dict[str, str],
    world: World,
    saving: Saving,
    still_ours: Callable[[], None],
    rung: float | None = None,
) -> None:
    """Train to the end and leave `finished.json` and merged metrics in the stage's scratch folder. Every process calls it.

    With `rung`, a share of the stage's steps, train up to it and no further: leave state to continue from, and the rung's records.

    `still_ours` is called before anything is saved, and raises StudyError if another process has taken the folder over. Raises
    StudyError that names the step if loss or norm is not finite, the run has diverged, or memory or disk run out; the last good
    state stays. Raises StoppedError after SIGTERM or SIGUSR1, OutOfTimeError before the job's end, once saved.
    """
    base = layout.model_folder(spec.model)
    scratch = layout.stage_scratch(spec.model, spec.data, spec.recipe, spec.seed, spec.stage)
    resume = world.first_decides(lambda: _where_to_begin(spec, inputs, base=base, layout=layout, identity=identity))
    first_step = resume[0] if resume else 0
    timesheet.known(first_step)
    last_step = rung_step(rung, num_steps=spec.num_steps) if rung else spec.num_steps
    samples_of = load_samples(spec, inputs, layout=layout)

    packed = is_packed(training, models.model_type(base))
    attention = attention_of(world.device, packed=packed, precision=training.precision)
    # resume state overwrites the weights of `base`, which then lends only its config; adapters stand on frozen ones
    start = base if resume and not training.lora else inputs.start.folder
    model = models.prepared(models.load_model(start, attention=attention), training, seed=spec.seed)
    spread(model, world, precision=training.precision, sharding=training.sharding, cpu_offload=training.cpu_offload)
    optimizer = loop.make_optimizer(model, training)
    if resume:
        load_state(resume[1], model, optimizer)
        if world.is_first:
            print(f"continuing after step {first_step} of {spec.num_steps}", file=sys.stderr)

    peak = peak_flops(world.device_name, precision=training.precision)
    places = {place.step: place.ckpt for place in spec.checkpoints}
    guessing = math.log(model.config.vocab_size)
    lost = 0  # steps in a row that were worse than guessing
    step_began = saved = time.monotonic()
    save_took_s = 0.0
    run = f"{spec.model}-{spec.data}-{spec.recipe}-seed{spec.seed}-{spec.stage}"
    attempt = (
        taking_notes(scratch, run=run, num_steps=spec.num_steps, first_step=first_step) if world.is_first else nullcontext(Notes())
    )
    with disk_errors(scratch), attempt as notes, _stop_signal() as stopped:

        def after_step(step: int, result: StepResult) -> None:
            nonlocal step_began, saved, save_took_s, lost
            now = time.monotonic()
            metrics = _metrics(step, result, inputs=inputs, model=model, time_s=now - step_began, peak=peak, world=world)
            notes.step(metrics)
            timesheet.worked(metrics.time_s)
            lost = lost + 1 if result.loss > 2 * guessing else 0
            if lost == DIVERGED_STEPS:
                why = f"the loss was above {2 * guessing:.1f}, twice that of guessing, for {lost} steps"
                world.fail(StudyError(f"step {step}: diverged: {why}; lower learning_rate"))
            if step in places:
                still_ours()
                save_checkpoint(
                    scratch / places[step],
                    model,
                    training=training,
                    base=base,
                    start=inputs.start.folder,
                    step=step,
                    world=world,
                    facts=identity,
                )
            goes_on = step < last_step
            told = stopped() if goes_on else None
            is_last = world.is_first and goes_on and saving.is_out_of_time(now=now, step_s=now - step_began, took_s=save_took_s)
            due = world.is_first and saving.is_due(step, since_s=now - saved, took_s=save_took_s)
            due = due or step == last_step < spec.num_steps
            # a signal reaches the processes at different times, and clocks differ: they stop and save together
            stops, lasts, dues = world.total(told is not None, is_last, due)
            if step in places or dues or stops or lasts:
                save_began = time.monotonic()
                notes.to_disk()
                still_ours()
                checkpoints.save_resume(
                    scratch / "resume",
                    step=step,
                    write=lambda folder: save_state(folder, model, optimizer),
                    world=world,
                    **identity,
                )
                timesheet.safe()
                saved = time.monotonic()
                save_took_s = saved - save_began
            if lasts:
                world.fail(OutOfTimeError(f"the job's time is up after step {step} of {spec.num_steps}, state saved"))
            if stops:
                what = f"stopped by {told or 'a signal'} after step {step} of {spec.num_steps}"
                world.fail(StoppedError(f"{what}, state saved; start it again to continue"))
            step_began = time.monotonic()

        loop.train(
            model,
            optimizer,
            first_step=first_step,
            num_steps=last_step,
            seed=spec.seed,
            training=training,
            world=world,
            packed=packed,
            samples_of=samples_of,
            rate_of=lambda step_index: learning_rate(step_index, num_steps=spec.num_steps, training=training),
            after_step=after_step,
        )
    with disk_errors(scratch):
        world.first_decides(
            lambda: finish(spec, training, inputs, scratch, identity, world=world, packed=packed, attention=attention, rung=rung)
        )


# --- where to begin --------------------------------------------------------------------------------------------------


def _where_to_begin(
    spec: StageSpec, inputs: Inputs, *, base: Path, layout: Layout, identity: dict[str, str]
) -> tuple[int, Path] | None:
    """(steps done, resume state), or None for the beginning. What this attempt makes untrue is deleted. Only the first process."""
    scratch = layout.stage_scratch(spec.model, spec.data, spec.recipe, spec.seed, spec.stage)
    remedy = f"snakemake -c1 --forcerun {layout.model_record(spec.model)}"
    if not base.is_dir() or hashes.tokenizer_hash(base) != inputs.model.tokenizer_hash:
        raise StudyError(f"{base}: gone or changed; `{remedy}`")
    resume = find_resume(spec, scratch, identity)
    if resume is None or (spec.training and spec.training.lora):
        _check_weights(inputs.start.folder, inputs.start.weights_hash, inputs.start.remedy)
    if resume is None:
        set_aside(scratch)
    else:
        _check_weights(base, inputs.model.weights_hash, remedy)
        checkpoints.forget_after(scratch / "resume", resume[0])
    return resume


def _check_weights(folder: Path, weights_hash: str, remedy: str) -> None:
    if not (folder / "config.json").is_file():
        raise StudyError(f"{folder}: weights are gone; to make them again: `{remedy}`")
    if hashes.weights_hash(folder) != weights_hash:
        raise StudyError(f"{folder}: other weights or another config than its record says; to make them again: `{remedy}`")


# --- while it runs ---------------------------------------------------------------------------------------------------


def _metrics(
    step: int, result: StepResult, *, inputs: Inputs, model: Any, time_s: float, peak: float | None, world: World
) -> StepMetrics:
    flops = step_flops(model, result.lengths, num_supervised_tokens=result.num_supervised_tokens)
    return StepMetrics(
        step=step,
        samples_seen=inputs.start.samples_seen + step * len(result.lengths),
        loss=result.loss,
        grad_norm=result.grad_norm,
        learning_rate=result.learning_rate,
        num_supervised_tokens=result.num_supervised_tokens,
        num_tokens=result.num_tokens,
        time_s=time_s,
        tokens_per_s=result.num_tokens / time_s,
        mfu=flops / time_s / (peak * world.size) if peak else None,
        peak_memory_gb=world.peak_memory_gb(),
    )


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
