"""Shows what was paid for: as a CSV file, as text for a terminal, and as one self-contained page of HTML."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from html import escape

from sftstudy.hours import KEYS, RULES, Charge, Hours, Row, Spent, Unit
from sftstudy.tables.pieces import document, joined

UNITS: dict[Unit, str] = {"GPU": "GPU-hours", "process": "process-hours"}
"""An attempt without a GPU counts in process-hours: its processes times the hours that it took."""

PARTS = ("allocated", "useful", "wasted", "overhead")
COLUMNS = ("attempts", "not finished", *PARTS)
MAX_RUNS, MAX_LOSSES = 40, 15
"""What the page has room for; the CSV file has all."""

STYLE = """\
td.bar { width: 22%; padding-left: 1em; }
td.bar div { display: flex; height: .8em; }
td.bar i, .key i { background: var(--bar); }
td.bar i.wasted, .key i.wasted { background: var(--mark); }
td.bar i.overhead, .key i.overhead { background: var(--line); }
.key { margin-top: .8em; }
.key i { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1.2em; vertical-align: -.05em; }
.key i:first-child { margin-left: 0; }
th[scope=row] { overflow-wrap: anywhere; }
"""

DEFINITION = (
    "useful: steps, scored blocks, answers and replies that stand in a record of today's spec, or in state from which work goes on",
    "wasted: what was done again or is gone; of an attempt that failed or was killed, all after its last safe moment; allocations "
    "in which no program began",
    "overhead: the rest, which is start-up, loading, saving and waiting",
)


def to_csv(hours: Hours) -> str:
    """A line per rule, run, stage, suite and unit. Hours are of devices; those of the other unit are 0."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [f"{unit.lower()}_hours_{part}" for unit in UNITS for part in PARTS]
    writer.writerow(["rule", *KEYS, "studies", "attempts", "ends", *names, "source"])
    for row in hours.rows:
        parts = [_parts(row.spent if row.unit == unit else Spent()) for unit in UNITS]
        writer.writerow(
            [row.rule, *(row.job[key] for key in KEYS), " ".join(row.studies), row.num_attempts]
            + [", ".join(f"{end} {number}" for end, number in row.ends.items())]
            + [f"{value / 3600:.6f}" for values in parts for value in values]
            + [row.source]
        )
    return file.getvalue()


def to_text(hours: Hours) -> str:
    """For a terminal: the sums per rule and per study."""
    lines = [f"hours of {', '.join(hours.studies)}"]
    for unit in _units(hours):
        rows = [row for row in hours.rows if row.unit == unit]
        table = [[UNITS[unit], *COLUMNS], *_table(rows, lambda row: [row.rule]), *_studies(rows, hours)]
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        lines += ["", *("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in table)]
    return "\n".join([*lines, "", *remarks(hours), ""])


def to_html(hours: Hours) -> str:
    """The whole page."""
    title = escape(", ".join(hours.studies))
    sections = [section for unit in _units(hours) for section in _sections(hours, unit)]
    return document(
        title=f"Hours: {title}",
        style=STYLE,
        kind="Hours",
        heading=title,
        head=[
            f"""<ul class="remarks calm">
{joined(f"<li>{line}</li>" for line in [*_headline(hours), *map(escape, remarks(hours))])}
</ul>
<p class="note key"><i></i>useful<i class="wasted"></i>wasted<i class="overhead"></i>overhead</p>"""
        ],
        body=[
            f"""{joined(sections)}
<section>
{joined(f'<p class="note">{escape(line)}</p>' for line in DEFINITION)}
</section>"""
        ],
    )


def remarks(hours: Hours) -> list[str]:
    """Where the numbers come from, and what they leave out."""
    found = []
    if not hours.rows:
        found.append("no attempt is on file: programs leave one each time they start, under results/attempts")
    elif hours.note:
        found.append(
            f"counted from the attempts' own records ({hours.note}): what a job does before its program starts is not in them"
        )
    else:
        found.append(
            "allocated: GPUs and time as SLURM's accounting has them, where it knows the job; useful: from the attempts' records"
        )
    if hours.uncounted:
        jobs = ", ".join(f"{rule} {hours.uncounted[rule]:,}" for rule in RULES if rule in hours.uncounted)
        found.append(f"not counted, as no attempt of theirs is on file: the finished jobs {jobs}")
    if any(len(row.studies) > 1 for row in hours.rows):
        found.append("work that several studies share counts in each of them, and once in all sums")
    return found


# --- tables -------------------------------------------------------------------------------------------------------------


def _units(hours: Hours) -> list[Unit]:
    return [unit for unit in UNITS if any(row.unit == unit for row in hours.rows)]


def _cells(rows: Sequence[Row]) -> list[str]:
    """COLUMNS of some rows together."""
    spent = sum((row.spent for row in rows), Spent())
    unfinished = sum(number for row in rows for end, number in row.ends.items() if end not in ("finished", "running"))
    return [f"{sum(row.num_attempts for row in rows):,}", f"{unfinished:,}", *(_hours(value) for value in _parts(spent))]


def _grouped(rows: Iterable[Row], key: Callable[[Row], Sequence[str]]) -> dict[str, list[Row]]:
    """Rows by each of their keys, in the order in which these come."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for name in key(row):
            groups[name].append(row)
    return groups


def _table(rows: Sequence[Row], key: Callable[[Row], Sequence[str]]) -> list[list[str]]:
    """A line per key, and the sum."""
    return [*([name, *_cells(members)] for name, members in _grouped(rows, key).items()), ["all", *_cells(rows)]]


def _studies(rows: Sequence[Row], hours: Hours) -> list[list[str]]:
    by_study = _grouped(rows, studies_of)
    return [[f"  {name}", *_cells(by_study[name])] for name in (*hours.studies, NO_STUDY) if name in by_study]


NO_STUDY = "of no active study"


def studies_of(row: Row) -> Sequence[str]:
    """The active studies that want what a row was spent on."""
    return row.studies or (NO_STUDY,)


def run_of(row: Row) -> Sequence[str]:
    """The run that a row was spent on."""
    seed = f"seed{row.job['seed']}" if row.job["seed"] else ""
    return ("/".join(filter(None, (*(row.job[key] for key in ("model", "data", "recipe")), seed))) or row.rule,)


def _parts(spent: Spent) -> list[float]:
    return [spent.allocated, spent.useful, spent.wasted, spent.overhead]


def _hours(seconds: float) -> str:
    value = seconds / 3600
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.4f}"


# --- HTML ---------------------------------------------------------------------------------------------------------------


def _headline(hours: Hours) -> list[str]:
    lines = []
    for unit in _units(hours):
        rows = [row for row in hours.rows if row.unit == unit]
        spent = sum((row.spent for row in rows), Spent())
        shares = [f"{value / spent.allocated:.0%} {name}" for name, value in zip(PARTS[1:], _parts(spent)[1:], strict=True)]
        number = sum(row.num_attempts for row in rows)
        lines.append(f"<b>{_hours(spent.allocated)} {UNITS[unit]}</b> in {number:,} attempts: {', '.join(shares)}.")
    return lines


def _sections(hours: Hours, unit: Unit) -> list[str]:
    """Per rule, study and run, and the dearest attempts that did not finish."""
    rows = [row for row in hours.rows if row.unit == unit]
    runs = sorted(_grouped(rows, run_of).items(), key=lambda item: -sum(row.spent.allocated for row in item[1]))
    by_study = _grouped(rows, studies_of)
    studies = [(name, by_study[name]) for name in (*hours.studies, NO_STUDY) if name in by_study]
    more = f", the {MAX_RUNS} dearest of {len(runs):,}" if len(runs) > MAX_RUNS else ""
    lost = sorted(
        (one for one in hours.charges if one.unit == unit and one.end not in ("finished", "running") and one.spent.wasted),
        key=lambda one: (-one.spent.wasted, one.rule, *one.job.values()),
    )
    of = UNITS[unit]
    return [
        _section("By rule", of, [*_grouped(rows, lambda row: [row.rule]).items(), ("all", rows)], last_is_sum=True),
        _section("By study", f"{of}, shared work in each", studies),
        _section("By run", of + more, runs[:MAX_RUNS]),
        *([_losses(lost[:MAX_LOSSES], f"{of}, {min(len(lost), MAX_LOSSES)} of {len(lost):,}")] if lost else []),
    ]


def _section(title: str, note: str, groups: Sequence[tuple[str, Sequence[Row]]], *, last_is_sum: bool = False) -> str:
    lines = []
    for number, (name, rows) in enumerate(groups, start=1):
        mark = " class=sum" if last_is_sum and number == len(groups) else ""
        cells = "".join(f"<td>{cell}</td>" for cell in _cells(rows))
        bar = _bar(sum((row.spent for row in rows), Spent()))
        lines.append(f"<tr{mark}><th scope=row>{escape(name)}</th>{cells}<td class=bar>{bar}</td></tr>")
    head = "".join(f"<th>{column}</th>" for column in ("", *COLUMNS, ""))
    return f"""<section>
<h2>{title} <small>{escape(note)}</small></h2>
<table><thead><tr>{head}</tr></thead><tbody>
{joined(lines)}
</tbody></table>
</section>"""


def _bar(spent: Spent) -> str:
    """The three parts as shares of a line."""
    if not spent.allocated:
        return ""
    parts = zip(PARTS[1:], _parts(spent)[1:], strict=True)
    lines = (f'<i class={name} style="width:{100 * value / spent.allocated:.1f}%"></i>' for name, value in parts)
    return f"<div>{''.join(lines)}</div>"


def _losses(lost: Sequence[Charge], note: str) -> str:
    lines = [
        f"<tr><th scope=row>{escape('/'.join([one.rule, *one.job.values()]))}</th><td>{one.end}</td>"
        f"<td>{_hours(one.spent.useful)}</td><td>{_hours(one.spent.wasted)}</td></tr>"
        for one in lost
    ]
    return f"""<section>
<h2>Attempts that did not finish, by what they wasted <small>{escape(note)}</small></h2>
<table><thead><tr><th></th><th>end</th><th>useful</th><th>wasted</th></tr></thead><tbody>
{joined(lines)}
</tbody></table>
</section>"""
