"""Final scores: a panel per benchmark, a row per arm with its interval, the untouched base model above them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sftstudy.config import FinalFigure
from sftstudy.paths import Layout
from sftstudy.tables.aggregate import Measure, Pair, Results
from sftstudy.tables.figures import panels
from sftstudy.tables.figures.look import CHANCE_DASHES, GREY, Line
from sftstudy.tables.figures.runs import absences, lines_of
from sftstudy.tables.figures.sheet import Sheet
from sftstudy.tables.printed import number_text

OTHER: dict[Measure, Measure] = {"peak": "last", "last": "peak"}


def draw_final(results: Results, figure: FinalFigure, *, layout: Layout) -> Figure:
    """A dot and an interval per arm, and the scores in figures."""
    benchmarks, lines = panels.panels_of(results.study, figure.benchmarks), lines_of(figure.arms)
    columns = panels.per_row(len(benchmarks))
    rows = [(pair, benchmarks[at : at + columns]) for pair in results.pairs for at in range(0, len(benchmarks), columns)]
    sheet = Sheet(figure.caption, [panels.dots_height(len(lines) + 1, pairs=len(results.pairs))] * len(rows), columns)
    for row, (pair, names) in enumerate(rows):
        for place, (name, cell) in enumerate(zip(names, sheet.row(row), strict=False)):
            axes = sheet.axes(cell)
            panels.title(axes, name, pair, results.pairs)
            draw_dots(axes, results, lines, pair, name, figure.measure, named=place == 0)
    seeds = panels.seeds_of(results, dict.fromkeys(results.pairs, lines))
    return sheet.finish(
        [
            dots_note(figure.measure, seeds),
            *panels.one_seed(seeds),
            *absences(results, dict.fromkeys(results.pairs, lines), benchmarks, layout=layout),
        ]
    )


def dots_note(measure: Measure, seeds: Sequence[int]) -> str:
    """What a panel of dots shows."""
    return (
        f"Final scores: filled, {panels.MEASURES[measure]}{' of each benchmark' if measure == 'peak' else ''}, "
        f"{panels.seeds_text(seeds)}, with 95 % intervals over {panels.sources_text(seeds)}; hollow, "
        f"{panels.MEASURES[OTHER[measure]]}. Dotted line: guessing, where it is near."
    )


def draw_dots(
    axes: Axes, results: Results, lines: Sequence[Line], pair: Pair, benchmark: str, measure: Measure, *, named: bool
) -> None:
    """The panel of one benchmark; `named` is the first of a row, whose names stand for all of it."""
    definition = results.study.benchmarks[benchmark]
    cells = [results.base(pair[0], benchmark)] + [results.cell(pair, line.recipe, benchmark, measure) for line in lines]
    others = [None] + [results.cell(pair, line.recipe, benchmark, OTHER[measure]).estimate for line in lines]
    looks = [("base model", GREY, "d"), *((line.label, line.color, line.marker) for line in lines)]
    if all(cell.estimate is None for cell in cells):
        panels.no_records(axes)
        return
    for row, (cell, other, (_, color, marker)) in enumerate(zip(cells, others, looks, strict=True)):
        found = cell.estimate
        if other:
            axes.plot([other.value], [row], color=color, marker=marker, markersize=4, markerfacecolor="white", markeredgewidth=0.7)
        if found and found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [row, row], color=color, linewidth=1.0)
        if found:
            axes.plot([found.value], [row], color=color, marker=marker, markersize=4)
        panels.beside(axes, row, number_text(found.value) if found else "no scores", color if found else GREY)
    known = [x for cell in cells if (e := cell.estimate) for x in (e.low, e.value, e.high) if x is not None]
    if definition.chance >= min(known) - 0.3 * (max(known) - min(known)):
        axes.axvline(definition.chance, color=GREY, linestyle=CHANCE_DASHES, linewidth=0.8)
    panels.rows_axis(axes, [label if named else "" for label, _, _ in looks])
    axes.set_xlabel(panels.unit_text(definition))
