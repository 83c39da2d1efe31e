"""A study's report: one page to enter by, made of everything that was made of the study. No scripts, no other files.

Tables stand in it as they are printed, figures as pictures; links are relative, so that a copied `results/` needs no network.
"""

from __future__ import annotations

import base64
import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from sftstudy import records
from sftstudy.config import ConfigurationTable
from sftstudy.findings import ClaimsRecord, GuideRecord
from sftstudy.paths import BASE_STAGE, Layout
from sftstudy.pedigree import PedigreeRecord
from sftstudy.spec import StudySpec
from sftstudy.tables.audit_files import CAPTIONS
from sftstudy.tables.collect import read_training
from sftstudy.tables.configuration import build_configuration
from sftstudy.tables.guide_page import MARKS, in_short
from sftstudy.tables.pieces import bullets, document, joined, section, table
from sftstudy.tables.printed import Block, Printed, Text
from sftstudy.tables.render import build_table
from sftstudy.tables.style import CLAIMS_STYLE, GUIDE_STYLE, REPORT_STYLE

TO_RESULTS = "../../"
"""From a study's folder to the root of the records."""

CONFIGURATION = "configuration"
FORMATS = ("html", "csv", "md", "tex", "pedigree.json")
MOST_PATHS = 200
"""More missing records than that are counted."""


def write_report(study: StudySpec, *, layout: Layout) -> None:
    """Write `report.html` of a study, from what lies in its folder. Raises StudyError for a file that is not there yet."""
    records.write_text(layout.study_folder(study.name) / "report.html", to_html(study, layout=layout))


def to_html(study: StudySpec, *, layout: Layout) -> str:
    """The whole page."""
    folder = layout.study_folder(study.name)
    guide = records.read_record(folder / "guide.json", GuideRecord)
    parts = {
        "advice": ("Advice", _advice(study, guide)),
        "claims": ("Claims", _claims(folder) if study.claims else ""),
        "tables": ("Tables", joined(_table(study, name, layout=layout) for name in study.tables)),
        "figures": ("Figures", joined(_figures(study, folder))),
        "early-stopping": ("Early stopping", _early_stopping(study, folder)),
        "configuration": ("Configuration", _configuration(study)),
        "missing": ("Missing records", _missing(study, layout=layout)),
        "versions": ("Versions", _versions(study, layout=layout)),
    }
    shown = {name: part for name, part in parts.items() if part[1]}
    links = joined(f'<li><a href="#{name}">{title}</a></li>' for name, (title, _) in shown.items())
    summary = (folder / "summary.txt").read_text().splitlines()
    return document(
        title=f"Report: {escape(study.name)}",
        style=CLAIMS_STYLE + GUIDE_STYLE + REPORT_STYLE,
        kind="Report",
        heading=escape(study.name),
        head=[
            f'<p class="question">{escape(study.question)}</p>',
            f'<nav aria-label="Sections"><ul>\n{links}\n</ul></nav>',
            bullets((_summary_line(line) for line in summary), style="plain summary"),
        ],
        body=[
            *(section(title, content, name=name, style="long") for name, (title, content) in shown.items()),
            _more(study, layout=layout),
        ],
    )


def _summary_line(line: str) -> str:
    head, _, rest = line.partition(":")
    return f"<b>{escape(head)}:</b>{escape(rest)}"


def _advice(study: StudySpec, guide: GuideRecord) -> str:
    several = len(guide.pairs) > 1
    parts = []
    for pair in guide.pairs:
        parts += [f"<h3>{escape(pair.model)}, {escape(pair.data)}</h3>"] if several else []
        parts.append(in_short(study, pair))
    told = "the recipe to paste, the evidence factor by factor, what to try next"
    link = f'<p class="after"><a href="guide.html">The guide</a>: {told}.</p>'
    return joined([*parts, link])


def _claims(folder: Path) -> str:
    claims = records.read_record(folder / "claims.json", ClaimsRecord).claims
    rows = [
        [
            f'<a href="claims.html#{escape(claim.name)}">{escape(claim.statement)}</a>',
            escape(claim.finding or ""),
            f'<span class="badge {MARKS[claim.verdict]}">{claim.verdict}</span>',
        ]
        for claim in claims
    ]
    return table(["claim", "finding of the paper", "verdict"], rows, style="words")


# --- tables and figures ----------------------------------------------------------------------------------------------


def _table(study: StudySpec, name: str, *, layout: Layout) -> str:
    """A table whose cells lead to what they rest on, on the table's own page."""
    links = " ".join(f'<a href="tables/{escape(name)}.{kind}">{kind}</a>' for kind in FORMATS)
    drawn = records.read_record(layout.study_folder(study.name) / "tables" / f"{name}.pedigree.json", PedigreeRecord)
    printed = build_table(study, name, layout=layout, drawn=drawn)
    return _printed(printed, name=name, page=f"tables/{escape(name)}.html", after=f'<p class="files">{links}</p>')


def _printed(printed: Printed, *, name: str, page: str = "", after: str = "") -> str:
    notes = f"<details>\n<summary>Notes</summary>\n{bullets(map(escape, printed.notes))}\n</details>" if printed.notes else ""
    blocks = joined(_block(block, long=bool(printed.wide), page=page) for block in printed.blocks)
    return f'<article id="table-{escape(name)}">\n<h3>{escape(printed.caption)}</h3>\n{blocks}\n{notes}\n{after}\n</article>'


def _block(block: Block, *, long: bool, page: str) -> str:
    rows = [[escape(row[0].main + row[0].mark), *(_text(text, page=page) for text in row[1:])] for row in block.rows]
    shown = table(list(map(escape, block.header)), rows, style="words prose" if long else "")
    base = f", base {_text(block.base, page=page)}" if block.base and block.base.main else ""
    return f'<p class="heading">{escape(block.heading)}{base}</p>\n{shown}'


def _text(text: Text, *, page: str) -> str:
    main = escape(text.main)
    main = f'<b class="better">{main}</b>' if text.bold else f'<i class="fewest">{main}</i>' if text.italic else main
    small = f" <small>{escape(text.small)}</small>" if text.small else ""
    shown = f"{main}{small}{escape(text.mark)}"
    return f'<a class="cell" href="{page}#{escape(text.key)}">{shown}</a>' if page and text.key and shown else shown


def _figures(study: StudySpec, folder: Path) -> Iterable[str]:
    for name, figure in study.figures.items():
        yield _picture(folder / "figures" / f"{name}.png", figure.caption, pdf=f"figures/{name}.pdf")


def _picture(png: Path, caption: str, *, pdf: str) -> str:
    data = base64.b64encode(png.read_bytes()).decode()
    told = escape(caption)
    return (
        f'<figure>\n<img alt="{told}" src="data:image/png;base64,{data}">\n'
        f'<figcaption>{told} <a href="{escape(pdf)}">PDF</a></figcaption>\n</figure>'
    )


def _early_stopping(study: StudySpec, folder: Path) -> str:
    """What a screen saved and cost, and the replay of other rules, where the study asks for them."""
    parts = []
    if study.screen:
        parts.append('<p><a href="screen/screen.html">What the screen saved, and what it may have cost</a></p>')
        parts += [
            _picture(folder / "screen" / f"{name}.png", caption, pdf=f"screen/{name}.pdf") for name, caption in CAPTIONS.items()
        ]
    if study.replay:
        caption = "What rules of early stopping would have lost, over what they would have saved."
        parts.append(_picture(folder / "replay" / "replay.png", caption, pdf="replay/replay.pdf"))
        parts.append('<p class="files"><a href="replay/replay.csv">csv</a></p>')
    return joined(parts)


# --- what it rests on ------------------------------------------------------------------------------------------------


def _configuration(study: StudySpec) -> str:
    """Every value of every run with its source, folded away; a study that has a table of it shows it among its tables."""
    named = [name for name, one in study.tables.items() if isinstance(one, ConfigurationTable)]
    if named:
        return f'<p><a href="#table-{escape(named[0])}">Every value of every run, and where it comes from</a></p>'
    caption = "Every value of every run, and where it comes from."
    printed = build_configuration(study, CONFIGURATION, ConfigurationTable(kind="configuration", caption=caption))
    return f"<details>\n<summary>{caption}</summary>\n{_printed(printed, name=CONFIGURATION)}\n</details>"


def _missing(study: StudySpec, *, layout: Layout) -> str:
    with layout.missing_csv().open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["study"] == study.name]
    if not rows:
        return "<p>None: every planned record is there and answers to today&rsquo;s plan.</p>"
    counts = Counter(row["reason"] for row in rows)
    told = ", ".join(f"{number:,} {escape(reason)}" for reason, number in sorted(counts.items()))
    listed = [[f"<code>{escape(row['path'])}</code>", escape(row["reason"]), escape(row["detail"])] for row in rows[:MOST_PATHS]]
    rest = f'<p class="note">{len(rows) - MOST_PATHS:,} more in missing.csv</p>' if len(rows) > MOST_PATHS else ""
    shown = table(["record", "reason", "detail"], listed, style="words prose")
    return f"<details>\n<summary>{told}</summary>\n{shown}\n{rest}\n</details>"


def _versions(study: StudySpec, *, layout: Layout) -> str:
    """What trained and scored the study's runs: libraries, commits, harnesses, and on what."""
    stages = [stage for stage in study.stages if stage.stage != BASE_STAGE]
    trained = [training for stage in stages if (training := read_training(stage, layout=layout))]
    libraries: dict[str, Counter[str]] = {}
    for training in trained:
        for library, version in training.versions.items():
            libraries.setdefault(library, Counter())[version] += 1
    facts: dict[str, Mapping[str, int]] = {
        **libraries,
        "device": Counter(training.device for training in trained),
        "processes": Counter(str(training.num_processes) for training in trained),
        "precision": Counter(training.precision for training in trained),
        "attention": Counter(training.attention for training in trained),
        "commit, training": Counter(training.commit for training in trained),
        **_scored_by(study, layout=layout),
    }
    rows = [[escape(name), _counted(found)] for name, found in facts.items() if found]
    return table(["", "with the number of stages or scores, if there are several"], rows, style="words") if rows else ""


def _scored_by(study: StudySpec, *, layout: Layout) -> dict[str, Counter[str]]:
    """Harnesses, judges and commits of the study's scores."""
    keys = ("model", "data", "recipe", "seed", "stage")
    mine = {(stage.model, stage.data, stage.recipe, str(stage.seed), stage.stage) for stage in study.stages}
    found: dict[str, Counter[str]] = {"harness": Counter(), "judge": Counter(), "commit, scoring": Counter()}
    with layout.scores_csv().open(newline="") as file:
        for row in csv.DictReader(file):
            if row["benchmark"] not in study.benchmarks or tuple(row[key] for key in keys) not in mine:
                continue
            found["harness"][f"{row['harness']} {row['harness_version']}"] += 1
            found["commit, scoring"][row["commit"]] += 1
            if row["judge"]:
                found["judge"][row["judge"]] += 1
    return found


def _counted(found: Mapping[str, int]) -> str:
    """One value alone, several with how often each occurs."""
    if len(found) == 1:
        return escape(next(iter(found)))
    return ", ".join(f"{escape(value)} ({number:,})" for value, number in sorted(found.items()))


def _more(study: StudySpec, *, layout: Layout) -> str:
    """Links to what else lies in the results."""
    pairs = sorted({(stage.model, stage.data) for stage in study.stages if stage.stage != BASE_STAGE})
    files = [
        *((layout.passport(model, data), f"data passport of {data} for {model}, of snakemake passports") for model, data in pairs),
        (layout.scores_csv(), "every score of every checkpoint"),
        (layout.missing_csv(), "every missing record"),
    ]
    links = [f'<a href="{TO_RESULTS}{path.relative_to(layout.results).as_posix()}">{escape(text)}</a>' for path, text in files]
    own = [
        '<a href="../../index.html">all studies</a>',
        '<a href="spec.yaml">the study&rsquo;s resolved plan</a>',
        '<a href="summary.txt">the summary as text</a>',
    ]
    return section("Files", bullets([*links, *own]), name="files")
