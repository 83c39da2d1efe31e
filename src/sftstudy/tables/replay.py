"""What rules of early stopping would have saved and lost in a study, replayed from the logs of its finished runs.

A line per rule, rungs and share kept: means over bootstrap draws of what competes, since the best of a handful of recipes is a
matter of luck, and how much more is lost than by chance at as many samples saved. Nothing is trained for it.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any

import numpy as np

from sftstudy.config import MedianRule, PaperRule, RandomRule, Replay, TopRule
from sftstudy.screen import History, Outcome, replay, replay_asha, rung_name
from sftstudy.tables.aggregate import Pair

SHARES = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Shares kept at each rung, along a rule's curve."""

FEWEST = 3
"""Finished competitors without which there is nothing to replay."""

ONE_LEFT = 1e-6
"""A share that is one of each group: where the curve of chance ends, so that it reaches as far as any rule saves."""

NUM_CHOICES = 10
"""Random choices per draw that chance is the mean of."""

Contender = Callable[[Sequence[History], float, Sequence[float]], Outcome]
"""(histories in order of arrival, share kept, rungs) -> outcome."""

_LOW_LOSS = TopRule(kind="top", signal="loss", best="lowest", keep=0.5)
_MEDIAN = MedianRule(kind="median", signal="loss", best="lowest")
CONTENDERS: dict[str, Contender] = {
    "low norm (paper)": lambda found, keep, rungs: replay(found, PaperRule(kind="paper", keep=keep), rungs=rungs),
    "low loss": lambda found, keep, rungs: replay(found, _LOW_LOSS.model_copy(update={"keep": keep}), rungs=rungs),
    "low loss (ASHA)": lambda found, keep, rungs: replay_asha(found, keep=keep, rungs=rungs, rule=_LOW_LOSS),
    "low loss (median)": lambda found, _, rungs: replay(found, _MEDIAN, rungs=rungs),
}
"""What is compared with chance. At several rungs, a share of low losses is successive halving by loss."""

CHANCE = "random"
RULES = (*CONTENDERS, CHANCE)
"""All curves, always in this order."""

ONE_POINT = {"low loss (median)"}
"""Contenders that keep what they keep."""


@dataclass(frozen=True)
class Line:
    """One line of `replay.csv`. Means over draws; `low` and `high` are the 10th and 90th percentile.

    `excess` is the regret less that of chance at as many samples saved, draw by draw; None of chance itself.
    """

    model: str
    data: str
    rungs: str
    rule: str
    keep: float | None
    num_competitors: int
    savings: float
    savings_low: float
    savings_high: float
    regret: float
    regret_low: float
    regret_high: float
    best_stopped: float
    excess: float | None
    excess_low: float | None
    excess_high: float | None


@dataclass(frozen=True)
class _Lost:
    """An outcome on one draw, or the mean of several."""

    savings: float
    regret: float
    best_stopped: float


def replay_pair(pair: Pair, histories: Sequence[History], looks: Replay) -> list[Line]:
    """All rules, at each rung alone and, if there are several, at all of them. Empty if too few are finished."""
    if len(histories) < FEWEST:
        return []
    draws = _draws(histories, looks)
    lines = []
    for rungs in [[rung] for rung in looks.rungs] + ([looks.rungs] if len(looks.rungs) > 1 else []):
        chance = {
            keep: [_by_chance(drawn, keep, rungs, number) for number, drawn in enumerate(draws)] for keep in (ONE_LEFT, *SHARES)
        }
        found: dict[tuple[str, float | None], list[_Lost]] = {(CHANCE, keep): chance[keep] for keep in SHARES}
        for rule, contender in CONTENDERS.items():
            for keep in SHARES[:1] if rule in ONE_POINT else SHARES:
                lost = [_lost(contender(drawn, keep, rungs)) for drawn in draws]
                found[rule, None if rule in ONE_POINT else keep] = lost
        for (rule, kept), outcomes in found.items():
            excess = [one.regret - _regret_at(one.savings, chance, number) for number, one in enumerate(outcomes)]
            lines.append(
                Line(
                    model=pair[0],
                    data=pair[1],
                    rungs=" ".join(map(rung_name, rungs)),
                    rule=rule,
                    keep=kept,
                    num_competitors=len(histories),
                    **_spread("savings", [one.savings for one in outcomes]),
                    **_spread("regret", [one.regret for one in outcomes]),
                    best_stopped=fmean(one.best_stopped for one in outcomes),
                    **_spread("excess", None if rule == CHANCE else excess),
                )
            )
    return sorted(lines, key=lambda line: (len(line.rungs.split()), line.rungs, RULES.index(line.rule), line.keep or 0.0))


def to_csv(lines: Sequence[Line]) -> str:
    """Numbers with five digits: what differs beyond is rounding."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(Line)])
    for line in lines:
        values = [getattr(line, field.name) for field in fields(Line)]
        writer.writerow([f"{value:.5f}" if isinstance(value, float) else value for value in values])
    return out.getvalue()


def _draws(histories: Sequence[History], looks: Replay) -> list[list[History]]:
    """Bootstrap draws in random order, the same for every rule; one that is drawn twice competes twice."""
    chance = random.Random(looks.seed)
    return [
        [replace(past, name=f"{past.name}#{place}") for place, past in enumerate(chance.choices(histories, k=len(histories)))]
        for _ in range(looks.num_draws)
    ]


def _lost(outcome: Outcome) -> _Lost:
    return _Lost(outcome.savings, outcome.regret, float(outcome.regret > 0))


def _by_chance(drawn: Sequence[History], keep: float, rungs: Sequence[float], number: int) -> _Lost:
    """The mean over random choices on one draw."""
    seeds = range(number * NUM_CHOICES, (number + 1) * NUM_CHOICES)
    found = [_lost(replay(drawn, RandomRule(kind="random", keep=keep, seed=seed), rungs=rungs)) for seed in seeds]
    return _Lost(*(fmean(getattr(one, name) for one in found) for name in ("savings", "regret", "best_stopped")))


def _regret_at(savings: float, chance: Mapping[float, Sequence[_Lost]], number: int) -> float:
    """What chance loses on a draw at these savings, between the shares that were tried; nothing if nothing is saved."""
    points = sorted([(0.0, 0.0), *((lost[number].savings, lost[number].regret) for lost in chance.values())])
    return float(np.interp(savings, [point[0] for point in points], [point[1] for point in points]))


def _spread(name: str, values: Sequence[float] | None) -> dict[str, Any]:
    if values is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = np.percentile(values, [10, 90])
    return {name: fmean(values), f"{name}_low": float(low), f"{name}_high": float(high)}
