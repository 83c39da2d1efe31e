"""From verdicts to scores: items, means per turn and category, what failed and what it could change, how judges vary. Light.

An answer to one turn is an item. Its value is the mean over judges of each judge's mean over its judgings, failed verdicts left
out; its bounds are the same with every failed verdict at the bottom, or at the top, of the scale. A score is the mean over items.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sftstudy.evaluate.shards import mean_and_stderr
from sftstudy.evaluate.verdicts import Verdict

Place = tuple[int, int]
"""Question id and turn."""


@dataclass(frozen=True)
class Rating:
    """What one verdict is worth; `value` is None if it failed."""

    judge: str
    repeat: int
    question_id: int
    turn: int
    category: str
    value: float | None


@dataclass(frozen=True)
class Scale:
    """The worst and the best value of a verdict."""

    worst: float
    best: float


RATINGS, WINS, TIE = Scale(1.0, 10.0), Scale(0.0, 1.0), 0.5


@dataclass(frozen=True)
class Summary:
    """A score over some items. `stderr` is over questions, since both turns of one hang together.

    `spread` is the standard deviation of the score from one judging to the next, None for a single one. `disagreement` is how far
    two judges are apart on an item, on average; None for a single judge.
    """

    value: float | None
    stderr: float | None
    num_items: int
    failure_share: float
    lowest: float
    highest: float
    spread: float | None
    disagreement: float | None


def read_ratings(judge: str, verdicts: Iterable[Verdict], ckpt: str) -> list[Rating]:
    """A judge's verdicts on one checkpoint. Both orders of a pair make one: a win needs both, as in FastChat, else it is a tie."""
    found: dict[tuple[int, int, int], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.match.ckpt == ckpt:
            place = (verdict.match.question.question_id, verdict.match.turn, verdict.repeat)
            found.setdefault(place, []).append(verdict)
    return [
        Rating(judge, repeat, question_id, turn, games[0].match.question.category, _together([game.value for game in games]))
        for (question_id, turn, repeat), games in found.items()
    ]


def _together(games: Sequence[float | None]) -> float | None:
    if None in games:
        return None
    return games[0] if len(set(games)) == 1 else TIE


def item_values(ratings: Iterable[Rating]) -> dict[Place, float | None]:
    """Question and turn -> value, in the order of the ratings."""
    return {place: _mean_over_judges(group) for place, group in _by_place(ratings).items()}


def tasks(ratings: Sequence[Rating], benchmark: str) -> dict[str, list[Rating]]:
    """Task -> its ratings: all (task `benchmark`), each turn, each category."""
    found = {benchmark: list(ratings)}
    for turn in (1, 2):
        found[f"turn{turn}"] = [rating for rating in ratings if rating.turn == turn]
    for category in dict.fromkeys(rating.category for rating in ratings):
        found[category] = [rating for rating in ratings if rating.category == category]
    return found


def summarize(ratings: Sequence[Rating], *, scale: Scale, max_failure_share: float) -> Summary:
    """The score of some ratings; it has no value if too many verdicts failed."""
    items = item_values(ratings)
    known = {place: value for place, value in items.items() if value is not None}
    failure_share = sum(rating.value is None for rating in ratings) / len(ratings)
    published = bool(known) and failure_share <= max_failure_share
    of_questions: dict[int, list[float]] = {}
    for (question_id, _), value in known.items():
        of_questions.setdefault(question_id, []).append(value)
    return Summary(
        value=statistics.fmean(known.values()) if published else None,
        stderr=mean_and_stderr([statistics.fmean(values) for values in of_questions.values()])[1] if published else None,
        num_items=len(items),
        failure_share=failure_share,
        lowest=_bound(ratings, scale.worst),
        highest=_bound(ratings, scale.best),
        spread=spread(ratings),
        disagreement=disagreement(ratings),
    )


def spread(ratings: Sequence[Rating]) -> float | None:
    """Standard deviation of the score between judgings: of a panel's mean if there are several judges."""
    variances = []
    for judge in _judges(ratings):
        rounds: dict[int, list[float]] = {}
        for rating in ratings:
            if rating.judge == judge and rating.value is not None:
                rounds.setdefault(rating.repeat, []).append(rating.value)
        if len(rounds) > 1:
            variances.append(statistics.variance(statistics.fmean(values) for values in rounds.values()))
    return math.sqrt(sum(variances)) / len(_judges(ratings)) if variances else None


def disagreement(ratings: Sequence[Rating]) -> float | None:
    """Mean distance of two judges on an item that both gave a value."""
    by_judge = [item_values(rating for rating in ratings if rating.judge == judge) for judge in _judges(ratings)]
    distances = [
        abs(mine - theirs)
        for first, second in itertools.combinations(by_judge, 2)
        for place, mine in first.items()
        if mine is not None and (theirs := second.get(place)) is not None
    ]
    return statistics.fmean(distances) if distances else None


def _bound(ratings: Iterable[Rating], failed: float) -> float:
    filled = [_mean_over_judges(group, failed=failed) for group in _by_place(ratings).values()]
    return statistics.fmean(value for value in filled if value is not None)


def _mean_over_judges(ratings: Sequence[Rating], *, failed: float | None = None) -> float | None:
    """Mean over judges of their means; `failed` stands in for failed verdicts, or they are left out."""
    values: dict[str, list[float]] = {}
    for rating in ratings:
        value = failed if rating.value is None else rating.value
        if value is not None:
            values.setdefault(rating.judge, []).append(value)
    return statistics.fmean(statistics.fmean(of) for of in values.values()) if values else None


def _by_place(ratings: Iterable[Rating]) -> dict[Place, list[Rating]]:
    found: dict[Place, list[Rating]] = {}
    for rating in ratings:
        found.setdefault((rating.question_id, rating.turn), []).append(rating)
    return found


def _judges(ratings: Iterable[Rating]) -> list[str]:
    return list(dict.fromkeys(rating.judge for rating in ratings))
