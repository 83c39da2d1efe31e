"""Where a run's best checkpoint stands, how sure that is, and what choosing it on the reported items adds to its score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sftstudy.stats.items import Array, Average, ItemScores, error_of_mean, mean

BLOCK = 100
"""Bootstrap draws that are in memory at once."""

Places = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Seeds and their best checkpoints, as an index of what is seeds x checkpoints; of draws x seeds both."""


@dataclass(frozen=True)
class Curves:
    """One arm on one benchmark along its checkpoints: `values` is seeds x checkpoints x items, `samples` seeds x checkpoints.

    Checkpoints are in order of samples. Higher values are better; NaN where a verdict failed. Tasks and clusters as in
    `ItemScores`.
    """

    samples: Array
    values: Array
    items: tuple[str, ...]
    tasks: tuple[str, ...]
    clusters: tuple[str, ...]


@dataclass(frozen=True)
class Position:
    """Samples to the peak, in the mean over seeds, with its interval, which reaches to the value itself."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Optimism:
    """What choosing the peak on the reported items adds to it, in the mean over seeds.

    The interval is over items and seeds, for the checkpoints that were chosen; it is None if both halves choose the same ones.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Ratio:
    """Samples to the peak of one arm over another's, with its interval and the standard error of its logarithm, above zero.

    `p_sooner` is the p-value of "at least one", small if the first arm is shown to be sooner, `p_not_sooner` that of "below one";
    that of what is not seen is 1.
    """

    value: float
    low: float
    high: float
    log_error: float
    p_sooner: float
    p_not_sooner: float


def samples_to_peak(curves: Curves, *, average: Average, seed: int, num_draws: int = 2000, level: float = 0.95) -> Position:
    """Mean over seeds of the samples at the best checkpoint (of equal ones the first), with a bootstrap percentile interval.

    Items are drawn (clusters together, within tasks for a macro average), the same ones for all checkpoints and seeds; then seeds
    (Efron & Tibshirani 1993, chapter 13). The place of a maximum jumps, so the interval is rougher than that of a mean, and can
    only end at checkpoints; with two or three seeds the draw of seeds is too narrow by up to sqrt((S - 1) / S).
    """
    rng = np.random.default_rng(seed)
    (drawn,) = _draws([curves], average=average, rng=rng, num_draws=num_draws)
    low, high = np.quantile(curves.samples[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    value = float(curves.samples[_peaks(curves, average)].mean())
    return Position(value, min(float(low), value), max(float(high), value))


def ratio_to_peak(
    first: Curves, second: Curves, *, average: Average, seed: int, num_draws: int = 2000, level: float = 0.95
) -> Ratio | None:
    """First arm's samples to the peak over the second's; both arms see the same draws of items. The arms have the same items.

    Checkpoints tell where a peak is to within their spacing. So in a draw it is anywhere on the stretch that is nearer to the best
    checkpoint than to any other, at the same share of it in all seeds of an arm, which have one schedule:

        place = low + u * (high - low),  low and high half way to the neighbours,  u uniform

    (a smoothed bootstrap: Silverman & Young 1987, Biometrika 74:469). A peak that never moves has an error of (high - low) /
    sqrt(12) all the same, and arms that are best at the same checkpoint show neither answer.

    Where the answer rests on d of n clusters (`_num_deciding`), it is lost in about the draws without any of them, a share of
    (1 - d / n)^n < e^-d. That is too sure of few clusters: a one-sided sign test of d gives 2^-d at least. So p is never below, and
    interval and error are widened to agree, as in `items.paired_difference`. None with fewer than two clusters. With one seed per
    arm the interval is over items only, and says nothing about other seeds.
    """
    if first.items != second.items:
        raise ValueError("two arms are compared on the same items")
    if len(set(first.clusters)) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = _draws([first, second], average=average, rng=rng, num_draws=num_draws)
    mine, theirs = (_within(curves.samples, each, rng) for curves, each in zip((first, second), drawn, strict=True))
    ratios, seen = mine / theirs, [round(float(curves.samples[_peaks(curves, average)].mean()), 6) for curves in (first, second)]
    value, sooner = seen[0] / seen[1], seen[0] < seen[1]
    p = float((1 + ((ratios < 1) != sooner).sum()) / (1 + num_draws))
    least = 0.5 ** _num_deciding(first, second, average)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    error, reach = float(np.log(ratios).std(ddof=1)), 0.0
    if least > p:
        error = max(error, abs(math.log(value)) / float(stats.norm.isf(min(least, 0.25))))
        p, reach = least, float(stats.norm.isf((1 - level) / 2)) * error
    return Ratio(
        value=value,
        low=min(float(low), value * math.exp(-reach)),
        high=max(float(high), value * math.exp(reach)),
        log_error=error,
        p_sooner=p if sooner else 1.0,
        p_not_sooner=1.0 if sooner else p,
    )


def optimism(values: Array, half: Sequence[bool], tasks: Sequence[str], *, average: Average) -> float:
    """By how much choosing the best of some checkpoints on the reported items flatters it; `values` is checkpoints x items.

    The best is chosen on each half of the items and scored on either: the mean over both of (own half - other half). Halves are
    compared with themselves, so that an easier one does not matter (cross-fitting; Cawley & Talbot 2010, JMLR 11:2079). It is
    never negative, and that of half as many items: a choice on all of them is flattered by less, about 1 / sqrt(2).
    """
    inside = np.asarray(half)
    names = np.asarray(tasks)
    scores = [np.array([mean(row[part], list(names[part]), average) for row in values]) for part in (inside, ~inside)]
    chosen = [_best(score) for score in scores]
    return float(sum(scores[i][chosen[i]] - scores[i][chosen[1 - i]] for i in (0, 1)) / 2)


def in_first_half(item: str) -> bool:
    """Whether an item belongs to the half that a selection may look at, by the hash of its name: about as many do as do not."""
    return hashlib.sha256(f"half\t{item}".encode()).digest()[0] % 2 == 0


def optimism_of_peak(curves: Curves, *, average: Average, level: float = 0.95) -> Optimism | None:
    """`optimism` in the mean over seeds, on the halves that every selection uses, with its interval. None if a half is empty.

    On each half, the checkpoint chosen there is compared with the one chosen on the other, item by item: the error is that of
    the mean of these differences, halves (and tasks within them, for a macro average) being strata.
    """
    half = [in_first_half(cluster) for cluster in curves.clusters]
    if not 0 < sum(half) < len(half):
        return None
    names, inside = np.asarray(curves.tasks), np.asarray(half)
    gaps = np.empty((len(curves.values), len(half)))
    for gap, values in zip(gaps, curves.values, strict=True):
        own = {first: _best_on(values, names, inside == first, average) for first in (True, False)}
        for first in (True, False):
            gap[inside == first] = (values[own[first]] - values[own[not first]])[inside == first]
    value = float(np.mean([optimism(values, half, curves.tasks, average=average) for values in curves.values]))
    if not np.nan_to_num(gaps).any():
        return Optimism(value, None, None)
    strata = tuple(f"{first} {task if average == 'macro' else ''}" for first, task in zip(half, curves.tasks, strict=True))
    scores = ItemScores(tuple(range(len(gaps))), curves.items, strata, curves.clusters, gaps)
    error, freedom, _ = error_of_mean(scores, "macro")
    reach = float(stats.t.isf((1 - level) / 2, freedom)) * error
    return Optimism(value, max(0.0, value - reach), value + reach)


def _best_on(values: Array, tasks: Array, part: Array, average: Average) -> int:
    return int(_best(np.array([mean(row[part], list(tasks[part]), average) for row in values])))


def _scores(curves: Curves, average: Average) -> Array:
    return np.array([[mean(row, curves.tasks, average) for row in seed] for seed in curves.values])


def _best(scores: Array) -> NDArray[np.intp]:
    """Place of the first maximum along the last axis. Scores equal to 12 digits are equal."""
    places: NDArray[np.intp] = np.argmax(np.round(np.nan_to_num(scores, nan=-math.inf), 12), axis=-1)
    return places


def _peaks(curves: Curves, average: Average) -> Places:
    """Each seed with its best checkpoint."""
    return np.arange(len(curves.values)), _best(_scores(curves, average))


def _draws(arms: Sequence[Curves], *, average: Average, rng: np.random.Generator, num_draws: int) -> list[Places]:
    """Bootstrap draws per arm: the seeds that were drawn, and where each is best on the items that were."""
    found: list[list[Places]] = [[] for _ in arms]
    for start in range(0, num_draws, BLOCK):
        weights = _weights(arms[0], average, min(BLOCK, num_draws - start), rng)
        for curves, blocks in zip(arms, found, strict=True):
            best = _best(_weighted(curves, weights, average))
            seeds = rng.integers(0, best.shape[1], size=best.shape)
            blocks.append((seeds, np.take_along_axis(best, seeds, axis=1)))
    return [(np.concatenate([seeds for seeds, _ in blocks]), np.concatenate([best for _, best in blocks])) for blocks in found]


def _within(samples: Array, drawn: Places, rng: np.random.Generator) -> Array:
    """A place of the peak per draw, in the mean over its seeds, on the stretches around the best checkpoints.

    The first stretch begins half way to no samples at all; the last one ends as far behind its checkpoint as it begins before it.
    """
    before = np.diff(samples, axis=1, prepend=0.0) / 2
    after = np.append(before[:, 1:], before[:, -1:], axis=1)
    low, high = (samples - before)[drawn].mean(axis=1), (samples + after)[drawn].mean(axis=1)
    places: Array = rng.uniform(low, high)
    return places


def _num_deciding(first: Curves, second: Curves, average: Average) -> int:
    """On how few clusters it rests that the first arm is sooner, or that it is not, whichever is seen.

    Were all seeds of an arm best at another checkpoint, or those of both arms, the answer might be the other one. What speaks
    against it are the clusters in which the best checkpoints differ from these: of all pairs of checkpoints that turn the answer,
    the number is that of the pair with the fewest.
    """
    names, cluster = np.unique(first.clusters, return_inverse=True)
    places, differing = [], []
    for curves in (first, second):
        peaks = _peaks(curves, average)
        gaps = np.nan_to_num(curves.values[peaks][:, None] - curves.values)
        items = (gaps != 0).any(axis=0)
        clusters = np.array([np.bincount(cluster, row, minlength=len(names)) > 0 for row in items], dtype=float)
        places.append(np.round(np.append(curves.samples.mean(axis=0), curves.samples[peaks].mean()), 6))
        differing.append(np.vstack([clusters, np.zeros(len(names))]))
    mine, theirs = differing
    either = mine.sum(axis=1)[:, None] + theirs.sum(axis=1) - mine @ theirs.T
    later = places[0][:, None] >= places[1]
    return int(either[later != later[-1, -1]].min(initial=len(names)))


def _weights(curves: Curves, average: Average, num_draws: int, rng: np.random.Generator) -> Array:
    """How often each item is drawn: draws x items. Clusters are drawn whole; under macro within their task."""
    strata = np.asarray(curves.tasks) if average == "macro" else np.full(len(curves.tasks), "")
    weights = np.zeros((num_draws, len(strata)))
    for stratum in np.unique(strata):
        here = np.flatnonzero(strata == stratum)
        groups = np.unique(np.asarray(curves.clusters)[here], return_inverse=True)[1]
        num_groups = int(groups.max()) + 1
        counts = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num_draws)
        weights[:, here] = counts[:, groups]
    return weights


def _weighted(curves: Curves, weights: Array, average: Average) -> Array:
    """Weighted scores: draws x seeds x checkpoints; a macro average leaves out tasks without a valid item in the draw."""
    num_seeds, num_checkpoints, num_items = curves.values.shape
    flat = curves.values.reshape(-1, num_items)
    valid, filled = ~np.isnan(flat), np.nan_to_num(flat)
    complete = bool(valid.all())
    tasks = np.asarray(curves.tasks) if average == "macro" else np.full(num_items, "")
    sums, counts = np.zeros((len(weights), len(flat))), np.zeros((len(weights), len(flat)))
    for task in np.unique(tasks):
        here = np.flatnonzero(tasks == task)
        drawn = weights[:, here]
        total = drawn @ filled[:, here].T
        number = np.broadcast_to(drawn.sum(axis=1)[:, None], total.shape) if complete else drawn @ valid[:, here].T.astype(float)
        sums += np.divide(total, number, out=np.zeros_like(total), where=number > 0)
        counts += number > 0
    means = np.divide(sums, counts, out=np.full_like(sums, math.nan), where=counts > 0)
    return means.reshape(len(weights), num_seeds, num_checkpoints)
