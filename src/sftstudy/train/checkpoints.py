"""Folders that hold weights or resume state: written to a temporary name, flushed, sealed with a marker of hashes, then renamed.

A folder without a marker that fits its files does not exist for us.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftstudy import hashes
from sftstudy.errors import StudyError
from sftstudy.records import write_text

if TYPE_CHECKING:
    from sftstudy.train.parallel import World

MARKER = "complete.json"
NUM_RESUME_STATES = 2
RESUME_EVERY_S = 600.0
SPARE_S = 60.0
"""What a job keeps of its time to end in good order, besides the time of a step and a save."""


@contextlib.contextmanager
def sealed_folder(folder: Path, facts: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder to fill; on leaving it is sealed with `facts`, which may grow until then. An exception leaves nothing."""
    partial = begin(folder)
    try:
        yield partial
        seal(partial, folder, facts)
    except BaseException:
        remove(partial)
        raise


def begin(folder: Path) -> Path:
    """An empty folder to fill, that `seal` gives the name `folder`."""
    partial = folder.with_name(f".{folder.name}.partial")
    remove(partial)
    partial.mkdir(parents=True)
    return partial


def seal(partial: Path, folder: Path, facts: dict[str, Any], *, known: Mapping[str, str] | None = None) -> None:
    """Flush a filled folder to disk, put a marker with hashes and `facts` into it, and rename it; an older `folder` is replaced.

    `known` are the hashes of files that other processes have taken. Raises OSError if a file goes away meanwhile.
    """
    files = dict(known or {})
    for path in sorted(partial.iterdir()):
        path.chmod(0o644)  # transformers saves weights for their owner alone, and clusters have groups
        _flush(path)
        files[path.name] = files.get(path.name) or hashes.sha256_of(path)
    write_text(partial / MARKER, json.dumps({"facts": facts, "files": files}, indent=1, sort_keys=True))
    _flush(partial)
    remove(folder)
    os.replace(partial, folder)
    _flush(folder.parent)


def facts_of(folder: Path, *, verify: bool = True) -> dict[str, Any] | None:
    """The facts in a folder's marker; None if there is no marker, or a file is gone or, with `verify`, has other bytes.

    Raises StudyError if a file is there and cannot be read: work is never given up for a file system's bad hour.
    """
    try:
        marker = json.loads((folder / MARKER).read_text())
        files: dict[str, str] = marker["files"]
        facts: dict[str, Any] = marker["facts"]
        good = all((folder / name).is_file() for name in files)
        if verify:
            good = good and all(hashes.sha256_of(folder / name) == value for name, value in files.items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    except OSError as error:
        raise unreadable(folder, error) from None
    return facts if good else None


def unreadable(path: Path, error: OSError) -> StudyError:
    """What to say of something that is there and cannot be read now."""
    return StudyError(f"{path}: cannot be read ({error.strerror}); nothing was touched, start it again once it can be")


def remove(folder: Path) -> None:
    """Delete a folder, marker first, so that a half-deleted one cannot pass for whole."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


# --- a full disk -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Within it, a full disk ends with one line. What was saved before stays."""
    try:
        yield
    except BaseException as error:  # torch's CheckpointException is no Exception
        if not _is_full_disk(error):
            raise
        raise StudyError(
            f"{folder}: the disk is full; make room (folders *.stale-* may go) and start it again, it continues from its last state"
        ) from None


def _is_full_disk(error: BaseException) -> bool:
    """Whether a write failed for want of room, in the words of whoever wrote.

    safetensors (Rust) tells the number of the system's error; torch's writer of resume state, wrapped once more by the process that
    collects what happened in all of them, only says in which of its functions a write came out short.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if type(error).__name__ == "CheckpointException":
        return any(_is_full_disk(failure) for failure, _ in getattr(error, "failures", {}).values())
    words = (f"os error {errno.ENOSPC}", f"os error {errno.EDQUOT}", "inline_container", "PytorchStreamWriter")
    return any(word in str(error) for word in words)


# --- weights ---------------------------------------------------------------------------------------------------------


def save_weights(folder: Path, weights: Mapping[str, Any], *, base: Path, dtype: str, **facts: Any) -> None:
    """Write a checkpoint in Hugging Face layout; its marker has `facts` and `weights_hash`.

    `weights` has whole tensors by name, a tied one twice. Architecture, settings and tokenizer files are those of the folder
    `base`; `dtype` is the stored type, such as `float32`.
    """
    import torch

    from sftstudy.train.models import skeleton

    with sealed_folder(folder, facts) as partial:
        stored: dict[int, Any] = {}  # tied weights stay one tensor, and are stored once
        state = {}
        for name, tensor in weights.items():
            if id(tensor) not in stored:
                stored[id(tensor)] = tensor.to("cpu", getattr(torch, dtype))
            state[name] = stored[id(tensor)]
        skeleton(base).save_pretrained(partial, state_dict=state)
        config = json.loads((partial / "config.json").read_text())
        config["dtype"] = dtype
        (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        for name in (*hashes.TOKENIZER_FILES, "generation_config.json"):
            if (base / name).is_file():
                shutil.copyfile(base / name, partial / name)
        facts["weights_hash"] = hashes.weights_hash(partial)


# --- resume state ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saving:
    """When resume state is saved besides at each checkpoint. `ends_at` is when the job is ended, by the monotonic clock."""

    every_s: float = RESUME_EVERY_S
    every_steps: int | None = None
    ends_at: float = math.inf
    spare_s: float = SPARE_S

    def is_due(self, step: int, *, since_s: float, took_s: float) -> bool:
        """Whether to save after `step` updates, `since_s` after the last save, which `took_s`: saves cost a twentieth at most."""
        return since_s >= max(self.every_s, 20 * took_s) or bool(self.every_steps and step % self.every_steps == 0)

    def is_out_of_time(self, *, now: float, step_s: float, took_s: float) -> bool:
        """Whether to save and end now: after one more step, a save twice as long as the last might not fit into what is left."""
        return now + step_s + 2 * took_s + self.spare_s > self.ends_at


USUAL = Saving()


def save_resume(folder: Path, *, step: int, write: Callable[[Path], None], world: World, **facts: Any) -> None:
    """Write resume state after `step` updates and keep the newest two. All processes together let `write` fill a folder."""
    state = folder / f"step{step:08d}"
    partial = world.first_decides(lambda: begin(state))
    try:
        write(partial)
        # each hashes what it has written: the whole would keep all devices waiting for one process
        own = {path.name: hashes.sha256_of(path) for path in partial.glob(f"__{world.rank}_*")}
        known = {name: value for files in world.gathered(own) for name, value in files.items()}
        world.first_decides(lambda: seal(partial, state, {"step": step, **facts}, known=known))
    except BaseException:
        if world.is_first:
            remove(partial)
        raise
    if world.is_first:
        for old in [*sorted(folder.glob("step*"))[:-NUM_RESUME_STATES], *folder.glob(".step*.partial")]:
            remove(old)


def forget_after(folder: Path, step: int) -> None:
    """Delete the resume states of later steps. They proved unusable, and would outlive those that training writes from here on."""
    for path in folder.glob("step*"):
        if int(path.name.removeprefix("step")) > step:
            remove(path)


def resume_states(folder: Path, **facts: Any) -> Iterator[tuple[int, Path]]:
    """(step, folder) of the resume states whose bytes verify and facts are these, newest first; others are named and skipped."""
    for candidate in sorted(folder.glob("step*"), reverse=True):
        found = facts_of(candidate)
        if found is not None and all(found.get(name) == value for name, value in facts.items()):
            yield int(found["step"]), candidate
        else:
            print(f"{candidate}: broken, or of other inputs; skipped", file=sys.stderr)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
