"""Who works on a stage, or scores a part of it: one process at a time, on any node that sees the file system.

A kernel's file lock ends with its process, but many cluster file systems do not carry it from node to node. So the holder keeps a
file beside the folder and touches it while it lives. On the holder's own machine its end is seen at once; elsewhere a lease that
was not touched for `EXPIRES_S` counts as given up, by the file server's clock.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sftstudy.errors import StudyError
from sftstudy.train import slurm

TOUCHED_EVERY_S = 15.0
ASKED_EVERY_S = 2.0
EXPIRES_S = 120.0

PATIENCE_S = 600.0
"""How long a cluster's job waits for another process at its work: an orphan of a Snakemake that was killed, or of a lost node."""


@dataclass(frozen=True)
class Holder:
    """A process, and where it runs. `started` is its start in the kernel's ticks, so that a number used again fools nobody."""

    machine: str
    host: str
    process: int
    started: str | None
    job: str | None

    @classmethod
    def me(cls) -> Holder:
        """This process."""
        process = os.getpid()
        return cls(_machine(), socket.gethostname(), process, _start_of(process), slurm.job())

    def is_gone(self) -> bool:
        """Whether it is known to have ended: only of this machine's own processes."""
        return self.machine == _machine() and _start_of(self.process) != self.started

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.process} on {self.host}{job}"


UNKNOWN = Holder("", "a node", 0, None, None)
"""Of a lease that is being written, or was cut off."""


@dataclass(frozen=True)
class Lease:
    """A lease that this process took."""

    path: Path
    holder: Holder

    def check(self) -> None:
        """Raise StudyError if another process took it over, as after a long suspension: then nothing may be written."""
        if holder_of(self.path) != self.holder:
            raise StudyError(f"{self.path}: no longer ours, this process was thought dead; what the new holder writes stands")


def lease_path(folder: Path) -> Path:
    """The lease lies beside its folder, which may be moved."""
    return folder.with_name(f".{folder.name}.lease")


def patience() -> float:
    """Seconds to wait for another process at the same work: none outside a cluster's job, where somebody is there to be told."""
    return PATIENCE_S if slurm.job() else 0.0


@contextmanager
def held(folder: Path, *, patience_s: float = 0.0) -> Iterator[Lease]:
    """Within it, no other process holds the folder. Raises StudyError that names who still does after `patience_s`."""
    path, me = lease_path(folder), Holder.me()
    path.parent.mkdir(parents=True, exist_ok=True)
    gives_up, waits_for = time.monotonic() + patience_s, None
    while not _take(path, me):
        holder = holder_of(path)
        if holder is None:
            continue
        if not is_stale(path, holder):
            if time.monotonic() < gives_up:
                if holder != waits_for:
                    print(f"{folder}: waits for {holder}", file=sys.stderr, flush=True)
                waits_for = holder
                time.sleep(min(ASKED_EVERY_S, patience_s))
                continue
            remedy = f"`scancel {holder.job}`" if holder.job else "end it"
            raise StudyError(f"{folder}: another process works on it ({holder}); wait for its end, or {remedy}")
        print(f"{folder}: taken over from {holder}, which has ended", file=sys.stderr)
        _drop(path, holder)
    lease, ended = Lease(path, me), threading.Event()
    threading.Thread(target=_keep_touching, args=(lease, ended), daemon=True).start()
    try:
        yield lease
    finally:
        ended.set()
        if holder_of(path) == me:
            path.unlink(missing_ok=True)


def holder_of(path: Path) -> Holder | None:
    """Who holds a lease, alive or not; None if nobody does."""
    try:
        return Holder(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return UNKNOWN


def is_stale(path: Path, holder: Holder) -> bool:
    """Whether a lease counts as given up."""
    if holder.is_gone():
        return True
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.") as probe, suppress(FileNotFoundError):
        return Path(probe.name).stat().st_mtime - path.stat().st_mtime > EXPIRES_S
    return False


def _take(path: Path, me: Holder) -> bool:
    try:
        with path.open("x") as file:
            file.write(json.dumps(asdict(me)))
    except FileExistsError:
        return False
    return True


def _drop(path: Path, judged: Holder) -> None:
    """Remove a stale lease. If another process was quicker and what is there now is its lease, it is put back."""
    away = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}")
    with suppress(FileNotFoundError):
        os.rename(path, away)
        if holder_of(away) == judged:
            away.unlink()
        else:
            os.rename(away, path)


def _keep_touching(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(TOUCHED_EVERY_S):
        with suppress(OSError):  # the file server is away for a while, or the lease was lost: `check` will say
            if holder_of(lease.path) == lease.holder:
                os.utime(lease.path)


def _machine() -> str:
    """A running kernel and its numbering of processes: containers on one host count as different machines."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    except OSError:
        return socket.gethostname()


def _start_of(process: int) -> str | None:
    """When a process of this machine started; None if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
