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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sftstudy.stats import Array

CAUTION = 0.75
"""Share of the largest bet that cannot lose everything; any value below 1 is valid."""


@dataclass(frozen=True)
class Race:
    """How a race went, by places in the order of the candidates: the winner, and after how many items each was dropped."""

    winner: int
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


def looks(num_items: int, *, first: int = 32, growth: float = 1.25) -> list[int]:
    """Numbers of items after which the race is looked at: growing by a factor, the last one is all."""
    found = [min(first, num_items)]
    while found[-1] < num_items:
        found.append(min(num_items, math.ceil(found[-1] * growth)))
    return found


def race(values: Array, weights: Array, *, at: Sequence[int], error_rate: float) -> Race:
    """Race the rows of `values`, candidates x items in a random order; equal totals go to the first row.

    `weights` are of the items, `at` are the numbers of items at which candidates may be dropped. A single survivor is not scored
    further.
    """
    num_candidates, num_items = values.shape
    span = float(np.ptp(values)) or 1.0
    scaled = values * (weights / weights.max()) / span
    totals = np.cumsum(scaled, axis=1)
    alive, seen = list(range(num_candidates)), [num_items] * num_candidates
    threshold = math.log(max(num_candidates - 1, 1) / error_rate)
    wealth: dict[tuple[int, int], Array] = {}
    for num_seen in at:
        leader = _first_best(totals[:, num_seen - 1], alive)
        for candidate in [place for place in alive if place != leader]:
            if (leader, candidate) not in wealth:
                wealth[leader, candidate] = log_wealth(scaled[leader] - scaled[candidate])
            if wealth[leader, candidate][:num_seen].max() >= threshold:
                alive.remove(candidate)
                seen[candidate] = num_seen
        if len(alive) == 1:
            seen[alive[0]] = num_seen
            break
    return Race(_first_best(totals[:, -1], alive), tuple(seen), num_items)


def log_wealth(differences: Array) -> Array:
    """Log of the wealth after each item of a bet that differences in [-1, 1], in a random order, have a total above zero.

    If the total so far is s with n items to come, these have a mean of at most -s / n unless the bet is right. The stake follows
    the mean and the second moment of what was seen (an approximate Kelly bet).
    """
    num_items = len(differences)
    seen = np.arange(num_items)
    before = np.concatenate([[0.0], np.cumsum(differences)[:-1]])
    squares = np.concatenate([[0.0], np.cumsum(differences**2)[:-1]])
    bound = -before / (num_items - seen)
    drift = before / (seen + 1) - bound
    stake = np.clip(drift / ((squares + 1) / (seen + 1) + drift**2), 0, CAUTION / np.maximum(1 + bound, 1e-12))
    won = np.log1p(np.maximum(stake * (differences - bound), -CAUTION))
    wealth: Array = np.cumsum(np.where(bound < -1 - 1e-9, math.inf, won))  # what is to come cannot make up for it
    return wealth


def _first_best(totals: Array, places: Sequence[int]) -> int:
    """The place with the highest total; totals equal to 9 digits are equal and the first place wins."""
    rounded = {place: round(float(totals[place]), 9) for place in places}
    return min(places, key=lambda place: (-rounded[place], place))
