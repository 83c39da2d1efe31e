"""Notes what an attempt costs: a small record per start of a program that may hold GPUs, which outlasts every way to end.

The record is written at the start, every half minute (sooner while it is young), when work was made safe and at the end. Each has
a file of its own that only its process writes, whole: there is nothing to lock, on any file system. A process has one open sheet,
as it has one log; without it the functions of this module do nothing. Trouble with it never stops the work.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sftstudy.errors import OUT_OF_TIME, OutOfTimeError, StoppedError
from sftstudy.paths import Layout
from sftstudy.records import AttemptRecord, Outcome, write_record
from sftstudy.train import slurm

SEEN_EVERY = 0.05
SEEN_AT_LEAST_S, SEEN_AT_MOST_S = 1.0, 30.0
"""An attempt is seen again after this share of its age, within these bounds: what a kill hides is small beside what it cost."""

LAPS_EVERY_S = 1.0
"""Laps that follow more closely are written down together."""

DRIVER = Path("/proc/driver/nvidia/gpus")

SHEET = "STUDY_TIME_SHEET"
"""Names the record with which the first of several processes goes on for the program that started them."""


class _Sheet:
    """An attempt's record and its file, which may have been begun by another process. Its methods may be called from any thread."""

    def __init__(self, path: Path, record: AttemptRecord, *, most_gpus: int, num_nodes: int) -> None:
        self.path, self.record = path, record
        self._began = time.monotonic() - max(0.0, time.time() - record.started)
        self._most_gpus, self._num_nodes = most_gpus, num_nodes
        self._written, self._told, self._lock = 0.0, False, threading.Lock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def note(self, **changes: Any) -> None:
        """Take down changes; they are on disk after the next `write`."""
        with self._lock:
            self.record = self.record.model_copy(update=changes)

    def write(self, *, at_most_every_s: float = 0.0) -> None:
        """Bring the file up to date."""
        with self._lock:
            if self._written and time.monotonic() - self._written < at_most_every_s:
                return
            gpus = self._num_nodes * gpus_here(self._most_gpus)
            self.record = self.record.model_copy(update={"elapsed_s": self.elapsed_s, "num_gpus": gpus})
            try:
                write_record(self.path, self.record)
                self._written = time.monotonic()
            except OSError as error:
                if not self._told:
                    print(f"{self.path}: not written, its hours may not be counted: {error}", file=sys.stderr, flush=True)
                self._told = True

    def read_again(self) -> None:
        """Take over what another process has written meanwhile."""
        self.record = _read(self.path) or self.record

    def keep_writing(self, ended: threading.Event) -> None:
        """Be seen, until the attempt has ended."""
        while not ended.wait(min(max(SEEN_EVERY * self.elapsed_s, SEEN_AT_LEAST_S), SEEN_AT_MOST_S)):
            self.write()


_open: _Sheet | None = None


@contextmanager
def opened(
    rule: str,
    job: Mapping[str, str],
    *,
    spec_hash: str,
    layout: Layout,
    num_processes: int = 1,
    num_nodes: int = 1,
    uses_gpus: bool = True,
    starts_others: bool = False,
) -> Iterator[None]:
    """Within it, an attempt at a job is noted. `job` are the wildcards of its rule, in their order.

    A program that `starts_others`, `num_processes` on each of `num_nodes`, leaves the notes to the first of them, which opens the
    same sheet; the others open none.
    """
    global _open
    path, record = _handed() or _begun(rule, job, spec_hash=spec_hash, layout=layout, num_processes=num_processes * num_nodes)
    if record is None or os.environ.get("RANK", "0") != "0":
        yield
        return
    sheet = _Sheet(path, record, most_gpus=num_processes if uses_gpus else 0, num_nodes=num_nodes)
    sheet.write()
    ended = threading.Event()
    if starts_others:
        os.environ[SHEET] = str(sheet.path.absolute())
    else:
        _open = sheet
        threading.Thread(target=sheet.keep_writing, args=(ended,), daemon=True).start()
    outcome: Outcome = "finished"
    try:
        yield
    except BaseException as error:
        outcome = outcome_of(error)
        raise
    finally:
        ended.set()
        _open = None
        if starts_others:
            del os.environ[SHEET]
            sheet.read_again()
        sheet.note(outcome=outcome)
        sheet.write()


def known(units: int) -> None:
    """So many more units of this job are there already."""
    if _open:
        _open.note(units_before=_open.record.units_before + units)


def worked(seconds: float, *, units: int = 1) -> None:
    """So many units were done, in so many seconds. They are lost if the process ends before they are `safe`."""
    if _open:
        _open.note(units=_open.record.units + units, work_s=_open.record.work_s + seconds)


def safe(*, at_most_every_s: float = 0.0) -> None:
    """No later attempt need do again what was done so far. It is written down at once, or with what follows closely."""
    if _open:
        _open.note(safe_units=_open.record.units, safe_work_s=_open.record.work_s, safe_after_s=_open.elapsed_s)
        _open.write(at_most_every_s=at_most_every_s)


@contextmanager
def working(*, units: int = 1) -> Iterator[None]:
    """What is done within it is so many units, if it succeeds."""
    began = time.monotonic()
    yield
    worked(time.monotonic() - began, units=units)


def laps() -> Callable[[], None]:
    """A function that notes a unit, done and safe; it took the time since the last one, or since now."""
    began = time.monotonic()

    def lap() -> None:
        nonlocal began
        now = time.monotonic()
        worked(now - began)
        safe(at_most_every_s=LAPS_EVERY_S)
        began = now

    return lap


def gpus_here(most: int) -> int:
    """GPUs of this machine that a job has: those that CUDA_VISIBLE_DEVICES names, or SLURM says; else `most`, if there are so many.

    What a cluster has given counts whether or not it is used.
    """
    visible, on_node = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("SLURM_GPUS_ON_NODE", "")
    if visible is not None:
        # a first name that is none, such as -1, hides all
        names = [name.strip() for name in visible.split(",")]
        return len(names) if names[0][:1].isalnum() and names[0] != "NoDevFiles" else 0
    if on_node.isdigit():
        return int(on_node)
    return min(most, len(list(DRIVER.glob("*"))))


def device_here() -> str:
    """What this machine's first GPU calls itself, such as `NVIDIA H100 80GB HBM3`; empty if the driver does not say."""
    for path in sorted(DRIVER.glob("*/information")):
        with suppress(OSError):
            if found := re.search(r"^Model:\s*(.+?)\s*$", path.read_text(), flags=re.MULTILINE):
                return found[1]
    return ""


def outcome_of(error: BaseException) -> Outcome:
    """How an attempt ended that ends with this error."""
    status = error.code if isinstance(error, SystemExit) else None
    if isinstance(error, OutOfTimeError) or status == OUT_OF_TIME:
        return "out of time"
    if isinstance(error, StoppedError | KeyboardInterrupt) or status in (os.EX_TEMPFAIL, 128 + signal.SIGTERM):
        return "stopped"
    return "finished" if isinstance(error, SystemExit) and not status else "failed"


def _handed() -> tuple[Path, AttemptRecord | None] | None:
    """File and record of the sheet that a parent opened, None for the record if it cannot be read; None without a parent's."""
    path = os.environ.get(SHEET)
    return (Path(path), _read(Path(path))) if path else None


def _read(path: Path) -> AttemptRecord | None:
    try:
        return AttemptRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _begun(rule: str, job: Mapping[str, str], *, spec_hash: str, layout: Layout, num_processes: int) -> tuple[Path, AttemptRecord]:
    """A new attempt by this process, and the file that is its own."""
    host, process, now = socket.gethostname(), os.getpid(), time.time()
    record = AttemptRecord(
        rule=rule,
        job=dict(job),
        spec_hash=spec_hash,
        started=now,
        elapsed_s=0.0,
        num_gpus=0,
        device=device_here(),
        num_processes=num_processes,
        host=host,
        process=process,
        slurm_job=slurm.job(),
    )
    stamp = f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S.%f}"
    return layout.attempts(rule, job) / f"{stamp}-{host}-{process}.json", record
