"""From answered items to the rows of a score record and of its Parquet file. Nothing is scored here, and lm-eval is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from sftstudy import averages
from sftstudy.averages import NORMALISED
from sftstudy.config import HarnessBenchmark
from sftstudy.errors import StudyError
from sftstudy.evaluate.samples import Reply, TakenBlock, TakenItem
from sftstudy.evaluate.shards import Item
from sftstudy.evaluate.weights import Weights
from sftstudy.records import RaceRecord, Score, TaskEntry
from sftstudy.spec import digest

Taken = dict[str, list[TakenBlock]]
"""Task -> its blocks in order: one checkpoint on one benchmark."""


def scores_of(
    name: str, benchmark: HarnessBenchmark, taken: Taken, *, entries: Mapping[str, TaskEntry], weights: Weights
) -> list[Score]:
    """All scores of one checkpoint on one benchmark; the first is the one that tables read.

    A reply without an answer counts as lm-eval grades it, that is wrong; `lowest` and `highest` say what it could have been.
    Raises StudyError if a metric is no mean over items, or is better high in one task and low in another.
    """
    _check_metrics(name, benchmark, taken)
    items = {task: [item for block in blocks for item in block.items] for task, blocks in taken.items()}
    rows, worst, best = (averages.rows(name, benchmark, _values(benchmark, items, as_if)) for as_if in (None, 0.0, 1.0))
    has_bounds = all(0 <= value <= 1 for _, _, reply in _replies(benchmark, items) for value in reply.values.values())
    shots = {entry.num_fewshot for entry in entries.values()}
    protocols = {task: _protocol(benchmark, blocks) for task, blocks in taken.items()}
    found = []
    for number, row in enumerate(rows):
        behind = [item for task in row.tasks for item in items[task]]
        failed = sum(item.replies[benchmark.filter].unparsed for item in behind)
        bounded = failed > 0 and has_bounds
        metric = benchmark.metric if row.metric == NORMALISED else row.metric
        found.append(
            Score(
                ckpt=weights.ckpt,
                samples_seen=weights.samples_seen,
                samples_spent=weights.samples_spent,
                weights_hash=weights.weights_hash,
                benchmark=name,
                task=row.task,
                task_version=", ".join(sorted({entries[task].version for task in row.tasks})),
                metric=row.metric,
                value=row.value,
                stderr=row.stderr,
                lowest=worst[number].value if bounded else None,
                highest=best[number].value if bounded else None,
                num_items=len(behind),
                num_fewshot=max(shots),
                higher_is_better=_better_high(taken, metric),
                harness="lm-eval",
                harness_version=version("lm-eval"),
                failure_share=failed / len(behind),
                items_hash=digest([[task, entries[task].chosen_hash] for task in row.tasks]),
                protocol_hash=digest([row.metric, benchmark.average, *([task, protocols[task]] for task in row.tasks)]),
                first_tokens=taken[row.tasks[0]][0].first_tokens,
            )
        )
    return found


def dropped_score(race: RaceRecord, benchmark: HarnessBenchmark, *, entries: Mapping[str, TaskEntry], weights: Weights) -> Score:
    """In place of a checkpoint's scores on the benchmark from which a race dropped it."""
    num_items = next(entry.num_items for entry in race.checkpoints if entry.ckpt == weights.ckpt)
    return Score(
        ckpt=weights.ckpt,
        samples_seen=weights.samples_seen,
        samples_spent=weights.samples_spent,
        weights_hash=weights.weights_hash,
        benchmark=race.benchmark,
        task=race.benchmark,
        task_version=", ".join(sorted({entry.version for entry in entries.values()})),
        metric=benchmark.metric,
        value=None,
        stderr=None,
        num_items=num_items,
        num_fewshot=max(entry.num_fewshot for entry in entries.values()),
        higher_is_better=race.higher_is_better,
        harness="lm-eval",
        harness_version=version("lm-eval"),
        items_hash=digest([[task, entry.chosen_hash] for task, entry in entries.items()]),
        protocol_hash="",
        first_tokens=[],
        dropped_after=num_items,
    )


def main_value(name: str, benchmark: HarnessBenchmark, taken: Taken) -> float:
    """One checkpoint's score on a benchmark, the one that tables read."""
    _check_metrics(name, benchmark, taken)
    items = {task: [item for block in blocks for item in block.items] for task, blocks in taken.items()}
    return averages.rows(name, benchmark, _values(benchmark, items, None))[0].value


def items_of(name: str, benchmark: HarnessBenchmark, taken: Taken) -> list[Item]:
    """A row per item and metric of one checkpoint on one benchmark."""
    items = {task: [item for block in blocks for item in block.items] for task, blocks in taken.items()}
    replies = list(_replies(benchmark, items))
    return [_row(name, task, metric, item, reply) for metric in _metrics(benchmark) for task, item, reply in replies]


def _row(name: str, task: str, metric: str, item: TakenItem, reply: Reply) -> Item:
    return Item(
        benchmark=name,
        task=task,
        metric=metric,
        item=str(item.number),
        item_hash=item.item_hash,
        value=reply.values[metric],
        weight=reply.weights.get(metric, 1.0),
        prediction=reply.texts.get(metric, reply.texts.get("")),
        log_likelihoods=item.log_likelihoods,
    )


def _metrics(benchmark: HarnessBenchmark) -> list[str]:
    return [benchmark.metric, *benchmark.metrics]


def _replies(benchmark: HarnessBenchmark, items: Mapping[str, Sequence[TakenItem]]) -> Iterator[tuple[str, TakenItem, Reply]]:
    """Task, item, and what the benchmark's filter left of its answer."""
    for task, block in items.items():
        for item in block:
            yield task, item, item.replies[benchmark.filter]


def _values(
    benchmark: HarnessBenchmark, items: Mapping[str, Sequence[TakenItem]], as_if: float | None
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Metric -> task -> value and weight of each item; `as_if` takes the place of a reply's value in which there is no answer."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {
        metric: {task: [] for task in items} for metric in _metrics(benchmark)
    }
    for task, _, reply in _replies(benchmark, items):
        for metric, tasks in found.items():
            value = as_if if reply.unparsed and as_if is not None else reply.values[metric]
            tasks[task].append((value, reply.weights.get(metric, 1.0)))
    return found


def _check_metrics(name: str, benchmark: HarnessBenchmark, taken: Taken) -> None:
    items = {task: [item for block in blocks for item in block.items] for task, blocks in taken.items()}
    for task, _, reply in _replies(benchmark, items):
        where = f"benchmarks.yaml: {name}"
        if absent := [metric for metric in _metrics(benchmark) if metric not in reply.values]:
            key, known = "metric" if absent[0] == benchmark.metric else "metrics", ", ".join(sorted(reply.values)) or "none"
            raise StudyError(f"{where}.{key}: {task} gives no {absent[0]} that is a mean over items; it has {known}")
        if reply.weights.get(benchmark.metric, 1.0) != 1.0:
            raise StudyError(
                f"{where}.metric: {benchmark.metric} is a mean over parts of items; tables can't pair it, list it in metrics"
            )
    for metric in _metrics(benchmark):
        if len({block.better_high[metric] for blocks in taken.values() for block in blocks}) > 1:
            raise StudyError(f"benchmarks.yaml: {name}: {metric} is better high in one task, low in another; split it")


def _better_high(taken: Taken, metric: str) -> bool:
    """Direction of a metric, or of the one that `acc_macro` and the like are made of."""
    directions = next(iter(taken.values()))[0].better_high
    return directions.get(metric, directions.get(metric.rpartition("_")[0], True))


def _protocol(benchmark: HarnessBenchmark, blocks: Sequence[TakenBlock]) -> str:
    """Hash of all that a task's requests and its grading consist of, and of what computes the answers."""
    return digest([benchmark.filter, benchmark.chat_template, benchmark.backend, [block.requests_hash for block in blocks]])
