"""Gives each job of a workstation GPUs of its own: CUDA_VISIBLE_DEVICES, from those that STUDY_DEVICES lists.

A GPU is held by a lock on a file, which the kernel gives free when the last process that holds it ends, however. The files are the
machine's, so that two checkouts share its GPUs too. A cluster gives jobs their GPUs itself: without the variable nothing is done.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

from sftstudy.errors import StudyError

PATIENCE_S = 600.0
"""How long to wait for GPUs that Snakemake believes to be free: those of a job that was killed, while it ends."""

_held: list[TextIO] = []
"""Open files whose locks this process keeps until it ends."""


def claim(num_devices: int, *, is_worker: bool = False, patience_s: float = PATIENCE_S) -> None:
    """Hold so many GPUs of STUDY_DEVICES until this process ends, and make them the only ones that it sees.

    A process that the holder started (`is_worker`) holds the same ones with it: they stay taken if the holder is killed alone.
    Raises StudyError if there are not so many, or they are not free in time.
    """
    names = listed()
    if not names or _held:
        return
    if is_worker:
        for name in filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")):
            _keep(_opened(name))
        return
    if num_devices > len(names):
        raise StudyError(f"STUDY_DEVICES lists {len(names)} GPUs, the job wants {num_devices}; list more, or ask for fewer")
    deadline = time.monotonic() + patience_s
    while len(free := _take(names, num_devices)) < num_devices:
        if time.monotonic() > deadline:
            raise StudyError(
                f"of the GPUs {', '.join(names)} not {num_devices} are free after {patience_s:.0f} s; end what holds them "
                f"(`fuser {_folder()}/*`), or take others into STUDY_DEVICES"
            )
        time.sleep(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(free)
    print(f"GPUs: {os.environ['CUDA_VISIBLE_DEVICES']}", file=sys.stderr)


def listed() -> list[str]:
    """The GPUs that STUDY_DEVICES lists. Raises StudyError if it has one twice."""
    names = [name.strip() for name in os.environ.get("STUDY_DEVICES", "").split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise StudyError(f"STUDY_DEVICES: {','.join(names)} lists a GPU twice; list each once in site.env")
    return names


def _take(names: list[str], num_devices: int) -> list[str]:
    """Names of `num_devices` GPUs that are now held, or of none. One process chooses at a time, so that two cannot take halves."""
    with (_folder() / "choosing").open("a") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        free = {name: file for name in names if (file := _if_free(name))}
        if len(free) < num_devices:
            return []
        for file in list(free.values())[:num_devices]:
            _keep(file)
        return list(free)[:num_devices]


def _if_free(name: str) -> TextIO | None:
    file = _opened(name)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return file


def _keep(file: TextIO) -> None:
    """Hold a GPU so that workers can hold it too, and nobody else can take it."""
    fcntl.flock(file, fcntl.LOCK_SH)
    _held.append(file)


def _opened(name: str) -> TextIO:
    return (_folder() / name.replace("/", "_")).open("a")


def _folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"sftstudy-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    return folder
