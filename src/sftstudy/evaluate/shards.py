"""What all kinds of scoring publish: score records, and the Parquet file of items beside each."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sftstudy.paths import Layout, score_stem
from sftstudy.records import SCORED, Entry, Judging, RaceRecord, Score, ScoreRecord, provenance, write_bytes, write_record
from sftstudy.spec import StageSpec, SuiteSpec, digest, score_hash, spec_hash


class Item(Entry):
    """One scored item of one task by one metric, a row of `ScoreRecord`'s Parquet. `value` is None if its verdict failed."""

    benchmark: str
    task: str
    metric: str = "rating"
    item: str
    item_hash: str
    value: float | None
    weight: float = 1.0
    prediction: str | None = None
    log_likelihoods: list[float] | None = None


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, sd / sqrt(n) with n - 1 degrees of freedom; None for a single value."""
    if len(values) < 2:
        return statistics.fmean(values), None
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def publish(
    stage: StageSpec,
    suite: SuiteSpec,
    *,
    part: str,
    checkpoints: list[str],
    content_hash: str,
    scores: list[Score],
    items: dict[str, list[Item]],
    libraries: Sequence[str],
    layout: Layout,
    status: str = SCORED,
    judging: Sequence[Judging] = (),
    files: Mapping[str, str] = MappingProxyType({}),
    race: RaceRecord | None = None,
) -> ScoreRecord:
    """Write the score record of a block of checkpoints, and before it the Parquet file of its items (checkpoint -> items).

    `race`: the one that dropped some of the stage's checkpoints on a benchmark of the suite.
    """
    names = (stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    stem = score_stem(layout.stage_results(*names), suite.name, part)
    record = ScoreRecord(
        spec_hash=score_hash(spec_hash(stage), spec_hash(suite), checkpoints, race=race.spec_hash if race else None),
        content_hash=content_hash,
        model=stage.model,
        data=stage.data,
        recipe=stage.recipe,
        seed=stage.seed,
        stage=stage.stage,
        suite=suite.name,
        part=part,
        status=status,
        scores=scores,
        judging=list(judging),
        files=dict(files),
        **provenance(*libraries),
    )
    write_items(stem.with_suffix(".parquet"), items)
    write_record(stem.with_suffix(".json"), record)
    return record


def publish_stopped(
    stage: StageSpec,
    suite: SuiteSpec,
    *,
    part: str,
    checkpoints: list[str],
    status: str,
    layout: Layout,
    race: RaceRecord | None = None,
) -> ScoreRecord:
    """Write the score record of a stage that was stopped: no scores, and why."""
    return publish(
        stage,
        suite,
        part=part,
        checkpoints=checkpoints,
        content_hash=digest(status),
        scores=[],
        items={},
        libraries=(),
        layout=layout,
        status=status,
        race=race,
    )


def write_items(path: Path, items: dict[str, list[Item]]) -> None:
    """Write checkpoint -> items as the Parquet file that `ScoreRecord` describes, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"ckpt": ckpt, **item.model_dump()} for ckpt, block in items.items() for item in block]
    texts = ["ckpt", "benchmark", "task", "metric", "item", "item_hash", "prediction"]
    numbers = [("value", pa.float64()), ("weight", pa.float64()), ("log_likelihoods", pa.list_(pa.float64()))]
    schema = pa.schema([(name, pa.string()) for name in texts] + numbers)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())
