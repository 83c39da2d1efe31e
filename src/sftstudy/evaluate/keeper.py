"""Runs a server for a job, and ends it with all that it started when the job ends, however it does.

A job that is killed stops nothing any more, and a server's own processes may have left its session: without control groups a
cluster does not find them, and they hold a GPU. `servers.py` starts it: `python -m sftstudy.evaluate.keeper JOB COMMAND...`, where
JOB is the number of the process that it serves. Its exit status is the server's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import psutil

LOOKS_EVERY_S = 0.2
STOP_S = 10.0
"""How long processes may take to end after SIGTERM."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Linux's (prctl.h)."""


def keep(job: int, command: list[str]) -> int:
    """Run the command until it ends, the process `job` is gone, or SIGTERM or SIGINT comes; then end all that is left of it."""
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: told.append(number))
    # a cluster's warning, and the end of a terminal, are the job's affair; a handler is not handed on to the server, as SIG_IGN is
    for number in (signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    _set(PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent becomes our child, whatever its session
    server = subprocess.Popen(command, start_new_session=True, preexec_fn=lambda: _set(PR_SET_PDEATHSIG, signal.SIGKILL))
    while server.poll() is None and os.getppid() == job and not told:
        time.sleep(LOOKS_EVERY_S)
    end_all()
    status = server.wait()
    return status if status >= 0 else 128 - status


def end_all() -> None:
    """End all processes below this one, those that they start meanwhile too."""
    for process in (left := psutil.Process().children(recursive=True)):
        _send(process, signal.SIGTERM)
    psutil.wait_procs(left, timeout=STOP_S)
    while left := [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]:
        for process in left:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=LOOKS_EVERY_S)


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _set(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), sys.argv[2:]))
