"""Shows an outlook: as text for a terminal, and as one self-contained page of HTML that prints on A4."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from sftstudy import forecast, needs
from sftstudy.forecast import Need
from sftstudy.outlook import PLACES, Fit, Link, Outlook, Work, hours
from sftstudy.survival import KEEP, RUNG
from sftstudy.tables.pieces import document, joined, row, table_of

COLUMNS = ("runs", "stages", "checkpoints", "training", "scoring", "GPU-hours", "judge calls", "cost")
MAX_NAMES, MAX_FITS, MAX_STUDIES, MAX_STARTS = 3, 8, 24, 16
"""What a page has room for; the text has all."""

STYLE = """\
.chain { display: grid; grid-template-columns: minmax(12em, 1fr) 2fr 4em; gap: .15em .8em; margin-top: .5em; font-size: .92em; }
.chain span { overflow-wrap: anywhere; }
.chain i { display: block; height: .8em; margin-top: .25em; background: var(--bar); }
.chain b { font-weight: 400; text-align: right; }
.no { color: var(--mark); }
.jobs { columns: 4; margin-top: .5em; font-size: .92em; padding: 0; list-style: none; }
.jobs b { float: right; margin-right: 1.5em; font-weight: 400; font-variant-numeric: tabular-nums; }
.fits { display: grid; grid-template-columns: 1fr 1fr; column-gap: 2em; }
.fits h2 small { display: block; margin: 0; }
.fits td, .fits th { white-space: nowrap; }
@page { margin: 9mm; }
@media print { body { font-size: 8.6px; line-height: 1.3; } section { margin-top: .7em; padding-top: .4em; } }
@media screen and (max-width: 640px) { .fits { grid-template-columns: 1fr; } .jobs { columns: 2; } }
"""


def rows_of(outlook: Outlook) -> dict[str, Work]:
    """The sums that are compared: label -> work. Without a screen the plan is what it takes; with screens it is an upper bound."""
    plan = outlook.forecast.plan
    rows = {
        "as planned": outlook.shared,
        "each study by itself": outlook.no_reuse,
        "every run from the base": outlook.nothing_shared,
    }
    if plan.screens.specs:
        rows["as planned, with its screens"] = outlook.screened
    if len(plan.screens.specs) < len(plan.studies):
        rows["as planned, stopping early"] = outlook.stopped
    return rows | {"left to do": outlook.left}


def to_text(outlook: Outlook, *, jobs: Mapping[str, int], disk: str) -> str:
    """For a terminal."""
    labels = [*rows_of(outlook).items(), *((f"  {name}", work) for name, work in outlook.studies.items())]
    table = [["", *COLUMNS], *([label, *_cells(work)] for label, work in labels)]
    chain = [[f"  {link.job}", "" if link.is_barrier else _hours(link.hours)] for link in outlook.chain]
    lines = [
        f"plan of {', '.join(outlook.studies)} on {_site(outlook)}",
        "",
        *_aligned(table),
        "",
        *_screens(outlook),
        disk,
        *outlook.warnings,
        *(f"does not fit as its recipe says: {name}" for name in outlook.too_large),
        f"jobs left: {sum(jobs.values()):,}: " + ", ".join(f"{rule} {count:,}" for rule, count in jobs.items()),
        "",
        f"longest chain: {_hours(hours(outlook.chain))}",
        *_aligned(chain),
    ]
    if outlook.starts:
        lines += ["", f"{STARTS}:", *_aligned([[f"  {job}", f"{number:,} starts"] for job, number in outlook.starts.items()])]
    for fit in outlook.fits:
        places = [[f"  {way}", *(_fit_text(need) for need in needs.values())] for way, needs in fit.ways.items()]
        lines += ["", f"does it fit: {fit.model}, {_names(fit.recipes)}", *_aligned([["", *PLACES], *places])]
    return "\n".join([*lines, "", *_assumptions(outlook), ""])


def to_html(outlook: Outlook, *, jobs: Mapping[str, int], disk: str) -> str:
    """The whole page."""
    title = escape(_names(list(outlook.studies)))
    shared, alone = outlook.shared, outlook.nothing_shared
    saved = max(0.0, 1 - shared.gpu_hours / alone.gpu_hours) if alone.gpu_hours else 0.0
    headline = [
        f"<b>{_amount(shared.gpu_hours)} GPU-hours</b> for {shared.runs:,} runs in {shared.stages:,} stages, "
        f"{saved:.0%} less than if every run of every study were trained from the base.",
        *(escape(line[0].upper() + line[1:]) + "." for line in _screens(outlook)),
        f"No sooner than in <b>{_hours(hours(outlook.chain))}</b>, however many GPUs there are.",
        escape(disk[0].upper() + disk[1:]) + ".",
        *(f"Not counted: {escape(name)}, whose size is not known yet." for name in sorted(shared.unknown)),
        *(f"<b>{escape(line)}</b>" for line in outlook.warnings),
        *([f"<b>Does not fit</b> as the recipe says: {escape(_names(outlook.too_large))}."] if outlook.too_large else []),
    ]
    studies = list(outlook.studies.items())[:MAX_STUDIES]
    return document(
        title=f"Plan: {title}",
        style=STYLE,
        kind="Plan",
        heading=title,
        head=[
            f"""<p class="note">on {escape(_site(outlook))}</p>
<ul class="remarks calm">
{joined(f"<li>{line}</li>" for line in headline)}
</ul>"""
        ],
        body=[
            f"""<section>
<h2>What it takes <small>hours are GPU-hours</small></h2>
{_table(["", *COLUMNS], [[label, *_cells(work)] for label, work in rows_of(outlook).items()])}
</section>
<section>
<h2>By study <small>each by itself</small></h2>
{_table(["", *COLUMNS], [[name, *_cells(work)] for name, work in studies])}
</section>
<section>
<h2>Longest chain <small>{_hours(hours(outlook.chain))}</small></h2>
<div class="chain">
{joined(_bar(link, max(one.hours for one in outlook.chain)) for link in outlook.chain)}
</div>
</section>
{_starts(outlook)}
<div class="fits">
{joined(_fit(fit) for fit in outlook.fits[:MAX_FITS])}
</div>
<section>
<h2>Jobs left <small>{sum(jobs.values()):,}</small></h2>
<ul class="jobs">
{joined(f"<li>{escape(rule)} <b>{count:,}</b></li>" for rule, count in jobs.items())}
</ul>
</section>
<section>
{joined(f'<p class="note">{escape(line)}</p>' for line in _assumptions(outlook))}
</section>"""
        ],
    )


def _site(outlook: Outlook) -> str:
    site = outlook.forecast.site
    nodes = f" of up to {site.max_nodes} nodes" if site.max_nodes > 1 else ""
    limits = {"a GPU": site.gpu_max_runtime, "no GPU": site.cpu_max_runtime}
    ends = [f"jobs with {what} end after {_hours(limit / 60)}" for what, limit in limits.items() if limit]
    gpus = f"{site.gpus_per_node} on a node, {site.gpus_per_stage} or more{nodes} for a stage"
    return ", ".join([f"{site.gpu.name}, {site.gpu.memory_gb:.0f} GB", gpus, *ends])


STARTS = "longer than their partition allows: training saves and is queued again, scoring and judging spend a retry and go on"


def _screens(outlook: Outlook) -> list[str]:
    """What screens save, in a line; nothing of a plan without them."""
    if not outlook.forecast.plan.screens.specs:
        return []
    most, expected = outlook.shared.gpu_hours, outlook.screened.gpu_hours
    digits = 0 if most >= 100 else 1 if most >= 10 else 2
    share = f" ({1 - expected / most:.0%})" if most else ""
    return [
        f"screens: {most:,.{digits}f} GPU-hours if nothing is stopped, {expected:,.{digits}f} expected by the numbers that they "
        f"keep and audit, {most - expected:,.{digits}f}{share} saved"
    ]


def _assumptions(outlook: Outlook) -> list[str]:
    made = outlook.forecast
    stages = made.plan.stages.values()
    measured = {stage.model for stage in stages if stage.training and made.is_measured(stage)} | {
        f"{stage.model} on {suite}"
        for stage in stages
        for suite in made.plan.suites_of(stage)
        if made.scoring_pace(stage.model, suite)
    }
    nodes, screens = made.site.max_nodes > 1, made.plan.screens.specs
    network = needs.NETWORK_BYTES_PER_S / 1e9
    rate = f"rates were measured for {', '.join(sorted(measured))}" if measured else "no rate was measured yet"
    return [
        f"assumed: {needs.MFU:.0%} of a GPU's peak in training and {needs.MFU_PREFILL:.0%} in scoring until a finished job shows "
        f"its rate ({rate}); {forecast.TOKENS_PER_SAMPLE:.0f} tokens a sample where neither config nor a prepared phase says; "
        f"{needs.SUPERVISED_SHARE:.0%} of the tokens trained on; {forecast.NUM_ITEMS:,} items where a benchmark "
        "does not say; the arithmetic stands in docs/planning.md",
        *(
            [f"several nodes: nothing that crosses their network, {network:.0f} GB/s a node, hides behind arithmetic"]
            if nodes
            else []
        ),
        "offloading has run on CPUs only so far: no GPU has confirmed its memory and hours",
        *(["screens: a margin is taken to keep half; of studies that share a stage the most generous counts"] if screens else []),
        *(
            [
                f"stopping early: as a study's screen says, else {1 - KEEP:.0%} of its recipes of a model and data, rounded down, "
                f"after {RUNG:.0%} of their first stage; what is stopped is not scored"
            ]
            if len(screens) < len(outlook.studies)
            else []
        ),
    ]


def _cells(work: Work) -> list[str]:
    return [
        f"{work.runs:,}" if work.runs else "",
        f"{work.stages:,}" if work.stages else "",
        f"{work.checkpoints:,}" if work.stages else "",
        _amount(work.training_hours),
        _amount(work.scoring_hours),
        _amount(work.gpu_hours),
        f"{work.judge_calls:,}",
        f"{work.judge_cost:,.2f}" if work.judge_cost else "",
    ]


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _hours(value: float) -> str:
    if value < 1:
        return f"{value * 60:.0f} min"
    return f"{value:,.1f} h" if value < 100 else f"{value:,.0f} h"


def _fit_text(need: Need) -> str:
    gpu = f"{math.ceil(need.memory.gpu_gb)} GB"
    return f"{gpu}, {_hours(need.seconds / 3600)}" if need.fits else f"no: {gpu}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES])
    return shown if len(names) <= MAX_NAMES else f"{shown} and {len(names) - MAX_NAMES} more"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, the first to the left, the others to the right."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]


# --- HTML ------------------------------------------------------------------------------------------------------------


def _fit(fit: Fit) -> str:
    rows = [
        "".join(
            [
                f"<tr><th>{escape(way)}</th>",
                *(f"<td{'' if need.fits else ' class=no'}>{escape(_fit_text(need))}</td>" for need in places.values()),
                "</tr>",
            ]
        )
        for way, places in fit.ways.items()
    ]
    head = "".join(f"<th>{escape(place)}</th>" for place in PLACES)
    note = f"{_names(fit.recipes)}: memory of a GPU, and hours of the longest run"
    return f"""<section>
<h2>Does it fit: {escape(fit.model)} <small>{escape(note)}</small></h2>
<table><thead><tr><th></th>{head}</tr></thead><tbody>
{joined(rows)}
</tbody></table>
</section>"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return table_of(list(map(escape, head)), (row(*map(escape, cells)) for cells in rows))


def _bar(link: Link, longest: float) -> str:
    time = "" if link.is_barrier else _hours(link.hours)
    return f'<span>{escape(link.job)}</span><i style="width: {100 * link.hours / longest:.1f}%"></i><b>{time}</b>'


def _starts(outlook: Outlook) -> str:
    if not outlook.starts:
        return ""
    shown = list(outlook.starts.items())[:MAX_STARTS]
    more = [[f"and {len(outlook.starts) - MAX_STARTS} more", ""]] if len(outlook.starts) > MAX_STARTS else []
    return f"""<section>
<h2>Several starts <small>{escape(STARTS)}</small></h2>
{_table(["", "starts"], [*([job, f"{number:,}"] for job, number in shown), *more])}
</section>"""
