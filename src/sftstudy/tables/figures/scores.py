"""Scores over samples seen, a panel per benchmark, and below it where each arm is at its best.

A phased run goes on along the x axis from where its selected checkpoint stood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sftstudy import stats
from sftstudy.config import ScoresFigure
from sftstudy.paths import Layout
from sftstudy.stats import Array, Estimate
from sftstudy.stats.peaks import samples_to_peak
from sftstudy.tables.aggregate import Pair, Point, Results, Run
from sftstudy.tables.figures import panels
from sftstudy.tables.figures.labels import End
from sftstudy.tables.figures.look import Line
from sftstudy.tables.figures.runs import absences, lines_of, selected, stages_of
from sftstudy.tables.figures.sheet import Sheet

SEED = 0
"""Of the bootstrap draws behind the samples to the peak."""

HEIGHT, STRIP, ROW = 1.75, 0.42, 0.115
"""Inches of a panel's curves, of the strip below without its rows, and of a row of it."""


@dataclass(frozen=True)
class Segment:
    """A stage of an arm on one benchmark: at each place the mean over seeds and its interval, NaN where items tell none.

    `past` marks checkpoints beyond the one that the next stage started from.
    """

    samples: Array
    mean: Array
    low: Array
    high: Array
    past: NDArray[np.bool_]


def draw_scores(results: Results, figure: ScoresFigure, *, layout: Layout) -> Figure:
    """An arm's mean over seeds at each checkpoint with its interval, and the samples to its peak."""
    benchmarks, lines = panels.panels_of(results.study, figure.benchmarks), lines_of(figure.arms)
    columns = panels.per_row(len(benchmarks))
    rows = [(pair, benchmarks[at : at + columns]) for pair in results.pairs for at in range(0, len(benchmarks), columns)]
    sheet = Sheet(
        figure.caption, [HEIGHT + STRIP + ROW * len(lines) + panels.TITLE_LINE * (len(results.pairs) > 1)] * len(rows), columns
    )
    far: list[str] = []
    for row, (pair, names) in enumerate(rows):
        for name, cell in zip(names, sheet.row(row), strict=False):
            parts = cell.subgridspec(2, 1, height_ratios=[HEIGHT, STRIP + ROW * len(lines)], hspace=0)
            above = sheet.axes(parts[0])
            far.append(_draw_curves(sheet, above, results, lines, pair, name, layout=layout))
            panels.title(above, name, pair, results.pairs)
            if above.lines:
                _draw_peaks(sheet.figure.add_subplot(parts[1], sharex=above), results, lines, pair, name)
                above.tick_params(labelbottom=False)
                above.set_xlabel("")
            else:
                panels.no_records(above)
    seeds = panels.seeds_of(results, dict.fromkeys(results.pairs, lines))
    return sheet.finish(
        [
            f"Curves: {panels.seeds_text(seeds)}{panels.PAST if panels.has_phases(results, lines) else ''}. Bands: pointwise 95 % "
            f"intervals over {panels.sources_text(seeds)}. Below: samples seen at the best checkpoint (of equal ones the first), "
            f"chosen on the items reported, with its bootstrap 95 % interval over {panels.sources_text(seeds)}, which can only end "
            "at checkpoints.",
            *panels.off_axes(far),
            *panels.one_seed(seeds),
            *absences(results, dict.fromkeys(results.pairs, lines), benchmarks, layout=layout),
        ]
    )


def _draw_curves(
    sheet: Sheet, axes: Axes, results: Results, lines: Sequence[Line], pair: Pair, benchmark: str, *, layout: Layout
) -> str:
    """Lines, bands and labels; returns what lies off the axes."""
    ends: list[End] = []
    drawn: list[float] = []
    for line in lines:
        starts = {
            (stage.seed, stage.stage): chosen.ckpt
            for stage in stages_of(results.study, pair, line.recipe)
            if not stage.last and (chosen := selected(stage, layout=layout))
        }
        parts = segments(results, benchmark, results.runs(pair, line.recipe, benchmark), starts)
        for part in parts:
            onward = part.past | np.append(part.past[1:], False)
            for shown, faint in ((~part.past, 1.0), (onward, 0.4)):
                look: dict[str, Any] = {"color": line.color, "linestyle": line.dashes, "marker": line.marker, "markersize": 3.2}
                axes.plot(part.samples[shown], part.mean[shown], alpha=faint, **look)
                axes.fill_between(
                    part.samples[shown], part.low[shown], part.high[shown], color=line.color, alpha=0.15 * faint, linewidth=0
                )
            drawn += [*part.mean, *part.low, *part.high]
        if parts:
            x, y = parts[-1].samples[-1], parts[-1].mean[-1]
            ends.append(End(float(x), float(y), panels.wrapped(line.label), line.color, line.dashes, line.marker))
    axes.set_ylabel(panels.unit_text(results.study.benchmarks[benchmark]))
    if not ends:
        return ""
    panels.samples_axis(axes)
    beside, far = panels.references(axes, results, pair, benchmark, drawn)
    sheet.label(axes, ends + beside)
    return far


def _draw_peaks(axes: Axes, results: Results, lines: Sequence[Line], pair: Pair, benchmark: str) -> None:
    """A row per arm: samples seen at the peak and their interval, the number itself at the right."""
    average = results.study.benchmarks[benchmark].average
    for row, line in enumerate(lines):
        whole = results.curves(pair, line.recipe, benchmark, over="samples_seen")
        told = "not known"
        if whole is not None:
            found = samples_to_peak(whole, average=average, seed=SEED)
            axes.plot(
                [found.low, found.high], [row, row], color=line.color, linewidth=0.9, marker="|", markersize=4, markeredgewidth=0.9
            )
            axes.plot(
                [found.value], [row], color=line.color, marker=line.marker, markersize=3.6, linestyle="", clip_on=False, zorder=3
            )
            told = panels.count_text(found.value)
        panels.beside(axes, row, told, line.color)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylabel("peak", rotation=0, ha="right", va="center")
    axes.grid(False, axis="y")
    panels.samples_axis(axes)


def segments(results: Results, benchmark: str, runs: Sequence[Run], starts: Mapping[tuple[int, str], str]) -> list[Segment]:
    """An arm's stages, each from the checkpoint that it started from; places where every run with scores has a value.

    `starts`: (seed, stage) -> the checkpoint of that stage which the next one continues from, where it is known.
    """
    paths: list[dict[tuple[str, str], tuple[Point, bool]]] = []
    seeds: list[int] = []
    for run in runs:
        path: dict[tuple[str, str], tuple[Point, bool]] = {}
        start: Point | None = None
        for stage in dict.fromkeys(point.stage for point in run.points):
            points = {p.ckpt: p for p in run.points if p.stage == stage and p.value is not None}
            if start is not None:
                path[stage, ""] = start, False
            start = points.get(starts.get((run.seed, stage), ""))
            end = start.samples_seen if start else math.inf
            path |= {(stage, ckpt): (point, point.samples_seen > end) for ckpt, point in points.items()}
        if path:
            paths.append(path)
            seeds.append(run.seed)
    found = []
    for stage in dict.fromkeys(stage for path in paths for stage, _ in path):
        keys = [key for key in paths[0] if key[0] == stage and all(key in path for path in paths)]
        means = {key: _estimate(results, benchmark, seeds, [path[key][0] for path in paths]) for key in keys}
        known = {key: mean for key, mean in means.items() if mean}
        if known:
            found.append(
                Segment(
                    samples=np.array([np.mean([path[key][0].samples_seen for path in paths]) for key in known]),
                    mean=np.array([mean.value for mean in known.values()]),
                    low=np.array([mean.low for mean in known.values()], dtype=float),
                    high=np.array([mean.high for mean in known.values()], dtype=float),
                    past=np.array([all(path[key][1] for path in paths) for key in known]),
                )
            )
    return found


def _estimate(results: Results, benchmark: str, seeds: Sequence[int], points: Sequence[Point]) -> Estimate | None:
    """Mean of one checkpoint per seed, with its interval over items and seeds, as tables print it."""
    planned = results.study.benchmarks[benchmark]
    return stats.estimate(results.join(seeds, points, benchmark), planned.unit, average=planned.average)
