"""How figures look: a palette that colour-blind eyes tell apart, dashes, markers, panels, and bytes without dates."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from sftstudy.tables.aggregate import Pair

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Dashes = tuple[float, tuple[float, ...]]
DASHES: tuple[Dashes, ...] = ((0, ()), (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "grid.linewidth": 0.3,
    "axes.grid": True, "grid.color": "0.85", "axes.axisbelow": True, "axes.formatter.useoffset": False, "legend.frameon": False,
    "pdf.fonttype": 42, "savefig.dpi": 200,
}  # fmt: skip
WIDTH = 6.75
"""Inches: two columns of a paper."""


def looks_of(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each arm. Beyond seven arms they repeat, shifted, so that the two together stay distinct."""
    number = len(OKABE_ITO)
    return {label: (OKABE_ITO[at % number], MARKERS[(at + at // number) % number]) for at, label in enumerate(labels)}


def panels_of(num_rows: int, num_columns: int, *, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows of panels, `height` inches each."""
    figure = Figure(figsize=(WIDTH, max(1, num_rows) * height + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(max(1, num_rows), num_columns, squeeze=False)
    return figure, [list(row) for row in grid]


def finish(axes: Axes, title: str, *, empty: bool) -> None:
    """Title and samples as x axis of a panel; one that is empty says so."""
    axes.set_title(title, loc="left")
    if empty:
        axes.set_xticks([])
        axes.yaxis.set_major_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.text(0.5, 0.5, "no records yet", transform=axes.transAxes, ha="center", va="center", color="0.4")
        return
    axes.set_xlabel("samples seen")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def legend(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    """One legend below all panels."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = max(1, min(len(handles), int(WIDTH * 16 / (longest + 7))))
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)


def pair_prefix(pair: Pair, pairs: Sequence[Pair]) -> str:
    """Model and data as a title begins with them, where there are several."""
    return f"{pair[0]}, {pair[1]}: " if len(pairs) > 1 else ""


def encoded(figure: Figure, kind: str) -> bytes:
    """The file without dates and names of programs, so that equal figures are equal files."""
    out = io.BytesIO()
    nothing = {"png": ("Software",), "pdf": ("Creator", "Producer", "CreationDate")}[kind]
    figure.savefig(out, format=kind, metadata=dict.fromkeys(nothing))
    return out.getvalue()
