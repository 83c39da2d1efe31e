"""A table as a page of HTML that stands alone: a click on a cell, or Enter, opens what it rests on. No scripts, no other files.

Pedigrees are popovers of HTML itself; `#` and a cell's key behind the page's address opens one, too. In print they are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from sftstudy.pedigree import (
    AskedBenchmark,
    DifferenceCell,
    MadeBy,
    PedigreeCell,
    PedigreeRecord,
    PrintedCell,
    ScoreCell,
    SettingCell,
    SourceCheckpoint,
)
from sftstudy.tables.configuration import value_text
from sftstudy.tables.pieces import document, joined, row, table_of
from sftstudy.tables.printed import BETTER, FEWEST, Block, Printed, Text, number_text
from sftstudy.tables.published import EVIDENCE

RESULTS = "../../../"
"""From a study's tables to the root of the records."""

MEANINGS: dict[str, str] = {
    "†": "no difference to the best can be shown",
    "‡": "fewer seeds than planned",
    "§": "a race dropped checkpoints that could not win",
}
MOST_MISSING = 6
MADE: dict[str, str] = {"training": "Trained", "scores": "Scored"}

STYLE = f"""\
.scroll {{ overflow-x: auto; margin: .5em -.4em 0; padding: 0 .4em; }}
td, tbody th {{ vertical-align: top; white-space: nowrap; }}
.long td, .long th {{ white-space: normal; text-align: left; overflow-wrap: anywhere; }}
td button, h2 button {{ font: inherit; font-variant-numeric: tabular-nums; color: inherit; text-align: inherit;
  background: none; border: 0;
  border-radius: .2em; margin: -.1em -.3em; padding: .1em .3em; cursor: pointer;
  text-decoration: underline dotted #9aa9b5; text-underline-offset: .25em; }}
td button:hover, h2 button:hover {{ background: #eef3f7; }}
button:focus-visible, a:focus-visible {{ outline: 2px solid var(--bar); }}
td small, h2 small {{ color: var(--soft); }}
h2 button small {{ margin: 0; font-size: .8em; }}
.better {{ color: #{BETTER}; font-weight: 600; }}
.fewest {{ color: #{FEWEST}; font-style: italic; }}
.empty {{ color: var(--soft); }}
.notes {{ margin: .3em 0 0; padding-left: 1.3em; color: var(--soft); font-size: .92em; }}
.files {{ margin-top: 1em; }}
.files a {{ margin-right: 1em; }}
a {{ color: var(--bar); }}
[popover] {{ width: min(68em, 94vw); max-height: 88vh; overflow: auto; padding: 1.3em 1.6em; border: 1px solid var(--line);
  border-radius: .4em; box-shadow: 0 .6em 2.4em #1c273340; color: var(--ink); font-size: 13px; background: #fff; }}
[popover]::backdrop {{ background: #1c273326; }}
[popover]:target {{ display: block; position: fixed; inset: 0; margin: auto; height: fit-content; z-index: 1; }}
[popover] h2 {{ padding-right: 4em; }}
[popover] .close {{ position: absolute; top: 1.2em; right: 1.4em; }}
[popover] button.close {{ font: inherit; color: var(--bar); background: none; border: 0; padding: 0; cursor: pointer;
  text-decoration: underline; }}
[popover]:not(:popover-open) button.close, [popover]:popover-open a.close {{ display: none; }}
[popover] table {{ margin-top: .7em; }}
[popover] > .note {{ margin-top: .9em; }}
dl {{ display: grid; grid-template-columns: 9.5em 1fr; gap: .15em 1em; margin: .7em 0 0; }}
dt {{ color: var(--soft); }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
dd ul {{ margin: 0; padding-left: 1.1em; }}
details {{ margin-top: .4em; overflow-x: auto; }}
summary {{ cursor: pointer; }}
@media print {{
  [popover], .files, .tasks {{ display: none !important; }}
  main {{ max-width: none; }}
  .scroll {{ overflow: visible; }}
  td button, h2 button {{ text-decoration: none; }}
  @page {{ size: A4 landscape; }}
}}
@media screen and (max-width: 640px) {{ main {{ padding: 1em; }} dl {{ grid-template-columns: 1fr; }} }}
"""


def to_html(printed: Printed) -> str:
    """The whole page."""
    name = f"{escape(printed.study)}: {escape(printed.table)}"
    pedigree = printed.pedigree
    texts = [text for block in printed.blocks for row in [*block.rows, (block.base or Text(""),)] for text in row]
    keys = dict.fromkeys(text.key for text in texts if text.key)
    return document(
        title=f"Table: {name}",
        style=STYLE,
        kind="Table",
        heading=escape(printed.caption),
        head=[f"""<p class="note">{name}. A click on a number shows what it rests on.</p>"""],
        body=[
            f"""{joined(_block(block, printed) for block in printed.blocks)}
<section>
<ul class="notes">
{joined(f"<li>{escape(note)}</li>" for note in printed.notes)}
</ul>
</section>
{_benchmarks(pedigree)}<p class="note files">{_files(printed.table)}</p>"""
        ],
        after=(_popover(printed, key, pedigree.cells[key]) for key in keys),
    )


def _block(block: Block, printed: Printed) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in block.header)
    rows = [
        "".join(
            f'<th scope="row">{escape(text.main + text.mark)}</th>' if number == 0 else f"<td>{_cell(text)}</td>"
            for number, text in enumerate(row)
        )
        for row in block.rows
    ]
    body = joined(f"<tr>{row}</tr>" for row in rows)
    style = "scroll long" if printed.wide else "scroll"
    base = f", base {_cell(block.base)}" if block.base else ""
    return f"""<section>
<h2>{escape(block.title)}{base}</h2>
<div class="{style}"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody></table></div>
</section>"""


def _cell(text: Text) -> str:
    """A button if it has a pedigree; an empty one is a dash, whose pedigree says what is missing."""
    style = "better" if text.bold else "fewest" if text.italic else "" if text.main else "empty"
    main = escape(text.main) or ("&ndash;" if text.key else "")
    main = f'<span class="{style}">{main}</span>' if style and main else main
    small = f" <small>{escape(text.small)}</small>" if text.small else ""
    marks = "".join(f'<span title="{MEANINGS[mark]}">{mark}</span>' if mark in MEANINGS else escape(mark) for mark in text.mark)
    shown = f"{main}{small}{marks}"
    return f'<button type="button" popovertarget="{escape(text.key)}">{shown}</button>' if text.key else shown


def _files(table: str) -> str:
    names = {"CSV": "csv", "Markdown": "md", "LaTeX": "tex", "pedigree": "pedigree.json"}
    return "The same as " + " ".join(f'<a href="{escape(table)}.{end}">{name}</a>' for name, end in names.items())


def _benchmarks(pedigree: PedigreeRecord) -> str:
    """Versions and hashes of the tasks, for benchmarks that have several."""
    parts = []
    for name, asked in pedigree.benchmarks.items():
        rows = [[escape(task), escape(t.version), _code(t.items_hash), _code(t.protocol_hash)] for task, t in asked.tasks.items()]
        table = table_of(["task", "version", "items hash", "protocol hash"], (row(*cells) for cells in rows))
        parts += [f"<details><summary>{escape(name)}: {len(rows)}</summary>\n{table}\n</details>"] if rows else []
    return f'<section class="tasks">\n<h2>Tasks and groups of them</h2>\n{joined(parts)}\n</section>\n' if parts else ""


# --- pedigrees -------------------------------------------------------------------------------------------------------


def _popover(printed: Printed, key: str, cell: PedigreeCell) -> str:
    match cell:
        case ScoreCell():
            title, body = f"{escape(cell.benchmark)}: {escape(cell.arm)}", _score(printed.pedigree, key, cell)
        case PrintedCell():
            title, body = escape(cell.row), _printed(cell)
        case SettingCell():
            title, body = "Values", _settings(cell)
        case DifferenceCell():
            raise ValueError(f"{key}: differences are not printed")
    here = escape(key)
    latex = f"\\SftNumber{{{printed.table}/{key}/value}}" if isinstance(cell, ScoreCell) and cell.value is not None else ""
    return f"""<div popover role="dialog" id="{here}" aria-label="{here}">
<button type="button" class="close" popovertarget="{here}" popovertargetaction="hide">close</button>
<a class="close" href="#">close</a>
<h2>{title}</h2>
{body}
<p class="note">Key: {_code(key)}{f", in LaTeX {_code(latex)}" if latex else ""}</p>
</div>"""


def _score(pedigree: PedigreeRecord, key: str, cell: ScoreCell) -> str:
    asked = pedigree.benchmarks[cell.benchmark]
    seeds = f"seed{'' if len(cell.planned_seeds) == 1 else 's'} {', '.join(map(str, cell.planned_seeds))}"
    run = f"{cell.model}, untouched" if cell.measure.endswith("base") else f"{cell.model}, {cell.data}, {cell.recipe}, {seeds}"
    facts = {
        "Runs": escape(run),
        "Measure": escape(_measure(cell)),
        "Score": _value(cell),
        "Samples": _samples(cell),
        "Optimism": _optimism(cell),
        "Against the best": "the best" if cell.best else "" if cell.p_against_best is None else f"p = {_p(cell.p_against_best)}",
        "Difference": _list(_difference(pedigree, key)),
        "Status": escape(cell.status),
        "Missing": _missing(cell.missing),
    }
    rows = [
        [
            str(source.seed),
            escape(f"{source.stage}, {source.ckpt}"),
            "" if source.value is None else f"{source.value:.4f}",
            f"{source.samples_seen:,}",
            _code(source.weights_hash),
            _link(source.training, _code(_hash(pedigree, source.training))),
            _link(source.scores, _code(_hash(pedigree, source.scores))),
            ", ".join(_link(path, name) for path, name in _files_of(source).items()),
        ]
        for source in cell.checkpoints
    ]
    heads = ["seed", "checkpoint", "score", "samples", "weights hash", "training spec", "scores spec", ""]
    made = {
        title: _list(sorted({escape(_made(pedigree.records[getattr(source, name)])) for source in cell.checkpoints}))
        for name, title in MADE.items()
    }
    table = f'<div class="scroll">{table_of(heads, (row(*cells) for cells in rows))}</div>' if rows else ""
    return joined(
        [
            _facts(facts),
            table,
            _facts(
                made
                | _asked(asked)
                | {"Assumed": _list(f"{escape(name)}: {escape(', '.join(values))}" for name, values in cell.assumed.items())}
            ),
        ]
    )


def _difference(pedigree: PedigreeRecord, key: str) -> list[str]:
    """Paired differences that a cell is part of, in words."""
    found = []
    for other in pedigree.cells.values():
        if isinstance(other, DifferenceCell) and key in other.cells:
            first, second = (pedigree.cells[name] for name in other.cells)
            assert isinstance(first, ScoreCell), "differences are of scores"
            assert isinstance(second, ScoreCell), "differences are of scores"
            value = f"{number_text(other.value)}{_interval(other.low, other.high, '.2f')}, p = {_p(other.p)}"
            found.append(f"{escape(first.arm)} less {escape(second.arm)}: {value.replace('-', '&minus;')}, paired by item")
    return found


def _files_of(source: SourceCheckpoint) -> dict[str, str]:
    """Path -> name of what lies beside a checkpoint's scores: items, and MT-Bench's answers and judgments."""
    return {source.items: "items"} | {path: path.split(".")[-2] for path in source.judged}


def _asked(asked: AskedBenchmark) -> dict[str, str]:
    """How a benchmark was asked, as far as it is known."""
    harness = f"{asked.harness} {asked.harness_version}, version {asked.task_version}, suite {asked.suite}"
    shots = "" if asked.num_fewshot is None else f"{asked.num_fewshot} shots, "
    return {
        "Benchmark": escape(harness) if asked.harness else escape(asked.suite),
        "Asked": escape(f"{shots}{asked.metric}, {asked.average} average, guessing {asked.chance:g}"),
        "Judge": escape(asked.judge),
        "Items hash": _code(asked.items_hash) if asked.items_hash else "",
        "Protocol hash": _code(asked.protocol_hash) if asked.protocol_hash else "",
    }


def _printed(cell: PrintedCell) -> str:
    facts = {
        "Printed in": escape(cell.place),
        "Evidence": f"{escape(cell.grade)}: {escape(EVIDENCE[cell.grade])}",
        **{name.capitalize(): f"{value:,.10g}" for name, value in cell.numbers.items()},
    }
    return _facts(facts) + '\n<p class="note">A number of the paper; nothing was measured here.</p>'


def _settings(cell: SettingCell) -> str:
    rows = [
        [escape(text) for text in (f"{value.subject} {value.name}", value.part, value.key, value_text(value.value), value.source)]
        for value in cell.values
    ]
    return f'<div class="scroll long">{table_of(["of", "part", "key", "value", "source"], (row(*cells) for cells in rows))}</div>'


def _missing(missing: dict[str, str]) -> str:
    """The first records that are not there, and how many more."""
    shown = [f"{escape(path)}: {escape(reason)}" for path, reason in list(missing.items())[:MOST_MISSING]]
    more = len(missing) - MOST_MISSING
    return _list([*shown, f"and {more:,} more, see missing.csv"] if more > 0 else shown)


def _measure(cell: ScoreCell) -> str:
    """The measure in words."""
    named = {"base": "the untouched model", "peak": "peak over checkpoints", "last": "last checkpoint"}
    words = named[cell.measure.split()[-1]]
    return f"{words}, on the leaderboard's scale" if cell.measure != cell.measure.split()[-1] else words


def _value(cell: ScoreCell) -> str:
    if cell.value is None:
        return ""
    items = f", {cell.num_items:,} items" if cell.num_items is not None else ""
    seeds = f", mean over {len(cell.seeds)} of {len(cell.planned_seeds)} seeds" if len(cell.planned_seeds) > 1 else ""
    return f"{cell.value:.4f}{_interval(cell.low, cell.high, '.4f')}{items}{seeds}"


def _samples(cell: ScoreCell) -> str:
    if not cell.samples_seen or cell.samples_spent is None:
        return ""
    return f"{cell.samples_seen:,.0f}{_interval(cell.samples_low, cell.samples_high, ',.0f')} seen, {cell.samples_spent:,.0f} spent"


def _optimism(cell: ScoreCell) -> str:
    if cell.optimism is None:
        return ""
    if cell.optimism_low is None:
        return f"{number_text(cell.optimism)}, both halves of the items choose the same checkpoints"
    shown = f"{number_text(cell.optimism)}{_interval(cell.optimism_low, cell.optimism_high, '.2f')}"
    return f"{shown}, what choosing the peak on half of the reported items adds to it"


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "&lt;0.001"


def _hash(pedigree: PedigreeRecord, path: str) -> str:
    return pedigree.records[path].spec_hash


def _made(record: MadeBy) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return f"{libraries}; commit {record.commit[:12]}"


# --- pieces of a page ------------------------------------------------------------------------------------------------


def _facts(facts: dict[str, str]) -> str:
    """Names and HTML; empty ones are left out."""
    lines = [f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items() if text]
    return f"<dl>\n{joined(lines)}\n</dl>" if lines else ""


def _list(lines: Iterable[str]) -> str:
    """One line as it is, several as a list."""
    found = list(lines)
    return found[0] if len(found) == 1 else f"<ul>{''.join(f'<li>{line}</li>' for line in found)}</ul>" if found else ""


def _link(path: str, shown: str) -> str:
    return f'<a href="{RESULTS}{escape(path)}">{shown}</a>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
