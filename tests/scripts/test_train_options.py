"""What a recipe or a machine may bring: adapters, an 8-bit optimizer, trackers, a full disk, a run that diverges."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from processes import in_processes
from sftstudy import hashes
from sftstudy.config import Lora
from sftstudy.errors import StoppedError, StudyError
from sftstudy.records import StepMetrics, TrainingRecord, read_metrics, read_record
from sftstudy.train import checkpoints, loop
from sftstudy.train.checkpoints import Saving
from sftstudy.train.models import load_model
from sftstudy.train.stage import train_stage


class Killed(BaseException):
    """Stands for a kill: nobody catches it."""


def train(study: Any, stage: Any, **settings: Any) -> TrainingRecord:
    train_stage(stage, layout=study.layout, saving=Saving(**settings), device="cpu")
    return read_record(study.results(stage) / "training.json", TrainingRecord)


def losses(study: Any, stage: Any) -> list[float]:
    return [entry.loss for entry in read_metrics(study.results(stage) / "metrics.jsonl")]


def break_after(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the training loop be killed before its next step after `number` of them."""
    steps, fast = [], loop.train_step

    def dying(*args: Any, **kwargs: Any) -> Any:
        if len(steps) == number:
            raise Killed
        steps.append(1)
        return fast(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", dying)


def test_adapters_are_merged_into_plain_checkpoints_and_resume(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lora = Lora(rank=4, alpha=8.0, dropout=0.2)
    stage = study.stage(lora=lora)
    break_after(7, monkeypatch)
    with pytest.raises(Killed):
        train(study, stage, every_steps=3)
    monkeypatch.undo()
    record = train(study, stage)
    other = stage.model_copy(update={"recipe": "unbroken"})
    study.write(other)
    unbroken = train(study, other)
    assert losses(study, stage) == losses(study, other)
    assert [entry.weights_hash for entry in record.checkpoints] == [entry.weights_hash for entry in unbroken.checkpoints]
    assert record.num_attempts == 2

    base = load_model(study.layout.model_folder("toy"))
    tuned = load_model(study.scratch(stage) / "ckpt03")
    changed = {
        name
        for (name, ours), theirs in zip(tuned.named_parameters(), base.parameters(), strict=True)
        if not torch.equal(ours, theirs)
    }
    assert len(changed) == 2 * 7  # every linear layer of both blocks, embeddings and norms untouched
    assert all("proj" in name for name in changed)
    assert hashes.num_parameters(study.scratch(stage) / "ckpt03") == hashes.num_parameters(study.layout.model_folder("toy"))
    ranks = [
        torch.linalg.matrix_rank(getattr(tuned.model.layers[0].mlp, name).weight - getattr(base.model.layers[0].mlp, name).weight)
        for name in ("up_proj", "down_proj")
    ]
    assert [int(rank) for rank in ranks] == [4, 4]


def test_adapters_for_layers_that_are_not_there_end_with_one_line(study: Any) -> None:
    stage = study.stage(lora=Lora(rank=4, alpha=8.0, target_modules=["query_key_value"]))
    with pytest.raises(StudyError, match=r"recipes.yaml: lora: .*query_key_value.*; name layers of this model in target_modules"):
        train(study, stage)


def eight_bit_resume(study: Any, stage: Any, unbroken: Any) -> tuple[list[float], list[float]]:
    sys.path.append(str(Path(sys.prefix) / "extras"))
    for name in ("RANK", "WORLD_SIZE"):
        del os.environ[name]
    patch = pytest.MonkeyPatch()
    break_after(7, patch)
    with pytest.raises(Killed):
        train(study, stage, every_steps=3)
    patch.undo()
    train(study, stage)
    train(study, unbroken)
    return losses(study, stage), losses(study, unbroken)


def test_an_8_bit_optimizer_resumes(study: Any) -> None:
    stage = study.stage(optimizer="adamw-8bit")
    unbroken = stage.model_copy(update={"recipe": "unbroken"})
    study.write(unbroken)
    ((resumed, expected),) = in_processes(1, eight_bit_resume, study, stage, unbroken)
    assert resumed == expected


@pytest.mark.parametrize("place", ["_flush", "seal"])
def test_a_full_disk_ends_with_one_line_and_the_last_state_stays(study: Any, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, original, calls = study.stage(), getattr(checkpoints, place), []

    def full(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > (20 if place == "_flush" else 2):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(checkpoints, place, full)
    with pytest.raises(StudyError, match=r"01-stacked: the disk is full; make room"):
        train(study, stage, every_steps=1)
    monkeypatch.undo()
    assert len(list((study.scratch(stage) / "resume").glob("step*"))) >= 1
    assert not list(study.scratch(stage).rglob(".*partial"))
    unbroken = stage.model_copy(update={"recipe": "unbroken"})
    study.write(unbroken)
    train(study, unbroken)
    assert train(study, stage).num_attempts == 2
    assert losses(study, stage) == losses(study, unbroken)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("program", ["safetensors", "torch"])
def test_a_disk_that_is_really_full_is_recognised(program: str, small_disk: Path) -> None:
    """By what the libraries raise, which is no OSError."""
    from safetensors.torch import save_file
    from torch.distributed.checkpoint.state_dict_saver import save

    tensors = {"weight": torch.zeros(3_000_000)}
    writers: dict[str, Callable[[], object]] = {
        "safetensors": lambda: save_file(tensors, small_disk / "model.safetensors"),
        "torch": lambda: save(tensors, checkpoint_id=small_disk / "state", no_dist=True),
    }
    with pytest.raises(StudyError, match="disk: the disk is full; make room"), checkpoints.disk_errors(small_disk):
        writers[program]()
    with pytest.raises(RuntimeError, match="another"), checkpoints.disk_errors(small_disk):
        raise RuntimeError("another")


def test_what_cannot_be_read_now_is_never_given_up(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = study.stage()
    break_after(9, monkeypatch)
    with pytest.raises(Killed):
        train(study, stage, every_steps=1)
    monkeypatch.undo()
    original, before = Path.read_text, sorted(path.name for path in study.scratch(stage).rglob("*"))

    def failing(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.parent.name == "ckpt01":
            raise OSError(errno.EIO, "Input/output error")
        return original(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", failing)
    with pytest.raises(StudyError, match=r"ckpt01: cannot be read \(Input/output error\); nothing was touched, start it again"):
        train(study, stage)
    monkeypatch.undo()
    assert sorted(path.name for path in study.scratch(stage).rglob("*")) == before
    assert train(study, stage).num_attempts == 2


def test_states_that_cannot_be_continued_are_kept_until_the_stage_is_finished(
    study: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = study.stage()
    break_after(9, monkeypatch)
    with pytest.raises(Killed):
        train(study, stage, every_steps=1)
    monkeypatch.undo()
    shutil.rmtree(study.scratch(stage) / "ckpt01")
    break_after(1, monkeypatch)
    with pytest.raises(Killed):
        train(study, stage)
    monkeypatch.undo()
    assert "no earlier attempt can be continued" in capsys.readouterr().err
    assert len(list((study.scratch(stage) / "aside-1" / "resume").glob("step*"))) == 2
    train(study, stage)
    assert not (study.scratch(stage) / "aside-1").exists()


def test_saves_cost_a_twentieth_of_the_time_at_most() -> None:
    saving = Saving(every_s=600)
    assert [saving.is_due(1, since_s=since, took_s=took) for since, took in [(599, 1), (600, 1), (601, 120), (2400, 120)]] == [
        False,
        True,
        False,
        True,
    ]


def test_a_diverged_run_is_given_up_by_its_step(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    fast = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *args, **kwargs: replace(fast(*args, **kwargs), loss=50.0))
    with pytest.raises(
        StudyError, match=r"^step 10: diverged: the loss was above \d.\d, twice that of guessing, for 10 steps; lower"
    ):
        train(study, study.stage())


def test_trackers_get_every_step(study: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("SFTSTUDY_TRACKERS", "tensorboard")
    stage = study.stage()
    train(study, stage)
    (run,) = (study.scratch(stage) / "tracking").iterdir()
    assert run.name == "toy-facts-short-seed3-01-stacked"
    events = EventAccumulator(str(run)).Reload()
    seen = {entry.step: entry.value for entry in events.Scalars("loss")}
    assert seen == pytest.approx({entry.step: entry.loss for entry in read_metrics(study.results(stage) / "metrics.jsonl")})
    assert {"grad_norm", "learning_rate", "tokens_per_s", "samples_seen", "peak_memory_gb"} <= set(events.Tags()["scalars"])
    from torch.utils.tensorboard import SummaryWriter

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(SummaryWriter, "add_scalar", unreachable)
    lonely = stage.model_copy(update={"recipe": "lonely"})
    study.write(lonely)
    train(study, lonely)
    assert capsys.readouterr().err.count("tracker tensorboard: dropped, no route to host") == 1
    monkeypatch.setenv("SFTSTUDY_TRACKERS", "tensorbord")
    other = stage.model_copy(update={"recipe": "other"})
    study.write(other)
    with pytest.raises(
        StudyError, match=r"SFTSTUDY_TRACKERS: 'tensorbord' is not installed or not known; installed: .*tensorboard"
    ):
        train(study, other)


def test_metrics_have_what_a_reader_needs(study: Any) -> None:
    stage = study.stage()
    record = train(study, stage)
    entries = read_metrics(study.results(stage) / "metrics.jsonl")
    assert len(entries) == 12
    wanted = {"loss", "grad_norm", "learning_rate", "samples_seen", "num_supervised_tokens", "num_tokens", "time_s", "tokens_per_s"}
    assert wanted | {"mfu", "peak_memory_gb", "step"} == set(StepMetrics.model_fields)
    assert all(entry.num_tokens > entry.num_supervised_tokens > 0 for entry in entries)
    assert record.peak_memory_gb == max(entry.peak_memory_gb for entry in entries) > 0.1
    assert [entry.mfu for entry in entries] == [None] * 12  # a CPU's peak is not in the table


def test_stopping_keeps_exit_status_and_state(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    stage, fast, steps = study.stage(), loop.train_step, []

    def signalled(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        return fast(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", signalled)
    with pytest.raises(StoppedError, match=r"stopped by SIGUSR1 after step 5 of 12, state saved; start it again to continue"):
        train(study, stage)
    assert (study.scratch(stage) / "resume" / "step00000005").is_dir()
