"""Claims about two arms: one above the other, both alike within a margin, or one sooner at its peak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import Literal

import numpy as np

from sftstudy import stats
from sftstudy.claims.verdicts import Measured, Question, interval_of
from sftstudy.config import ArmsClaim, Currency, EfficiencyClaim, Reading, TwoArms
from sftstudy.errors import StudyError
from sftstudy.findings import ClaimCell, ClaimEffect
from sftstudy.ledger import CURRENCIES, Cost, common_budget, latest_within, read_ledger
from sftstudy.paths import Layout
from sftstudy.spec import PlannedBenchmark
from sftstudy.stats import Difference, ItemScores
from sftstudy.stats.equivalence import Effect
from sftstudy.stats.peaks import Curves, in_first_half, optimism, ratio_to_peak
from sftstudy.stats.power import needed
from sftstudy.tables.aggregate import Pair, Point, Results, Run, peak

READINGS: tuple[Reading, ...] = ("last", "peak", "held-out-peak", *CURRENCIES)


SinglePoint = Literal["last", "peak"] | Currency
"""Readings that are of one checkpoint per run, on all items."""


class Arms:
    """Two-arm questions to a study's results."""

    def __init__(self, results: Results, *, layout: Layout, seed: int) -> None:
        self.results = results
        self.layout = layout
        self.seed = seed

    def measure(self, claim: ArmsClaim, pair: Pair, benchmark: str) -> Measured:
        """First less second at the claim's reading, more being better, with the same at all others beside it."""
        margin, arms = claim.margins[benchmark], self.arms_in(claim, pair)
        question = Question(claim.kind, margin)
        found = {reading: self.compare(*arms, pair, benchmark, reading) for reading in READINGS}
        cell = ClaimCell(
            model=pair[0],
            data=pair[1],
            benchmark=benchmark,
            verdict="not enough power",
            effect=ClaimEffect(note=f"no complete runs of both arms reach a checkpoint at {claim.at}"),
            margin=margin,
            arms=arms,
            spent=self._spent(arms, pair, benchmark),
            details=self._beside(arms, pair, benchmark, found, question),
        )
        difference = found[claim.at]
        if difference is None:
            return Measured(cell, question, None)
        effect = effect_of(difference)
        p_holds, p_fails = question.tests(effect)
        need = needed(difference, margin, claim.kind)
        numbers = {
            "effect": interval_of(effect, question),
            "p_holds": p_holds,
            "p_fails": p_fails,
            "num_items": difference.num_items,
            "num_runs": sum(len(self.complete(pair, recipe, benchmark)) for recipe in arms),
            "needed_seeds": need.seeds,
            "needed_items": need.items,
            "needed_both": need.both,
        }
        return Measured(cell.model_copy(update=numbers), question, effect)

    def measure_efficiency(self, claim: EfficiencyClaim, pair: Pair, benchmark: str) -> Measured:
        """Samples spent to the peak, first over second. The effect is minus the logarithm: above zero if the first is sooner.

        A run whose best checkpoint is its last one may have its peak ahead. Such a first arm is never shown to be sooner, and
        such a second arm never to be as soon.
        """
        question = Question("direction", 0.0, show=lambda value: math.exp(-value))
        arms = self.arms_in(claim, pair)
        cell = ClaimCell(
            model=pair[0],
            data=pair[1],
            benchmark=benchmark,
            verdict="not enough power",
            effect=ClaimEffect(),
            arms=arms,
        )
        first, second = (self.curves(pair, recipe, benchmark) for recipe in arms)
        if first is None or second is None or first.items != second.items:
            missing = ClaimEffect(note="no complete runs of both arms on the same items and with all checkpoints")
            return Measured(cell.model_copy(update={"effect": missing}), question, None)
        found = ratio_to_peak(first, second, average=self.results.study.benchmarks[benchmark].average, seed=self.seed)
        if found is None:
            return Measured(cell.model_copy(update={"effect": ClaimEffect(note="fewer than two items")}), question, None)
        rising = [self._still_rising(pair, recipe, benchmark) for recipe in arms]
        names = [recipe for recipe, late in zip(arms, rising, strict=True) if late]
        note = f"best at its last checkpoint, so perhaps still rising: {', '.join(names)}" if names else ""
        numbers = {
            "effect": ClaimEffect(value=found.value, low=found.low, high=found.high, note=note),
            "p_holds": None if rising[0] else min(1.0, 2 * found.p_sooner),
            "p_fails": None if rising[1] else min(1.0, 2 * found.p_not_sooner),
            "num_items": len(first.items),
            "num_runs": len(first.samples) + len(second.samples),
        }
        effect = Effect(-math.log(found.value), found.log_error, math.inf, math.nan)
        return Measured(cell.model_copy(update=numbers), question, effect)

    def pairs(self, claim: TwoArms) -> list[Pair]:
        """Models and data on which both arms are planned."""
        return [pair for pair in self.results.pairs if claim.arms_among(self._planned(pair))]

    def arms_in(self, claim: TwoArms, pair: Pair) -> tuple[str, str]:
        """The two recipes that a claim compares on one of its pairs."""
        arms = claim.arms_among(self._planned(pair))
        assert arms is not None, "only pairs with both arms are measured"
        return arms

    @cache
    def _planned(self, pair: Pair) -> frozenset[str]:
        return frozenset(stage.recipe for stage in self.results.study.stages if (stage.model, stage.data) == pair)

    def _spent(self, arms: tuple[str, str], pair: Pair, benchmark: str) -> dict[str, tuple[float, float]]:
        """What either arm had cost at its last checkpoint, in the mean over seeds; empty where a ledger is missing."""
        ledgers = [[self.ledger(pair, recipe, run.seed) for run in self.complete(pair, recipe, benchmark)] for recipe in arms]
        if not all(ledgers) or not all(ledger for each in ledgers for ledger in each):
            return {}
        first, second = [[ledger[-1].costs for ledger in each if ledger] for each in ledgers]
        return {name: (fmean(cost[name] for cost in first), fmean(cost[name] for cost in second)) for name in CURRENCIES}

    def _beside(
        self, arms: tuple[str, str], pair: Pair, benchmark: str, found: Mapping[Reading, Difference | None], question: Question
    ) -> dict[str, ClaimEffect]:
        """The same difference at every reading, and what choosing a peak on the reported items adds to either arm."""
        beside: dict[str, ClaimEffect] = {
            reading: interval_of(effect_of(difference), question) if difference else ClaimEffect(note="no checkpoint within it")
            for reading, difference in found.items()
        }
        for place, recipe in zip(("first", "second"), arms, strict=True):
            beside[f"optimism of the {place} arm's peak"] = self._optimism(pair, recipe, benchmark)
        return beside

    def _optimism(self, pair: Pair, recipe: str, benchmark: str) -> ClaimEffect:
        """What choosing the peak on the reported items adds to it, in the mean over seeds."""
        curves = self.curves(pair, recipe, benchmark)
        if curves is None:
            return ClaimEffect(note="no complete run")
        halves, average = [in_first_half(cluster) for cluster in curves.clusters], self.results.study.benchmarks[benchmark].average
        if not 0 < sum(halves) < len(halves):
            return ClaimEffect(note="too few items for two halves")
        return ClaimEffect(value=float(np.mean([optimism(run, halves, curves.tasks, average=average) for run in curves.values])))

    def _still_rising(self, pair: Pair, recipe: str, benchmark: str) -> bool:
        return any(peak(run.points) == run.points[-1] for run in self.complete(pair, recipe, benchmark))

    def complete(self, pair: Pair, recipe: str, benchmark: str) -> list[Run]:
        """Runs of a recipe that lack no score."""
        return [run for run in self.results.runs(pair, recipe, benchmark) if run.complete]

    def compare(self, first: str, second: str, pair: Pair, benchmark: str, reading: Reading) -> Difference | None:
        """First less second, paired by items, signed so that more is better; None if either has no checkpoint at that reading."""
        planned = self.results.study.benchmarks[benchmark]
        runs = [self.complete(pair, recipe, benchmark) for recipe in (first, second)]
        if not all(runs):
            return None
        sign = 1.0 if runs[0][0].points[0].higher_is_better else -1.0
        if reading == "held-out-peak":
            arms = [self._held_out(each, benchmark, planned) for each in runs]
        else:
            points = [
                self._points(each, pair, recipe, reading, runs, (first, second))
                for each, recipe in zip(runs, (first, second), strict=True)
            ]
            arms = [
                None if chosen is None else self.join(each, chosen, benchmark) for each, chosen in zip(runs, points, strict=True)
            ]
        if arms[0] is None or arms[1] is None:
            return None
        mine, theirs = (arms[0], arms[1]) if sign > 0 else (arms[1], arms[0])
        return stats.paired_difference(mine, theirs, unit=planned.unit, average=planned.average)

    def curves(self, pair: Pair, recipe: str, benchmark: str) -> Curves | None:
        """All checkpoints of the complete runs of a recipe, over samples spent.

        None if there is no run, runs differ in length, or a race dropped checkpoints.
        """
        return self.results.curves(pair, recipe, benchmark, over="samples_spent")

    @cache
    def ledger(self, pair: Pair, recipe: str, seed: int) -> list[Cost] | None:
        """A run's ledger; None if a record of it is missing or stale."""
        stages = [s for s in self.results.study.stages if (s.model, s.data, s.recipe, s.seed) == (*pair, recipe, seed)]
        last = max(stages, key=lambda stage: stage.stage)
        try:
            return read_ledger(
                self.layout.stage_results(*pair, recipe, seed, last.stage), spec_hash=last.spec_hash, layout=self.layout
            )
        except StudyError:
            return None

    def _points(
        self,
        mine: Sequence[Run],
        pair: Pair,
        recipe: str,
        reading: SinglePoint,
        runs: Sequence[Sequence[Run]],
        recipes: tuple[str, str],
    ) -> list[Point] | None:
        """The checkpoint of each run of one arm; None if one has none."""
        if reading == "last":
            return [run.points[-1] for run in mine]
        if reading == "peak":
            return [peak(run.points) for run in mine]
        ledgers = [self.ledger(pair, name, run.seed) for name, each in zip(recipes, runs, strict=True) for run in each]
        known = [ledger for ledger in ledgers if ledger]
        if len(known) < len(ledgers):
            return None
        budget = common_budget(known, reading)
        found = []
        for run in mine:
            cost = latest_within(self.ledger(pair, recipe, run.seed) or [], reading, budget)
            found.append(next((p for p in run.points if cost and (p.stage, p.ckpt) == (cost.stage, cost.ckpt)), None))
        return None if None in found else [point for point in found if point]

    def join(self, runs: Sequence[Run], points: Sequence[Point], benchmark: str) -> ItemScores:
        """One point of each run, on a benchmark, as one arm."""
        return self.results.join([run.seed for run in runs], points, benchmark)

    def _held_out(self, runs: Sequence[Run], benchmark: str, planned: PlannedBenchmark) -> ItemScores | None:
        """Each run's peak on the first half of the items, as it scores on the second.

        None if a half is empty, or if a race chose on all items.
        """
        if any(run.raced for run in runs):
            return None
        reported: list[ItemScores] = []
        for run in runs:
            whole = [self.join([run], [point], benchmark) for point in run.points]
            first = [in_first_half(cluster) for cluster in whole[0].clusters]
            if not 0 < sum(first) < len(first):
                return None
            halves = [[place for place, inside in enumerate(first) if inside == wanted] for wanted in (True, False)]
            chosen = [arm.take(halves[0]) for arm in whole]
            scored = [
                replace(point, value=stats.mean(arm.values[0], arm.tasks, planned.average))
                for point, arm in zip(run.points, chosen, strict=True)
            ]
            reported.append(whole[scored.index(peak(scored))].take(halves[1]))
        return replace(reported[0], seeds=tuple(run.seed for run in runs), values=np.concatenate([arm.values for arm in reported]))


def effect_of(difference: Difference) -> Effect:
    """A paired difference as an effect to be tested."""
    return Effect(difference.value, difference.error, difference.freedom, difference.p)
