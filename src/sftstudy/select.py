"""Chooses the checkpoint that the next stage starts from: a pure rule over scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sftstudy.config import HarnessSuite, Selection
from sftstudy.errors import StudyError
from sftstudy.records import PROTOCOL, Score, ScoreRecord, SelectionRecord, provenance, read_record
from sftstudy.spec import StageSpec, SuiteSpec, digest, parts, score_hash, selection_hash, spec_hash


def select_checkpoint(candidates: Sequence[Score], *, rule: str) -> Score:
    """The best candidate, or the one trained longest under `last`. Ties go to the fewest samples, then to the name.

    Raises StudyError if there is no candidate, or if one has no value: a choice over some of the checkpoints is another choice.
    """
    if not candidates:
        raise StudyError("nothing to choose from: no checkpoint has a score on this benchmark; score the stage first")
    if rule == "last":
        return min(candidates, key=lambda score: (-score.samples_seen, score.ckpt))
    for score in candidates:
        if score.value is None or math.isnan(score.value):
            failed = f"{score.failure_share:.0%} of its verdicts failed"
            raise StudyError(f"{score.ckpt}: has no value on {score.benchmark}: {failed}; mend the judge and score again")
    return min(candidates, key=lambda score: (-_goodness(score), score.samples_seen, score.ckpt))


def _goodness(score: Score) -> float:
    value = score.value if score.value is not None else math.nan
    return value if score.higher_is_better else -value


def nothing_selected(stage: StageSpec, suite: SuiteSpec, *, selection: Selection, status: str) -> SelectionRecord:
    """The record of a stage that was stopped: no choice, and why."""
    return SelectionRecord(
        spec_hash=selection_hash(spec_hash(stage), suite, selection),
        content_hash=digest(status),
        status=status,
        ckpt="",
        samples_seen=0,
        weights_hash="",
        benchmark=selection.benchmark,
        rule=selection.rule,
        candidates={},
        **provenance(),
    )


def read_candidates(stage: StageSpec, suite: SuiteSpec, *, benchmark: str, records: Sequence[Path]) -> list[Score]:
    """Scores of all of a stage's checkpoints on a benchmark, from the score records of all parts in order.

    Raises StudyError if a record is missing or answers to another spec, or if the checkpoints were scored on different items or by
    different protocols.
    """
    blocks = parts([place.ckpt for place in stage.checkpoints], suite.suite.checkpoints_per_job)
    if len(records) != len(blocks):
        raise StudyError(f"--scores: {len(records)} records; {suite.name} on {stage.stage} has {len(blocks)} parts; name each once")
    metric = suite.suite.benchmarks[benchmark].metric if isinstance(suite.suite, HarnessSuite) else "rating"
    scores: list[Score] = []
    for path, ckpts in zip(records, blocks.values(), strict=True):
        record = read_record(path, ScoreRecord)
        if record.spec_hash != score_hash(spec_hash(stage), spec_hash(suite), ckpts):
            raise StudyError(f"{path}: answers to another spec than today's; build it again with `snakemake -c all {path}`")
        whole = [score for score in record.scores if score.benchmark == benchmark and score.task == benchmark]
        scores += [score for score in whole if score.metric == metric]
    if mixed := [field for field in PROTOCOL if len({getattr(score, field) for score in scores}) > 1]:
        fields = ", ".join(mixed)
        raise StudyError(f"{records[0]}: checkpoints have different {fields} on {benchmark}; build it again with --forcerun")
    return scores


def selection_record(stage: StageSpec, suite: SuiteSpec, *, selection: Selection, candidates: Sequence[Score]) -> SelectionRecord:
    """The choice among the candidates as a record that the next stage reads."""
    chosen = select_checkpoint(candidates, rule=selection.rule)
    return SelectionRecord(
        spec_hash=selection_hash(spec_hash(stage), suite, selection),
        content_hash=digest([[score.ckpt, score.weights_hash, score.items_hash, score.value] for score in candidates]),
        ckpt=chosen.ckpt,
        samples_seen=chosen.samples_seen,
        weights_hash=chosen.weights_hash,
        benchmark=selection.benchmark,
        rule=selection.rule,
        candidates={score.ckpt: math.nan if score.value is None else score.value for score in candidates},
        **provenance(),
    )
