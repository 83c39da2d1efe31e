"""How many seeds or items would settle a question that the data leave open."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from sftstudy.stats.items import Difference

POWER = 0.8
MOST_SEEDS = 100
MOST_ITEMS_FACTOR = 1000

Question = Literal["direction", "equivalence"]


@dataclass(frozen=True)
class Needed:
    """Seeds per arm with today's items, or items with today's seeds, that would do; None if no number up to the limit does."""

    seeds: int | None
    items: int | None


def needed(difference: Difference, margin: float, question: Question, *, level: float = 0.95) -> Needed:
    """What shows a true effect of `margin` (direction), or two arms that do not differ to lie within it, with 80 % power.

    A test at 1 - level finds them if margin >= (t_level + t_power) x error; TOST needs both sides, so its second quantile is that
    of (1 + power) / 2 (Julious 2004, Stat. Med. 23:1921). The margin counts and not the effect that was seen: an effect's own
    size says nothing of the test that it did not pass (Hoenig & Heisey 2001, Am. Stat. 55:19). Variance over items shrinks with
    items, variance over seeds with seeds; with one seed per arm the latter is unknown, and `seeds` is None.
    """

    def enough(item_factor: float, num_seeds: int | None) -> bool:
        parts = [(difference.item_variance / item_factor, difference.item_freedom * item_factor)]
        for variance, seeds in difference.seed_variances:
            now = num_seeds or seeds
            parts.append((variance * seeds / now, now - 1.0))
        total = sum(part for part, _ in parts)
        squares = sum(part**2 / degrees for part, degrees in parts)
        freedom = total**2 / squares if squares > 0 else 1.0
        other = POWER if question == "direction" else (1 + POWER) / 2
        quantiles = float(stats.t.ppf(level, freedom) + stats.t.ppf(other, freedom))
        return quantiles * math.sqrt(total) <= margin

    seeds = next((n for n in range(2, MOST_SEEDS + 1) if enough(1.0, n)), None) if difference.seed_variances else None
    most = difference.num_items * MOST_ITEMS_FACTOR
    if not enough(MOST_ITEMS_FACTOR, None):
        return Needed(seeds, None)
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle / difference.num_items, None) else (middle, high)
    return Needed(seeds, high)


def needed_pairs(correlation: float, *, level: float = 0.95) -> int:
    """Pairs that show a true rank correlation of this size with 80 % power: n = 3 + (1 + rho^2 / 2) ((z + z') / atanh(rho))^2.

    Bonett & Wright 2000 (Psychometrika 65:23), turned around for a one-sided test.
    """
    quantiles = float(stats.norm.ppf(level) + stats.norm.ppf(POWER))
    return 3 + math.ceil((1 + correlation**2 / 2) * (quantiles / math.atanh(correlation)) ** 2)
