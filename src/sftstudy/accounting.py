"""What SLURM's accounting says that jobs were given, one allocation for each start of a job, requeued ones included."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

FIELDS = ("JobIDRaw", "JobName", "State", "Start", "ElapsedRaw", "AllocTRES", "Comment", "WorkDir")
PATIENCE_S = 120.0

STILL_HELD = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "RESIZING", "STOPPED", "CONFIGURING", "SIGNALING"})


@dataclass(frozen=True)
class Allocation:
    """A job's hold on its nodes from `began` (seconds since 1970) on. `num_gpus` is None where accounting does not count GPUs."""

    job: str
    name: str
    state: str
    began: float
    elapsed_s: float
    num_gpus: int | None
    comment: str
    folder: str

    @property
    def is_held(self) -> bool:
        """Whether it goes on."""
        return self.state in STILL_HELD


def ask_sacct(since: float) -> list[Allocation] | str:
    """This user's allocations since then (seconds since 1970), or why SLURM does not say."""
    command = ["sacct", "--allocations", "--duplicates", "--parsable2", f"--user={os.getuid()}", f"--format={','.join(FIELDS)}"]
    command.append(f"--starttime={time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(since))}")
    variables = os.environ | {"SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    except FileNotFoundError:
        return "there is no sacct here"
    except subprocess.TimeoutExpired:
        return f"sacct did not answer within {PATIENCE_S:.0f} s"
    if done.returncode or not done.stdout:
        said = done.stderr.strip() or f"ended with status {done.returncode}"
        return f"sacct: {said.splitlines()[-1]}"
    return parse(done.stdout)


def parse(text: str) -> list[Allocation]:
    """The allocations in what sacct prints with its header. Jobs that never began are left out."""
    header, *lines = text.splitlines()
    names = header.split("|")
    found = []
    for line in lines:
        # the last field is a folder, which may hold anything
        field = dict(zip(names, line.split("|", maxsplit=len(names) - 1), strict=True))
        if field["Start"].isdigit():
            found.append(
                Allocation(
                    job=field["JobIDRaw"],
                    name=field["JobName"],
                    state=field["State"].split()[0],  # `CANCELLED by 1000`
                    began=float(field["Start"]),
                    elapsed_s=float(field["ElapsedRaw"] or 0),
                    num_gpus=gpus_of(field["AllocTRES"]),
                    comment=field["Comment"],
                    folder=field["WorkDir"],
                )
            )
    return sorted(found, key=lambda one: (one.began, one.job))


def gpus_of(tres: str) -> int | None:
    """GPUs in `billing=8,cpu=8,gres/gpu:h100=2,gres/gpu=2,mem=64G,node=1`; None if none are named.

    A site may count them in all, by kind, or both.
    """
    in_all: Sequence[str] = re.findall(r"(?:^|,)gres/gpu=(\d+)", tres)
    by_kind: Sequence[str] = re.findall(r"(?:^|,)gres/gpu:[^=,]+=(\d+)", tres)
    return sum(map(int, in_all or by_kind)) if in_all or by_kind else None
