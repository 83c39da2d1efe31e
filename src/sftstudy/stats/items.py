"""Intervals of mean scores and paired tests between two arms, over items and seeds. Pure functions over arrays.

A score has two sources of chance: which items a benchmark happens to hold, and the seed of the run. With S seeds and n items

    estimate  = mean over seeds of the mean over items
    variance  = var over items (of an item's mean over seeds) / n  +  var over seeds (of a seed's mean over items) / S

and the interval is estimate +- t * sqrt(variance), t with Satterthwaite's degrees of freedom. It is slightly conservative: what
an item contributes by chance within one seed stands in both terms. One seed leaves only the first term: such an interval says
nothing about other seeds. Items of one cluster (both turns of one question) count as one draw; a macro average is stratified by
task.

Where no or hardly any item stands out, the variance over items says too little. It is never taken for less than (reach / t)^2,
`reach` being how far the mean may be moved by items that stand out and of which none happened to be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Average = Literal["micro", "macro"]
Unit = Literal["fraction", "rating"]

SCALE: dict[Unit, tuple[float, float]] = {"fraction": (0.0, 1.0), "rating": (1.0, 10.0)}

Strata = tuple[tuple[float, float], ...]
"""Of each task of a macro average, or of all items together: draws, and by how much the mean moves if all of them stand out.

That is as far as its draw that stands out most, or by the whole scale where all are alike.
"""

SAME = 1e-12
"""Up to here values are equal: sums in another order differ in the last digits."""


@dataclass(frozen=True)
class ItemScores:
    """One arm on one benchmark: `values` is seeds x items, NaN where a verdict failed.

    `items` identify an item across arms. `tasks` are the strata of a macro average, `clusters` the units drawn together, `spans` by
    how much two values of an item can differ if that is not the unit's whole scale.
    """

    seeds: tuple[int, ...]
    items: tuple[str, ...]
    tasks: tuple[str, ...]
    clusters: tuple[str, ...]
    values: Array
    spans: Array | None = None

    def __post_init__(self) -> None:
        shape = (len(self.seeds), len(self.items))
        if self.values.shape != shape or len(self.tasks) != shape[1] or len(self.clusters) != shape[1]:
            raise ValueError(f"values are {self.values.shape}, seeds and items say {shape}")
        if len(set(self.items)) != len(self.items):
            raise ValueError("two items have one identity")

    def take(self, columns: Sequence[int]) -> ItemScores:
        """The same arm on some of its items, in the given order."""

        def pick(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(names[column] for column in columns)

        places = list(columns)
        spans = None if self.spans is None else self.spans[places]
        return ItemScores(self.seeds, pick(self.items), pick(self.tasks), pick(self.clusters), self.values[:, places], spans)


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; `low` and `high` are None where items tell nothing of it: one item, or equal ratings throughout."""

    value: float
    low: float | None
    high: float | None
    num_items: int
    num_seeds: int

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Difference:
    """First arm minus second on the items that both have, with interval and two-sided p-value.

    `error` and `freedom` are what the interval is made of. `item_variance`, with its degrees of freedom, is the sample's variance
    over items, which more items shrink, as they shrink the `reach` of the `strata` below which it does not count; `seed_variances`
    is the variance of each arm with several seeds, which more seeds shrink, with their number. `signs` if p is a sign test's at
    least.
    """

    value: float
    low: float
    high: float
    p: float
    num_items: int
    error: float
    freedom: float
    item_variance: float
    item_freedom: float
    strata: Strata
    signs: bool
    seed_variances: tuple[tuple[float, int], ...]


def mean(values: Array, tasks: Sequence[str], average: Average) -> float:
    """Mean of one seed's items, failed verdicts left out. Macro is the mean of the tasks' means. NaN without any valid item."""
    valid = ~np.isnan(values)
    if not valid.any():
        return math.nan
    if average == "micro":
        return float(values[valid].mean())
    names = np.asarray(tasks)
    return float(np.mean([values[valid & (names == task)].mean() for task in np.unique(names[valid])]))


def estimate(scores: ItemScores, unit: Unit, *, average: Average = "micro", level: float = 0.95) -> Estimate | None:
    """Mean and interval as the module states, clipped to the unit's scale. None if a seed has no valid item.

    If every item is wrong, or every one right, it ends at the exact (Clopper-Pearson) bound.
    """
    by_seed = np.array([mean(row, scores.tasks, average) for row in scores.values])
    if by_seed.size == 0 or np.isnan(by_seed).any():
        return None
    value = float(by_seed.mean())
    floor, top = SCALE[unit]
    error, freedom, num_draws = error_of_mean(scores, average, span=top - floor if unit == "fraction" else 0.0, level=level)
    num_items = int((~np.isnan(scores.values)).any(axis=0).sum())
    half = float(stats.t.isf((1 - level) / 2, freedom)) * error
    if num_draws < 2 or half <= SAME:
        return Estimate(value, None, None, num_items, len(scores.seeds))
    return Estimate(value, max(floor, value - half), min(top, value + half), num_items, len(scores.seeds))


def error_of_mean(scores: ItemScores, average: Average, *, span: float = 0.0, level: float = 0.95) -> tuple[float, float, int]:
    """Standard error of an arm's mean over items and seeds, its degrees of freedom, and how many items or clusters are drawn.

    `span` is how far an item may stand out where none does; 0 if that is not known.
    """
    by_seed = np.array([mean(row, scores.tasks, average) for row in scores.values])
    spans = np.full(len(scores.items), span)
    variance, freedom, strata = _item_variance(_mean_over_seeds(scores.values), scores, average, spans)
    variance = max(variance, least_variance(strata, freedom, level))
    return *_standard_error(variance, freedom, [by_seed]), int(sum(draws for draws, _ in strata))


def reach(strata: Strata, level: float) -> float:
    """How far a mean may be from what it is where no draw stands out, though some might: the exact bound, one side of the interval.

    A share p_k of the draws of stratum k may stand out, and move the mean by m_k p_k. None of n_k was drawn with probability
    prod (1 - p_k)^n_k; the bound is the largest sum m_k p_k at which that is a = (1 - level) / 2. By Lagrange
    1 - p_k = min(1, l n_k / m_k), and l is the largest that those strata give in which an item weighs most:
    log l = max over them of (log a - sum n_k log(n_k / m_k)) / sum n_k. One stratum: m (1 - a^(1/n)) (Clopper & Pearson 1934,
    Biometrika 26:404).
    """
    heavy = sorted((stratum for stratum in strata if stratum[1] > 0), key=lambda stratum: stratum[0] / stratum[1])
    if not heavy:
        return 0.0
    draws, most = np.array(heavy).T
    levels = (math.log((1 - level) / 2) - np.cumsum(draws * np.log(draws / most))) / np.cumsum(draws)
    return float(most @ -np.expm1(np.minimum(0.0, levels.max() + np.log(draws / most))))


def least_variance(strata: Strata, freedom: float, level: float) -> float:
    """The variance over items whose t interval goes as far as `reach`."""
    return (reach(strata, level) / float(stats.t.isf((1 - level) / 2, freedom))) ** 2 if freedom > 0 else 0.0


def paired_difference(
    first: ItemScores, second: ItemScores, *, unit: Unit, average: Average = "micro", level: float = 0.95
) -> Difference | None:
    """Comparison paired over common items: var over items of their difference / n, plus each arm's variance over seeds / its seeds.

    Seeds are two samples (Welch): seed 1 of two recipes shares the order of the data and little else, and pairing a handful would
    leave next to no degrees of freedom.

    The t-test is too sure of itself where few items differ. So p is never below that of an exact sign test (McNemar) if items are
    right or wrong and each arm has one seed, nor below the least that so many differing items can give otherwise; the interval is
    widened to agree. Where no item differs at all, it is the exact bound on what those that might would do to the mean. None with
    fewer than two common items, or a seed without any valid item.
    """
    place = {item: column for column, item in enumerate(second.items)}
    pairs = [(column, place[item]) for column, item in enumerate(first.items) if item in place]
    if not pairs:
        return None
    mine, theirs = (scores.take(columns) for scores, columns in zip((first, second), zip(*pairs, strict=True), strict=True))
    gap = _mean_over_seeds(mine.values) - _mean_over_seeds(theirs.values)
    known = ~np.isnan(gap)
    spans = np.full(known.size, SCALE[unit][1] - SCALE[unit][0]) if mine.spans is None else mine.spans
    item_variance, item_freedom, strata = _item_variance(gap, mine, average, spans)
    if sum(draws for draws, _ in strata) < 2:
        return None
    means = [np.array([mean(np.where(known, row, np.nan), s.tasks, average) for row in s.values]) for s in (mine, theirs)]
    if np.isnan(means[0]).any() or np.isnan(means[1]).any():
        return None
    value = float(means[0].mean() - means[1].mean())
    error, freedom = _standard_error(max(item_variance, least_variance(strata, item_freedom, level)), item_freedom, means)
    p_t = 1.0 if value == 0 else float(2 * stats.t.sf(abs(value) / error, freedom))
    least_p, signs = _least_p(gap, mine, exact=len(first.seeds) == len(second.seeds) == 1)
    p = max(p_t, least_p)
    if value != 0 and p > p_t:
        error = max(error, abs(value) / float(stats.t.isf(min(p, 0.5) / 2, freedom)))
    half = float(stats.t.isf((1 - level) / 2, freedom)) * error
    span = mean(np.where(known, spans, np.nan), mine.tasks, average)
    return Difference(
        value=value,
        low=max(-span, value - half),
        high=min(span, value + half),
        p=p,
        num_items=int(known.sum()),
        error=error,
        freedom=freedom,
        item_variance=item_variance,
        item_freedom=item_freedom,
        strata=strata,
        signs=signs,
        seed_variances=tuple((float(sample.var(ddof=1)) / sample.size, sample.size) for sample in means if sample.size > 1),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for having asked several questions at once (Holm), in the given order."""
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def _mean_over_seeds(values: Array) -> Array:
    """An item's mean over the seeds in which it has a value; NaN if there is none."""
    counts = (~np.isnan(values)).sum(axis=0)
    return np.where(counts > 0, np.nansum(values, axis=0) / np.maximum(counts, 1), np.nan)


def _item_variance(values: Array, scores: ItemScores, average: Average, spans: Array) -> tuple[float, float, Strata]:
    """Variance of the mean of `values` (one per item) over draws of items, its degrees of freedom, and the strata.

    Each cluster's pull on the mean is summed and squared; without clusters and tasks this is the sample variance / n. The tasks of
    a macro average have Satterthwaite's degrees of freedom together: a small task has few, and weighs as much as the others. If
    clusters reach over several tasks, these are not drawn independently, and all are one stratum.
    """
    known = ~np.isnan(values)
    values, spans = values[known], spans[known]
    tasks = np.asarray(scores.tasks)[known] if average == "macro" else np.full(values.size, "")
    task, cluster = (np.unique(names, return_inverse=True)[1] for names in (tasks, np.asarray(scores.clusters)[known]))
    sizes = np.bincount(task)
    weights, means = 1 / (sizes * sizes.size)[task], (np.bincount(task, values) / sizes)[task]
    is_crossed = np.unique(np.stack([task, cluster]), axis=1).shape[1] > np.unique(cluster).size
    strata = np.zeros_like(task) if is_crossed else task
    parts: list[tuple[float, float]] = []
    found: list[tuple[float, float]] = []
    for stratum in np.unique(strata):
        here = strata == stratum
        group = np.unique(cluster[here], return_inverse=True)[1]
        draws = int(group.max()) + 1
        pulls = np.bincount(group, (values - (means if draws > 1 else values.mean()))[here] * weights[here])
        parts.append((float((pulls**2).sum()) * (draws / (draws - 1) if draws > 1 else 1.0), max(draws - 1.0, 1.0)))
        most = draws * float(np.abs(pulls).max())
        found.append((draws, most if most > SAME else float(spans[here].max() * weights[here].sum())))
    return *total(parts), tuple(found)


def _standard_error(variance: float, freedom: float, samples: Sequence[Array]) -> tuple[float, float]:
    """Standard error and Satterthwaite's degrees of freedom: item variance plus the variance of each sample of seed means."""
    parts = [(variance, freedom)]
    parts += [(float(sample.var(ddof=1)) / sample.size, sample.size - 1.0) for sample in samples if sample.size > 1]
    variance, freedom = total(parts)
    return math.sqrt(variance), freedom


def total(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Sum of independent variances, and its degrees of freedom by Satterthwaite; if all are zero, those of the parts together."""
    whole = sum(part for part, _ in parts)
    squares = sum(part**2 / degrees for part, degrees in parts)
    return whole, whole**2 / squares if squares > 0 else sum(degrees for _, degrees in parts)


def _least_p(gap: Array, scores: ItemScores, *, exact: bool) -> tuple[float, bool]:
    """Exact p-value of the sign test and True where it applies, else the least that so many differing draws can give and False."""
    differing = ~np.isnan(gap) & (gap != 0)
    draws = np.asarray(scores.clusters)[differing]
    num_differing = np.unique(draws).size
    signs = exact and num_differing == draws.size and bool((np.abs(gap[differing]) == 1).all())
    if num_differing == 0:
        return 1.0, signs
    return float(stats.binomtest(int((gap > 0).sum()), num_differing).pvalue) if signs else 2.0 ** (1 - num_differing), signs
