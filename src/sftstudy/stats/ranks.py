"""Rank correlation of an early signal with a final score, and what stopping runs by that signal costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sftstudy.stats.items import Array

MOST_ORDERS = 50_000
"""Orders up to which a permutation test lists them all."""

NUM_DRAWS = 10_000
"""Orders that it draws otherwise."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho with its interval. `z` is its Fisher transform, `error` the standard error of that, None below four pairs.

    `p` is the one-sided permutation p-value of "not above zero", `num_pairs` the pairs of the correlation, over all groups.
    """

    value: float
    low: float | None
    high: float | None
    p: float
    z: float
    error: float | None
    num_pairs: int


@dataclass(frozen=True)
class StopRegret:
    """What is lost if only runs with the best signals go on: best final score of all less the best of those kept.

    `at_random` is the same in the mean over all choices of as many runs of each group.
    """

    value: float
    at_random: float
    num_kept: int


def rank_correlation(
    first: Sequence[float], second: Sequence[float], *, groups: Sequence[Hashable] | None = None, level: float = 0.95, seed: int = 0
) -> Correlation | None:
    """Spearman's rank correlation, within groups if they are given. None without pairs, or if a variable varies within no group.

    Within groups, ranks are taken and centred in each one and correlated over all (a partial correlation given the group).
    Interval: Fisher's z with the standard error of Bonett & Wright 2000 (Psychometrika 65:23), sqrt((1 + rho^2 / 2) / (n - 3 -
    k)), k one less than the number of groups. The p-value permutes within groups, over all orders if they are few. `seed` draws
    them otherwise.
    """
    if len(first) == 0:
        return None
    members = _members(groups, len(first))
    ranks = [np.concatenate([_centred(np.asarray(values, dtype=float)[m]) for m in members]) for values in (first, second)]
    scale = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    if scale < 1e-12:
        return None
    value = float(np.clip(ranks[0] @ ranks[1] / scale, -1, 1))
    p = _permutation_p(ranks[0], ranks[1], [len(m) for m in members], seed=seed)
    freedom = len(first) - 3 - (len(members) - 1)
    if freedom < 1:
        return Correlation(value, None, None, p, _fisher(value), None, len(first))
    z, error = _fisher(value), math.sqrt((1 + value**2 / 2) / freedom)
    half = float(stats.norm.isf((1 - level) / 2)) * error
    return Correlation(value, math.tanh(z - half), math.tanh(z + half), p, z, error, len(first))


def stop_regret(
    signal: Sequence[float], final: Sequence[float], *, keep: Callable[[int], int], groups: Sequence[Hashable] | None = None
) -> StopRegret:
    """Regret of keeping, of each group or of all, the runs with the highest signal; of equal signals the first ones.

    `keep` says how many of so many go on.
    """
    members = _members(groups, len(final))
    kept = [index for group in members for index in sorted(group, key=lambda one: -signal[one])[: keep(len(group))]]
    levels = sorted(set(final))
    # no better than a level are those draws of k from each group that take all k from its scores up to there
    shares = [
        math.prod(
            math.comb(sum(final[one] <= level for one in group), keep(len(group))) / math.comb(len(group), keep(len(group)))
            for group in members
        )
        for level in levels
    ]
    expected = sum(level * (share - below) for level, share, below in zip(levels, shares, [0.0, *shares], strict=False))
    return StopRegret(max(final) - max(final[index] for index in kept), max(final) - expected, len(kept))


def _members(groups: Sequence[Hashable] | None, number: int) -> list[list[int]]:
    """Places of each group, in the order in which groups appear; all in one without groups."""
    names = list(groups) if groups is not None else [0] * number
    return [[place for place, name in enumerate(names) if name == group] for group in dict.fromkeys(names)]


def _centred(values: Array) -> Array:
    ranks: Array = stats.rankdata(values)
    centred: Array = ranks - ranks.mean()
    return centred


def _fisher(value: float) -> float:
    return math.atanh(float(np.clip(value, -0.9999, 0.9999)))


@cache
def _orders(size: int) -> NDArray[np.intp]:
    """All orders of so many places, one per row."""
    return np.array(list(itertools.permutations(range(size))), dtype=np.intp)


def _permutation_p(first: Array, second: Array, sizes: Sequence[int], *, seed: int) -> float:
    """Share of orders within groups whose covariance is at least the one seen."""
    seen = first @ second - 1e-9
    bounds = np.cumsum([0, *sizes])
    blocks = [(first[a:b], second[a:b]) for a, b in itertools.pairwise(bounds)]
    if math.prod(math.factorial(size) for size in sizes) <= MOST_ORDERS:
        sums = np.zeros(1)
        for mine, theirs in blocks:
            sums = np.add.outer(sums, theirs[_orders(len(theirs))] @ mine).ravel()
        return float((sums >= seen).mean())
    rng = np.random.default_rng(seed)
    drawn = sum(rng.permuted(np.tile(theirs, (NUM_DRAWS, 1)), axis=1) @ mine for mine, theirs in blocks)
    return float((1 + (np.asarray(drawn) >= seen).sum()) / (1 + NUM_DRAWS))
