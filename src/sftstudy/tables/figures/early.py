"""Early signals against final scores: whether gradient norm or loss early in training tells how a recipe ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sftstudy.config import EarlyFigure
from sftstudy.paths import Layout
from sftstudy.stats import Estimate
from sftstudy.stats.ranks import rank_correlation
from sftstudy.tables.aggregate import Pair, Results
from sftstudy.tables.collect import read_training
from sftstudy.tables.early import early_mean, stage_metrics
from sftstudy.tables.figures import panels
from sftstudy.tables.figures.look import Line
from sftstudy.tables.figures.runs import absences, expand_recipes, stages_of
from sftstudy.tables.figures.sheet import Sheet

HEIGHT = 2.5
"""Inches of a panel."""

SEED = 0
"""Of the orders drawn for the p-value of a rank correlation where they are too many to list."""

SIGNALS = {"grad_norm": "early gradient norm before clipping", "loss": "early loss (nats per supervised token)"}


@dataclass(frozen=True)
class Mark:
    """A recipe in the mean of its complete seeds: its early signal with its range over seeds, and its final score."""

    line: Line
    signal: float
    least: float
    greatest: float
    final: Estimate


def draw_early(results: Results, figure: EarlyFigure, *, layout: Layout) -> Figure:
    """A point per recipe, a column of panels per signal, a row per benchmark, with the rank correlation of each."""
    study, benchmarks = results.study, panels.panels_of(results.study, figure.benchmarks)
    lines = {pair: drawn for pair in results.pairs if (drawn := expand_recipes(study, figure.recipes, pair))}
    rows = [(pair, name) for pair in lines for name in benchmarks]
    sheet = Sheet(figure.caption, [HEIGHT + panels.TITLE_LINE * (len(lines) > 1)] * max(1, len(rows)), len(figure.signals))
    for row, (pair, name) in enumerate(rows):
        for cell, signal in zip(sheet.row(row), figure.signals, strict=True):
            axes = sheet.axes(cell)
            found = marks(results, lines[pair], pair, name, signal, figure, layout=layout)
            panels.title(axes, f"{name}\n{_correlation(found)}", pair, list(lines))
            axes.set_ylabel(panels.unit_text(study.benchmarks[name]))
            axes.set_xlabel(SIGNALS[signal])
            if found:
                _draw_panel(sheet, axes, found)
            else:
                panels.no_records(axes)
    seeds = panels.seeds_of(results, lines)
    whiskers = "Whiskers: across, from the least to the greatest seed; upright," if seeds[-1] > 1 else "Whiskers:"
    return sheet.finish(
        [
            f"Signal: mean over the first {figure.until * 100:g} % of the first stage's samples. Score: "
            f"{panels.MEASURES[figure.measure]}, {panels.seeds_text(seeds)}. {whiskers} 95 % interval over "
            f"{panels.sources_text(seeds)}. \N{GREEK SMALL LETTER RHO}: Spearman's rank correlation over recipes, with its 95 % "
            "interval; below zero, recipes with low signals end higher.",
            *panels.one_seed(seeds),
            *absences(results, lines, benchmarks, layout=layout),
        ]
    )


def marks(
    results: Results, lines: Sequence[Line], pair: Pair, benchmark: str, signal: str, figure: EarlyFigure, *, layout: Layout
) -> list[Mark]:
    """The recipes with a complete run whose first stage has today's training record."""
    found = []
    for line in lines:
        cell = results.cell(pair, line.recipe, benchmark, figure.measure)
        stages = stages_of(results.study, pair, line.recipe)
        firsts = [next(stage for stage in stages if stage.seed == seed) for seed in cell.seeds]
        if cell.estimate is None or any(read_training(stage, layout=layout) is None for stage in firsts):
            continue
        values = [early_mean(stage_metrics(stage, layout=layout), signal, figure.until) for stage in firsts]
        found.append(Mark(line, float(np.mean(values)), min(values), max(values), cell.estimate))
    return found


def _draw_panel(sheet: Sheet, axes: Axes, found: Sequence[Mark]) -> None:
    for mark in found:
        color, final = mark.line.color, mark.final
        if mark.least < mark.greatest:
            axes.plot([mark.least, mark.greatest], [final.value] * 2, color=color, linewidth=0.7)
        if final.low is not None and final.high is not None:
            axes.plot([mark.signal] * 2, [final.low, final.high], color=color, linewidth=0.7)
        axes.plot([mark.signal], [final.value], color=color, marker=mark.line.marker, markersize=4.5, linestyle="")
    axes.margins(0.12)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    sheet.name(axes, np.array([[mark.signal, mark.final.value] for mark in found]), [mark.line for mark in found])


def _correlation(found: Sequence[Mark]) -> str:
    correlation = rank_correlation([mark.signal for mark in found], [mark.final.value for mark in found], seed=SEED)
    if correlation is None or correlation.low is None:
        return f"{len(found)} recipes"
    interval = f"[{correlation.low:.2f}, {correlation.high:.2f}]"
    text = f"\N{GREEK SMALL LETTER RHO} = {correlation.value:.2f} {interval}, {len(found)} recipes"
    return text.replace("-", "\N{MINUS SIGN}")
