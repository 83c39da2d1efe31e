"""From tests to verdicts: what shows a claim, what refutes it, and what several cells say together.

A claim about several benchmarks (and models and data) says that it holds on each of them. So it holds if every cell shows it at
level 0.05: a conjunction needs no correction (Berger 1982, Technometrics 24:295). Any one cell can refute it, so refutations are
Holm-corrected over the cells. A refutation is evidence too: that an effect is below the margin, or a difference beyond it. What
neither shows nor refutes has not enough power; no significant difference is never called equivalence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scipy import stats as distributions

from sftstudy import stats
from sftstudy.findings import ClaimCell, ClaimEffect, Verdict
from sftstudy.stats import power
from sftstudy.stats.equivalence import Effect, below, equivalence, relevance, superiority
from sftstudy.stats.meta import pool

ALPHA = 0.05
LEVEL = 1 - ALPHA
TAU, I2, Q = "standard deviation between pairs", "I2, share of variation between pairs", "p of equal effects (Cochran's Q)"
"""What goes with a pooled effect: how much it differs between models and data."""


@dataclass(frozen=True)
class Question:
    """How an effect answers a claim: is it above zero (`direction`), or within the margin (`equivalence`)? All on one scale.

    `show` turns an effect as it is analysed into what is printed: tanh of a transformed correlation, exp of a logarithm.
    """

    kind: power.Question
    margin: float
    show: Callable[[float], float] = field(default=lambda value: value)

    def tests(self, effect: Effect) -> tuple[float, float]:
        """P-values of the test that shows the claim and of the one that refutes it."""
        if self.kind == "equivalence":
            return equivalence(effect, self.margin), relevance(effect, self.margin)
        return superiority(effect), below(effect, self.margin)


@dataclass(frozen=True)
class Measured:
    """A cell before its verdict: the effect on the scale that it is analysed on, None if it cannot be had."""

    cell: ClaimCell
    question: Question
    effect: Effect | None


def decide(measured: Sequence[Measured]) -> tuple[Verdict, list[ClaimCell]]:
    """Verdicts of the cells of one claim and the verdict that they make together."""
    refuting = stats.holm([1.0 if one.cell.p_fails is None else one.cell.p_fails for one in measured])
    cells = [
        one.cell.model_copy(
            update={"p_fails": None if one.cell.p_fails is None else p, "verdict": verdict_of(one.cell.p_holds, p)}
            | ({} if verdict_of(one.cell.p_holds, p) == "not enough power" else dict.fromkeys(NEEDS))
        )
        for one, p in zip(measured, refuting, strict=True)
    ]
    return together([cell.verdict for cell in cells]), cells


NEEDS = ("needed_seeds", "needed_items", "needed_both", "needed_recipes", "needed_pairs")
"""Fields that only an open question has."""


def verdict_of(p_holds: float | None, p_fails: float) -> Verdict:
    """One cell's verdict. An effect shown to be there and shown to be too small to matter refutes the claim."""
    if p_fails <= ALPHA:
        return "does not hold"
    return "holds" if p_holds is not None and p_holds <= ALPHA else "not enough power"


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """All must hold; one that does not is enough."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if verdicts and set(verdicts) == {"holds"} else "not enough power"


def interval_of(effect: Effect, question: Question) -> ClaimEffect:
    """The effect with its interval as it is printed: 95 %, or 90 % where TOST decides."""
    tail = ALPHA if question.kind == "equivalence" else ALPHA / 2
    quantile = float(distributions.t.isf(tail, effect.freedom if math.isfinite(effect.freedom) else 1e9))
    ends = sorted(question.show(effect.value + sign * quantile * effect.error) for sign in (-1, 1))
    return ClaimEffect(value=question.show(effect.value), low=ends[0], high=ends[1])


def pooled(measured: Sequence[Measured]) -> list[ClaimCell]:
    """Per benchmark, the effect pooled over two or more pairs of model and data, refutations corrected over the benchmarks.

    What one of the pairs cannot show, since its runs end too early, the pooled effect does not show either.
    """
    found: list[Measured] = []
    for benchmark in dict.fromkeys(one.cell.benchmark for one in measured):
        here = [one for one in measured if one.cell.benchmark == benchmark and one.effect is not None]
        if len(here) < 2:
            continue
        question = here[0].question
        made = pool([one.effect.value for one in here if one.effect], [one.effect.error for one in here if one.effect])
        p_holds, p_fails = question.tests(made.effect)
        spread = {
            TAU: ClaimEffect(value=math.sqrt(made.tau2)),
            I2: ClaimEffect(value=made.i2),
            Q: ClaimEffect(value=made.q_p),
        }
        cell = ClaimCell(
            model="",
            data="",
            benchmark=benchmark,
            verdict="not enough power",
            effect=interval_of(made.effect, question),
            margin=here[0].cell.margin,
            p_holds=None if any(one.cell.p_holds is None for one in here) else p_holds,
            p_fails=None if any(one.cell.p_fails is None for one in here) else p_fails,
            num_runs=len(here),
            needed_pairs=power.needed_effects(made.effect, len(here), question.margin, question.kind),
            details=spread,
        )
        found.append(Measured(cell, question, made.effect))
    return decide(found)[1]


def robust(
    claims: Sequence[tuple[Sequence[ClaimCell], Sequence[ClaimCell]]], names: Sequence[str]
) -> tuple[Verdict, list[ClaimCell]]:
    """Verdict over other claims' (cells, pooled cells): the pooled effects decide, and a pair that refutes one sinks it.

    A claim on a single pair of model and data has not enough power, whatever it says there.
    """
    cells: list[ClaimCell] = []
    for name, (single, overall) in zip(names, claims, strict=True):
        for benchmark in dict.fromkeys(cell.benchmark for cell in single):
            pairs = [cell for cell in single if cell.benchmark == benchmark]
            one = next((cell for cell in overall if cell.benchmark == benchmark), None)
            if one is None:
                known = sum(cell.effect.low != cell.effect.high for cell in pairs)
                note = f"{known} pair{'' if known == 1 else 's'} of model and data with an interval; two are needed"
                one = ClaimCell(model="", data="", benchmark=benchmark, verdict="not enough power", effect=ClaimEffect(note=note))
            refuted: list[Verdict] = ["does not hold"] if any(cell.verdict == "does not hold" for cell in pairs) else []
            verdict = together([one.verdict, *refuted])
            unneeded = {} if verdict == "not enough power" else dict.fromkeys(NEEDS)
            cells.append(one.model_copy(update={"benchmark": f"{name}: {benchmark}", "verdict": verdict} | unneeded))
    return together([cell.verdict for cell in cells]), cells
