"""Where a run's best checkpoint stands, how sure that is, and what choosing it on the reported items adds to its score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sftstudy.stats.items import Array, Average, ItemScores, error_of_mean, mean

BLOCK = 100
"""Bootstrap draws that are in memory at once."""


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
    """Samples to the peak of one arm over another's, with its interval and the standard error of its logarithm.

    `p_sooner` is the p-value of "at least one", small if the first arm is shown to be sooner, `p_not_sooner` that of "below one".
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
    (draws,) = _draws([curves], average=average, seed=seed, num_draws=num_draws)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    value = float(_at_peak(_scores(curves, average), curves.samples).mean())
    return Position(value, min(float(low), value), max(float(high), value))


def ratio_to_peak(
    first: Curves, second: Curves, *, average: Average, seed: int, num_draws: int = 2000, level: float = 0.95
) -> Ratio:
    """First arm's samples to the peak over the second's; both arms see the same draws of items. The arms have the same items."""
    if first.items != second.items:
        raise ValueError("two arms are compared on the same items")
    mine, theirs = _draws([first, second], average=average, seed=seed, num_draws=num_draws)
    seen = [_at_peak(_scores(curves, average), curves.samples).mean() for curves in (first, second)]
    ratios = mine / theirs
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Ratio(
        value=float(seen[0] / seen[1]),
        low=float(low),
        high=float(high),
        log_error=float(np.log(ratios).std(ddof=1)),
        p_sooner=float((1 + (ratios >= 1).sum()) / (1 + num_draws)),
        p_not_sooner=float((1 + (ratios < 1).sum()) / (1 + num_draws)),
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
    chosen = [int(np.nanargmax(score)) for score in scores]
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
    return int(np.nanargmax([mean(row[part], list(tasks[part]), average) for row in values]))


def _scores(curves: Curves, average: Average) -> Array:
    return np.array([[mean(row, curves.tasks, average) for row in seed] for seed in curves.values])


def _at_peak(scores: Array, samples: Array) -> Array:
    """Samples at the first maximum of the last axis of scores (... x seeds x checkpoints). Scores equal to 12 digits are equal."""
    best = np.argmax(np.round(np.nan_to_num(scores, nan=-math.inf), 12), axis=-1)
    return np.take_along_axis(np.broadcast_to(samples, scores.shape), best[..., None], axis=-1)[..., 0]


def _draws(arms: Sequence[Curves], *, average: Average, seed: int, num_draws: int) -> list[Array]:
    """Bootstrap draws of the mean over seeds of the samples at the peak, per arm."""
    rng = np.random.default_rng(seed)
    found: list[list[Array]] = [[] for _ in arms]
    for start in range(0, num_draws, BLOCK):
        weights = _weights(arms[0], average, min(BLOCK, num_draws - start), rng)
        for curves, blocks in zip(arms, found, strict=True):
            places = _at_peak(_weighted(curves, weights, average), curves.samples)
            num_seeds = places.shape[1]
            drawn = rng.integers(0, num_seeds, size=places.shape)
            blocks.append(np.take_along_axis(places, drawn, axis=1).mean(axis=1))
    return [np.concatenate(blocks) for blocks in found]


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
