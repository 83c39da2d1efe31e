"""What a judge's reply says, by the patterns of those who wrote the prompts: FastChat's ratings and winners, Prometheus's results."""

from __future__ import annotations

import re
from typing import Literal

RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
"""FastChat's two patterns for a rating; the second is tried where the first finds nothing."""

FAILED = -1
"""FastChat's score of a verdict that gave no rating."""

LOWEST, HIGHEST = 1, 10
"""The scale that MT-Bench's prompts ask for."""

RESULT = re.compile(r"(?:\[?(?:result|score)\]?:?|score\s+of)[\s(\[]*(\d+)[\s)\]]*(?:/\s*5|out\s+of\s+5)?\s*$", re.IGNORECASE)
"""A Prometheus verdict ends in `[RESULT] n`; as in its own parser, near misses such as `Score: 4/5` count too."""

PROMETHEUS_TOP = 5

Winner = Literal["A", "B", "tie"]


def rating_by_fastchat(judgment: str) -> float | None:
    """The number that FastChat reads from a judgment, on the scale or off it; None where it writes -1."""
    found = RATING.search(judgment) or RATING_BACKUP.search(judgment)
    return float(found[1]) if found else None


def read_rating(judgment: str) -> float | None:
    """The rating in a judgment by FastChat's patterns; None if there is none, or none from 1 to 10."""
    rating = rating_by_fastchat(judgment)
    return rating if rating is not None and LOWEST <= rating <= HIGHEST else None


def read_result(judgment: str) -> float | None:
    """A Prometheus verdict of 1 to 5 on MT-Bench's scale, ends to ends: 1, 3.25, 5.5, 7.75, 10. None if there is none."""
    found = RESULT.search(judgment)
    if found is None or not 1 <= int(found[1]) <= PROMETHEUS_TOP:
        return None
    return LOWEST + (int(found[1]) - 1) * (HIGHEST - LOWEST) / (PROMETHEUS_TOP - 1)


def read_winner(judgment: str) -> Winner | None:
    """The better of two answers as FastChat reads a judgment of format `[[A]]`; None where it writes `error`."""
    winners: dict[str, Winner] = {"[[A]]": "A", "[[B]]": "B", "[[C]]": "tie"}
    return next((winner for mark, winner in winners.items() if mark in judgment), None)
