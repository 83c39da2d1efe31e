"""The figure of a replay: regret over samples saved, and how much of it is more, or less, than chance loses at as many."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sftstudy.config import Replay
from sftstudy.screen import rung_name
from sftstudy.tables.aggregate import Pair
from sftstudy.tables.figures import MARKERS, OKABE_ITO, WIDTH
from sftstudy.tables.figures.labels import End, end_text, place_ends
from sftstudy.tables.figures.look import DASHES
from sftstudy.tables.replay import CHANCE, RULES, Line

BAND = "low norm (paper)"
"""The rule whose percentiles are drawn; those of all would hide the curves, and stand in the CSV."""

COLORS = {rule: color for rule, color in zip(RULES, OKABE_ITO, strict=False)} | {CHANCE: "0.4"}
PER_ROW = 3


def draw_replay(lines: Sequence[Line], pairs: Sequence[Pair], looks: Replay, *, unit: str) -> Figure:
    """Per model and data set a row of regrets and a row of regrets beyond chance, a column per rung and one for all of them."""
    columns = [rung_name(rung) for rung in looks.rungs] + ([" ".join(map(rung_name, looks.rungs))] if len(looks.rungs) > 1 else [])
    chunks = [columns[start : start + PER_ROW] for start in range(0, len(columns), PER_ROW)]
    rows = [(pair, chunk, kind) for pair in pairs for chunk in chunks for kind in ("regret", "excess")]
    figure = Figure(figsize=(WIDTH, 2.0 * len(rows) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), min(PER_ROW, len(columns)), squeeze=False, sharey="row")
    named: list[tuple[Axes, list[End]]] = []
    for panels, (pair, chunk, kind) in zip(grid, rows, strict=True):
        mine = [line for line in lines if (line.model, line.data) == pair]
        where = f"{pair[0]}, {pair[1]}\n" if len(pairs) > 1 else ""
        ends: list[End] = []
        for axes, rungs in zip(panels, chunk, strict=False):
            ends = _draw_panel(axes, [line for line in mine if line.rungs == rungs], kind)
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            if kind == "regret":
                axes.set_title(f"stop at {', '.join(f'{float(rung):.0%}' for rung in rungs.split())}", loc="left")
            else:
                axes.set_xlabel("samples saved")
        if kind == "regret":
            panels[0].set_ylim(bottom=0)  # after all that share it are drawn: it ends the scaling
        named.append((panels[len(chunk) - 1], ends))
        for axes in panels[len(chunk) :]:
            axes.set_visible(False)
        name = f"regret on {looks.benchmark}" + (" (rating)" if unit == "rating" else "")
        panels[0].set_ylabel(where + (name if kind == "regret" else "regret beyond chance"))
    texts = [[end_text(axes, end) for end in ends] for axes, ends in named]
    figure.draw_without_rendering()
    for (axes, ends), shown in zip(named, texts, strict=True):
        place_ends(axes, ends, shown, inside=0.0)
    figure.set_layout_engine("none")
    return figure


def _draw_panel(axes: Axes, lines: Sequence[Line], kind: str) -> list[End]:
    """Draw the curves and tell where each ends, and what it is called."""
    if not lines:
        axes.text(0.5, 0.5, "too few finished runs", transform=axes.transAxes, ha="center", va="center", color="0.4")
        return []
    ends = []
    for place, rule in enumerate(RULES):
        curve = sorted((line for line in lines if line.rule == rule), key=lambda line: line.savings)
        if kind == "excess" and rule == CHANCE:
            axes.axhline(0, color=COLORS[rule], linewidth=0.9)
            ends.append(_end(rule, 1.0, 0.0))
            continue
        savings, values = [line.savings for line in curve], [getattr(line, kind) for line in curve]
        if rule == BAND:
            low, high = ([getattr(line, f"{kind}_{end}") for line in curve] for end in ("low", "high"))
            axes.fill_between(savings, low, high, color=COLORS[rule], alpha=0.15, linewidth=0)
        axes.plot(savings, values, color=COLORS[rule], marker=MARKERS[place], markersize=3)
        ends.append(_end(rule, savings[-1], values[-1]))
    return ends


def _end(rule: str, x: float, y: float) -> End:
    text = f"{rule}, 10-90 %" if rule == BAND else "chance" if rule == CHANCE else rule
    return End(x, y, text, to_hex(COLORS[rule]), DASHES[0])
