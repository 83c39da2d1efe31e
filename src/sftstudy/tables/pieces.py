"""Pieces that pages share: the frame of a self-contained document, tables, and the chart of an interval. All text is HTML."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape

from sftstudy.tables.style import PAGE_STYLE

WIDTH, HEIGHT, EDGE = 190, 22, 6
"""Of an interval's chart, in its own units."""


def document(
    *, title: str, style: str, kind: str, heading: str, head: Iterable[str], body: Iterable[str], after: Iterable[str] = ()
) -> str:
    """A page: what kind it is and what it is called, what stands below that, its sections, and what is shown on demand."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{PAGE_STYLE}{style}</style>
</head>
<body>
<main>
<header>
<p class="kind">{kind}</p>
<h1>{heading}</h1>
{joined(head)}
</header>
{joined(body)}
</main>
{joined([*after, "</body>"])}
</html>
"""


def section(title: str, *parts: str, small: str = "", style: str = "", name: str = "") -> str:
    """A section with its heading, and what stands in it. `name` is what links to it say."""
    opened = "<section" + (f' class="{style}"' if style else "") + (f' id="{name}"' if name else "") + ">"
    heading = f"<h2>{title} <small>{small}</small></h2>" if small else f"<h2>{title}</h2>"
    return joined([opened, heading, *(part for part in parts if part), "</section>"])


def bullets(lines: Iterable[str], *, style: str = "plain") -> str:
    """Lines of HTML as a list."""
    return joined([f'<ul class="{style}">', *(f"<li>{line}</li>" for line in lines), "</ul>"])


def code(text: str) -> str:
    """Text to be copied; it takes the focus, so that it scrolls by the keyboard."""
    return f'<pre tabindex="0">{escape(text)}</pre>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, style: str = "") -> str:
    """A table whose first column names its rows. It scrolls by itself where the window is narrower."""
    return f'<div class="wide">{table_of(heads, (row(*cells) for cells in rows), style=style)}</div>'


def table_of(
    heads: Sequence[str],
    rows: Iterable[str],
    *,
    style: str = "",
    caption: str = "",
    groups: Mapping[str, int] | None = None,
    words: Collection[str] = (),
) -> str:
    """A table of `row`s. `groups` is what stands above the heads -> over how many of them; heads in `words` are of text."""
    parts = [f'<table class="{style}">' if style else "<table>"]
    if caption:
        parts.append(f"<caption>{caption}</caption>")
    above = "".join(f'<th scope="colgroup" colspan="{width}">{text}</th>' for text, width in (groups or {}).items())
    head = "".join(f'<th scope="col"{" class=text" if text in words else ""}>{text}</th>' for text in heads)
    lines = "".join(f"<tr>{line}</tr>" for line in (above, head) if line)
    return joined([*parts, *([f"<thead>{lines}</thead>"] if lines else []), "<tbody>", *rows, "</tbody>", "</table>"])


def row(head: str, *cells: str, style: str = "") -> str:
    """A line of a table, with its name first."""
    opened = f'<tr class="{style}">' if style else "<tr>"
    return f'{opened}<th scope="row">{head}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def interval_chart(
    low: float,
    value: float,
    high: float,
    *,
    reach: float,
    band: tuple[float, float] | None = None,
    diamond: bool = False,
    label: str = "interval",
) -> str:
    """An interval with its value on an axis from -reach to reach, a line at zero, perhaps over a band; or a diamond as wide."""

    def across(x: float) -> float:
        return EDGE + (WIDTH - 2 * EDGE) * (x + reach) / (2 * reach)

    drawn = ""
    if band:
        width = across(band[1]) - across(band[0])
        drawn = f'<rect class="band" x="{across(band[0]):.1f}" y="3" width="{width:.1f}" height="{HEIGHT - 6}"/>'
    low, value, high, middle = across(low), across(value), across(high), HEIGHT / 2
    corners = f"{low:.1f},{middle} {value:.1f},{middle - 5} {high:.1f},{middle} {value:.1f},{middle + 5:.0f}"
    shape = (
        f'<polygon class="value" points="{corners}"/>'
        if diamond
        else f'<line class="range" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>'
        f'<circle class="value" cx="{value:.1f}" cy="{middle}" r="3.4"/>'
    )
    return (
        f'<svg class="interval" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{drawn}'
        f'<line class="zero" x1="{across(0):.1f}" y1="1" x2="{across(0):.1f}" y2="{HEIGHT - 1}"/>{shape}</svg>'
    )


def joined(parts: Iterable[str]) -> str:
    """One piece below the other."""
    return "\n".join(parts)
