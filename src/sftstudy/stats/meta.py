"""The effect pooled over models and data sets, and how much it differs between them: a random-effects meta-analysis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sftstudy.stats.equivalence import Effect
from sftstudy.stats.items import Array


@dataclass(frozen=True)
class Pooled:
    """Mean effect of a population of model x data pairs, with interval and heterogeneity.

    `tau2` is the variance of the true effects, `q` Cochran's, `q_p` its p-value of "all effects equal", `i2` the share of the
    total variation that is not sampling error.
    """

    effect: Effect
    low: float
    high: float
    tau2: float
    q: float
    q_p: float
    i2: float
    num_effects: int


def pool(values: Sequence[float], errors: Sequence[float], *, level: float = 0.95) -> Pooled:
    """Pool two or more effects with their standard errors, all above zero.

    tau2 by REML (Viechtbauer 2005, J. Educ. Behav. Stat. 30:261). Interval and test by Hartung & Knapp 2001 (Stat. Med. 20:3875)
    with t of k - 1 degrees, never narrower than a fixed-effect t interval (Roever et al. 2015, BMC Med. Res. Methodol. 15:99). Q
    and I2 as in Higgins & Thompson 2002 (Stat. Med. 21:1539).
    """
    effects, variances = np.asarray(values, dtype=float), np.asarray(errors, dtype=float) ** 2
    freedom = len(effects) - 1
    if freedom < 1 or not (variances > 0).all():
        raise ValueError("pooling takes two or more effects with standard errors above zero")
    tau2 = _reml(effects, variances)
    weights = 1 / (variances + tau2)
    mean = float(weights @ effects / weights.sum())
    scatter = float(weights @ (effects - mean) ** 2 / freedom)
    error = math.sqrt(max(scatter, 1.0) / float(weights.sum()))
    half = float(stats.t.isf((1 - level) / 2, freedom)) * error
    fixed = 1 / variances
    q = float(fixed @ (effects - fixed @ effects / fixed.sum()) ** 2)
    return Pooled(
        effect=Effect(mean, error, freedom, float(2 * stats.t.sf(abs(mean) / error, freedom))),
        low=mean - half,
        high=mean + half,
        tau2=tau2,
        q=q,
        q_p=float(stats.chi2.sf(q, freedom)),
        i2=max(0.0, (q - freedom) / q) if q > 0 else 0.0,
        num_effects=len(effects),
    )


def _reml(effects: Array, variances: Array) -> float:
    """Restricted maximum likelihood of the variance between effects, by Fisher scoring from the moment estimate."""
    tau2 = max(0.0, float(effects.var(ddof=1) - variances.mean()))
    for _ in range(1000):
        weights = 1 / (variances + tau2)
        mean = weights @ effects / weights.sum()
        squares = weights**2
        update = float(squares @ ((effects - mean) ** 2 - variances) / squares.sum() + 1 / weights.sum())
        before, tau2 = tau2, max(0.0, update)
        if abs(tau2 - before) <= 1e-12 * (1e-12 + tau2):
            break
    return tau2
