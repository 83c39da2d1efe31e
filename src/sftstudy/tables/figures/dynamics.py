"""Training dynamics: loss and gradient norm over samples seen, and below them, if wanted, what the runs came to.

A phased run goes on along the x axis from where its selected checkpoint stood; what a stage trained beyond that checkpoint is drawn
faint. Models and data are rows of panels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from sftstudy import records
from sftstudy.config import DynamicsFigure
from sftstudy.paths import Layout
from sftstudy.records import StepMetrics
from sftstudy.spec import StudySpec
from sftstudy.stats import Array
from sftstudy.tables.aggregate import Pair, Results
from sftstudy.tables.collect import read_training
from sftstudy.tables.figures import panels
from sftstudy.tables.figures.final import dots_note, draw_dots
from sftstudy.tables.figures.labels import End
from sftstudy.tables.figures.look import Line
from sftstudy.tables.figures.runs import absences, expand_recipes, selected, stages_of
from sftstudy.tables.figures.sheet import Sheet

HEIGHT = 2.3
"""Inches of a panel."""

SIGNALS: dict[str, tuple[str, Callable[[StepMetrics], float]]] = {
    "loss": ("loss (nats per supervised token)", lambda step: step.loss),
    "gradient norm": ("gradient norm before clipping", lambda step: step.grad_norm),
}


@dataclass(frozen=True)
class Curve:
    """A stage of one run: `past` marks steps beyond the checkpoint that the next stage started from."""

    seed: int
    stage: str
    samples: Array
    loss: Array
    grad_norm: Array
    past: NDArray[np.bool_]


@dataclass(frozen=True)
class Band:
    """A stage over seeds that took the same steps: mean, least and greatest value at each; one seed has no width."""

    samples: Array
    mean: Array
    low: Array
    high: Array
    past: NDArray[np.bool_]


def draw_dynamics(results: Results, figure: DynamicsFigure, *, layout: Layout) -> Figure:
    """Loss and gradient norm: a recipe's mean over seeds with their range, and the final scores on `benchmarks`."""
    study = results.study
    lines = {pair: expand_recipes(study, figure.recipes, pair) for pair in results.pairs}
    lines = {pair: drawn for pair, drawn in lines.items() if drawn}
    curved = [HEIGHT + panels.TITLE_LINE * (len(lines) > 1)]
    heights = [
        height
        for drawn in lines.values()
        for height in curved + ([panels.dots_height(len(drawn) + 1, pairs=len(lines))] if figure.benchmarks else [])
    ]
    sheet = Sheet(figure.caption, heights or curved)
    rows = itertools.count()
    marked = any(len({line.dashes for line in drawn}) < len(drawn) for drawn in lines.values())
    apart: list[str] = []
    smooth = False
    for pair, drawn in lines.items():
        found = {line.label: curves(study, pair, line.recipe, layout=layout) for line in drawn}
        smooth |= any(_window(curve) > 1 for run in found.values() for curve in run)
        for cell, signal in zip(sheet.divided(next(rows), 2), SIGNALS, strict=True):
            axes = sheet.axes(cell)
            panels.title(axes, signal, pair, list(lines))
            apart += _draw_signal(sheet, axes, drawn, found, signal, marked=marked)
        cells = sheet.divided(next(rows), len(figure.benchmarks)) if figure.benchmarks else []
        for place, (name, cell) in enumerate(zip(figure.benchmarks, cells, strict=True)):
            axes = sheet.axes(cell)
            panels.title(axes, name, pair, list(lines))
            draw_dots(axes, results, drawn, pair, name, figure.measure, named=place == 0)
    seeds = panels.seeds_of(results, lines)
    told = f"Curves: {'running means over 2 % of a stage, ' if smooth else ''}{panels.seeds_text(seeds)}"
    told += panels.PAST if any(panels.has_phases(results, drawn) for drawn in lines.values()) else ""
    told += ". Bands: from the least to the greatest seed." if seeds[-1] > 1 else "."
    return sheet.finish(
        [
            told,
            *([dots_note(figure.measure, seeds), *panels.one_seed(seeds)] if figure.benchmarks else []),
            *([f"Seeds drawn one by one, as they took different steps: {', '.join(dict.fromkeys(apart))}."] if apart else []),
            *absences(results, lines, figure.benchmarks, layout=layout),
        ]
    )


def _draw_signal(
    sheet: Sheet, axes: Axes, lines: Sequence[Line], found: dict[str, list[Curve]], signal: str, *, marked: bool
) -> list[str]:
    """One panel, with markers where dashes do not tell all lines apart; returns the lines whose seeds could not be joined."""
    unit, _ = SIGNALS[signal]
    ends, apart = [], []
    for line in lines:
        joined = bands(found[line.label], "loss" if signal == "loss" else "grad_norm")
        if joined is None:
            apart.append(line.label)
            joined = [
                band for curve in found[line.label] for band in bands([curve], "loss" if signal == "loss" else "grad_norm") or []
            ]
        for band in joined:
            for part, faint in ((~band.past, 1.0), (band.past, 0.4)):
                look: dict[str, Any] = {"color": line.color, "linestyle": line.dashes, "linewidth": 1.0, "alpha": faint}
                look |= {"marker": line.marker, "markersize": 2.5, "markevery": (0, 0.15)} if marked else {}
                axes.plot(band.samples[part], band.mean[part], **look)
                axes.fill_between(
                    band.samples[part], band.low[part], band.high[part], color=line.color, alpha=0.2 * faint, linewidth=0
                )
        if joined:
            last = joined[-1]
            x, y, marker = float(last.samples[-1]), float(last.mean[-1]), line.marker if marked else ""
            ends.append(End(x, y, panels.wrapped(line.label, 22), line.color, line.dashes, marker))
    axes.set_ylabel(unit)
    if not ends:
        panels.no_records(axes)
        return apart
    panels.samples_axis(axes)
    if signal != "loss":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    sheet.label(axes, ends)
    return apart


def curves(study: StudySpec, pair: Pair, recipe: str, *, layout: Layout) -> list[Curve]:
    """One curve per stage and seed that has today's training record, with samples counted from the base model on."""
    found = []
    for stage in stages_of(study, pair, recipe):
        folder = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
        training = read_training(stage, layout=layout)
        if training is None or not (folder / "metrics.jsonl").exists():
            continue
        steps = records.read_metrics(folder / "metrics.jsonl")
        if not steps:
            continue
        before = training.samples_seen - steps[-1].samples_seen
        samples = _column(steps, lambda step: step.samples_seen) + before
        chosen = None if stage.last else selected(stage, layout=layout)
        past = samples > chosen.samples_seen if chosen else np.zeros(len(samples), dtype=bool)
        found.append(
            Curve(stage.seed, stage.stage, samples, _column(steps, lambda s: s.loss), _column(steps, lambda s: s.grad_norm), past)
        )
    return found


def bands(found: Sequence[Curve], signal: str) -> list[Band] | None:
    """A recipe's stages over its seeds, smoothed; None if the seeds of a stage took different numbers of steps."""
    stages = {name: [curve for curve in found if curve.stage == name] for name in dict.fromkeys(curve.stage for curve in found)}
    joined = []
    for curves in stages.values():
        if len({len(curve.samples) for curve in curves}) > 1 or len(curves) < len({curve.seed for curve in found}):
            return None
        values = np.stack([running_mean(getattr(curve, signal), _window(curve)) for curve in curves])
        joined.append(
            Band(
                samples=np.stack([curve.samples for curve in curves]).mean(axis=0),
                mean=values.mean(axis=0),
                low=values.min(axis=0),
                high=values.max(axis=0),
                past=np.logical_and.reduce([curve.past for curve in curves]),
            )
        )
    return joined


def running_mean(values: Array, window: int) -> Array:
    """Centred mean over `window` neighbours, fewer at the ends; as long as the input."""
    ones = np.ones(window)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same") if window > 1 else values


def _window(curve: Curve) -> int:
    return max(1, len(curve.samples) // 50)


def _column(steps: Sequence[StepMetrics], pick: Callable[[StepMetrics], float]) -> Array:
    return np.array([pick(step) for step in steps], dtype=np.float64)
