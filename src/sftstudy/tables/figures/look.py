"""How figures look: a palette that colour-blind eyes tell apart, dashes, markers, and files without dates."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Dashes = tuple[float, tuple[float, ...]]
DASHES: tuple[Dashes, ...] = ((0, ()), (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 7.5, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "grid.linewidth": 0.3,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "ytick.minor.width": 0.4,
    "axes.grid": True, "grid.color": "0.88", "axes.axisbelow": True, "axes.formatter.useoffset": False, "legend.frameon": False,
    "pdf.fonttype": 42, "savefig.dpi": 200,
}  # fmt: skip
WIDTH = 6.75
"""Inches: two columns of a paper."""

LABEL_SIZE = 6.5
"""Points of labels at lines and numbers beside rows."""

GREY = "0.4"
BASE_DASHES: Dashes = (0, (5, 3))
CHANCE_DASHES: Dashes = (0, (1, 2))


@dataclass(frozen=True)
class Line:
    """A recipe as a figure draws it: no two differ by colour alone."""

    label: str
    recipe: str
    color: str
    dashes: Dashes
    marker: str


def ink(color: str) -> str:
    """A colour darkened, so that text in it can be read on white."""
    red, green, blue = to_rgb(color)
    return to_hex((0.72 * red, 0.72 * green, 0.72 * blue))


def encoded(figure: Figure, kind: str) -> bytes:
    """The file without dates and names of programs, so that equal figures are equal files."""
    out = io.BytesIO()
    nothing = {"png": ("Software",), "pdf": ("Creator", "Producer", "CreationDate")}[kind]
    figure.savefig(out, format=kind, metadata=dict.fromkeys(nothing))
    return out.getvalue()
