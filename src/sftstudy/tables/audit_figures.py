"""The two figures of an audit: early signals against final scores, and what the stops save against what they lose."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sftstudy.config import MarginRule, MedianRule, PaperRule, Screen, TopRule
from sftstudy.stats import Array
from sftstudy.tables.audit import CompetitorReport, Correlation, PairReport, RungReport
from sftstudy.tables.figures import OKABE_ITO, WIDTH
from sftstudy.tables.figures.labels import place_points, point_text

SIGNALS = {"grad_norm": "gradient norm", "loss": "loss"}
MOST_NAMES = 8
"""Competitors up to which each is named; of more only the best is."""


@dataclass(frozen=True)
class Look:
    """How an outcome is drawn."""

    label: str
    color: str
    marker: str
    filled: bool


KEPT = Look("kept", OKABE_ITO[0], "o", True)
CHECKED = Look("stopped, and trained on to check it", OKABE_ITO[1], "s", False)
UNKNOWN = Look("stopped, final score not known", OKABE_ITO[1], "|", True)
AWAITED = Look("kept, final score not known yet", OKABE_ITO[0], "|", True)


def look_of(row: CompetitorReport) -> Look:
    """Kept, stopped and checked, or stopped for good; of the kept and of the stopped those without a final score apart."""
    if row.stopped_at is None:
        return AWAITED if row.final is None else KEPT
    return UNKNOWN if row.final is None else CHECKED


def draw_signals(reports: Sequence[PairReport], screen: Screen, benchmark: str) -> Figure:
    """Final score over each signal at each rung, with intervals; who has no final score is a dash on the axis."""
    rows = [(report, rung) for report in reports for rung in report.rungs if rung.signals]
    figure = Figure(figsize=(WIDTH, 2.5 * max(1, len(rows)) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(max(1, len(rows)), len(SIGNALS), squeeze=False, sharey="row")
    named: list[tuple[Axes, Array, list[Text]]] = []
    for axes_of_row, (report, rung) in zip(grid, rows, strict=False):
        for axes, (signal, name) in zip(axes_of_row, SIGNALS.items(), strict=True):
            named.append((axes, *_draw_signal(axes, report, rung, signal, screen)))
            axes.set_title(f"{name} at {float(rung.rung):.0%}, {_rho(rung.correlations[signal])}", loc="left")
            axes.set_xlabel(f"mean {name} before the decision")
        where = f"{report.model}, {report.data}\n" if len(reports) > 1 else ""
        axes_of_row[0].set_ylabel(f"{where}final score, {benchmark}")
    if not rows:
        _nothing(list(grid.flat))
    awaited = [AWAITED] if any(look_of(row) is AWAITED for report in reports for row in report.competitors) else []
    looks = [KEPT, CHECKED, UNKNOWN, *awaited]
    figure.legend(handles=[_handle(look) for look in looks], loc="outside lower center", ncols=2 if awaited else 3)
    figure.draw_without_rendering()
    for axes, points, texts in named:
        place_points(axes, points, texts)
    figure.set_layout_engine("none")
    return figure


def _draw_signal(axes: Axes, report: PairReport, rung: RungReport, signal: str, screen: Screen) -> tuple[Array, list[Text]]:
    """Draw a panel; gives the points that are named (n x 2) and their names, to be placed."""
    shown = [row for row in report.competitors if row.name in rung.signals]
    ends = [end for row in shown for end in (row.low, row.final, row.high) if end is not None] or [0.0, 1.0]
    below = min(ends) - 0.12 * ((max(ends) - min(ends)) or 1.0)
    places = {row.name: (rung.signals[row.name][signal], below if row.final is None else row.final) for row in shown}
    for row in shown:
        look = look_of(row)
        x, y = places[row.name]
        if row.low is not None and row.high is not None:
            axes.plot([x, x], [row.low, row.high], color=look.color, linewidth=0.6, alpha=0.6)
        axes.plot(x, y, look.marker, color=look.color, markerfacecolor=look.color if look.filled else "white", markersize=5)
    if cut := _cut(rung, report, signal, screen):
        axes.axvline(cut, color="0.35", linestyle=(0, (4, 2)), linewidth=0.8)
        axes.annotate("cut", (cut, 1), xycoords=("data", "axes fraction"), xytext=(2, -7), textcoords="offset points", fontsize=6.5)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    best = max((row.final for row in shown if row.final is not None), default=0.0)
    named = shown if len(shown) <= MOST_NAMES else [row for row in shown if row.final is not None and row.final >= best]
    names = short_names([row.name for row in report.competitors])
    texts = [point_text(axes, names[row.name], look_of(row).color) for row in named]
    return np.array([places[row.name] for row in named]).reshape(-1, 2), texts


def _cut(rung: RungReport, report: PairReport, signal: str, screen: Screen) -> float | None:
    """Halfway between the last that went on and the first that did not, by the signal that the rule ranks by; None over groups."""
    rule = screen.rule
    ranked = "grad_norm" if isinstance(rule, PaperRule) else getattr(rule, "signal", None)
    if signal != ranked or not isinstance(rule, PaperRule | TopRule | MarginRule | MedianRule):
        return None
    if len({tuple(row.group) for row in report.competitors}) > 1:
        return None
    ended = {row.name for row in report.competitors if row.stopped_at == rung.rung}
    going = [values[signal] for name, values in rung.signals.items() if name not in ended]
    stopped = [values[signal] for name, values in rung.signals.items() if name in ended]
    if not going or not stopped:
        return None
    low_goes = max(going) <= min(stopped)
    return (max(going) + min(stopped)) / 2 if low_goes else (min(going) + max(stopped)) / 2


def draw_savings(reports: Sequence[PairReport], benchmark: str) -> Figure:
    """Regret over samples saved after each rung, beside what stopping as many at random would lose; a panel per model and data."""
    figure = Figure(figsize=(min(1, 0.55 * len(reports)) * WIDTH, 2.6 * -(-len(reports) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(-(-len(reports) // 2), min(2, len(reports)), squeeze=False)
    panels = list(grid.flat)
    for axes, report in zip(panels, reports, strict=False):
        points = [rung for rung in report.rungs if rung.regret is not None and rung.regret_at_random is not None]
        if points:
            _draw_savings(axes, report, points)
            axes.set_ylabel(f"regret, {benchmark}")
        else:
            _nothing([axes])
        axes.set_title(f"{report.model}, {report.data}", loc="left")
    for axes in panels[len(reports) :]:
        axes.set_visible(False)
    return figure


def _draw_savings(axes: Axes, report: PairReport, points: Sequence[RungReport]) -> None:
    saved = [rung.saved for rung in points]
    regret, at_random = [rung.regret or 0.0 for rung in points], [rung.regret_at_random or 0.0 for rung in points]
    bound = "" if report.num_checked == report.num_stopped else ", at least"
    raised = 5 if regret[-1] >= at_random[-1] else -5
    for label, color, marker, values, shift in (
        (f"the rule{bound}", KEPT.color, "o", regret, raised),
        ("as many at random", "0.4", "D", at_random, -raised),
    ):
        axes.plot(saved, values, color=color, marker=marker, markersize=4, linestyle=(0, (2, 2)), linewidth=0.8)
        end = (saved[-1], values[-1])
        axes.annotate(label, end, xytext=(7, shift), textcoords="offset points", fontsize=7, color=color, va="center")
    for rung, value in zip(points, regret, strict=True):
        place = (rung.saved, value)
        axes.annotate(
            f"{float(rung.rung):.0%}", place, xytext=(-3, 6), textcoords="offset points", fontsize=6.5, color=KEPT.color, ha="right"
        )
    top = max(*regret, *at_random)
    if report.lead_low is not None and report.lead_high is not None and report.lead_high > 0:
        axes.plot([saved[-1]] * 2, [max(0.0, report.lead_low), report.lead_high], color=KEPT.color, linewidth=0.8, alpha=0.6)
        top = max(top, report.lead_high)
    axes.set_ylim(0, 1.15 * top or 1.0)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("samples saved by all stops up to a rung")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the words that all of them begin with."""
    words = [name.split("-") for name in names]
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
    shared = min([len(list(columns)), *(len(found) - 1 for found in words)]) if len(words) > 1 else 0
    return {name: "-".join(found[shared:]) for name, found in zip(names, words, strict=True)}


def _rho(correlation: Correlation) -> str:
    if correlation.rho is None:
        return f"n = {correlation.num_competitors}"
    ends = "" if correlation.low is None else f" [{correlation.low:.2f}, {correlation.high:.2f}]"
    return f"rho = {correlation.rho:.2f}{ends}"


def _handle(look: Look) -> Line2D:
    face = look.color if look.filled else "white"
    return Line2D([], [], color=look.color, marker=look.marker, markerfacecolor=face, linestyle="", markersize=5, label=look.label)


def _nothing(panels: Sequence[Axes]) -> None:
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "nothing to compare yet", transform=axes.transAxes, ha="center", va="center", color="0.4")
