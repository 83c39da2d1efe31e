"""The page of a study's claims: a verdict for each, and what it rests on. HTML with its style and charts inside, no scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from sftstudy.claims.verdicts import I2, TAU, Q
from sftstudy.config import ArmsClaim, Claim, RobustnessClaim, SignalClaim
from sftstudy.findings import ClaimCell, ClaimEffect, ClaimRecord
from sftstudy.spec import StudySpec
from sftstudy.tables.pieces import document, interval_chart, joined, table_of
from sftstudy.tables.style import CLAIMS_STYLE

MARKS = {"holds": "holds", "does not hold": "fails", "not enough power": "open"}
EFFECTS = {
    "direction": "first &minus; second",
    "equivalence": "first &minus; second",
    "efficiency": "samples to the peak, first / second",
    "early-signal": "rank correlation",
    "robustness": "pooled effect",
}
ONE_SEED = " There is one seed per arm, so intervals are over items only and say nothing about other seeds."
PAIR = "model, data"
NEEDS = "what would settle it"
READINGS = {
    "last": "the last checkpoint",
    "peak": "the peak",
    "held-out-peak": "the peak, chosen on other items",
    "samples_seen": "equal samples seen",
    "samples_spent": "equal samples spent",
    "supervised_tokens": "equal supervised tokens",
    "steps": "equal steps",
    "gpu_hours": "equal GPU-hours (process-hours on CPUs)",
}
KINDS = {
    "direction": "Holds if the first arm is shown to be above the second; does not if shown to be less than the margin above.",
    "equivalence": "Holds if the difference is shown to lie within the margin: its interval, here of 90 %, does (TOST).",
    "efficiency": "Holds if the first arm is shown to need fewer samples. A peak is known to within the spacing of checkpoints; a"
    " run that is best at its end may have it ahead.",
    "early-signal": "Holds if the correlation is shown to be above zero; does not if it is shown to be below the margin.",
    "robustness": "Holds if every pooled effect does and no pair of model and data refutes it.",
}


def to_html(study: StudySpec, claims: Sequence[ClaimRecord]) -> str:
    """The whole page."""
    counts = [(sum(claim.verdict == verdict for claim in claims), verdict) for verdict in MARKS]
    told = ", ".join(f"{verdict}: {number}" for number, verdict in counts if number)
    return document(
        title=f"Claims: {escape(study.name)}",
        style=CLAIMS_STYLE,
        kind="Claims",
        heading=escape(study.name),
        head=[
            f"""<p class="note">{escape(study.question)}</p>
<p class="note">{told or "No claims"}. Intervals are of 95 % unless stated; a claim holds if all of its lines do,
and any line can refute it (corrected for their number). &ldquo;Not enough power&rdquo; means that the data show neither.</p>
{_overview(claims)}"""
        ],
        body=(_section(claim, study.claims[claim.name], claims) for claim in claims),
    )


def _overview(claims: Sequence[ClaimRecord]) -> str:
    rows = [
        f'<tr><th scope="row"><a href="#{escape(claim.name)}">{escape(claim.statement)}</a></th>'
        f"<td>{escape(claim.finding or '')}</td><td>{_badge(claim.verdict)}</td></tr>"
        for claim in claims
    ]
    return table_of(["claim", "finding", "verdict"], rows)


def _section(claim: ClaimRecord, asked: Claim, claims: Sequence[ClaimRecord]) -> str:
    body = _robustness(claim, asked, claims) if isinstance(asked, RobustnessClaim) else _lines(claim)
    return f"""<section id="{escape(claim.name)}">
<h2>{_badge(claim.verdict)} {escape(claim.statement)}</h2>
<p class="note">{KINDS[claim.kind]} {_asked(asked)}{ONE_SEED if any(map(_one_seed, claim.cells)) else ""}</p>
{body}
</section>"""


def _asked(claim: Claim) -> str:
    """What the claim compares, in HTML."""
    if isinstance(claim, RobustnessClaim):
        return ""
    if isinstance(claim, SignalClaim):
        groups = f", within {claim.within.replace('_', ' ')}" if claim.within else ""
        return f"Mean {claim.signal.replace('_', ' ')} over the first {claim.until:.0%} of the samples{escape(groups)}."
    at = f", at {READINGS[claim.at]}" if isinstance(claim, ArmsClaim) else ""
    arms = [[arm] if isinstance(arm, str) else arm for arm in (claim.first, claim.second)]
    first, second = (" or ".join(f"<code>{escape(recipe)}</code>" for recipe in arm) for arm in arms)
    return f"First: {first}, second: {second}{escape(at)}."


# --- a claim's lines ---------------------------------------------------------------------------------------------------


def _lines(claim: ClaimRecord) -> str:
    """A line per benchmark, model and data, with what is pooled below."""
    cells = [*claim.cells, *claim.pooled]
    heads = ["benchmark", *([PAIR] if _several(claim) else []), EFFECTS[claim.kind], "", "p", "verdict", NEEDS]
    rows = []
    for cell in cells:
        reach = _reach(claim, [other for other in cells if other.benchmark == cell.benchmark])
        places = [f'<th scope="row">{_place(cell)}</th>'] if _several(claim) else []
        rows.append(_row([f'<th scope="row">{escape(cell.benchmark)}</th>', *places], claim, cell, reach))
    return f"{table_of(heads, rows, words=(PAIR,))}\n{_details(claim)}"


def _robustness(claim: ClaimRecord, asked: RobustnessClaim, claims: Sequence[ClaimRecord]) -> str:
    """Of each claim and benchmark the effect on every model and data set, and below them what they say together."""
    if not any(cell.model == "" and cell.effect.value is not None for cell in claim.cells):
        return f'<p class="note">Nothing to pool: {escape(claim.cells[0].effect.note)}.</p>' if claim.cells else ""
    heads = [PAIR, "effect", "", "p", "verdict", NEEDS]
    rows = []
    for name in asked.claims:
        other = next(one for one in claims if one.name == name)
        for benchmark in dict.fromkeys(cell.benchmark for cell in other.cells):
            pairs = [cell for cell in other.cells if cell.benchmark == benchmark]
            overall = next(cell for cell in claim.cells if cell.benchmark == f"{name}: {benchmark}")
            reach = _reach(other, [*pairs, overall])
            title = (
                f'<a href="#{escape(name)}">{escape(other.statement)}</a> <small>{escape(benchmark)}, {EFFECTS[other.kind]}</small>'
            )
            rows.append(f'<tr class="group"><th scope="rowgroup" colspan="{len(heads)}">{title}</th></tr>')
            rows += [_row([f'<th scope="row">{_place(cell)}</th>'], other, cell, reach) for cell in pairs]
            rows.append(_row([f'<th scope="row">{_place(overall)}</th>'], other, overall, reach, kind="sum"))
    return table_of(heads, rows, words=(PAIR,))


def _spread(cell: ClaimCell) -> str:
    """How much an effect differs between the pairs that are pooled."""
    numbers = {name: effect.value for name, effect in cell.details.items()}
    if any(numbers.get(name) is None for name in (TAU, I2, Q)):
        return ""
    text = f"standard deviation {numbers[TAU]:.3f}, I&sup2; {numbers[I2]:.0%}, p of equal effects {_p(numbers[Q] or 0)}"
    return f'<span class="why">between pairs: {text}</span>'


def _several(claim: ClaimRecord) -> bool:
    return len({(cell.model, cell.data) for cell in claim.cells}) > 1


def _place(cell: ClaimCell) -> str:
    if not cell.model:
        return f"pooled over {cell.num_runs} pairs" if cell.num_runs else "pooled"
    return escape(f"{cell.model}, {cell.data}")


def _row(first: Sequence[str], claim: ClaimRecord, cell: ClaimCell, reach: float, kind: str = "") -> str:
    p = cell.p_fails if cell.verdict == "does not hold" else cell.p_holds
    parts = [
        *first,
        f"<td>{_effect(cell.effect) if cell.effect.value is not None else ''}</td>",
        f"<td>{_chart(claim, cell, reach)}</td>",
        f"<td>{'' if p is None else _p(p)}</td>",
        f"<td>{_badge(cell.verdict)}</td>",
        f'<td class="needs">{_needs(claim, cell)}{_spread(cell) if kind == "sum" else ""}</td>',
    ]
    return f"<tr{f' class={kind}' if kind else ''}>{''.join(parts)}</tr>"


def _needs(claim: ClaimRecord, cell: ClaimCell) -> str:
    """How an open question could be settled, and what is to be known of the cell."""
    note = escape(cell.effect.note)
    if note or cell.verdict != "not enough power":
        return note
    if not cell.model:
        pairs = f"{cell.needed_pairs:,}" if cell.needed_pairs else "more than 100"
        return f"{pairs} pairs of model and data like these" if cell.margin else "more pairs of model and data"
    found = [f"{number:,} {what}" for number, what in _numbers(cell) if number is not None]
    if cell.needed_both:
        found.append("{:,} seeds per arm with {:,} items".format(*cell.needed_both))
    if claim.kind == "efficiency":
        return "more seeds, closer checkpoints"
    if _one_seed(cell):
        return f"{found[0] if found else 'no number of items'}; how many seeds, two per arm would tell"
    return " or ".join(found) or "no number of seeds (up to 100) and items"


def _one_seed(cell: ClaimCell) -> bool:
    return cell.arms is not None and cell.num_runs == 2


def _numbers(cell: ClaimCell) -> list[tuple[int | None, str]]:
    return [(cell.needed_seeds, "seeds per arm"), (cell.needed_items, "items"), (cell.needed_recipes, "recipes")]


# --- beside them -------------------------------------------------------------------------------------------------------


def _details(claim: ClaimRecord) -> str:
    """What goes with the cells, folded away per model and data: other budgets, regret. Open where the budgets differ."""
    groups: dict[str, list[ClaimCell]] = {}
    for cell in [*claim.cells, *claim.pooled]:
        if cell.details:
            groups.setdefault(_place(cell), []).append(cell)
    return joined(_beside(f"{place}: " if _several(claim) else "", cells) for place, cells in groups.items())


def _beside(place: str, cells: Sequence[ClaimCell]) -> str:
    """A line per reading, or what else goes with cells of one model and data; a column per benchmark."""
    spent = next((cell.spent for cell in cells if cell.spent), {})
    costs = ["the first arm has spent", "the second"] if spent else []
    rows = []
    for name in dict.fromkeys(name for cell in cells for name in cell.details):
        values = [_cost(name, cost) for cost in spent[name]] if name in spent else [""] * len(costs)
        values += [_effect(cell.details[name]) if name in cell.details else "" for cell in cells]
        label = READINGS.get(name, name.replace("_", " "))
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(f"<td>{value}</td>" for value in values)}</tr>')
    unequal = any(_unequal(cell) for cell in cells)
    if cells[0].arms is None:
        title = "how much it differs" if cells[0].model == "" else "more"
    else:
        title = f"{'unequal budgets; ' if unequal else ''}the same at other checkpoints and at equal budgets"
    title = place + title if place else title.capitalize()
    table = table_of(["", *costs, *(escape(cell.benchmark) for cell in cells)], rows)
    return f"<details{' open' if unequal else ''}><summary>{title}</summary>\n{table}\n</details>"


def _unequal(cell: ClaimCell) -> bool:
    """Whether one arm was trained over a hundredth longer than the other, in samples."""
    least, most = sorted(cell.spent.get("samples_seen", (0.0, 0.0)))
    return most > 1.01 * least


def _cost(name: str, value: float) -> str:
    return f"{value:.3g}" if name == "gpu_hours" else f"{value:,.0f}"


def _effect(effect: ClaimEffect) -> str:
    if effect.value is None:
        return f'<span class="why">{escape(effect.note)}</span>'
    if effect.low is None or effect.high is None:
        return _number(effect.value)
    return f"{_number(effect.value)} <small>[{_number(effect.low)}, {_number(effect.high)}]</small>"


def _reach(claim: ClaimRecord, cells: Sequence[ClaimCell]) -> float:
    """Half the width of an axis that holds these intervals and their margins."""
    ends = [abs(end) for cell in cells if (scale := _scale(claim, cell)) for end in (scale[0], scale[2])]
    return 1.08 * max([1e-9, *ends, *(cell.margin or 0.0 for cell in cells)])


def _scale(claim: ClaimRecord, cell: ClaimCell) -> tuple[float, float, float] | None:
    """Low end, value and high end as they are drawn: efficiency on a logarithmic axis."""
    effect = cell.effect
    if effect.value is None or effect.low is None or effect.high is None:
        return None
    low, value, high = (
        math.log(max(x, 1e-9)) if claim.kind == "efficiency" else x for x in (effect.low, effect.value, effect.high)
    )
    return low, value, high


def _chart(claim: ClaimRecord, cell: ClaimCell, reach: float) -> str:
    """The interval over the margin's band; a line where there is no effect. What is pooled is a diamond as wide as its interval."""
    scale = _scale(claim, cell)
    if scale is None:
        return ""
    margin = cell.margin or 0.0
    band = (-margin if claim.kind == "equivalence" else 0.0, margin) if margin else None
    return interval_chart(*scale, reach=reach, band=band, diamond=not cell.model, label="interval and margin")


def _badge(verdict: str) -> str:
    return f'<span class="badge {MARKS[verdict]}">{verdict}</span>'


def _p(p: float) -> str:
    return "&lt;0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "&minus;") if abs(value) < 10 else f"{value:,.1f}".replace("-", "&minus;")
