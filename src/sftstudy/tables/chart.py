"""A small chart of lines as SVG for a page: one point is marked with its interval and named, lines tell their names on hovering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 16, 178
"""Of the chart, in its own units: its size, and where lines stand in it."""


@dataclass(frozen=True)
class Line:
    """Values of `y` over `x`, ascending; `marked` ones are drawn in colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marked: bool


def line_chart(lines: Sequence[Line], *, place: tuple[float, float, float, float], label: str, told: str) -> str:
    """The chart. `place` is the point to mark: x, y, and the ends of its interval."""
    x_most = max([place[0], *(x for line in lines for x in line.x)])
    y_low, y_high = (
        min([place[2], 0.0, *(y for line in lines for y in line.y)]),
        max(place[3], *(y for line in lines for y in line.y)),
    )
    y_ticks = ticks(y_low, y_high)
    y_low, y_high = min(y_low, y_ticks[0]), max(y_high, y_ticks[-1])

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / x_most

    def up(y: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (y - y_low) / (y_high - y_low)

    grid = [
        f'<line class="grid" x1="{LEFT}" y1="{up(y):.1f}" x2="{WIDTH - RIGHT}" y2="{up(y):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{up(y) + 3:.1f}" text-anchor="end">{y:g}</text>'
        for y in y_ticks
    ]
    marks = [f'<text x="{across(x):.1f}" y="{HEIGHT - 18}" text-anchor="middle">{x:,.0f}</text>' for x in ticks(0.0, x_most)]
    drawn = [_line(line, [(across(x), up(y)) for x, y in zip(line.x, line.y, strict=True)]) for line in lines]
    x, y = across(place[0]), up(place[1])
    beside, anchor = (x + 8, "start") if x < WIDTH / 2 else (x - 8, "end")
    point = (
        f'<line class="range" x1="{x:.1f}" y1="{up(place[2]):.1f}" x2="{x:.1f}" y2="{up(place[3]):.1f}"/>'
        f'<circle class="value" cx="{x:.1f}" cy="{y:.1f}" r="4.2"/>'
        f'<text class="named" x="{beside:.1f}" y="{max(up(place[3]), TOP) - 4:.1f}" text-anchor="{anchor}">{escape(label)}</text>'
    )
    axis = f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">samples spent</text>'
    parts = [f'<svg class="lines" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">', *grid, *marks]
    return "\n".join([*parts, *sorted(drawn, key=lambda text: "marked" in text), point, axis, "</svg>"])


def ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, at most so many steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _line(line: Line, points: Sequence[tuple[float, float]]) -> str:
    style = "line marked" if line.marked else "line"
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in points)
    return f'<g class="{style}"><title>{escape(line.name)}</title><polyline points="{path}"/>{dots}</g>'
