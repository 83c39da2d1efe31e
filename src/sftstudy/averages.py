"""From the values of items to the scores of a record: averages, groups of tasks, and the leaderboard's scale. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sftstudy.config import Averages

NORMALISED = "normalised"
"""The metric under which a record files a score on the leaderboard's scale."""

NUM_DIGITS = 12
"""Scores that agree in so many decimal places are equal: sums in another order differ in the last ones of a float."""

Items = Sequence[tuple[float, float]]
"""Value and weight of each item. A weight is how many instructions a value is the mean of, else 1."""


@dataclass(frozen=True)
class Row:
    """One number of a benchmark, and the tasks whose items are behind it. `task` is the benchmark's own name for the whole."""

    task: str
    metric: str
    value: float
    stderr: float | None
    tasks: tuple[str, ...]


def comparable(score: float) -> float:
    """A score for comparing: equal to those that differ from it only by the order in which they were added up."""
    return round(score, NUM_DIGITS)


def rows(benchmark: str, averages: Averages, items: Mapping[str, Mapping[str, Items]]) -> list[Row]:
    """All scores of a benchmark from metric -> task -> items: the whole first, then groups, then tasks; the main metric first.

    A metric that averages in the other way than the benchmark is called `acc_macro` or `acc_micro`; one task has no other way.
    """
    found: list[Row] = []
    for metric in [averages.metric, *averages.metrics]:
        tasks = items[metric]
        other: Literal["micro", "macro"] = "macro" if averages.average == "micro" else "micro"
        parts = {benchmark: tuple(tasks), **{name: tuple(group) for name, group in averages.groups.items()}}
        for name, members in parts.items():
            found.append(Row(name, metric, *_average(averages, averages.average, tasks, members), members))
        if len(tasks) > 1:
            found.append(Row(benchmark, f"{metric}_{other}", *_average(averages, other, tasks, tuple(tasks)), tuple(tasks)))
        found += [Row(name, metric, *weighted_mean(tasks[name]), (name,)) for name in tasks if name != benchmark]
    return found + _normalised(benchmark, averages, items)


def weighted_mean(items: Items) -> tuple[float, float | None]:
    """Sum of weight x value over the sum of weights, and its standard error as of a ratio; None for a single item.

    With equal weights that is sd / sqrt(n), with n - 1 degrees of freedom.
    """
    total = math.fsum(weight for _, weight in items)
    mean = math.fsum(value * weight for value, weight in items) / total
    if len(items) < 2:
        return mean, None
    squares = math.fsum((weight * (value - mean)) ** 2 for value, weight in items)
    return mean, math.sqrt(squares * len(items) / (len(items) - 1)) / total


def normalise(value: float, num_choices: int) -> float:
    """A fraction on the leaderboard's scale: 0 for guessing among `num_choices` or worse, 1 for everything right."""
    guess = 1 / num_choices if num_choices else 0.0
    return max(0.0, (value - guess) / (1 - guess))


def strata(families: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Task -> the family that it counts in; tasks that count for themselves are absent."""
    return {task: family for family, tasks in families.items() for task in tasks}


def _average(
    averages: Averages, average: Literal["micro", "macro"], tasks: Mapping[str, Items], members: Sequence[str]
) -> tuple[float, float | None]:
    if average == "micro":
        return weighted_mean([item for name in members for item in tasks[name]])
    family, pooled = strata(averages.families), dict[str, list[tuple[float, float]]]()
    for name in members:
        pooled.setdefault(family.get(name, name), []).extend(tasks[name])
    return _mean_of([weighted_mean(part) for part in pooled.values()])


def _mean_of(parts: Sequence[tuple[float, float | None]]) -> tuple[float, float | None]:
    """Mean of independent means, and its standard error; None if one of them has none."""
    errors = [error for _, error in parts if error is not None]
    stderr = math.sqrt(math.fsum(error**2 for error in errors)) / len(parts) if len(errors) == len(parts) else None
    return math.fsum(value for value, _ in parts) / len(parts), stderr


def _normalised(benchmark: str, averages: Averages, items: Mapping[str, Mapping[str, Items]]) -> list[Row]:
    """The leaderboard's score. Errors are those of the raw score, stretched; several metrics of the same items have none."""
    if averages.normalised is None:
        return []
    metrics = averages.normalised.metrics or [averages.metric]
    tasks = tuple(items[metrics[0]])

    def one(members: Sequence[str], num_choices: int) -> tuple[float, float | None]:
        parts = [weighted_mean([item for name in members for item in items[metric][name]]) for metric in metrics]
        value, stderr = parts[0] if len(parts) == 1 else (math.fsum(part for part, _ in parts) / len(parts), None)
        return normalise(value, num_choices), stderr and stderr / (1 - 1 / num_choices if num_choices else 1.0)

    if isinstance(averages.normalised.num_choices, int):
        return [Row(benchmark, NORMALISED, *one(tasks, averages.normalised.num_choices), tasks)]
    single = {name: one([name], averages.num_choices(name)) for name in tasks}
    whole = Row(benchmark, NORMALISED, *_mean_of(list(single.values())), tasks)
    return [whole] + [Row(name, NORMALISED, *single[name], (name,)) for name in tasks if name != benchmark]
