"""From the tidy scores and the per-item files to the cells of a table: peaks, last checkpoints, base scores and who is best.

The paper's measure: within a run, each benchmark has its own best checkpoint over the saves of all stages; the score is that
maximum, "samples" is where it stood, equal scores go to the fewest samples. The untouched base is not one of the saves. A run that
lacks any planned score has no peak: a maximum over fewer checkpoints would be another number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from sftstudy import stats
from sftstudy.averages import NORMALISED, strata
from sftstudy.config import NO_NAME
from sftstudy.errors import StudyError
from sftstudy.paths import BASE_STAGE, Layout, score_stem
from sftstudy.spec import PlannedBenchmark, PlannedStage, StudySpec
from sftstudy.stats import Difference, Estimate, ItemScores
from sftstudy.tables.collect import read_items

ALPHA = 0.05

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


@dataclass(frozen=True)
class Run:
    """All points of one seed on one benchmark, in order of stage and samples. `complete`: no planned score is missing or empty."""

    seed: int
    points: tuple[Point, ...]
    complete: bool


@dataclass(frozen=True)
class Cell:
    """A recipe on a benchmark over its complete seeds; everything is None if there is none. Samples are means over seeds."""

    scores: ItemScores | None
    estimate: Estimate | None
    samples_seen: float | None
    samples_spent: float | None
    seeds: tuple[int, ...]
    planned_seeds: tuple[int, ...]
    higher_is_better: bool = True


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
        self._layout = layout
        self._rows: dict[tuple[str, ...], list[dict[str, object]]] = {}
        for row in scores[scores["task"] == scores["benchmark"]].to_dict("records"):
            key = (*_stage_key(row), str(row["benchmark"]), str(row["metric"]))
            self._rows.setdefault(key, []).append({str(k): v for k, v in row.items()})
        self.items = lru_cache(maxsize=None)(read_items)

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

    def normalised(self, pair: Pair, recipe: str, benchmark: str) -> tuple[float, float] | None:
        """Mean peak on the leaderboard's scale and mean samples seen there, over complete runs; None if there are none."""
        points = [peak(run.points) for run in self.runs(pair, recipe, benchmark, metric=NORMALISED) if run.complete]
        if not points:
            return None
        return float(np.mean([point.value for point in points])), float(np.mean([point.samples_seen for point in points]))

    def base(self, model: str, benchmark: str) -> Cell:
        """The untouched model's score."""
        return self.cell((model, NO_NAME), NO_NAME, benchmark, "peak")

    def cell(self, pair: Pair, recipe: str, benchmark: str, measure: Measure) -> Cell:
        """A recipe's peak, or its last checkpoint, on a benchmark."""
        definition = self.study.benchmarks[benchmark]
        runs = self.runs(pair, recipe, benchmark)
        return make_cell(runs, measure, definition, lambda point: self.items_of(point, benchmark))

    def items_of(self, point: Point, benchmark: str) -> pd.DataFrame:
        """Per-item rows of one point."""
        items: pd.DataFrame = self.items(point.items)
        here = (items["ckpt"] == point.ckpt) & (items["benchmark"] == benchmark)
        return items[here & (items["metric"] == self.study.benchmarks[benchmark].metric)]

    def _run(self, seed: int, stages: Sequence[PlannedStage], benchmark: str, metric: str) -> Run:
        suite = self.study.benchmarks[benchmark].suite
        points: list[Point] = []
        complete = bool(stages)
        for stage in sorted(stages, key=lambda s: s.stage):
            folder = self._layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
            expected = stage.scores.get(suite, {})
            rows = [
                row
                for row in self._rows.get((stage.model, stage.data, stage.recipe, str(seed), stage.stage, benchmark, metric), [])
                if row["suite"] == suite and expected.get(str(row["part"])) == row["spec_hash"]
            ]
            complete &= {row["part"] for row in rows} == set(expected)
            here = [_point(row, score_stem(folder, suite, f"{row['part']}.parquet")) for row in rows]
            points += sorted(here, key=lambda point: (point.samples_seen, point.ckpt))
        complete &= all(stage.scores.get(suite) for stage in stages if stage.last)
        complete &= bool(points) and all(point.value is not None for point in points)
        return Run(seed, tuple(points), complete)


def load_results(study: StudySpec, *, layout: Layout) -> Results:
    """Results of a study from `scores.csv`. Raises StudyError if that was not made yet."""
    path = layout.scores_csv()
    text = dict.fromkeys(("model", "data", "recipe", "stage", "suite", "part", "ckpt", "benchmark", "task", "spec_hash"), str)
    try:
        scores = pd.read_csv(
            path, dtype=text, keep_default_na=False, na_values={name: [""] for name in ("value", "stderr", "spread")}
        )
    except FileNotFoundError:
        raise StudyError(f"{path}: missing; make it with `python workflow/scripts/collect_scores.py STUDY_SPEC...`") from None
    return Results(study, scores, layout=layout)


def peak(points: Sequence[Point]) -> Point:
    """The best of a run's points; equal scores go to the fewest samples, then to stage and name."""
    sign = -1.0 if points[0].higher_is_better else 1.0
    return min(points, key=lambda p: (sign * (0.0 if p.value is None else p.value), p.samples_seen, p.stage, p.ckpt))


def make_cell(
    runs: Sequence[Run], measure: Measure, benchmark: PlannedBenchmark, items_of: Callable[[Point], pd.DataFrame]
) -> Cell:
    """Mean over the complete runs of the peak, or of the last checkpoint, with its interval and its items."""
    complete = [run for run in runs if run.complete]
    planned = tuple(run.seed for run in runs)
    if not complete:
        return Cell(None, None, None, None, (), planned)
    points = [peak(run.points) if measure == "peak" else run.points[-1] for run in complete]
    seeds = tuple(run.seed for run in complete)
    tables = [items_of(point) for point in points]
    scores = join_items(seeds, tables, clustered=benchmark.clustered, families=benchmark.families)
    return Cell(
        scores=scores,
        estimate=stats.estimate(scores, benchmark.unit, average=benchmark.average),
        samples_seen=float(np.mean([point.samples_seen for point in points])),
        samples_spent=float(np.mean([point.samples_spent for point in points])),
        seeds=seeds,
        planned_seeds=planned,
        higher_is_better=points[0].higher_is_better,
    )


def join_items(
    seeds: tuple[int, ...], tables: Sequence[pd.DataFrame], *, clustered: bool, families: Mapping[str, Sequence[str]] | None = None
) -> ItemScores:
    """Item tables of several seeds side by side. Raises StudyError if they do not hold the same items.

    `families`: name -> tasks that are one stratum. `clustered`: turns of one question, items that share what stands before the last
    `.` of their name, are drawn together.
    """
    columns: list[pd.Series[float]] = []
    for table in tables:
        identity = table["task"] + "\t" + table["item"] + "\t" + table["item_hash"]
        columns.append(pd.Series(table["value"].to_numpy(float), index=pd.Index(identity)).sort_index())
    keys = [str(key) for key in columns[0].index]
    if any(list(column.index) != keys for column in columns):
        raise StudyError("seeds of one recipe were scored on different items; collect the scores again and see missing.csv")
    parts, family = [key.split("\t") for key in keys], strata(families or {})
    return ItemScores(
        seeds=seeds,
        items=tuple(keys),
        tasks=tuple(family.get(task, task) for task, _, _ in parts),
        clusters=tuple(
            item.rpartition(".")[0] or item if clustered else key for key, (_, item, _) in zip(keys, parts, strict=True)
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
        return cell.estimate.value * (-1.0 if cell.higher_is_better else 1.0), cell.samples_spent or 0.0

    best = min(known, key=rank)
    others = [index for index in known if index != best]
    differences = [compare(cells[best], cells[index], benchmark) for index in others]
    corrected = stats.holm([1.0 if difference is None else difference.p for difference in differences])
    verdicts[best] = Verdict(best=True, p=None)
    for index, p in zip(others, corrected, strict=True):
        verdicts[index] = Verdict(best=False, p=p)
    return verdicts


def _stage_key(row: dict[object, object]) -> tuple[str, str, str, str, str]:
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
    )
