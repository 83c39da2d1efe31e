"""What an attempt notes of its steps: a line each in its metrics file, numbers to the trackers, progress to who watches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from sftstudy.records import StepMetrics
from sftstudy.train.attempts import attempt_file
from sftstudy.train.progress import Progress
from sftstudy.train.trackers import Trackers


@dataclass
class Notes:
    """The open metrics file of an attempt and its followers. In processes other than the first it notes nothing."""

    log: TextIO | None = None
    trackers: Trackers | None = None
    progress: Progress | None = None

    def step(self, metrics: StepMetrics) -> None:
        """Note a step."""
        if self.log is None or self.trackers is None or self.progress is None:
            return
        self.log.write(metrics.model_dump_json() + "\n")
        self.log.flush()
        self.progress.report(metrics)
        self.trackers.log(metrics.model_dump(exclude={"step"}, exclude_none=True), step=metrics.step)

    def to_disk(self) -> None:
        """What was noted so far outlasts a loss of power: called before state is saved that relies on it."""
        if self.log is not None:
            os.fsync(self.log.fileno())


@contextmanager
def taking_notes(folder: Path, *, run: str, num_steps: int, first_step: int) -> Iterator[Notes]:
    """Notes of a new attempt, in the stage's scratch `folder`. Raises StudyError for a tracker that is not there."""
    trackers = Trackers(run=run, folder=folder / "tracking")
    with attempt_file(folder / "attempts") as log:
        notes = Notes(log, trackers, Progress(num_steps, first_step))
        try:
            yield notes
        finally:
            notes.to_disk()
            trackers.finish()
