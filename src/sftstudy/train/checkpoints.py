"""Folders that hold weights or resume state: written to a temporary name, flushed, sealed with a marker of hashes, then renamed.

A folder without a marker that fits its files does not exist for us.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sftstudy import hashes
from sftstudy.records import write_text

MARKER = "complete.json"
NUM_RESUME_STATES = 2


@contextlib.contextmanager
def sealed_folder(folder: Path, facts: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder to fill; on leaving it is flushed to disk, gets a marker with hashes and `facts`, and the name `folder`.

    An older folder of that name is replaced. On an exception nothing of it stays. Facts may be added until the end.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    remove(partial)
    partial.mkdir()
    try:
        yield partial
        for path in sorted(partial.iterdir()):
            path.chmod(0o644)  # transformers saves weights for their owner alone, and clusters have groups
            _flush(path)
        write_text(partial / MARKER, json.dumps({"facts": facts, "files": hashes.folder_digest(partial)}, indent=1))
        _flush(partial)
        remove(folder)
        os.replace(partial, folder)
        _flush(folder.parent)
    except BaseException:
        remove(partial)
        raise


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


def save_weights(folder: Path, model: Any, *, base: Path, dtype: str, **facts: Any) -> None:
    """Write a checkpoint in Hugging Face layout, with the tokenizer files of `base`; its marker has `facts` and `weights_hash`.

    `dtype` is the stored type, such as `float32`; the model in memory is left as it is.
    """
    import torch

    with sealed_folder(folder, facts) as partial:
        stored: dict[int, Any] = {}  # tied weights stay one tensor, and are stored once
        state = {}
        for name, tensor in model.state_dict().items():
            key = tensor.data_ptr()
            if key not in stored:
                stored[key] = tensor.detach().to("cpu", getattr(torch, dtype))
            state[name] = stored[key]
        model.save_pretrained(partial, state_dict=state)
        config = json.loads((partial / "config.json").read_text())
        config["dtype"] = dtype
        (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        for name in (*hashes.TOKENIZER_FILES, "generation_config.json"):
            if (base / name).is_file():
                shutil.copyfile(base / name, partial / name)
        facts["weights_hash"] = hashes.weights_hash(partial)


# --- resume state ----------------------------------------------------------------------------------------------------


def save_resume(folder: Path, *, step: int, write: Callable[[Path], None], **facts: Any) -> None:
    """Write resume state after `step` updates and keep the newest two. `write` fills a file."""
    with sealed_folder(folder / f"step{step:08d}", {"step": step, **facts}) as partial:
        write(partial / "state.pt")
    for old in [*sorted(folder.glob("step*"))[:-NUM_RESUME_STATES], *folder.glob(".step*.partial")]:
        remove(old)


def forget_after(folder: Path, step: int) -> None:
    """Delete the resume states of later steps. They proved unusable, and would outlive those that training writes from here on."""
    for path in folder.glob("step*"):
        if int(path.name.removeprefix("step")) > step:
            remove(path)


def resume_states(folder: Path, **facts: Any) -> Iterator[tuple[int, Path]]:
    """(step, file) of the resume states whose bytes verify and whose facts are these, newest first; others are passed over."""
    for candidate in sorted(folder.glob("step*"), reverse=True):
        found = facts_of(candidate)
        if found is not None and all(found.get(name) == value for name, value in facts.items()):
            yield int(found["step"]), candidate / "state.pt"


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
