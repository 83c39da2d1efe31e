"""Chooses the checkpoint that the next stage starts from: pure rules over scores, and the reading of a stage's score records.

`best` takes the highest value, `last` what was trained longest, `earliest` the one with the fewest samples among those within one
standard error of the best. That error is of the *paired* difference to the best: both were scored on the same items, and what
makes an item hard for both says nothing about which is better. The standard error of a score, as in the usual one-standard-error
rule, would be several times larger and take a checkpoint that is plainly worse. Ties go to the fewest samples, then to the name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sftstudy import stats
from sftstudy.averages import comparable
from sftstudy.config import Rule, Selection
from sftstudy.errors import StudyError
from sftstudy.records import PROTOCOL, RaceRecord, Score, ScoreRecord, SelectionRecord, provenance, read_record
from sftstudy.spec import (
    PlannedBenchmark,
    StageSpec,
    SuiteSpec,
    digest,
    parts,
    planned_benchmark,
    race_hash,
    score_hash,
    selection_hash,
    spec_hash,
)
from sftstudy.stats import Average, ItemScores, Unit
from sftstudy.stats.peaks import in_first_half, optimism
from sftstudy.tables.aggregate import join_items
from sftstudy.tables.collect import read_items


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to choose: samples seen (or its place), and its value, of which more is better; None if it has none."""

    ckpt: str
    samples: float
    value: float | None


@dataclass(frozen=True)
class Exam:
    """A stage's checkpoints on one benchmark: their scores, and, where a rule asks for them, their items as arms of one seed."""

    scores: list[Score]
    planned: PlannedBenchmark
    arms: dict[str, ItemScores]

    @property
    def sign(self) -> float:
        """-1 where lower values are better."""
        return 1.0 if self.scores[0].higher_is_better else -1.0


# --- pure rules ------------------------------------------------------------------------------------------------------


def choose(candidates: Sequence[Candidate], *, rule: Rule, errors: Mapping[str, float] | None = None) -> Candidate:
    """The candidate that a rule takes; `errors` are the standard errors of the differences to the best, for `earliest`.

    Raises StudyError if there is no candidate, or if one has no value: a choice over some of the checkpoints is another choice.
    """
    if not candidates:
        raise StudyError("nothing to choose from: no checkpoint has a score on this benchmark; score the stage first")
    if rule == "last":
        return min(candidates, key=lambda one: (-one.samples, natural(one.ckpt)))
    values = {one.ckpt: _value(one) for one in candidates}
    best = min(candidates, key=lambda one: (-values[one.ckpt], one.samples, natural(one.ckpt)))
    if rule == "best":
        return best
    near = [one for one in candidates if values[best.ckpt] - values[one.ckpt] <= (errors or {})[one.ckpt]]
    return min(near, key=lambda one: (one.samples, natural(one.ckpt)))


def errors_to_best(best: str, arms: Mapping[str, ItemScores], *, unit: Unit, average: Average) -> dict[str, float]:
    """Checkpoint -> standard error, over items, of its difference to the best; zero for the best, and if there is a single item."""
    found = {ckpt: stats.paired_difference(arms[best], arm, unit=unit, average=average) for ckpt, arm in arms.items()}
    return {ckpt: 0.0 if ckpt == best or difference is None else difference.error for ckpt, difference in found.items()}


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts numbers in names as numbers: ckpt2 before ckpt10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)], name


def _value(candidate: Candidate) -> float:
    if candidate.value is None or math.isnan(candidate.value):
        raise StudyError(f"{candidate.ckpt}: has no value to choose by; mend what failed and score it again")
    return comparable(candidate.value)


# --- a stage's records -----------------------------------------------------------------------------------------------


def select_checkpoint(
    stage: StageSpec, suites: Sequence[SuiteSpec], *, selection: Selection, records: Sequence[Path]
) -> SelectionRecord:
    """The choice among a stage's checkpoints, from the score records of all parts of the suites, in order.

    Under `holdout` it looks at one half of each benchmark's items, and reports the values on the other. Raises StudyError as
    `read_candidates` does, and for a weighted benchmark of which less is better: such a score has no scale to normalise by.
    """
    exams = {
        benchmark: _read_exam(stage, suite, benchmark=benchmark, selection=selection, records=records)
        for benchmark, suite in selection_suites(suites, selection).items()
    }
    chosen_half = {name: _half(exam, True) if selection.holdout else exam for name, exam in exams.items()}
    candidates = _candidates(chosen_half, selection)
    errors = _errors(chosen_half, selection) if selection.rule == "earliest" else None
    chosen = choose(candidates, rule=selection.rule, errors=errors)
    rows = {score.ckpt: score for score in next(iter(exams.values())).scores}
    held_out = _candidates({name: _half(exam, False) for name, exam in exams.items()}, selection) if selection.holdout else []
    return SelectionRecord(
        spec_hash=selection_hash(spec_hash(stage), suites, selection),
        content_hash=digest(
            [[score.ckpt, score.weights_hash, score.items_hash, score.value] for exam in exams.values() for score in exam.scores]
        ),
        ckpt=chosen.ckpt,
        samples_seen=rows[chosen.ckpt].samples_seen,
        weights_hash=rows[chosen.ckpt].weights_hash,
        benchmark=_name_of(selection),
        rule=selection.rule,
        candidates={one.ckpt: math.nan if one.value is None else one.value for one in candidates},
        errors=errors or {},
        held_out={one.ckpt: math.nan if one.value is None else one.value for one in held_out},
        optimism=_optimism(next(iter(exams.values()))) if selection.holdout and len(exams) == 1 else None,
        **provenance(),
    )


def select_winner(stage: StageSpec, suites: Sequence[SuiteSpec], *, selection: Selection, path: Path) -> SelectionRecord:
    """The choice among a stage's checkpoints that a race made. Raises StudyError if its record answers to another spec."""
    (suite,) = selection_suites(suites, selection).values()
    record = read_record(path, RaceRecord)
    if record.spec_hash != race_hash(spec_hash(stage), suite, selection):
        raise StudyError(f"{path}: answers to another spec than today's; build it again with `snakemake -c all {path}`")
    sign = 1.0 if record.higher_is_better else -1.0
    winner = next(entry for entry in record.checkpoints if entry.ckpt == record.ckpt)
    return SelectionRecord(
        spec_hash=selection_hash(spec_hash(stage), suites, selection),
        content_hash=digest([record.content_hash, record.ckpt]),
        ckpt=winner.ckpt,
        samples_seen=winner.samples_seen,
        weights_hash=winner.weights_hash,
        benchmark=record.benchmark,
        rule=selection.rule,
        candidates={entry.ckpt: math.nan if entry.value is None else sign * entry.value for entry in record.checkpoints},
        race=record.error_rate,
        **provenance(),
    )


def _name_of(selection: Selection) -> str:
    """The benchmark that is chosen by, or the weighted sum of several."""
    return " + ".join(f"{weight:g} {name}" for name, weight in selection.weights.items()) or selection.benchmarks[0]


def selection_suites(suites: Sequence[SuiteSpec], selection: Selection) -> dict[str, SuiteSpec]:
    """Benchmark of the selection -> the suite that scores it. Raises StudyError if none of them does."""
    found: dict[str, SuiteSpec] = {}
    for benchmark in selection.benchmarks:
        suite = next((suite for suite in suites if benchmark in suite.benchmarks), None)
        if suite is None:
            raise StudyError(
                f"--suites: none of {', '.join(suite.name for suite in suites)} scores {benchmark}; name its suite too"
            )
        found[benchmark] = suite
    return found


def nothing_selected(stage: StageSpec, suites: Sequence[SuiteSpec], *, selection: Selection, status: str) -> SelectionRecord:
    """The record of a stage that was stopped: no choice, and why."""
    return SelectionRecord(
        spec_hash=selection_hash(spec_hash(stage), suites, selection),
        content_hash=digest(status),
        status=status,
        ckpt="",
        samples_seen=0,
        weights_hash="",
        benchmark=_name_of(selection),
        rule=selection.rule,
        candidates={},
        **provenance(),
    )


def read_candidates(stage: StageSpec, suite: SuiteSpec, *, benchmark: str, records: Sequence[Path]) -> list[Score]:
    """Scores of all of a stage's checkpoints on a benchmark, from the records among these that are the suite's, its parts in order.

    Raises StudyError if a record is missing or answers to another spec, or if the checkpoints were scored on different items or
    by different protocols.
    """
    mine = _records_of(suite, records)
    blocks = parts([place.ckpt for place in stage.checkpoints], suite.suite.checkpoints_per_job)
    if len(mine) != len(blocks):
        raise StudyError(f"--scores: {len(mine)} records; {suite.name} on {stage.stage} has {len(blocks)} parts; name each once")
    metric = planned_benchmark(suite.name, suite.suite, benchmark).metric
    scores: list[Score] = []
    for (path, record), ckpts in zip(mine.items(), blocks.values(), strict=True):
        if record.spec_hash != score_hash(spec_hash(stage), spec_hash(suite), ckpts):
            raise StudyError(f"{path}: answers to another spec than today's; build it again with `snakemake -c all {path}`")
        whole = [score for score in record.scores if score.benchmark == benchmark and score.task == benchmark]
        scores += [score for score in whole if score.metric == metric]
    if mixed := [field for field in PROTOCOL if len({getattr(score, field) for score in scores}) > 1]:
        fields = ", ".join(mixed)
        raise StudyError(f"{next(iter(mine))}: checkpoints have different {fields} on {benchmark}; build it again with --forcerun")
    return scores


def _records_of(suite: SuiteSpec, records: Sequence[Path]) -> dict[Path, ScoreRecord]:
    found = {path: read_record(path, ScoreRecord) for path in records}
    return {path: record for path, record in found.items() if record.suite == suite.name}


def _read_exam(stage: StageSpec, suite: SuiteSpec, *, benchmark: str, selection: Selection, records: Sequence[Path]) -> Exam:
    scores = read_candidates(stage, suite, benchmark=benchmark, records=records)
    planned = planned_benchmark(suite.name, suite.suite, benchmark)
    for score in scores:
        if selection.rule != "last" and (score.value is None or math.isnan(score.value)):
            failed = f"{score.failure_share:.0%} of its verdicts failed"
            raise StudyError(f"{score.ckpt}: has no value on {benchmark}: {failed}; mend the judge and score again")
        if selection.weights and not score.higher_is_better:
            raise StudyError(f"{benchmark}: less is better, so it has no scale to be weighed on; choose by it alone")
    arms: dict[str, ItemScores] = {}
    if selection.holdout or selection.rule == "earliest":
        for path in _records_of(suite, records):
            table = read_items(path.with_suffix(".parquet"))
            table = table[(table["benchmark"] == benchmark) & (table["metric"] == planned.metric)]
            if (table["weight"] != 1).any():
                raise StudyError(f"{benchmark}: its items have unequal weights; choose by `best` or `last`, without holdout")
            for ckpt, rows in table.groupby("ckpt"):
                arms[str(ckpt)] = join_items((0,), [rows], planned)
    return Exam(scores, planned, arms)


def _half(exam: Exam, first: bool) -> Exam:
    """The exam on one half of its items, with scores to match. Items of one cluster stay together."""
    scores, arms = [], {}
    for score in exam.scores:
        whole = exam.arms[score.ckpt]
        half = whole.take([place for place, cluster in enumerate(whole.clusters) if in_first_half(cluster) == first])
        if not half.items:
            raise StudyError(f"{score.benchmark}: has too few items for two halves; select without holdout")
        value = stats.mean(half.values[0], half.tasks, exam.planned.average)
        scores.append(score.model_copy(update={"value": None if math.isnan(value) else value}))
        arms[score.ckpt] = half
    return replace(exam, scores=scores, arms=arms)


def _candidates(exams: Mapping[str, Exam], selection: Selection) -> list[Candidate]:
    """The checkpoints with the values to choose by: of the one benchmark, or the weighted mean of the normalised ones."""
    first = next(iter(exams.values()))
    if not selection.weights:
        return [_candidate(score, None if score.value is None else first.sign * score.value) for score in first.scores]
    total = sum(selection.weights.values())
    sums = dict.fromkeys((score.ckpt for score in first.scores), 0.0)
    for name, exam in exams.items():
        floor, top = exam.planned.chance, stats.SCALE[exam.planned.unit][1]
        for score in exam.scores:
            value = math.nan if score.value is None else (score.value - floor) / (top - floor)
            sums[score.ckpt] += selection.weights[name] / total * value
    return [_candidate(score, sums[score.ckpt]) for score in first.scores]


def _candidate(score: Score, value: float | None) -> Candidate:
    return Candidate(score.ckpt, score.samples_seen, value)


def _errors(exams: Mapping[str, Exam], selection: Selection) -> dict[str, float]:
    """Standard errors of the differences to the best; of a weighted mean from those of its benchmarks, which share no items."""
    candidates = _candidates(exams, selection)
    best = choose(candidates, rule="best").ckpt
    total = sum(selection.weights.values())
    squares = dict.fromkeys((one.ckpt for one in candidates), 0.0)
    for name, exam in exams.items():
        span = stats.SCALE[exam.planned.unit][1] - exam.planned.chance
        scale = selection.weights[name] / total / span if selection.weights else 1.0
        errors = errors_to_best(best, exam.arms, unit=exam.planned.unit, average=exam.planned.average)
        for ckpt, error in errors.items():
            squares[ckpt] += (scale * error) ** 2
    return {ckpt: math.sqrt(square) for ckpt, square in squares.items()}


def _optimism(exam: Exam) -> float:
    arms = list(exam.arms.values())
    values = exam.sign * np.array([arm.values[0] for arm in arms])
    halves = [in_first_half(cluster) for cluster in arms[0].clusters]
    return optimism(values, halves, arms[0].tasks, average=exam.planned.average)
