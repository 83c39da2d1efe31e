"""All score records of some studies as one tidy table, `results/scores.csv`, and what is amiss with them, `results/missing.csv`.

A record enters only if it answers today's spec, if its weights are those that training left, and if its items average to its
scores. What does not is listed, never an exception: a table then has an empty cell. Decisions of screens are listed likewise. No
score mixes two protocols, that is items, prompts, task or harness version, or judge: the one that most stages were scored by stays
(of equally frequent ones the base model's, then the first in order); scores by the others are listed and left out.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import pandas as pd

from sftstudy import averages, records, stats
from sftstudy.errors import StudyError
from sftstudy.paths import BASE_CKPT, BASE_STAGE, Layout, score_stem
from sftstudy.records import SCORED, DecisionRecord, ModelRecord, Score, ScoreRecord, TrainingRecord
from sftstudy.spec import PlannedBenchmark, PlannedScreen, PlannedStage, StudySpec

FAULTS = ("missing", "stale spec", "broken", "other weights", "mixed items", "mixed protocols", "failed verdicts")
"""Reasons in `missing.csv` that ask for mending. Any other is a status that a run has by design, such as `stopped at rung 0.1`."""

COMMAND = "`python workflow/scripts/collect_scores.py STUDY_SPEC...`"
"""What makes both files."""

ITEM_COLUMNS = ("ckpt", "benchmark", "task", "metric", "item", "item_hash", "value", "weight")


@dataclass(frozen=True, order=True)
class Row:
    """One line of `scores.csv`: a number and where it comes from. Sample counts are from the base model on."""

    model: str
    data: str
    recipe: str
    seed: int
    stage: str
    suite: str
    part: str
    ckpt: str
    benchmark: str
    task: str
    metric: str
    value: float | None
    stderr: float | None
    lowest: float | None
    highest: float | None
    spread: float | None
    disagreement: float | None
    num_items: int
    failure_share: float
    dropped_after: int | None
    samples_seen: int
    samples_spent: int
    num_fewshot: int
    higher_is_better: bool
    task_version: str
    harness: str
    harness_version: str
    judge: str | None
    items_hash: str
    protocol_hash: str
    weights_hash: str
    spec_hash: str
    commit: str


@dataclass(frozen=True, order=True)
class Missing:
    """One line of `missing.csv`.

    `reason` is missing, stopped at a rung (by a screen), stale spec, broken, other weights, mixed items, mixed protocols or failed
    verdicts (the score is there but has no value). `detail` of mixed scores is the benchmark and what differs.
    """

    path: str
    study: str
    reason: str
    detail: str = ""


def collect_scores(studies: Sequence[StudySpec], *, layout: Layout) -> None:
    """Write `scores.csv` and `missing.csv` for these studies: sorted, the same bytes from the same records."""
    rows: set[Row] = set()
    missing: set[Missing] = set()
    for study in studies:
        decisions = read_decisions(study.name, study.screen, layout=layout) if study.screen else {}
        missing.update(fault for fault in decisions.values() if isinstance(fault, Missing))
        for stage in study.stages:
            found, lacking = _collect_stage(study, stage, layout=layout)
            rows.update(found)
            missing.update(lacking)
    kept, mixed = _drop_mixed(rows, studies, layout=layout)
    missing.update(mixed)
    records.write_text(layout.scores_csv(), _to_csv(Row, sorted(kept, key=_key)))
    records.write_text(layout.missing_csv(), _to_csv(Missing, sorted(missing)))


def read_items(path: Path) -> pd.DataFrame:
    """The per-item file of a score record. Raises StudyError if it is missing or is not one."""
    try:
        items = pd.read_parquet(path, columns=list(ITEM_COLUMNS))
    except FileNotFoundError:
        raise StudyError(f"{path}: missing; score that stage again") from None
    except (ValueError, OSError, KeyError) as error:
        raise StudyError(
            f"{path}: not a file of items ({str(error).splitlines()[0]}); delete it and score that stage again"
        ) from None
    return items.astype({name: float if name in ("value", "weight") else str for name in ITEM_COLUMNS})


def read_whole(path: Path, kind: type[Row] | type[Missing]) -> str:
    """Text of `scores.csv` or `missing.csv`. Raises StudyError if that is missing, cut off, or not one of this version."""
    try:
        text = path.read_bytes().decode()
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns = [field.name for field in fields(kind)]
        whole = text.endswith("\n") and next(rows) == columns and all(len(row) == len(columns) for row in rows)
    except FileNotFoundError:
        raise StudyError(f"{path}: missing; make it with {COMMAND}") from None
    except (UnicodeDecodeError, csv.Error):
        whole = False
    if not whole:
        raise StudyError(f"{path}: cut off, or not made by this version; make it again with {COMMAND}")
    return text


def read_missing(path: Path) -> dict[str, str]:
    """Record -> why it is missing, as `missing.csv` says; nothing if that file was not made yet."""
    if not path.exists():
        return {}
    return {row["path"]: row["reason"] for row in csv.DictReader(io.StringIO(read_whole(path, Missing), newline=""))}


def read_training(stage: PlannedStage, *, layout: Layout) -> TrainingRecord | None:
    """A stage's training record if it is sound and answers today's spec; if not, `missing.csv` says why."""
    path = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage) / "training.json"
    try:
        training = records.read_record(path, TrainingRecord)
    except StudyError:
        return None
    return training if training.spec_hash == stage.spec_hash else None


def read_decisions(study: str, screen: PlannedScreen, *, layout: Layout) -> dict[str, DecisionRecord | Missing]:
    """Rung of a study's screen -> its decision if that is sound and answers today's spec, else what is wrong with it."""
    found: dict[str, DecisionRecord | Missing] = {}
    for rung, expected in screen.decisions.items():
        path = layout.screens(study) / f"{rung}.json"
        fault = _Fault(study, path)
        try:
            decision = records.read_record(path, DecisionRecord)
        except StudyError as error:
            found[rung] = fault("broken", str(error)) if path.exists() else fault("missing")
        else:
            found[rung] = decision if decision.spec_hash == expected else fault.stale(decision.spec_hash, expected)
    return found


def _collect_stage(study: StudySpec, stage: PlannedStage, *, layout: Layout) -> tuple[list[Row], list[Missing]]:
    """Rows of a stage's good records, and what is wrong with the others."""
    rows: list[Row] = []
    missing: list[Missing] = []
    folder = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    parts = sorted((suite, part, expected) for suite, planned in stage.scores.items() for part, expected in planned.items())
    weights, lacking = _weights(study.name, stage, layout=layout) if parts else ({}, [])
    for suite, part, expected in parts:
        stem = score_stem(folder, suite, part)
        path = stem.with_name(f"{part}.json")
        fault = _Fault(study.name, path)
        if not path.exists():
            missing.append(fault("missing"))
            continue
        try:
            record = records.read_record(path, ScoreRecord)
            items = read_items(stem.with_name(f"{part}.parquet")) if record.spec_hash == expected else pd.DataFrame()
        except StudyError as error:
            missing.append(fault("broken", str(error)))
            continue
        if record.status != SCORED and record.spec_hash == expected:
            missing.append(fault(record.status))
            continue
        identity = (record.model, record.data, record.recipe, record.seed, record.stage, record.suite, record.part)
        if record.spec_hash != expected:
            missing.append(fault.stale(record.spec_hash, expected))
        elif identity != (stage.model, stage.data, stage.recipe, stage.seed, stage.stage, suite, part):
            missing.append(fault("broken", f"the record says that it is {'/'.join(map(str, identity))}"))
        elif lacking:
            missing.append(fault("other weights", f"cannot be checked: {lacking[0].path} is {lacking[0].reason}"))
        elif strange := sorted({score.ckpt for score in record.scores if weights.get(score.ckpt) != score.weights_hash}):
            missing.append(fault("other weights", f"{', '.join(strange)} was trained again since"))
        elif disagreement := _disagreement(record.scores, items, study):
            missing.append(fault("broken", disagreement))
        else:
            rows.extend(_row(record, score) for score in record.scores)
            failed = [_failure(score, record) for score in record.scores if score.value is None and score.dropped_after is None]
            missing.extend([fault("failed verdicts", "; ".join(failed))] if failed else [])
    return rows, missing + lacking


@dataclass(frozen=True)
class _Fault:
    study: str
    path: Path

    def __call__(self, reason: str, detail: str = "") -> Missing:
        return Missing(self.path.as_posix(), self.study, reason, detail)

    def stale(self, found: str, expected: str) -> Missing:
        return self("stale spec", f"record has {found}, today's is {expected}")


def _weights(study: str, stage: PlannedStage, *, layout: Layout) -> tuple[dict[str, str], list[Missing]]:
    """Checkpoint -> weights hash as training (or the base model's record) left them; or why that is not known."""
    try:
        if stage.stage == BASE_STAGE:
            path = layout.model_record(stage.model)
            return {BASE_CKPT: records.read_record(path, ModelRecord).weights_hash}, []
        path = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage) / "training.json"
        training = records.read_record(path, TrainingRecord)
    except StudyError as error:
        fault = _Fault(study, path)
        return {}, [fault("broken", str(error)) if path.exists() else fault("missing")]
    if training.spec_hash != stage.spec_hash:
        return {}, [_Fault(study, path).stale(training.spec_hash, stage.spec_hash)]
    return {entry.ckpt: entry.weights_hash for entry in training.checkpoints}, []


def _disagreement(scores: Sequence[Score], items: pd.DataFrame, study: StudySpec) -> str:
    """First way in which a record's scores are not the averages of its items; empty if there is none."""
    seen: set[tuple[str, str, str, str]] = set()
    groups = {(str(ckpt), str(name)): group for (ckpt, name), group in items.groupby(["ckpt", "benchmark"])}
    expected: dict[tuple[str, str], dict[tuple[str, str], tuple[float, int]]] = {}
    for score in scores:
        place = f"{score.benchmark}, {score.task} at {score.ckpt}"
        if (score.ckpt, score.benchmark, score.task, score.metric) in seen:
            return f"{place}: two scores by {score.metric}"
        seen.add((score.ckpt, score.benchmark, score.task, score.metric))
        if score.dropped_after is not None:
            continue
        planned = study.benchmarks.get(score.benchmark)
        if planned is None:
            continue
        group = groups.get((score.ckpt, score.benchmark))
        if group is None:
            return f"{place}: no items"
        if planned.judge is None:
            if (score.ckpt, score.benchmark) not in expected:
                expected[score.ckpt, score.benchmark] = _averages(score.benchmark, planned, group)
            value, count = expected[score.ckpt, score.benchmark].get((score.task, score.metric), (math.nan, 0))
            if score.num_items != count:
                return f"{place}: {count} items by {score.metric}, the score says {score.num_items}"
            if score.value is None or not math.isclose(value, score.value, abs_tol=1e-6):
                return f"{place}: items average to {value:.6f} ({score.metric}), the score says {score.value}"
            continue
        if score.task != score.benchmark:
            group = group[group["task"] == score.task]
            if group.empty:  # a cut across tasks, such as the first turns of MT-Bench; no table uses it
                continue
        if score.num_items not in (len(group), group["value"].count()):
            return f"{place}: {len(group)} items, the score says {score.num_items}"
        average = stats.mean(group["value"].to_numpy(float), group["task"].tolist(), planned.average)
        if score.value is not None and not math.isclose(average, score.value, abs_tol=1e-6):
            return f"{place}: items average to {average:.6f} ({planned.average}), the score says {score.value:.6f}"
    return ""


def _failure(score: Score, record: ScoreRecord) -> str:
    """Why a score has no value; of a whole benchmark also what became of its verdicts."""
    counts: Counter[str] = Counter()
    for judging in record.judging:
        counts.update(judging.verdicts if (judging.ckpt, score.task) == (score.ckpt, score.benchmark) else {})
    task = "" if score.task == score.benchmark else f", {score.task}"
    verdicts = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    why = f"{score.failure_share:.0%} of its verdicts failed" + (f" ({verdicts})" if verdicts else "")
    return f"{score.benchmark}{task} at {score.ckpt}: {why}"


def _averages(name: str, planned: PlannedBenchmark, items: pd.DataFrame) -> dict[tuple[str, str], tuple[float, int]]:
    """Task and metric -> value and number of items, of all scores that a harness benchmark's items give."""
    wanted = [metric for metric in [planned.metric, *planned.metrics] if metric in set(items["metric"])]
    values: dict[str, dict[str, list[tuple[float, float]]]] = {
        metric: {
            str(task): list(zip(group["value"], group["weight"], strict=True))
            for task, group in items[items["metric"] == metric].groupby("task", sort=False)
        }
        for metric in wanted
    }
    if wanted[:1] != [planned.metric] or len(wanted) < 1 + len(planned.metrics):
        return {}
    rows = averages.rows(name, planned, values)
    return {(row.task, row.metric): (row.value, sum(len(values[planned.metric][task]) for task in row.tasks)) for row in rows}


def _row(record: ScoreRecord, score: Score) -> Row:
    return Row(**{field.name: getattr(score if field.name in Score.model_fields else record, field.name) for field in fields(Row)})


def _drop_mixed(rows: Iterable[Row], studies: Sequence[StudySpec], *, layout: Layout) -> tuple[list[Row], list[Missing]]:
    """Rows whose benchmark was scored by the kept protocol throughout, and a line for each record that loses a benchmark.

    A checkpoint that a race dropped has no score and so no protocol.
    """
    every = list(rows)
    rows = [row for row in every if row.dropped_after is None]
    votes: dict[tuple[str, str, str], Counter[tuple[str, ...]]] = {}
    on_base: dict[tuple[str, str, str], set[tuple[str, ...]]] = {}
    for task, _, protocol in sorted({((r.benchmark, r.task, r.metric), _stage(r), _protocol(r)) for r in rows}):
        votes.setdefault(task, Counter())[protocol] += 1
    for row in rows:
        if row.stage == BASE_STAGE:
            on_base.setdefault((row.benchmark, row.task, row.metric), set()).add(_protocol(row))
    kept = {
        task: min(count, key=lambda name: (-count[name], name not in on_base.get(task, ()), name)) for task, count in votes.items()
    }
    strange: dict[tuple[str, str, str, int, str], dict[tuple[str, str, str], set[str]]] = {}
    for row in rows:
        pairs = zip(records.PROTOCOL, _protocol(row), kept[row.benchmark, row.task, row.metric], strict=True)
        if differing := {field for field, mine, theirs in pairs if mine != theirs}:
            strange.setdefault(_stage(row), {}).setdefault((row.suite, row.part, row.benchmark), set()).update(differing)
    missing = [
        Missing(
            score_stem(folder, suite, f"{part}.json").as_posix(),
            study.name,
            "mixed items" if "items_hash" in differing else "mixed protocols",
            f"{benchmark}: {', '.join(field for field in records.PROTOCOL if field in differing)}",
        )
        for study in studies
        for planned in study.stages
        for folder in [layout.stage_results(planned.model, planned.data, planned.recipe, planned.seed, planned.stage)]
        for (suite, part, benchmark), differing in strange.get(_stage(planned), {}).items()
        if part in planned.scores.get(suite, {})
    ]
    return [r for r in every if (r.suite, r.part, r.benchmark) not in strange.get(_stage(r), {})], missing


def _protocol(row: Row) -> tuple[str, ...]:
    return tuple(str(getattr(row, field) or "") for field in records.PROTOCOL)


def _stage(of: Row | PlannedStage) -> tuple[str, str, str, int, str]:
    return of.model, of.data, of.recipe, of.seed, of.stage


def _key(row: Row) -> tuple[str, ...]:
    return (
        row.model,
        row.data,
        row.recipe,
        f"{row.seed:09d}",
        row.stage,
        row.ckpt,
        row.benchmark,
        row.task,
        row.metric,
        row.spec_hash,
    )


def _to_csv(kind: type[Row] | type[Missing], lines: Sequence[Row] | Sequence[Missing]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(kind)])
    writer.writerows(astuple(line) for line in lines)
    return out.getvalue()
