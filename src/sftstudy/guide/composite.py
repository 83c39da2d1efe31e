"""Several benchmarks as one score: the mean of their normalised scores, with everything that is known of its items and seeds.

A benchmark is normalised as a selection by weights does it: guessing is 0, the top of the scale 1; all weigh the same. The
benchmarks become the strata of one macro average, so that intervals, paired tests and draws of clusters are those of any score.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sftstudy import stats
from sftstudy.spec import PlannedBenchmark
from sftstudy.stats import SCALE, Difference, ItemScores


def combine(arms: Mapping[str, ItemScores], benchmarks: Mapping[str, PlannedBenchmark]) -> ItemScores | None:
    """The arms of one checkpoint on several benchmarks as one arm whose macro average is the mean of the normalised scores.

    All arms have the same seeds. None without arms, or if a stratum of one (a benchmark, or a task of a macro average) has no valid
    item in a seed: the mean would leave it out.
    """
    strata = {name: _strata(arm, benchmarks[name]) for name, arm in arms.items()}
    counts = {name: len(set(names)) for name, names in strata.items()}
    total = sum(counts.values())
    values, spans = [], []
    for name, arm in arms.items():
        floor, (bottom, top) = benchmarks[name].chance, SCALE[benchmarks[name].unit]
        # a macro average weighs strata alike: this undoes it, so that benchmarks weigh alike, and their tasks within them
        weight = total / (len(arms) * counts[name])
        values.append(weight * (arm.values - floor) / (top - floor))
        spans.append(np.full(len(arm.items), weight * (top - bottom) / (top - floor)))
        if any(np.isnan(row[np.asarray(strata[name]) == one]).all() for row in arm.values for one in set(strata[name])):
            return None
    if not values:
        return None
    return ItemScores(
        seeds=next(iter(arms.values())).seeds,
        items=tuple(f"{name}\t{item}" for name, arm in arms.items() for item in arm.items),
        tasks=tuple(f"{name}\t{stratum}" for name in arms for stratum in strata[name]),
        clusters=tuple(f"{name}\t{cluster}" for name, arm in arms.items() for cluster in arm.clusters),
        values=np.concatenate(values, axis=1),
        spans=np.concatenate(spans),
    )


def compare(first: ItemScores, second: ItemScores) -> Difference | None:
    """First less second on their mean, paired by item."""
    return stats.paired_difference(first, second, unit="fraction", average="macro")


def level(arm: ItemScores) -> Difference | None:
    """The mean itself with its interval, as the difference to an arm that scores as guessing does throughout.

    It may be below 0, where an interval of a share of right items may not be.
    """
    nothing = ItemScores(arm.seeds, arm.items, arm.tasks, arm.clusters, np.zeros_like(arm.values))
    return compare(arm, nothing)


def _strata(arm: ItemScores, benchmark: PlannedBenchmark) -> tuple[str, ...]:
    return arm.tasks if benchmark.average == "macro" else ("",) * len(arm.items)
