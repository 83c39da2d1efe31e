"""Racing: finds the best of several checkpoints without scoring all of them on all items.

Items are scored in a random order. At every look, a checkpoint is dropped that is shown to score lower, over *all* items, than
the one that leads at the moment. The proof is a bet: for a leader r and a candidate c, the wealth of a gambler who bets that r is
ahead is a supermartingale as long as c's total is at least r's, because items are drawn without replacement (Waudby-Smith &
Ramdas 2020, "Confidence sequences for sampling without replacement", NeurIPS). By Ville's inequality it ever reaches (K - 1) /
error_rate with a probability of at most error_rate / (K - 1). So, whatever the number of looks and whoever leads at them, the
checkpoint that the whole benchmark would choose among K is dropped with a probability of at most error_rate. Chance is in the
order of the items alone: nothing is assumed of scores, items or checkpoints. Items may be right or wrong or graded, their average
micro or macro.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sftstudy.stats import Array

CAUTION = 0.75
"""Share of the largest bet that cannot lose everything; any value below 1 is valid."""


@dataclass(frozen=True)
class Result:
    """How a race went, by places in the order of the candidates: who was never dropped, and how many items each was scored on."""

    survivors: tuple[int, ...]
    num_items: tuple[int, ...]
    num_items_each: int

    @property
    def saved(self) -> float:
        """Share of all scorings (a checkpoint on an item) that were not needed."""
        return 1 - sum(self.num_items) / (self.num_items_each * len(self.num_items))


def random_order(items: Sequence[str], *, seed: int) -> list[int]:
    """The items' places in an order that is random and depends on their names and the seed alone."""
    return sorted(range(len(items)), key=lambda place: hashlib.sha256(f"{seed}\t{items[place]}".encode()).digest())


def item_weights(tasks: Sequence[str], average: str) -> Array:
    """What an item contributes to the total: alike in a micro average, by its task's size in a macro one."""
    names, places, counts = np.unique(np.asarray(tasks), return_inverse=True, return_counts=True)
    return np.ones(len(tasks)) if average == "micro" else 1 / (len(names) * counts[places].astype(float))


def looks(num_items: int, *, first: int, growth: float) -> list[int]:
    """Numbers of items after which the race is looked at: growing by a factor, the last one is all."""
    found = [min(first, num_items)]
    while found[-1] < num_items:
        found.append(math.ceil(min(num_items, found[-1] * growth)))
    return found


def race(read: Callable[[int, int], Array], weights: Array, *, num_candidates: int, at: Sequence[int], error_rate: float) -> Result:
    """Race candidates over items in a random order. A single survivor is not scored further; several have all items.

    `read(candidate, n)` gives a candidate's values, between 0 and 1, on the first n items. It is asked for growing n, and never
    again once the candidate is dropped. `weights` are of all items, `at` are the numbers of items at which it may be dropped.
    """
    scaled = weights / weights.max()
    alive, seen = list(range(num_candidates)), [0] * num_candidates
    threshold = math.log(max(num_candidates - 1, 1) / error_rate)
    for num_seen in at:
        if len(alive) == 1:
            break
        rows = {place: read(place, num_seen) * scaled[:num_seen] for place in alive}
        seen = [num_seen if place in rows else before for place, before in enumerate(seen)]
        if num_seen == len(weights):
            break
        leader = min(alive, key=lambda place: (-round(math.fsum(rows[place]), 9), place))
        for place in [other for other in alive if other != leader]:
            if log_wealth(rows[leader] - rows[place], num_items=len(weights)).max() >= threshold:
                alive.remove(place)
    return Result(tuple(alive), tuple(seen), len(weights))


def log_wealth(differences: Array, *, num_items: int) -> Array:
    """Log of the wealth after each item of a bet that differences in [-1, 1], in a random order, have a total above zero.

    `differences` are the first of `num_items`. If their total so far is s with n items to come, these have a mean of at most -s / n
    unless the bet is right. The stake follows the mean and the second moment of what was seen (an approximate Kelly bet).
    """
    seen = np.arange(len(differences))
    before = np.concatenate([[0.0], np.cumsum(differences)[:-1]])
    squares = np.concatenate([[0.0], np.cumsum(differences**2)[:-1]])
    bound = -before / (num_items - seen)
    drift = before / (seen + 1) - bound
    stake = np.clip(drift / ((squares + 1) / (seen + 1) + drift**2), 0, CAUTION / np.maximum(1 + bound, 1e-12))
    won = np.log1p(np.maximum(stake * (differences - bound), -CAUTION))
    wealth: Array = np.cumsum(np.where(bound < -1 - 1e-9, math.inf, won))  # what is to come cannot make up for it
    return wealth
