"""A figure's page: its caption, rows of panels, labels at the ends of lines or a key, and notes on what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text

from sftstudy.stats import Array
from sftstudy.tables.figures import panels
from sftstudy.tables.figures.labels import End, end_text, place_ends, place_points, point_text
from sftstudy.tables.figures.look import WIDTH, Line

CAPTION_SIZE, NOTE_SIZE = 8.5, 6.5
CAPTION_LINE, NOTE_LINE, KEY_LINE = 0.15, 0.115, 0.15
"""Inches of a line of each."""


class Sheet:
    """A figure that grows: ask for cells and axes, name what is to be labelled, then `finish`."""

    def __init__(self, caption: str, heights: Sequence[float], num_columns: int | None = None) -> None:
        """`heights` are inches of the rows, all of `num_columns` panels if that is given: they then stand in line."""
        self._caption = panels.wrapped(caption, 84).splitlines()
        self._heights = list(heights)
        self.figure = Figure(figsize=(WIDTH, sum(heights)))
        FigureCanvasAgg(self.figure)
        self._rows = self.figure.add_gridspec(len(heights), num_columns or 1, height_ratios=self._heights)
        self._ends: dict[Axes, list[End]] = {}
        self._points: list[tuple[Axes, Array, list[Line]]] = []

    def row(self, row: int) -> list[SubplotSpec]:
        """Places of a row, from left to right."""
        return [self._rows[row, column] for column in range(self._rows.ncols)]

    def divided(self, row: int, num_columns: int) -> list[SubplotSpec]:
        """The same of a row that has its own number of panels."""
        grid = self._rows[row, 0].subgridspec(1, num_columns)
        return [grid[0, column] for column in range(num_columns)]

    def axes(self, cell: SubplotSpec) -> Axes:
        """A panel that fills a cell."""
        return self.figure.add_subplot(cell)

    def label(self, axes: Axes, ends: Sequence[End]) -> None:
        """Lines of a panel that are to be labelled where they end."""
        self._ends.setdefault(axes, []).extend(ends)

    def name(self, axes: Axes, points: Array, lines: Sequence[Line]) -> None:
        """Points of a panel (n x 2, data units) that are to be named; numbers and a key name them where names find no room."""
        self._points.append((axes, points, list(lines)))

    def finish(self, notes: Sequence[str]) -> Figure:
        """The figure with its texts in place. Labels that crowd in any panel give way to a key in all of them."""
        if not self._try(notes, []):
            self._try(notes, self._key())
        return self.figure

    def _try(self, notes: Sequence[str], key: Sequence[Line2D]) -> bool:
        """Lay everything out, with labels if there is no key. False, and nothing left of it, if the labels crowd."""
        added: list[Artist] = self._frame(notes, key)
        labels = {axes: [end_text(axes, end) for end in ends] for axes, ends in self._ends.items()} if not key else {}
        names = [[self._name(axes, line, numbered=bool(key)) for line in lines] for axes, _, lines in self._points]
        self.figure.draw_without_rendering()
        fits = True
        for axes, texts in labels.items():
            leaders = place_ends(axes, self._ends[axes], texts)
            fits &= leaders is not None
            added += [*texts, *(leaders or [])]
        for (axes, at, _), texts in zip(self._points, names, strict=True):
            found_room, leaders = place_points(axes, at, texts)
            fits &= found_room
            added += [*texts, *leaders]
        if fits or key:
            self.figure.set_layout_engine("none")
            return True
        for artist in added:
            artist.remove()
        return False

    def _frame(self, notes: Sequence[str], key: Sequence[Line2D]) -> list[Artist]:
        """The page's size, with the caption above the panels, the key and the notes below; returns what was written."""
        head, foot = self._caption, [line for note in notes for line in panels.wrapped(note, 132).splitlines()]
        columns = max(1, min(len(key), int(WIDTH * 14 / (max((len(str(line.get_label())) for line in key), default=1) + 6))))
        panels_height, notes_height = sum(self._heights), 0.06 + NOTE_LINE * len(foot)
        below = notes_height + (KEY_LINE * -(-len(key) // columns) + 0.08 if key else 0.0)
        total = 0.08 + CAPTION_LINE * len(head) + panels_height + below
        self.figure.set_size_inches(WIDTH, total)
        inner = (0, below / total, 1, panels_height / total)
        self.figure.set_layout_engine(ConstrainedLayoutEngine(rect=inner, h_pad=0.05, w_pad=0.05))
        left, top, bottom = 0.05 / WIDTH, 1 - 0.05 / total, (notes_height - 0.03) / total
        added: list[Artist] = [
            self.figure.text(left, top, "\n".join(head), va="top", fontsize=CAPTION_SIZE, weight="bold"),
            self.figure.text(left, bottom, "\n".join(foot), va="top", fontsize=NOTE_SIZE, color="0.3", linespacing=1.2),
        ]
        if key:
            place: dict[str, Any] = {
                "loc": "upper center",
                "bbox_to_anchor": (0.5, below / total),
                "borderaxespad": 0,
                "borderpad": 0.2,
            }
            long = 3.5 if self._ends else 1.0
            added.append(self.figure.legend(handles=list(key), ncols=columns, handlelength=long, **place))
        for artist in added:
            artist.set_in_layout(False)
        return added

    def _name(self, axes: Axes, line: Line, *, numbered: bool) -> Text:
        name = str(self._numbers()[line.label]) if numbered else panels.wrapped(line.label, 15)
        return point_text(axes, name, line.color)

    def _numbers(self) -> dict[str, int]:
        """Number of each name of a point, the same in all panels."""
        names = dict.fromkeys(line.label for _, _, lines in self._points for line in lines)
        return {name: number for number, name in enumerate(names, 1)}

    def _key(self) -> list[Line2D]:
        """One entry per name of a line, and per numbered point."""
        found: dict[str, Line2D] = {}
        for ends in self._ends.values():
            for end in ends:
                text = " ".join(end.text.split())
                look: dict[str, Any] = {"color": end.color, "linestyle": end.dashes, "marker": end.marker or None}
                found.setdefault(text, Line2D([], [], markersize=2.5, label=text, **look))
        shown = {line.label: line for _, _, lines in self._points for line in lines}
        for name, number in self._numbers().items():
            color, marker = shown[name].color, shown[name].marker
            found[name] = Line2D([], [], linestyle="", color=color, marker=marker, markersize=4, label=f"{number}  {name}")
        return list(found.values())
