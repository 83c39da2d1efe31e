"""Where texts go, so that none lies on another: at the ends of lines, and beside points. No chance is involved.

Everything is computed in display units (pixels of the figure) after the panels have their places, from the renderer's own boxes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox, ScaledTranslation

from sftstudy.stats import Array
from sftstudy.tables.figures.look import LABEL_SIZE, Dashes, ink

GAP = 1.5
"""Pixels between two texts."""

STEP = 3.0
"""Pixels between the points by which a line is seen as an obstacle."""

DISTANCES = (4.0, 8.0, 13.0, 20.0, 28.0, 38.0, 50.0, 64.0, 80.0)
"""Pixels from a point at which a text is tried; lines lead to those that stand further off than the first few."""

CLEAR = 6.0
"""Pixels that a line to a text keeps from other points."""

CLAIM = 10.0
"""A text stands no nearer to another point than to its own, or than these pixels if a line leads to it."""

NEAR = 3
"""How many of these distances need no line."""

BESIDE = DISTANCES[NEAR - 1] + 1
"""Pixels from a point beyond which a line leads to a text."""

INSIDE = 0.8
"""Lines that end left of this share of a panel are labelled beside their ends if there is room, not in the margin."""


@dataclass(frozen=True)
class End:
    """Where a line ends, in data units, what it is called there, and how it looks. `marker` may be empty."""

    x: float
    y: float
    text: str
    color: str
    dashes: Dashes
    marker: str = ""


def spread(wanted: Sequence[float], heights: Sequence[float], *, low: float, high: float) -> list[float] | None:
    """Centres of texts of these heights between `low` and `high`, without overlap, nearest to the wanted ones in least squares.

    Texts keep the order of the wanted centres, equal ones that in which they are given. None if they do not fit. Pool adjacent
    violators (Ayer et al. 1955) on the centres less the room that the texts before them take; bounds clip its solution.
    """
    total = sum(heights)
    if total > high - low:
        return None
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    starts = dict(zip(order, itertools.accumulate((heights[index] for index in order), initial=0.0), strict=False))
    room = {index: starts[index] + heights[index] / 2 for index in order}
    pools: list[tuple[float, int]] = []
    for index in order:
        mean, count = wanted[index] - room[index], 1
        while pools and pools[-1][0] > mean:
            other, number = pools.pop()
            mean, count = (other * number + mean * count) / (number + count), number + count
        pools.append((mean, count))
    pooled = [mean for mean, count in pools for _ in range(count)]
    return [
        found
        for _, found in sorted(
            (index, min(max(mean, low), high - total) + room[index]) for index, mean in zip(order, pooled, strict=True)
        )
    ]


def end_text(axes: Axes, end: End) -> Text:
    """What a line is called at its end, in the margin until it is placed, where the layout makes room for it."""
    scale = axes.figure.dpi_scale_trans
    beside = axes.transAxes + ScaledTranslation(8 / 72, 0, scale)
    return axes.text(1, 0.5, end.text, transform=beside, va="center", fontsize=LABEL_SIZE, color=ink(end.color), linespacing=1.0)


def point_text(axes: Axes, name: str, color: str) -> Text:
    """What a point is called, to be placed."""
    shown = axes.text(0.5, 0.5, name, fontsize=LABEL_SIZE - 0.5, transform=axes.transAxes, va="center", color=ink(color))
    shown.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
    shown.set_in_layout(False)
    return shown


def place_ends(axes: Axes, ends: Sequence[End], texts: Sequence[Text], *, inside: float = INSIDE) -> list[Line2D] | None:
    """Move each text to the end of its line: beside it, or in the margin at the right with a thin line to it. None if they crowd.

    A line that ends left of the share `inside` of the panel is labelled beside its end, if there is room. The thin lines, which are
    drawn, are returned.
    """
    frame = axes.get_window_extent()
    obstacles, boxes = _drawn_points(axes), [text.get_window_extent() for text in texts]
    at = [axes.transData.transform((end.x, end.y)) for end in ends]
    margin = []
    taken: list[Bbox] = []
    leaders: list[Line2D] = []
    for index, box in enumerate(boxes):
        spot = None
        if at[index][0] < frame.x0 + inside * frame.width:
            spot = _free(box, at[index], obstacles, taken, frame, np.zeros((0, 2)), len(DISTANCES))
        if spot is None:
            margin.append(index)
        else:
            taken.append(spot)
            leaders += _put(texts[index], axes, spot, at[index])
    wanted = [min(max(at[index][1], frame.y0), frame.y1) for index in margin]
    heights = [boxes[index].height + GAP for index in margin]
    reach = boxes[margin[0]].height / 2 if margin else 0.0
    centres = spread(wanted, heights, low=frame.y0 - reach, high=frame.y1 + reach)
    if centres is None:
        for line in leaders:
            line.remove()
        return None
    for index, centre in zip(margin, centres, strict=True):
        left = frame.x1 + 8
        _move(texts[index], axes, left, centre)
        start = (min(at[index][0] + 1, frame.x1), min(max(at[index][1], frame.y0), frame.y1))
        leaders.append(_leader(axes, start, (left - 1.5, centre), ends[index].color))
    return leaders


def place_points(axes: Axes, points: Array, texts: Sequence[Text]) -> tuple[bool, list[Line2D]]:
    """Move each text beside its point (n x 2, data units), clear of points and texts, and of lines if there is room near by.

    Returns whether all found room, and thin lines to those that stand off. One that finds none stands right of its point.
    """
    frame = axes.get_window_extent()
    at = axes.transData.transform(points)
    marks = (at[:, None, :] + np.array([(x, y) for x in (-3, 0, 3) for y in (-3, 0, 3)])).reshape(-1, 2)
    obstacles = np.concatenate([_drawn_points(axes), marks])
    taken: list[Bbox] = []
    leaders: list[Line2D] = []
    fits = True
    for index in sorted(range(len(texts)), key=lambda i: (-_neighbours(at, i), at[i][0], i)):
        box = texts[index].get_window_extent()
        others = np.delete(at, index, axis=0)
        spot = _free(box, at[index], obstacles, taken, frame, others, NEAR)
        spot = spot or _free(box, at[index], marks, taken, frame, others, len(DISTANCES))
        fits &= spot is not None
        spot = spot or Bbox.from_bounds(at[index][0] + 4, at[index][1] - box.height / 2, box.width, box.height)
        taken.append(spot)
        leaders += _put(texts[index], axes, spot, at[index])
    return fits, leaders


def overlaps(boxes: Sequence[Bbox]) -> list[tuple[int, int]]:
    """Pairs of boxes that share more than half a pixel each way."""
    return [
        (first, second)
        for (first, a), (second, b) in itertools.combinations(enumerate(boxes), 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]


def _free(box: Bbox, at: Array, obstacles: Array, taken: Sequence[Bbox], frame: Bbox, others: Array, reach: int) -> Bbox | None:
    """The first place around a point, from near to far, where a box lies on nothing and is not taken for another point's."""
    for spot in _spots(box, at, reach):
        inside = frame.x0 <= spot.x0 and spot.x1 <= frame.x1 and frame.y0 <= spot.y0 and spot.y1 <= frame.y1
        hit = ((obstacles > (spot.x0 - 2, spot.y0 - 1)) & (obstacles < (spot.x1 + 2, spot.y1 + 1))).all(axis=1)
        covered = any(overlaps([spot.padded(GAP), other]) for other in taken)
        if inside and not hit.any() and not covered and _is_own(spot, at, others):
            return spot
    return None


def _spots(box: Bbox, at: Array, reach: int) -> Iterator[Bbox]:
    """Places around a point at the first distances, right of it before left of it."""
    x, y = float(at[0]), float(at[1])
    for away in DISTANCES[:reach]:
        for across, up in ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 1), (-1, -1), (-1, 0)):
            left = x + (away if across > 0 else -away - box.width if across < 0 else -box.width / 2)
            low = y + (-box.height / 2 if up == 0 else away * 0.6 if up > 0 else -away * 0.6 - box.height)
            yield Bbox.from_bounds(left, low, box.width, box.height)


def _is_own(spot: Bbox, at: Array, others: Array) -> bool:
    """Whether no other point, nor one that the line to the text would pass, is nearer than the point itself or those under it."""
    own = float(_distance(spot, at[None])[0])
    others = others[np.hypot(*(others - at).T) > CLEAR]
    way = at + (_edge(spot, at) - at) * np.linspace(0, 1, 20)[:, None]
    clear = all((np.hypot(*(way - other).T) > CLEAR).all() for other in others)
    return clear and bool((_distance(spot, others) > (CLAIM if own > BESIDE else own)).all())


def _edge(box: Bbox, point: Array) -> Array:
    """The place in a box that is nearest to a point, or to each of several (n x 2)."""
    nearest: Array = np.clip(point, (box.x0, box.y0), (box.x1, box.y1))
    return nearest


def _distance(box: Bbox, points: Array) -> Array:
    """Pixels from a box to each of some points (n x 2)."""
    gaps = points - _edge(box, points)
    return np.hypot(gaps[:, 0], gaps[:, 1])


def _neighbours(at: Array, index: int) -> int:
    """How many other points lie within 40 pixels: the most crowded choose first."""
    return int((np.hypot(*(at - at[index]).T) < 40).sum()) - 1


def _drawn_points(axes: Axes) -> Array:
    """All lines of a panel as points, in display units."""
    found = [np.zeros((0, 2))]
    for line in axes.lines:
        points = line.get_transform().transform(np.asarray(line.get_xydata(), dtype=float))
        points = points[np.isfinite(points).all(axis=1)]
        found.append(points)
        for first, second in itertools.pairwise(points):
            number = int(np.hypot(*(second - first)) / STEP)
            found.append(first + (second - first) * np.linspace(0, 1, number + 2)[1:-1, None])
    return np.concatenate(found)


def _put(text: Text, axes: Axes, spot: Bbox, at: Array) -> list[Line2D]:
    """Move a text to its place; a thin line if it stands off."""
    _move(text, axes, spot.x0, (spot.y0 + spot.y1) / 2)
    far = _distance(spot, at[None])[0] > BESIDE
    return [_leader(axes, tuple(at), tuple(_edge(spot, at)), str(text.get_color()))] if far else []


def _move(text: Text, axes: Axes, left: float, middle: float) -> None:
    """Left edge and middle of a text, kept as shares of the panel."""
    text.set_transform(axes.transAxes)
    text.set_position(tuple(axes.transAxes.inverted().transform((left, middle))))


def _leader(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> Line2D:
    (x0, y0), (x1, y1) = axes.transAxes.inverted().transform([start, end])
    line = Line2D([x0, x1], [y0, y1], transform=axes.transAxes, color=ink(color), linewidth=0.4, alpha=0.7, clip_on=False)
    line.set_in_layout(False)
    axes.add_artist(line)
    return line
