"""Tells a person how far a stage is: a bar on a terminal, a line every few seconds in a log file."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from sftstudy.records import StepMetrics

SECONDS_PER_REPORT = 4.0


@dataclass
class Progress:
    """Reports on stderr. `first_step` updates were done by earlier attempts."""

    num_steps: int
    first_step: int
    began: float = field(default_factory=time.monotonic)
    reported: float = 0.0
    num_tokens: int = 0
    bar: Any = None

    def __post_init__(self) -> None:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.num_steps, initial=self.first_step, unit="step")

    def report(self, metrics: StepMetrics) -> None:
        """Count a step; a line is printed if it is time, or if it was the last."""
        self.num_tokens += metrics.num_tokens
        now = time.monotonic()
        elapsed = now - self.began
        pace = f"{metrics.samples_seen} samples seen, loss {metrics.loss:.4f}, {self.num_tokens / elapsed:.0f} tokens/s"
        if self.bar is not None:
            self.bar.set_postfix_str(pace, refresh=False)
            self.bar.update()
            if metrics.step == self.num_steps:
                self.bar.close()
            return
        if now - self.reported < SECONDS_PER_REPORT and metrics.step < self.num_steps:
            return
        self.reported = now
        left = elapsed / (metrics.step - self.first_step) * (self.num_steps - metrics.step)
        print(f"step {metrics.step}/{self.num_steps}, {pace}, {left:.0f} s left", file=sys.stderr, flush=True)
