"""The page of a study's claims: a verdict for each, and what it rests on. HTML with its style and charts inside, no scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from sftstudy.config import ArmsClaim, Claim, RobustnessClaim, SignalClaim
from sftstudy.records import ClaimCell, ClaimEffect, ClaimRecord
from sftstudy.spec import StudySpec
from sftstudy.tables.pieces import interval_chart
from sftstudy.tables.style import CLAIMS_STYLE, PAGE_STYLE

MARKS = {"holds": "holds", "does not hold": "fails", "not enough power": "open"}
EFFECTS = {
    "direction": "first &minus; second",
    "equivalence": "first &minus; second",
    "efficiency": "samples to the peak, first / second",
    "early-signal": "rank correlation",
    "robustness": "pooled effect",
}
KINDS = {
    "direction": "Holds if the first arm is shown to be above the second; does not if shown to be less than the margin above.",
    "equivalence": "Holds if the difference is shown to lie within the margin: its interval, here of 90 %, does (TOST).",
    "efficiency": "Holds if the first arm is shown to need fewer samples; a run that is best at its end may have its peak ahead.",
    "early-signal": "Holds if the correlation is shown to be above zero; does not if it is shown to be below the margin.",
    "robustness": "Holds if every pooled effect does and no pair of model and data refutes it.",
}


def to_html(study: StudySpec, claims: Sequence[ClaimRecord]) -> str:
    """The whole page."""
    counts = [(sum(claim.verdict == verdict for claim in claims), verdict) for verdict in MARKS]
    told = ", ".join(f"{verdict}: {number}" for number, verdict in counts if number)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Claims: {escape(study.name)}</title>
<style>
{PAGE_STYLE}{CLAIMS_STYLE}</style>
</head>
<body>
<main>
<header>
<p class="kind">Claims</p>
<h1>{escape(study.name)}</h1>
<p class="note">{escape(study.question)}</p>
<p class="note">{told or "No claims"}. Intervals are of 95 % unless stated; a claim holds if all of its lines do,
and any line can refute it (corrected for their number). &ldquo;Not enough power&rdquo; means that the data show neither.</p>
{_overview(claims)}
</header>
{_joined(_claim(claim, study.claims[claim.name]) for claim in claims)}
</main>
</body>
</html>
"""


def _overview(claims: Sequence[ClaimRecord]) -> str:
    rows = [
        f'<tr><th scope="row"><a href="#{escape(claim.name)}">{escape(claim.statement)}</a></th>'
        f"<td>{escape(claim.finding or '')}</td><td>{_badge(claim.verdict)}</td></tr>"
        for claim in claims
    ]
    return _table(["claim", "finding", "verdict"], rows)


def _claim(claim: ClaimRecord, asked: Claim) -> str:
    several = len({(cell.model, cell.data) for cell in claim.cells}) > 1
    heads = ["benchmark", *(["model, data"] if several else []), EFFECTS[claim.kind], "", "p", "verdict", "what would settle it"]
    cells = [_cell(claim, cell, several=several) for cell in [*claim.cells, *claim.pooled]]
    return f"""<section id="{escape(claim.name)}">
<h2>{_badge(claim.verdict)} {escape(claim.statement)}</h2>
<p class="note">{KINDS[claim.kind]} {_asked(asked)}</p>
{_table(heads, cells)}
{_details(claim)}
</section>"""


def _asked(claim: Claim) -> str:
    """What the claim compares, in HTML."""
    if isinstance(claim, RobustnessClaim):
        return ""
    if isinstance(claim, SignalClaim):
        groups = f", within {claim.within.replace('_', ' ')}" if claim.within else ""
        return f"Mean {claim.signal.replace('_', ' ')} over the first {claim.until:.0%} of the samples{escape(groups)}."
    at = f", at {claim.at.replace('_', ' ')}" if isinstance(claim, ArmsClaim) else ""
    return f"First: <code>{escape(claim.first)}</code>, second: <code>{escape(claim.second)}</code>{escape(at)}."


def _cell(claim: ClaimRecord, cell: ClaimCell, *, several: bool) -> str:
    where = f"{cell.model}, {cell.data}" if cell.model else f"pooled over {cell.num_runs} pairs" if cell.num_runs else "pooled"
    p = cell.p_fails if cell.verdict == "does not hold" else cell.p_holds
    parts = [
        f'<th scope="row">{escape(cell.benchmark)}</th>',
        *([f"<td>{escape(where)}</td>"] if several else []),
        f"<td>{_effect(cell.effect) if cell.effect.value is not None else ''}</td>",
        f"<td>{_chart(claim, cell)}</td>",
        f"<td>{'' if p is None else _p(p)}</td>",
        f"<td>{_badge(cell.verdict)}</td>",
        f'<td class="needs">{_needs(claim, cell)}</td>',
    ]
    return f"<tr>{''.join(parts)}</tr>"


def _needs(claim: ClaimRecord, cell: ClaimCell) -> str:
    """How an open question could be settled, and what is to be known of the cell."""
    note = escape(cell.effect.note)
    if note or cell.verdict != "not enough power":
        return note
    found = [f"{number:,} {what}" for number, what in _numbers(cell) if number is not None]
    if cell.needed_both:
        found.append("{:,} seeds per arm with {:,} items".format(*cell.needed_both))
    if found:
        return " or ".join(found)
    return {"efficiency": "more seeds, closer checkpoints", "robustness": ""}.get(
        claim.kind, "no number of seeds (up to 100) and items"
    )


def _numbers(cell: ClaimCell) -> list[tuple[int | None, str]]:
    return [(cell.needed_seeds, "seeds per arm"), (cell.needed_items, "items"), (cell.needed_recipes, "recipes")]


def _details(claim: ClaimRecord) -> str:
    """What goes with the cells, folded away, a column per cell: other budgets, regret, heterogeneity."""
    cells = [cell for cell in [*claim.cells, *claim.pooled] if cell.details]
    names = list(dict.fromkeys(name for cell in cells for name in cell.details))
    if not names:
        return ""
    compared = claim.kind in ("direction", "equivalence")
    several = len({(cell.model, cell.data) for cell in claim.cells}) > 1
    places = [f"{cell.model}, {cell.data}: " if cell.model and several else "" if cell.model else "pooled: " for cell in cells]
    heads = [
        "compared at" if compared else "",
        *(escape(f"{place}{cell.benchmark}") for place, cell in zip(places, cells, strict=True)),
    ]
    rows = [
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th>'
        + "".join(f"<td>{_effect(cell.details[name]) if name in cell.details else ''}</td>" for cell in cells)
        + "</tr>"
        for name in names
    ]
    title = "The same at other checkpoints and budgets" if compared else "More"
    return f"<details><summary>{title}</summary>\n{_table(heads, rows)}\n</details>"


def _effect(effect: ClaimEffect) -> str:
    if effect.value is None:
        return f'<span class="why">{escape(effect.note)}</span>'
    if effect.low is None or effect.high is None:
        return _number(effect.value)
    return f"{_number(effect.value)} <small>[{_number(effect.low)}, {_number(effect.high)}]</small>"


def _chart(claim: ClaimRecord, cell: ClaimCell) -> str:
    """The interval over the margin's band; a line where there is no effect. Efficiency is drawn on a logarithmic axis."""
    effect = cell.effect
    if effect.value is None or effect.low is None or effect.high is None:
        return ""
    log = claim.kind == "efficiency"
    low, value, high = (math.log(max(x, 1e-9)) if log else x for x in (effect.low, effect.value, effect.high))
    margin = 0.0 if cell.margin is None else cell.margin
    reach = 1.08 * max(abs(low), abs(high), margin, 1e-9)
    band = (-margin if claim.kind == "equivalence" else 0.0, margin)
    return interval_chart(low, value, high, reach=reach, band=band if margin else None, label="interval and margin")


def _badge(verdict: str) -> str:
    return f'<span class="badge {MARKS[verdict]}">{verdict}</span>'


def _p(p: float) -> str:
    return "&lt;0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "&minus;") if abs(value) < 10 else f"{value:,.1f}".replace("-", "&minus;")


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return _joined(["<table>", f"<thead><tr>{head}</tr></thead>", "<tbody>", *rows, "</tbody>", "</table>"])


def _joined(parts: Iterable[str]) -> str:
    return "\n".join(parts)
