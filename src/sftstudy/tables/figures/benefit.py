"""What the first arm is ahead of the others, benchmark by benchmark, paired by items."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sftstudy.config import BenefitFigure
from sftstudy.paths import Layout
from sftstudy.tables.aggregate import Measure, Pair, Results, compare
from sftstudy.tables.figures import panels
from sftstudy.tables.figures.look import GREY, Line
from sftstudy.tables.figures.runs import absences, lines_of
from sftstudy.tables.figures.sheet import Sheet

UNITS = {"fraction": "difference of scores (fraction)", "rating": "difference of ratings (1\N{EN DASH}10)"}


def draw_benefit(results: Results, figure: BenefitFigure, *, layout: Layout) -> Figure:
    """A row per benchmark and arm but the first, a panel per unit, since a rating's point is not a score's; right is better."""
    study, lines = results.study, lines_of(figure.arms)
    first, others = lines[0], lines[1:]
    benchmarks = panels.panels_of(study, figure.benchmarks)
    by_unit = {unit: [name for name in benchmarks if study.benchmarks[name].unit == unit] for unit in UNITS}
    rows = [(pair, unit) for pair in results.pairs for unit in UNITS if by_unit[unit]]
    heights = [panels.dots_height(len(by_unit[unit]) * len(others), pairs=len(results.pairs)) for _, unit in rows]
    sheet = Sheet(figure.caption, heights, 1)
    for row, (pair, unit) in enumerate(rows):
        axes = sheet.axes(sheet.row(row)[0])
        if (pair, unit) == next(place for place in rows if place[0] == pair):
            panels.title(axes, f"{first.label} minus {others[0].label if len(others) == 1 else 'the others'}", pair, results.pairs)
        _draw_panel(axes, results, first, [(name, line) for name in by_unit[unit] for line in others], pair, figure.measure)
        axes.set_xlabel(UNITS[unit])
    seeds = panels.seeds_of(results, dict.fromkeys(results.pairs, lines))
    return sheet.finish(
        [
            f"Differences between each arm's {panels.MEASURES[figure.measure]}, {panels.seeds_text(seeds)}, paired by item, "
            f"with 95 % intervals over {panels.sources_text(seeds)}. Right of zero: {first.label} is better.",
            *panels.one_seed(seeds),
            *absences(results, dict.fromkeys(results.pairs, lines), benchmarks, layout=layout),
        ]
    )


def _draw_panel(axes: Axes, results: Results, first: Line, rows: Sequence[tuple[str, Line]], pair: Pair, measure: Measure) -> None:
    for row, (name, line) in enumerate(rows):
        cells = [results.cell(pair, arm.recipe, name, measure) for arm in (first, line)]
        found = compare(cells[0], cells[1], results.study.benchmarks[name])
        if found is None:
            panels.beside(axes, row, "no scores", GREY)
            continue
        sign = 1.0 if cells[0].higher_is_better else -1.0
        value, low, high = found.value * sign, *sorted((found.low * sign, found.high * sign))
        digits = 3 if results.study.benchmarks[name].unit == "fraction" else 2
        told = [f"{value:+.{digits}f}", f"[{low:+.{digits}f}, {high:+.{digits}f}]"]
        axes.plot([low, high], [row, row], color=line.color, linewidth=1.0)
        axes.plot([value], [row], color=line.color, marker=line.marker, markersize=4)
        panels.beside(axes, row, " ".join(told).replace("-", "\N{MINUS SIGN}"), line.color)
    axes.axvline(0, color=GREY, linewidth=0.8)
    several = len({line.label for _, line in rows}) > 1
    panels.rows_axis(axes, [f"{name}: {line.label}" if several else name for name, line in rows])
