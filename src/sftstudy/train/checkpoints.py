"""Folders that hold weights or resume state: written to a temporary name, flushed, sealed with a marker of hashes, then renamed.

A folder without a marker that fits its files does not exist for us.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftstudy import hashes
from sftstudy.records import write_text

if TYPE_CHECKING:
    from sftstudy.train.parallel import World

MARKER = "complete.json"
NUM_RESUME_STATES = 2
RESUME_EVERY_S = 600.0


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


def seal(partial: Path, folder: Path, facts: dict[str, Any]) -> None:
    """Flush a filled folder to disk, put a marker with hashes and `facts` into it, and rename it; an older `folder` is replaced."""
    for path in sorted(partial.iterdir()):
        path.chmod(0o644)  # transformers saves weights for their owner alone, and clusters have groups
        _flush(path)
    write_text(partial / MARKER, json.dumps({"facts": facts, "files": hashes.folder_digest(partial)}, indent=1))
    _flush(partial)
    remove(folder)
    os.replace(partial, folder)
    _flush(folder.parent)


def facts_of(folder: Path, *, verify: bool = True) -> dict[str, Any] | None:
    """The facts in a folder's marker; None if there is no marker, or a file is gone or, with `verify`, has other bytes."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        files: dict[str, str] = marker["files"]
        facts: dict[str, Any] = marker["facts"]
        good = all((folder / name).is_file() for name in files)
        if verify:
            good = good and all(hashes.sha256_of(folder / name) == value for name, value in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if good else None


def remove(folder: Path) -> None:
    """Delete a folder, marker first, so that a half-deleted one cannot pass for whole."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


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
    """How often resume state is saved besides at each checkpoint."""

    every_s: float = RESUME_EVERY_S
    every_steps: int | None = None

    def is_due(self, step: int, *, seconds_since: float) -> bool:
        """Whether to save after `step` updates, `seconds_since` the last save."""
        return seconds_since >= self.every_s or bool(self.every_steps and step % self.every_steps == 0)


USUAL = Saving()


def save_resume(folder: Path, *, step: int, write: Callable[[Path], None], world: World, **facts: Any) -> None:
    """Write resume state after `step` updates and keep the newest two. All processes together let `write` fill a folder."""
    state = folder / f"step{step:08d}"
    partial = world.first_decides(lambda: begin(state))
    try:
        write(partial)
        world.first_decides(lambda: seal(partial, state, {"step": step, **facts}))
    except BaseException:
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
