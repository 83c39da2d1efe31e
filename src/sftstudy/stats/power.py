"""How many seeds or items would settle a question that the data leave open."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

from scipy import special, stats

from sftstudy.stats.equivalence import Effect
from sftstudy.stats.items import Difference, Strata, least_variance, total

POWER = 0.8
MOST_SEEDS = 100
MOST_EFFECTS = 100
MOST_ITEMS_FACTOR = 1000
UNSURE = float(stats.norm.isf(0.25))
"""The normal quantile of p = 0.5: a larger p widens an error no further."""

Question = Literal["direction", "equivalence"]


@dataclass(frozen=True)
class Needed:
    """Seeds per arm with today's items, or items with today's seeds, that would do; None if no number up to the limit does.

    `both` is the cheapest pair of seeds and items, by their product, if neither does alone.
    """

    seeds: int | None
    items: int | None
    both: tuple[int, int] | None = None


def needed(difference: Difference, margin: float, question: Question, *, level: float = 0.95) -> Needed:
    """What shows a true effect of `margin` (direction), or two arms that do not differ to lie within it, with 80 % power.

    A two-sided test finds it if margin >= t of (1 + level) / 2 x error + t of the power x spread. TOST has one side at a time but
    needs both: margin >= t of level x error + t of (1 + power) / 2 x spread (Julious 2004, Stat. Med. 23:1921). The margin counts
    and not the effect that was seen: an effect's own size says nothing of the test that it did not pass (Hoenig & Heisey 2001, Am.
    Stat. 55:19).

    Variance over items shrinks with items, variance over seeds with seeds. `spread` is the root of their sum, and `error` what the
    test takes for it: more, where hardly an item differs (`items.least_variance`) or a sign test has the last word. An arm with one
    seed is taken to vary over more of them as the other one does; with one seed per arm nothing is known of that, and `seeds` is
    None.
    """
    first, second = ((1 + level) / 2, POWER) if question == "direction" else (level, (1 + POWER) / 2)
    of_a_run = [variance * seeds for variance, seeds in difference.seed_variances]

    @cache
    def over_items(num_items: int) -> tuple[float, float, float, float]:
        """The variance over so many, its degrees of freedom, what the test takes for it, and how far one item moves the mean."""
        factor = num_items / difference.num_items
        freedom = difference.item_freedom * factor
        strata = tuple((draws * factor, most) for draws, most in difference.strata)
        variance = difference.item_variance / factor
        if question == "direction":
            variance = max(variance, _variance_of_effect(margin, strata))
        tested = max(variance, least_variance(strata, freedom, level))
        return variance, freedom, tested, sum(most for _, most in strata) / sum(draws for draws, _ in strata)

    def enough(num_items: int, num_seeds: int | None) -> bool:
        variance, freedom, tested, step = over_items(num_items)
        if num_seeds is None:
            seeds = [(each, number - 1.0) for each, number in difference.seed_variances]
        else:
            seeds = [(each / num_seeds, num_seeds - 1.0) for each in of_a_run * (2 // len(of_a_run))]
        squares, true_freedom = total([(variance, freedom), *seeds])
        spread = math.sqrt(squares)
        squares, tested_freedom = total([(tested, freedom), *seeds])
        error = math.sqrt(squares)
        apart = float(special.stdtrit(true_freedom, second)) * spread
        if difference.signs and question == "equivalence" and apart > 0:
            # the test's error at that distance (`items.paired_difference`): a sign test's p is that of one item less
            error = max(error, apart / max((apart - step) / spread, UNSURE))
        return float(special.stdtrit(tested_freedom, first)) * error + apart <= margin

    def items_for(num_seeds: int | None) -> int | None:
        low, high = 1, difference.num_items * MOST_ITEMS_FACTOR
        if not enough(high, num_seeds):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle, num_seeds) else (middle, high)
        return high

    counts = range(2, MOST_SEEDS + 1) if difference.seed_variances else range(0)
    seeds = next((count for count in counts if enough(difference.num_items, count)), None)
    items = items_for(None)
    if seeds or items:
        return Needed(seeds, items)
    pairs = [(count, found) for count in counts if (found := items_for(count))]
    return Needed(None, None, min(pairs, key=lambda pair: (pair[0] * pair[1], pair[0]), default=None))


def _variance_of_effect(effect: float, strata: Strata) -> float:
    """Variance over items of a mean that is moved by as few draws as may be, in each stratum by the same share p.

    effect = p sum m_k, variance = p (1 - p) sum m_k^2 / n_k; p is not taken for more than a half.
    """
    share = min(effect / sum(most for _, most in strata), 0.5)
    return share * (1 - share) * sum(most**2 / draws for draws, most in strata)


def needed_effects(pooled: Effect, num_effects: int, margin: float, question: Question, *, level: float = 0.95) -> int | None:
    """Effects like those that were pooled, of other models and data, with which their mean would show the same with 80 % power.

    The error of a mean of k effects goes with 1 / sqrt(k), and its t has k - 1 degrees. None if no number up to the limit does.
    """
    first, second = ((1 + level) / 2, POWER) if question == "direction" else (level, (1 + POWER) / 2)

    def enough(number: int) -> bool:
        error = pooled.error * math.sqrt(num_effects / number)
        return float(stats.t.ppf(first, number - 1) + stats.t.ppf(second, number - 1)) * error <= margin

    return next((number for number in range(num_effects, MOST_EFFECTS + 1) if enough(number)), None)


def needed_pairs(correlation: float, *, level: float = 0.95) -> int:
    """Pairs that show a true rank correlation of this size with 80 % power: n = 3 + (1 + rho^2 / 2) ((z + z') / atanh(rho))^2.

    Bonett & Wright 2000 (Psychometrika 65:23), turned around for a two-sided test.
    """
    quantiles = float(stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(POWER))
    return 3 + math.ceil((1 + correlation**2 / 2) * (quantiles / math.atanh(correlation)) ** 2)
