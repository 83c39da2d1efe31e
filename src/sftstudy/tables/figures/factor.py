"""Final scores against a factor of the recipes: its levels along the x axis, a line per level of another, a panel per benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sftstudy.config import FactorFigure
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.spec import StudySpec
from sftstudy.tables.aggregate import Pair, Results
from sftstudy.tables.figures import panels
from sftstudy.tables.figures.labels import End
from sftstudy.tables.figures.look import Line
from sftstudy.tables.figures.runs import absences, factor_name, lines_of
from sftstudy.tables.figures.sheet import Sheet
from sftstudy.tables.printed import factor_text, sortable

HEIGHT = 2.1
"""Inches of a panel."""

DODGE = 0.045
"""Share of a panel by which lines stand apart, so that their intervals do not lie on each other."""


@dataclass(frozen=True)
class Series:
    """A line: recipes by the factor's level, ascending. `look.recipe` is what the figure names."""

    look: Line
    recipes: tuple[tuple[Any, str], ...]


def draw_factor(results: Results, figure: FactorFigure, *, layout: Layout) -> Figure:
    """Means over seeds with their intervals at each level."""
    study = results.study
    benchmarks = panels.panels_of(study, figure.benchmarks)
    lines = {pair: found for pair in results.pairs if (found := series(study, figure, pair))}
    columns = panels.per_row(len(benchmarks))
    rows = [(pair, benchmarks[at : at + columns]) for pair in lines for at in range(0, len(benchmarks), columns)]
    sheet = Sheet(figure.caption, [HEIGHT + panels.TITLE_LINE * (len(lines) > 1)] * max(1, len(rows)), columns)
    far: list[str] = []
    for row, (pair, names) in enumerate(rows):
        for name, cell in zip(names, sheet.row(row), strict=False):
            axes = sheet.axes(cell)
            panels.title(axes, name, pair, list(lines))
            far.append(_draw_panel(sheet, axes, results, lines[pair], pair, name, figure))
    drawn = {
        pair: [
            Line(f"{one.look.label}, {factor_name(figure.factor)} {factor_text(x)}", recipe, "", one.look.dashes, "")
            for one in found
            for x, recipe in one.recipes
        ]
        for pair, found in lines.items()
    }
    seeds = panels.seeds_of(results, drawn)
    apart = "; lines stand slightly apart" if any(len(found) > 1 for found in lines.values()) else ""
    return sheet.finish(
        [
            f"Scores of the {panels.MEASURES[figure.measure]}, {panels.seeds_text(seeds)}, with 95 % intervals over "
            f"{panels.sources_text(seeds)}{apart}.",
            *panels.off_axes(far),
            *panels.one_seed(seeds),
            *absences(results, drawn, benchmarks, layout=layout),
        ]
    )


def series(study: StudySpec, figure: FactorFigure, pair: Pair) -> list[Series]:
    """The figure's lines for one model and data: what it names, cut by the levels of `by`.

    Raises StudyError if two recipes of a line have the same level of the factor.
    """
    factors = {stage.recipe: stage.factors for stage in study.stages if (stage.model, stage.data) == pair}
    groups: dict[tuple[str, str], dict[Any, str]] = {}
    for label, name in figure.recipes.items():
        cells = [recipe for recipe in study.sweeps.get(name, [name]) if recipe in factors]
        for recipe in sorted(cells, key=lambda cell: sortable(factors[cell].get(figure.by or ""))):
            level = f"{factor_name(figure.by)} {factor_text(factors[recipe].get(figure.by))}" if figure.by else ""
            places, here = groups.setdefault((label, level), {}), factors[recipe].get(figure.factor)
            if here in places:
                raise StudyError(
                    f"study {study.name}: recipes {places[here]} and {recipe} share {figure.factor}"
                    f"{f' and {figure.by}' if figure.by else ''}; a factor figure needs one recipe per place, or a level of `by`"
                )
            places[here] = recipe
    several = len({label for label, _ in groups}) > 1
    names = {(label, level): ", ".join(filter(None, [label if several or not level else "", level])) for label, level in groups}
    looks = lines_of({name: group[0] for group, name in names.items()})
    return [
        Series(look, tuple(sorted(groups[group].items(), key=lambda item: sortable(item[0]))))
        for look, group in zip(looks, names, strict=True)
    ]


def _draw_panel(
    sheet: Sheet, axes: Axes, results: Results, lines: Sequence[Series], pair: Pair, benchmark: str, figure: FactorFigure
) -> str:
    """Lines, intervals and labels; returns what lies off the axes."""
    levels = sorted({level for one in lines for level, _ in one.recipes}, key=sortable)
    logarithmic = all(isinstance(level, int | float) and not isinstance(level, bool) and level > 0 for level in levels)
    places = {level: float(np.log10(level)) if logarithmic else float(number) for number, level in enumerate(levels)}
    span = max(places.values()) - min(places.values()) or 1.0
    ends: list[End] = []
    drawn: list[float] = []
    for number, one in enumerate(lines):
        found = [
            (places[level] + DODGE * span * (number - (len(lines) - 1) / 2), estimate)
            for level, recipe in one.recipes
            if (estimate := results.cell(pair, recipe, benchmark, figure.measure).estimate)
        ]
        if not found:
            continue
        look = one.look
        axes.plot(
            [x for x, _ in found],
            [e.value for _, e in found],
            color=look.color,
            linestyle=look.dashes,
            marker=look.marker,
            markersize=4,
        )
        for x, estimate in found:
            if estimate.low is not None and estimate.high is not None:
                axes.plot([x, x], [estimate.low, estimate.high], color=look.color, linewidth=0.9)
                drawn += [estimate.low, estimate.high]
            drawn.append(estimate.value)
        ends.append(End(found[-1][0], found[-1][1].value, panels.wrapped(look.label), look.color, look.dashes, look.marker))
    axes.set_ylabel(panels.unit_text(results.study.benchmarks[benchmark]))
    if not ends:
        panels.no_records(axes)
        return ""
    crowded = len(levels) > 4
    axes.set_xticks([places[level] for level in levels], [factor_text(level) for level in levels], rotation=45 if crowded else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(places.values()) - 0.12 * span, max(places.values()) + 0.12 * span)
    name = "batch size" if figure.factor == "effective_batch_size" else figure.factor.replace("_", " ")
    axes.set_xlabel(f"{name} (log scale)" if logarithmic and len(levels) > 1 else name)
    beside, far = panels.references(axes, results, pair, benchmark, drawn)
    sheet.label(axes, ends + beside)
    return far
