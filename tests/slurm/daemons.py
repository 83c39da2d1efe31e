"""The test cluster's programs in the background: each has a pid file in the cluster's folder, by which it is found again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def start(folder: Path, name: str, command: Sequence[str], *, stays: bool = False, **variables: str) -> None:
    """Start a daemon unless it runs. One that `stays` does not go to the background by itself. RuntimeError names the log."""
    if running(folder, name) is not None:
        return
    environment: Mapping[str, str] = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), **variables}
    if stays:
        with (folder / f"{name}.log").open("a") as log:
            subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    else:
        subprocess.run(command, check=True, env=environment)
    wait_for(lambda: running(folder, name) is not None, f"{name} does not start; see {folder}/{name}.log")


def stop(folder: Path, name: str, *, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a daemon a signal, and wait for its end."""
    process = running(folder, name)
    if process is None:
        return
    os.kill(process, number)
    wait_for(lambda: running(folder, name) is None, f"{name} does not end")
    (folder / f"{name}.pid").unlink(missing_ok=True)


def running(folder: Path, name: str) -> int | None:
    """Process number of a daemon that lives."""
    try:
        process = int((folder / f"{name}.pid").read_text())
        os.kill(process, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return None
    return process


def run(*command: str, check: bool = True) -> str:
    """What a command prints."""
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout


def wait_for(condition: Callable[[], object], otherwise: str, *, patience_s: float = 30.0) -> None:
    """Return once it holds; RuntimeError, saying `otherwise`, if it does not."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(0.1)
