"""What a judge's reply says, by the patterns of those who wrote its prompts: a rating, a winner, or Prometheus's result."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sftstudy.evaluate.client import Reply
from sftstudy.evaluate.prompts import Match

RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
"""FastChat's two patterns for a rating; the second is tried where the first finds nothing."""

FAILED = -1
"""FastChat's score of a verdict that gave no rating."""

LOWEST, HIGHEST = 1, 10
"""The scale that MT-Bench's prompts ask for."""

RESULT = re.compile(r"(?:\[?(?:result|score)\]?:?|score\s+of)[\s(\[]*(\d+)(?:[)\]]|/\s*5|\s*out\s*of\s*5)?\s*$", re.IGNORECASE)
"""A Prometheus verdict ends in `[RESULT] n`; as in its own parser, near misses such as `Score: 4/5` count too."""

PROMETHEUS_TOP = 5

Winner = Literal["A", "B", "tie"]
Status = Literal["ok", "unparsable", "refused", "server_error"]


@dataclass(frozen=True)
class Verdict:
    """One judging of one match. `value` is the rating; of a pair 1, 0.5 or 0 for a win, a tie or a loss; None if it failed."""

    match: Match
    repeat: int
    status: Status
    value: float | None
    reply: Reply


def read_verdict(match: Match, repeat: int, reply: Reply) -> Verdict:
    """What a reply to a match is worth."""
    if reply.status != "answered":
        return Verdict(match, repeat, reply.status, None, reply)
    if match.output_format == "[[A]]":
        value = _share_of_win(read_winner(reply.text), swapped=match.game == 1)
    else:
        value = (read_result if match.output_format == "[RESULT]" else read_rating)(reply.text)
    return Verdict(match, repeat, "unparsable" if value is None else "ok", value, reply)


def _share_of_win(winner: Winner | None, *, swapped: bool) -> float | None:
    if winner is None:
        return None
    return 0.5 if winner == "tie" else float((winner == "A") != swapped)


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
