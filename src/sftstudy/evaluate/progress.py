"""Tells a person how far a job is: a line on stderr every few seconds, and one at the end."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

SECONDS_PER_REPORT = 5.0


@dataclass
class Progress:
    """`num_before` of `num_all` were done by earlier attempts."""

    what: str
    num_all: int
    num_before: int = 0
    num_done: int = 0
    began: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)

    def report(self, num: int, *, more: str = "") -> None:
        """Count `num` more as done; a line is printed if it is time, or if they were the last."""
        self.num_done += num
        done, now = self.num_before + self.num_done, time.monotonic()
        if now - self.reported < SECONDS_PER_REPORT and done < self.num_all:
            return
        self.reported = now
        left = (now - self.began) / self.num_done * (self.num_all - done) if self.num_done else 0.0
        print(
            ", ".join(filter(None, [f"{self.what}: {done}/{self.num_all}", more, f"{left:.0f} s left"])),
            file=sys.stderr,
            flush=True,
        )
