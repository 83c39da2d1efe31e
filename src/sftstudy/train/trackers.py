"""Sends every step's numbers to TensorBoard, Weights & Biases or MLflow, through accelerate's trackers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sftstudy.errors import StudyError

VARIABLE = "SFTSTUDY_TRACKERS"
"""Environment variable with the trackers' names, such as `tensorboard,wandb`. Where a run is watched from is no part of a study."""


class Trackers:
    """The trackers that the environment asks for; none by default. Only the first process makes them."""

    def __init__(self, *, run: str, folder: Path) -> None:
        """Start them: `run` names the stage, `folder` is where local ones write. Raises StudyError for one that is not there."""
        self._trackers: list[Any] = []
        names = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
        if not names:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        available = sorted(str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers())
        for name in names:
            if name not in available:
                raise StudyError(f"{VARIABLE}: {name!r} is not installed or not known; installed: {', '.join(available) or 'none'}")
            kind = LOGGER_TYPE_TO_CLASS[name]
            self._trackers.append(kind(run, logging_dir=folder) if kind.requires_logging_directory else kind(run))
        for tracker in self._trackers:
            tracker.start()

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Numbers of one step."""
        self._each(lambda tracker: tracker.log(dict(values), step=step))

    def finish(self) -> None:
        """Flush and close."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, work: Callable[[Any], object]) -> None:
        """A tracker that fails, such as for want of its network, is told of and dropped: training does not hang on it."""
        for tracker in list(self._trackers):
            try:
                work(tracker)
            except Exception as error:
                print(f"tracker {tracker.name}: dropped, {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
                self._trackers.remove(tracker)
