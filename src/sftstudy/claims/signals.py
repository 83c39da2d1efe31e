"""Claims about early signals: whether gradient norm or loss early in training tells how a recipe will end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from sftstudy.averages import comparable
from sftstudy.claims.verdicts import Measured, Question
from sftstudy.config import SignalClaim
from sftstudy.errors import StudyError
from sftstudy.findings import ClaimCell, ClaimEffect
from sftstudy.paths import Layout
from sftstudy.records import StepMetrics, read_metrics
from sftstudy.screen import number_kept
from sftstudy.spec import PlannedStage
from sftstudy.stats.equivalence import Effect, below
from sftstudy.stats.power import needed_pairs
from sftstudy.stats.ranks import rank_correlation, stop_regret
from sftstudy.tables.aggregate import Pair, Results
from sftstudy.tables.collect import read_training
from sftstudy.tables.early import early_mean


@dataclass(frozen=True)
class Ranked:
    """A recipe in the mean of its complete seeds: its early signal, its last score (more being better), and its group."""

    recipe: str
    signal: float
    final: float
    group: str


class Signals:
    """Questions on early dynamics to a study's results."""

    def __init__(self, results: Results, *, layout: Layout, seed: int) -> None:
        self.results = results
        self.layout = layout
        self.seed = seed

    def measure(self, claim: SignalClaim, pair: Pair, benchmark: str) -> Measured:
        """Rank correlation of how promising the signal is with the final score, within groups if the claim says so."""
        question = Question("direction", math.atanh(claim.margin), show=math.tanh)
        cell = ClaimCell(
            model=pair[0],
            data=pair[1],
            benchmark=benchmark,
            verdict="not enough power",
            effect=ClaimEffect(note="fewer than two recipes that differ have finished"),
            margin=claim.margin,
            needed_recipes=needed_pairs(claim.margin),
        )
        ranked = self.ranked(claim, pair, benchmark)
        sign = 1.0 if claim.promising == "high" else -1.0
        signal, final = [sign * one.signal for one in ranked], [one.final for one in ranked]
        groups = [one.group for one in ranked] if claim.within else None
        found = rank_correlation(signal, final, groups=groups, seed=self.seed)
        if found is None:
            return Measured(cell, question, None)
        effect = None if found.error is None else Effect(found.z, found.error, math.inf, math.nan)
        regret = stop_regret(signal, final, keep=partial(number_kept, claim.keep), groups=groups)
        details = {
            f"regret of keeping {regret.num_kept} of {len(ranked)} by it": ClaimEffect(value=regret.value),
            f"regret of keeping {regret.num_kept} at random": ClaimEffect(value=regret.at_random),
        }
        numbers = {
            "effect": ClaimEffect(value=found.value, low=found.low, high=found.high),
            "p_holds": min(1.0, 2 * found.p),
            "p_fails": None if effect is None else below(effect, question.margin),
            "num_runs": len(ranked),
            "details": details,
        }
        return Measured(cell.model_copy(update=numbers), question, effect)

    def pairs(self, claim: SignalClaim) -> list[Pair]:
        """Models and data on which two or more of the recipes are planned."""
        stages, named = self.results.study.stages, self._named(claim)
        planned = {pair: {s.recipe for s in stages if (s.model, s.data) == pair} for pair in self.results.pairs}
        return [pair for pair, recipes in planned.items() if len(named & recipes) > 1]

    def _named(self, claim: SignalClaim) -> set[str]:
        return {cell for recipe in claim.recipes for cell in self.results.study.sweeps.get(recipe, [recipe])}

    def ranked(self, claim: SignalClaim, pair: Pair, benchmark: str) -> list[Ranked]:
        """The recipes with a complete run, in the order of their names."""
        found = []
        for recipe in sorted(self._named(claim)):
            values = []
            for run in self.results.runs(pair, recipe, benchmark):
                first = self._first_stage(pair, recipe, run.seed)
                signal = self._signal(first, claim.signal, claim.until)
                last = run.points[-1] if run.complete else None
                if signal is not None and last is not None and last.value is not None:
                    values.append(
                        (signal, last.value if last.higher_is_better else -last.value, str(first.factors.get(claim.within or "")))
                    )
            if values:
                signals, finals, groups = zip(*values, strict=True)
                found.append(Ranked(recipe, float(np.mean(signals)), comparable(float(np.mean(finals))), groups[0]))
        return found

    def _first_stage(self, pair: Pair, recipe: str, seed: int) -> PlannedStage:
        stages = [s for s in self.results.study.stages if (s.model, s.data, s.recipe, s.seed) == (*pair, recipe, seed)]
        return min(stages, key=lambda stage: stage.stage)

    def _signal(self, stage: PlannedStage, signal: str, until: float) -> float | None:
        """Mean of a signal over the early steps of a stage; None if its records are missing or stale."""
        steps = self._steps(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
        return early_mean(steps, signal, until) if steps else None

    @cache
    def _steps(self, model: str, data: str, recipe: str, seed: int, stage: str) -> tuple[StepMetrics, ...]:
        planned = next(
            s
            for s in self.results.study.stages
            if (s.model, s.data, s.recipe, s.seed, s.stage) == (model, data, recipe, seed, stage)
        )
        if read_training(planned, layout=self.layout) is None:
            return ()
        try:
            return tuple(read_metrics(self.layout.stage_results(model, data, recipe, seed, stage) / "metrics.jsonl"))
        except StudyError:
            return ()
