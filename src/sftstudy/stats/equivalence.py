"""What an effect with its standard error shows: that it is there, that it is too small to matter, that two arms are equivalent.

P-values come from t = (effect - bound) / error with the effect's degrees of freedom. Those of `superiority`, `below` and
`relevance` are doubled, so that 0.05 is where the 95 % interval touches the bound; those of TOST are not, as is usual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class Effect:
    """An effect, its standard error and its degrees of freedom (infinite for a normal one). `p` is two-sided, of no effect.

    `p` may be larger than the t-test's, where an exact test says so (`items.paired_difference`).
    """

    value: float
    error: float
    freedom: float
    p: float


def superiority(effect: Effect) -> float:
    """P-value of "not above zero": at most 0.05 if the 95 % interval lies above it."""
    return effect.p if effect.value > 0 else 1.0


def below(effect: Effect, bound: float) -> float:
    """P-value of "at least `bound`": at most 0.05 if the 95 % interval lies below it."""
    return min(1.0, 2 * _tail(bound - effect.value, effect))


def equivalence(effect: Effect, margin: float) -> float:
    """P-value of "not within +- margin": two one-sided tests (TOST), Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657.

    It is at most 0.05 exactly if the 90 % interval lies within the margins.
    """
    return max(_tail(margin - effect.value, effect), _tail(margin + effect.value, effect))


def relevance(effect: Effect, margin: float) -> float:
    """P-value of "within +- margin": the minimum-effect test, both tails (Murphy & Myors 1999, J. Appl. Psychol. 84:234)."""
    return min(1.0, 2 * _tail(abs(effect.value) - margin, effect))


def _tail(distance: float, effect: Effect) -> float:
    """P(T > distance / error); without any error the distance alone decides."""
    if effect.error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / effect.error, effect.freedom if math.isfinite(effect.freedom) else 1e9))
