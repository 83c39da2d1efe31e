"""Statistics of scores as pure functions over arrays; each names the source of its formula.

`items` has means, intervals and paired tests over items and seeds, `equivalence` tests against a margin, `ranks` correlations and
what stopping by a signal costs, `peaks` where a run's best checkpoint stands, `meta` the pooled effect over models and data,
`power` what would settle an open question.
"""

from sftstudy.stats.items import (
    SCALE,
    Array,
    Average,
    Difference,
    Estimate,
    ItemScores,
    Unit,
    estimate,
    holm,
    mean,
    paired_difference,
)

__all__ = [
    "SCALE",
    "Array",
    "Average",
    "Difference",
    "Estimate",
    "ItemScores",
    "Unit",
    "estimate",
    "holm",
    "mean",
    "paired_difference",
]
