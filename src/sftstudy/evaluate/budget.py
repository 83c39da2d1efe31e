"""Keeps what judging costs below a budget, over all jobs that share a ledger and over those that were killed.

Before a request is sent, the most that it can cost is reserved in the ledger; its reply settles the reservation. What was never
settled, because the process died or the connection was lost, counts in full: it may have been billed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sftstudy.config import Judge

PRICED = 1_000_000
"""Prices are per so many tokens."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one or many requests."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)

    @property
    def total(self) -> int:
        """All of them."""
        return self.prompt_tokens + self.completion_tokens

    def cost(self, judge: Judge) -> float:
        """In the currency of the judge's prices."""
        return (self.prompt_tokens * judge.price_prompt + self.completion_tokens * judge.price_completion) / PRICED


@dataclass
class Ledger:
    """The file that all jobs of a suite write to; without a budget nothing is written."""

    path: Path
    judge: Judge
    _read: int = 0
    _open: dict[str, Usage] = field(default_factory=dict)
    _settled: Usage = field(default_factory=Usage)

    @property
    def has_limit(self) -> bool:
        """Whether the judge has a budget."""
        return self.judge.max_cost is not None or self.judge.max_total_tokens is not None

    def reserve(self, request: str, most: Usage) -> bool:
        """Reserve for a request if that keeps the total within the budget; False if it does not. `request` is unique."""
        if not self.has_limit:
            return True
        with self._locked() as file:
            total = sum(self._open.values(), self._settled) + most
            if total.cost(self.judge) > (self.judge.max_cost or float("inf")):
                return False
            if total.total > (self.judge.max_total_tokens or float("inf")):
                return False
            _append(file, {"reserve": request, "prompt_tokens": most.prompt_tokens, "completion_tokens": most.completion_tokens})
            os.fsync(file)  # before it is spent; a settlement that is lost makes the budget smaller, never larger
        return True

    def settle(self, request: str, used: Usage) -> None:
        """What a reserved request really took; nothing if it was refused unserved."""
        if self.has_limit:
            with self._locked() as file:
                entry = {"prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens}
                _append(file, {"settle": request, **entry})

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The ledger's file, locked against other jobs and read to its end."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._read_on(file)
            yield file
        finally:
            os.close(file)

    def _read_on(self, file: int) -> None:
        """Take in what any job has written since the last look."""
        os.lseek(file, self._read, os.SEEK_SET)
        data = b""
        while chunk := os.read(file, 1 << 20):
            data += chunk
        whole = data.rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # torn by a kill: nothing was sent yet
                continue
            usage = Usage(entry["prompt_tokens"], entry["completion_tokens"])
            if "reserve" in entry:
                self._open[entry["reserve"]] = usage
            elif self._open.pop(entry["settle"], None) is not None:
                self._settled += usage


def _append(file: int, entry: dict[str, str | int]) -> None:
    """Add a line. A line that a kill left torn is closed by it."""
    size = os.lseek(file, 0, os.SEEK_END)
    torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
    os.write(file, (b"\n" if torn else b"") + json.dumps(entry).encode() + b"\n")
