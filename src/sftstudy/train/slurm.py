"""What a training job asks of SLURM: which job it is, how much time is left, to be queued again, and to start on all its nodes.

Snakemake's job step removes SLURM's variables but for a few before it starts a rule, and its own `srun` sets those of a step of one
task. So everything is asked of SLURM by the job's number, and an inner `srun` is started without such variables.
"""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sftstudy.errors import OutOfTimeError

PATIENCE_S = 60.0
"""How long a job that was queued again waits for SLURM to end it."""

LAST_NODE_WAITS_S = 120
"""How long the other nodes may take to end after the first one did."""


def job() -> str | None:
    """Number of the job that this process runs in."""
    return os.environ.get("SLURM_JOB_ID")


def ends_at() -> float:
    """When SLURM ends this job, on this machine's monotonic clock; infinity outside a job, without a limit, or if SLURM is away."""
    number = job()
    left = parse_time_left(_ask(["squeue", "--noheader", "--jobs", number, "--format", "%L"]) or "") if number else None
    return math.inf if left is None else time.monotonic() + left


def parse_time_left(text: str) -> float | None:
    """Seconds from squeue's `[days-][[hours:]minutes:]seconds`; None for its words, such as UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


@contextmanager
def queued_again() -> Iterator[None]:
    """Within it, work that saved because its job's time is up has the job queued again, under the same number.

    To Snakemake it is one job that goes on, and no retry is spent. If SLURM refuses, the error goes its way.
    """
    try:
        yield
    except OutOfTimeError as error:
        number = job()
        if number is None or _ask(["scontrol", "requeue", number]) is None:
            raise
        # what is saved need not be told to save: SLURM's SIGTERM ends this process, and the job's nodes are free
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print(f"{error}; job {number} was queued again", file=sys.stderr, flush=True)
        time.sleep(PATIENCE_S)
        raise


def on_all_nodes(program: Sequence[str], *, num_nodes: int) -> list[str]:
    """Command that runs `program` (a script and its arguments) once on each node of this job.

    `--meet HOST:PORT` is added to it: a free port of this node, where the processes find each other.
    """
    with socket.socket() as free:
        free.bind(("", 0))
        place = f"{socket.gethostname()}:{free.getsockname()[1]}"
    spread = [f"--nodes={num_nodes}", f"--ntasks={num_nodes}", "--ntasks-per-node=1", f"--wait={LAST_NODE_WAITS_S}"]
    where = [f"--jobid={number}"] if (number := job()) else []
    return ["srun", "--overlap", *where, *spread, sys.executable, *program, "--meet", place]


def without_steps_variables() -> dict[str, str]:
    """This process's environment for a step of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_", "SBATCH_"))}


def node_number() -> int:
    """Which of its step's nodes this process runs on, from 0."""
    return int(os.environ["SLURM_NODEID"])


def _ask(command: Sequence[str]) -> str | None:
    """What SLURM answers; None if it refuses, is not here or is away."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip()
        print(f"{command[0]}: {why}", file=sys.stderr)
        return None
