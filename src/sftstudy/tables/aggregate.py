"""From the tidy scores and the per-item files to the cells of a table: peaks, last checkpoints, base scores and who is best.

The paper's measure: within a run, each benchmark has its own best checkpoint over the saves of all stages; the score is that
maximum, "samples" is where it stood, equal scores go to the fewest samples. The untouched base is not one of the saves. A run that
lacks any planned score has no peak: a maximum over fewer checkpoints would be another number.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from sftstudy import stats
from sftstudy.averages import NORMALISED, comparable, strata
from sftstudy.config import NO_NAME
from sftstudy.errors import StudyError
from sftstudy.paths import BASE_STAGE, Layout, score_stem
from sftstudy.pedigree import AskedBenchmark, AskedTask
from sftstudy.records import PROTOCOL
from sftstudy.spec import PlannedBenchmark, PlannedStage, StudySpec
from sftstudy.stats import Difference, Estimate, ItemScores
from sftstudy.stats.peaks import Curves
from sftstudy.tables.collect import Row, read_items, read_missing, read_whole

ALPHA = 0.05

EMPTY = ("value", "stderr", "spread", "dropped_after")
"""Columns of `scores.csv` that hold numbers, if anything."""

Measure = Literal["peak", "last"]
Pair = tuple[str, str]
"""A base model and the data that it was tuned on: tables are made per pair."""


@dataclass(frozen=True)
class Point:
    """One checkpoint on one benchmark. `value` is None if too many verdicts failed; `items` is the Parquet file behind it."""

    stage: str
    ckpt: str
    samples_seen: int
    samples_spent: int
    value: float | None
    higher_is_better: bool
    items: Path
    weights_hash: str = ""


@dataclass(frozen=True)
class Run:
    """All points of one seed on one benchmark, in order of stage and samples. `complete`: no planned score is missing or empty.

    `raced`: checkpoints of the stages before the last were dropped in a race, as none of them is the best one of its stage. They
    are no points, and the peak of the others is the run's.
    """

    seed: int
    points: tuple[Point, ...]
    complete: bool
    raced: bool = False


@dataclass(frozen=True)
class Cell:
    """A recipe on a benchmark over its complete seeds; everything is None if there is none. Samples are means over seeds.

    `points` are the checkpoints behind it, one per seed; `raced` if one of its runs was.
    """

    scores: ItemScores | None
    estimate: Estimate | None
    samples_seen: float | None
    samples_spent: float | None
    seeds: tuple[int, ...]
    planned_seeds: tuple[int, ...]
    higher_is_better: bool = True
    points: tuple[Point, ...] = ()
    raced: bool = False


@dataclass(frozen=True)
class Verdict:
    """A cell against the best one of its row or block. `p` is Holm-corrected; None for the best cell itself and for empty ones."""

    best: bool
    p: float | None

    @property
    def tied(self) -> bool:
        """No difference to the best can be shown."""
        return self.p is not None and self.p > ALPHA


class Results:
    """A study's scores as they are on disk, asked by run and benchmark. Rows that do not answer to today's plan are not seen."""

    def __init__(self, study: StudySpec, scores: pd.DataFrame, *, layout: Layout) -> None:
        self.study = study
        self.layout = layout
        self._rows: dict[tuple[str, ...], list[dict[str, object]]] = {}
        self._asked: dict[str, dict[str, dict[str, object]]] = {}
        for record in scores.to_dict("records"):
            row = {str(name): value for name, value in record.items()}
            benchmark, task, metric = str(row["benchmark"]), str(row["task"]), str(row["metric"])
            if task == benchmark:
                self._rows.setdefault((*_stage_key(row), benchmark, metric), []).append(row)
            planned = study.benchmarks.get(benchmark)
            if planned and metric == planned.metric and not np.isnan(float(str(row["value"]))):
                self._asked.setdefault(benchmark, {}).setdefault(task, row)
        self.items = lru_cache(maxsize=None)(read_items)
        self._missing = read_missing(layout.missing_csv())

    @property
    def spreads(self) -> dict[str, float]:
        """Benchmark -> how much a score moves from one judging to the next, for those whose answers were judged more than once."""
        found: dict[str, list[float]] = {}
        for row in itertools.chain.from_iterable(self._rows.values()):
            spread = float(str(row["spread"]))
            if str(row["benchmark"]) in self.study.benchmarks and not np.isnan(spread):
                found.setdefault(str(row["benchmark"]), []).append(spread)
        return {name: float(np.mean(found[name])) for name in sorted(found)}

    @property
    def raced(self) -> dict[str, list[str]]:
        """Benchmark -> recipes in stages of which a race dropped checkpoints, which have no score on it."""
        found: dict[str, set[str]] = {}
        for row in itertools.chain.from_iterable(self._rows.values()):
            if str(row["benchmark"]) in self.study.benchmarks and _is_dropped(row):
                found.setdefault(str(row["benchmark"]), set()).add(str(row["recipe"]))
        return {name: sorted(found[name]) for name in sorted(found)}

    @property
    def pairs(self) -> list[Pair]:
        """Models and data of the study in planned order."""
        return list(dict.fromkeys((s.model, s.data) for s in self.study.stages if s.stage != BASE_STAGE))

    def runs(self, pair: Pair, recipe: str, benchmark: str, *, metric: str | None = None) -> list[Run]:
        """The runs of a recipe, by seed, by the benchmark's own metric or another. The base model is recipe and data `none`."""
        planned: dict[int, list[PlannedStage]] = {}
        for stage in self.study.stages:
            if (stage.model, stage.data, stage.recipe) == (*pair, recipe):
                planned.setdefault(stage.seed, []).append(stage)
        metric = metric or self.study.benchmarks[benchmark].metric
        return [self._run(seed, planned[seed], benchmark, metric) for seed in sorted(planned)]

    def normalised(self, pair: Pair, recipe: str, benchmark: str, measure: Measure) -> Cell:
        """A cell on the leaderboard's scale, of complete runs. It has no interval and no items: those are of the raw scores."""
        runs = self.runs(pair, recipe, benchmark, metric=NORMALISED)
        points = tuple(_chosen(run, measure) for run in runs if run.complete)
        if not points:
            return Cell(None, None, None, None, (), tuple(run.seed for run in runs))
        value = float(np.mean([point.value for point in points]))
        return Cell(
            scores=None,
            estimate=Estimate(value, None, None, 0, len(points)),
            samples_seen=float(np.mean([point.samples_seen for point in points])),
            samples_spent=float(np.mean([point.samples_spent for point in points])),
            seeds=tuple(run.seed for run in runs if run.complete),
            planned_seeds=tuple(run.seed for run in runs),
            points=points,
            raced=any(run.raced for run in runs if run.complete),
        )

    def curves(self, pair: Pair, recipe: str, benchmark: str, *, over: Literal["samples_seen", "samples_spent"]) -> Curves | None:
        """All checkpoints of the complete runs of a recipe; None if there is none, runs differ in length, or one was raced."""
        runs = [run for run in self.runs(pair, recipe, benchmark) if run.complete]
        if not runs or len({len(run.points) for run in runs}) > 1 or any(run.raced for run in runs):
            return None
        sign = 1.0 if runs[0].points[0].higher_is_better else -1.0
        ordered = [sorted(run.points, key=lambda point: (getattr(point, over), point.stage, point.ckpt)) for run in runs]
        seeds = [run.seed for run in runs]
        columns = [self.join(seeds, points, benchmark) for points in zip(*ordered, strict=True)]
        return Curves(
            samples=np.array([[getattr(point, over) for point in points] for points in ordered], dtype=float),
            values=sign * np.stack([column.values for column in columns], axis=1),
            items=columns[0].items,
            tasks=columns[0].tasks,
            clusters=columns[0].clusters,
        )

    def asked(self, benchmark: str) -> AskedBenchmark:
        """How a benchmark was asked and graded, which is the same for all of its rows."""
        planned = self.study.benchmarks[benchmark]
        known = {name: getattr(planned, name) for name in ("suite", "metric", "average", "unit", "chance")}
        rows = self._asked.get(benchmark, {})
        shared = {name: value for name, value in rows.get(benchmark, {}).items() if name in (*PROTOCOL, "num_fewshot")}
        names = {"version": "task_version", "items_hash": "items_hash", "protocol_hash": "protocol_hash"}
        tasks = {
            task: AskedTask.model_validate({name: row[column] for name, column in names.items()})
            for task, row in sorted(rows.items())
            if task != benchmark
        }
        return AskedBenchmark.model_validate(known | shared | {"tasks": tasks})

    def lacking(self, pair: Pair, recipe: str, seed: int, benchmark: str) -> dict[str, str]:
        """Record of a run -> why its scores on a benchmark are not there, as `missing.csv` says; paths are below `results/`."""
        suite, found = self.study.benchmarks[benchmark].suite, {}
        for stage in self.study.stages:
            if (stage.model, stage.data, stage.recipe, stage.seed) == (*pair, recipe, seed):
                folder = self.layout.stage_results(*pair, recipe, seed, stage.stage)
                paths = [score_stem(folder, suite, f"{part}.json") for part in stage.scores.get(suite, {})]
                for path in [folder / "training.json", *paths]:
                    if reason := self._missing.get(path.as_posix()):
                        found[path.relative_to(self.layout.results).as_posix()] = reason
        return found

    def base(self, model: str, benchmark: str) -> Cell:
        """The untouched model's score."""
        return self.cell((model, NO_NAME), NO_NAME, benchmark, "peak")

    def cell(self, pair: Pair, recipe: str, benchmark: str, measure: Measure) -> Cell:
        """A recipe's peak, or its last checkpoint, on a benchmark."""
        definition = self.study.benchmarks[benchmark]
        runs = self.runs(pair, recipe, benchmark)
        return make_cell(runs, measure, definition, lambda point: self.items_of(point, benchmark))

    def join(self, seeds: Sequence[int], points: Sequence[Point], benchmark: str) -> ItemScores:
        """One point of each seed, on a benchmark, as one arm."""
        tables = [self.items_of(point, benchmark) for point in points]
        return join_items(tuple(seeds), tables, self.study.benchmarks[benchmark])

    def items_of(self, point: Point, benchmark: str) -> pd.DataFrame:
        """Per-item rows of one point."""
        items: pd.DataFrame = self.items(point.items)
        here = (items["ckpt"] == point.ckpt) & (items["benchmark"] == benchmark)
        return items[here & (items["metric"] == self.study.benchmarks[benchmark].metric)]

    def _run(self, seed: int, stages: Sequence[PlannedStage], benchmark: str, metric: str) -> Run:
        suite, main = self.study.benchmarks[benchmark].suite, self.study.benchmarks[benchmark].metric
        points: list[Point] = []
        complete, raced = bool(stages), False
        for stage in sorted(stages, key=lambda s: s.stage):
            folder = self.layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
            expected = stage.scores.get(suite, {})
            dropped = [row for row in self._rows_of(stage, benchmark, main) if _is_dropped(row)]
            rows = [row for row in self._rows_of(stage, benchmark, metric) if not _is_dropped(row)]
            complete &= {row["part"] for row in [*rows, *dropped]} == set(expected)
            raced |= bool(dropped)
            here = [_point(row, score_stem(folder, suite, f"{row['part']}.parquet")) for row in rows]
            points += sorted(here, key=lambda point: (point.samples_seen, point.ckpt))
        complete &= all(stage.scores.get(suite) for stage in stages if stage.last)
        complete &= bool(points) and all(point.value is not None for point in points)
        return Run(seed, tuple(points), complete, raced)

    def _rows_of(self, stage: PlannedStage, benchmark: str, metric: str) -> list[dict[str, object]]:
        """A stage's rows on a benchmark by a metric that answer to today's plan."""
        suite = self.study.benchmarks[benchmark].suite
        expected = stage.scores.get(suite, {})
        key = (stage.model, stage.data, stage.recipe, str(stage.seed), stage.stage, benchmark, metric)
        return [
            row for row in self._rows.get(key, []) if row["suite"] == suite and expected.get(str(row["part"])) == row["spec_hash"]
        ]


def load_results(study: StudySpec, *, layout: Layout) -> Results:
    """Results of a study from `scores.csv`. Raises StudyError if that was not made yet, or is not whole."""
    whole = io.StringIO(read_whole(layout.scores_csv(), Row))
    text = {field.name: str for field in fields(Row) if str(field.type).startswith("str")}
    scores = pd.read_csv(whole, dtype=text, keep_default_na=False, na_values={name: [""] for name in EMPTY})
    return Results(study, scores, layout=layout)


def peak(points: Sequence[Point]) -> Point:
    """The best of a run's points; equal scores go to the fewest samples, then to stage and name."""
    sign = -1.0 if points[0].higher_is_better else 1.0
    return min(points, key=lambda p: (sign * comparable(p.value or 0.0), p.samples_seen, p.stage, p.ckpt))


def make_cell(
    runs: Sequence[Run], measure: Measure, benchmark: PlannedBenchmark, items_of: Callable[[Point], pd.DataFrame]
) -> Cell:
    """Mean over the complete runs of the peak, or of the last checkpoint, with its interval and its items."""
    complete = [run for run in runs if run.complete]
    planned = tuple(run.seed for run in runs)
    if not complete:
        return Cell(None, None, None, None, (), planned)
    points = [_chosen(run, measure) for run in complete]
    seeds = tuple(run.seed for run in complete)
    tables = [items_of(point) for point in points]
    scores = join_items(seeds, tables, benchmark)
    return Cell(
        scores=scores,
        estimate=stats.estimate(scores, benchmark.unit, average=benchmark.average),
        samples_seen=float(np.mean([point.samples_seen for point in points])),
        samples_spent=float(np.mean([point.samples_spent for point in points])),
        seeds=seeds,
        planned_seeds=planned,
        higher_is_better=points[0].higher_is_better,
        points=tuple(points),
        raced=any(run.raced for run in complete),
    )


def _chosen(run: Run, measure: Measure) -> Point:
    return peak(run.points) if measure == "peak" else run.points[-1]


def join_items(seeds: tuple[int, ...], tables: Sequence[pd.DataFrame], benchmark: PlannedBenchmark) -> ItemScores:
    """Item tables of several seeds side by side. Raises StudyError if they do not hold the same items.

    The tasks of a family are one stratum. Of a clustered benchmark the turns of one question, items that share what stands before
    the last `.` of their name, are drawn together.
    """
    columns: list[pd.Series[float]] = []
    for table in tables:
        identity = table["task"] + "\t" + table["item"] + "\t" + table["item_hash"]
        columns.append(pd.Series(table["value"].to_numpy(float), index=pd.Index(identity)).sort_index())
    keys = [str(key) for key in columns[0].index]
    if any(list(column.index) != keys for column in columns):
        raise StudyError("seeds of one recipe were scored on different items; collect the scores again and see missing.csv")
    parts, family = [key.split("\t") for key in keys], strata(benchmark.families)
    return ItemScores(
        seeds=seeds,
        items=tuple(keys),
        tasks=tuple(family.get(task, task) for task, _, _ in parts),
        clusters=tuple(
            item.rpartition(".")[0] or item if benchmark.clustered else key for key, (_, item, _) in zip(keys, parts, strict=True)
        ),
        values=np.array([column.to_numpy() for column in columns]),
    )


def compare(first: Cell, second: Cell, benchmark: PlannedBenchmark) -> Difference | None:
    """First minus second, paired by items; None if either is empty."""
    if first.scores is None or second.scores is None:
        return None
    return stats.paired_difference(first.scores, second.scores, unit=benchmark.unit, average=benchmark.average)


def judge(cells: Sequence[Cell], benchmark: PlannedBenchmark) -> list[Verdict]:
    """Each cell against the best one, p-values corrected over the cells. Nobody is best among fewer than two known cells."""
    known = [index for index, cell in enumerate(cells) if cell.estimate is not None]
    verdicts = [Verdict(best=False, p=None) for _ in cells]
    if len(known) < 2:
        return verdicts

    def rank(index: int) -> tuple[float, float]:
        cell = cells[index]
        assert cell.estimate is not None, "only known cells are ranked"
        return comparable(cell.estimate.value) * (-1.0 if cell.higher_is_better else 1.0), cell.samples_spent or 0.0

    best = min(known, key=rank)
    others = [index for index in known if index != best]
    differences = [compare(cells[best], cells[index], benchmark) for index in others]
    corrected = stats.holm([1.0 if difference is None else difference.p for difference in differences])
    verdicts[best] = Verdict(best=True, p=None)
    for index, p in zip(others, corrected, strict=True):
        verdicts[index] = Verdict(best=False, p=p)
    return verdicts


def _is_dropped(row: Mapping[str, object]) -> bool:
    """Whether a race dropped the checkpoint, which then has one row, by the benchmark's own metric."""
    return not np.isnan(float(str(row["dropped_after"])))


def _stage_key(row: dict[str, object]) -> tuple[str, str, str, str, str]:
    model, data, recipe, seed, stage = (str(row[name]) for name in ("model", "data", "recipe", "seed", "stage"))
    return model, data, recipe, seed, stage


def _point(row: dict[str, object], items: Path) -> Point:
    value = float(str(row["value"]))
    return Point(
        stage=str(row["stage"]),
        ckpt=str(row["ckpt"]),
        samples_seen=int(str(row["samples_seen"])),
        samples_spent=int(str(row["samples_spent"])),
        value=None if np.isnan(value) else value,
        higher_is_better=bool(row["higher_is_better"]),
        items=items,
        weights_hash=str(row["weights_hash"]),
    )
