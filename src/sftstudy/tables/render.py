"""A study's table as CSV (tidy, one row per cell), Markdown, LaTeX (booktabs) and HTML, from the same cells, with their pedigree.

Two kinds hold scores. Arms: the paper's layout, a row per benchmark with base, score and samples per arm; above the peak over
checkpoints (the paper's measure), perhaps with the paper's own numbers, below the last checkpoint. Grid: a block per benchmark, two
factors of a sweep. Blocks of several models and data are stacked. Benchmarks of the leaderboard have a second row, or block, on its
scale. What is not known is an empty cell. Two more need no scores: the study's configuration, and published numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sftstudy import records
from sftstudy.averages import NORMALISED
from sftstudy.config import ArmsTable, ConfigurationTable, GridTable, PublishedNumbers
from sftstudy.errors import StudyError
from sftstudy.paths import BASE_STAGE, Layout
from sftstudy.pedigree import PedigreeRecord
from sftstudy.spec import StudySpec
from sftstudy.tables.aggregate import Cell, Measure, Pair, Results, judge, load_results
from sftstudy.tables.cells import Place, Sheet
from sftstudy.tables.collect import FAULTS, read_training
from sftstudy.tables.configuration import build_configuration
from sftstudy.tables.printed import (
    Block,
    Printed,
    Text,
    factor_text,
    number_text,
    range_text,
    sortable,
    to_csv,
    to_latex,
    to_markdown,
)
from sftstudy.tables.published import EVIDENCE, arms_header, beside, build_published
from sftstudy.tables.table_page import to_html

MEASURES: dict[Measure, str] = {"peak": "Peak over checkpoints", "last": "Last checkpoint"}
FORMATS = ("csv", "md", "tex", "html")

SHOWN = {
    "samples-interval": "Samples: 95 % interval from draws of items, then of seeds; it can only end at checkpoints.",
    "optimism": "Optimism: what choosing the peak on half of the reported items adds to it there, against a choice on the other"
    " half; a choice on all of them is flattered by less. Its interval is for the checkpoints that were chosen.",
}
"""What else a table of arms can show, and its note."""

Levels = tuple[Any, Any]
"""Of a grid's two factors."""


def render_table(study: StudySpec, table: str, formats: Sequence[str], *, layout: Layout) -> None:
    """Write `tables/{table}.{format}` of a study for each format, and what its cells rest on, `{table}.pedigree.json`.

    Raises StudyError on an unknown table or format.
    """
    writers: dict[str, Callable[[Printed], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex, "html": to_html}
    if unknown := sorted(set(formats) - set(writers)):
        raise StudyError(f"unknown format {', '.join(unknown)}; known are {', '.join(writers)}")
    printed = build_table(study, table, layout=layout)
    folder = layout.study_folder(study.name) / "tables"
    for name in formats:
        records.write_text(folder / f"{table}.{name}", writers[name](printed))
    records.write_record(folder / f"{table}.pedigree.json", printed.pedigree)


def build_table(study: StudySpec, table: str, *, layout: Layout, drawn: PedigreeRecord | None = None) -> Printed:
    """A study's table before it has a format; `drawn` is its pedigree, if it was made before. StudyError on an unknown table."""
    if table not in study.tables:
        raise StudyError(f"study {study.name} has no table {table}; it has {', '.join(sorted(study.tables)) or 'none'}")
    match study.tables[table]:
        case ConfigurationTable() as configuration:
            return build_configuration(study, table, configuration)
        case PublishedNumbers() as published:
            return build_published(study, table, published)
        case ArmsTable() | GridTable() as scores:
            losses = loss_normalisations(study, layout=layout)
            return _build_scores(load_results(study, layout=layout), table, scores, losses, drawn)


def _build_scores(
    results: Results, table: str, definition: ArmsTable | GridTable, losses: Sequence[str], drawn: PedigreeRecord | None
) -> Printed:
    """The blocks, tidy lines and notes of one table. `losses` are the loss normalisations that its runs were trained with."""
    study = results.study
    sheet = Sheet(results, table, definition.caption, drawn=drawn)
    for pair in results.pairs:
        if isinstance(definition, ArmsTable):
            _add_arms(sheet, definition, pair)
        else:
            _add_grid(sheet, definition, pair)
    printed = sheet.printed
    shown = definition.show if isinstance(definition, ArmsTable) else []
    printed.notes.extend(_notes(printed, results, losses, [text for name, text in SHOWN.items() if name in shown]))
    if any(benchmark.normalised for benchmark in study.benchmarks.values()):
        printed.notes.append(
            f"{NORMALISED}: on the leaderboard's scale, where guessing is 0, as the paper's rows; peaks are chosen on it."
        )
    if isinstance(definition, ArmsTable):
        recipes = definition.arms
        if definition.paper:
            published = study.published[definition.paper]
            printed.notes.append(
                f"paper: {published.place} as printed, {published.model}, {published.data}"
                f" (evidence {published.grade}: {EVIDENCE[published.grade]})."
            )
    else:
        recipes = {recipe: recipe for recipe in study.sweeps.get(definition.sweep, ())}
    printed.notes.extend(sheet.assumed.notes(recipes, list(study.benchmarks)))
    return printed


def loss_normalisations(study: StudySpec, *, layout: Layout) -> list[str]:
    """How the losses of a study's trained stages were normalised, as far as there are records."""
    trainings = [read_training(stage, layout=layout) for stage in study.stages if stage.stage != BASE_STAGE]
    return sorted({training.loss_normalisation for training in trainings if training})


# --- arms ------------------------------------------------------------------------------------------------------------


def _add_arms(sheet: Sheet, table: ArmsTable, pair: Pair) -> None:
    results, assumed = sheet.results, sheet.assumed
    published = results.study.published.get(table.paper or "")
    header = arms_header([arm + assumed.mark("recipe", recipe) for arm, recipe in table.arms.items()])
    if "optimism" in table.show:
        header += tuple(f"{arm} optimism" for arm in table.arms)
    for measure, title in MEASURES.items():
        rows = []
        for benchmark, definition in results.study.benchmarks.items():
            rows.append(_arms_row(sheet, table, pair, benchmark, measure))
            if definition.normalised:
                rows.append(_arms_row(sheet, table, pair, benchmark, measure, normalised=True))
            if published and measure == "peak":
                rows += beside(sheet.printed.pedigree, published, benchmark)
        sheet.printed.blocks.append(Block(f"{_heading(results, pair)}{title}", header, tuple(rows)))


def _arms_row(
    sheet: Sheet, table: ArmsTable, pair: Pair, benchmark: str, measure: Measure, *, normalised: bool = False
) -> tuple[Text, ...]:
    """Base, scores, samples and what the table shows besides. On the leaderboard's scale nobody is marked: there are no tests."""
    places = [Place(pair, benchmark, measure, recipe, arm, normalised=normalised) for arm, recipe in table.arms.items()]
    cells = [sheet.cell(place) for place in places]
    verdicts = [None] * len(cells) if normalised else judge(cells, sheet.results.study.benchmarks[benchmark])
    label = Text(f"{benchmark}, {NORMALISED}") if normalised else Text(benchmark, mark=sheet.assumed.mark("benchmark", benchmark))
    base = sheet.base(pair, benchmark, measure, normalised=normalised)
    scores = [sheet.add(*row) for row in zip(places, cells, verdicts, strict=True)]
    if not normalised:
        for place, cell in zip(places[1:], cells[1:], strict=True):
            sheet.add_difference((places[0], place), (cells[0], cell))
    keys = list(map(sheet.key, places))
    texts = [label, base, *scores, *_samples(sheet, cells, keys, interval="samples-interval" in table.show, mark=not normalised)]
    return (*texts, *(_optimism(sheet, key) for key in keys)) if "optimism" in table.show else tuple(texts)


def _samples(sheet: Sheet, cells: Sequence[Cell], keys: Sequence[str], *, interval: bool, mark: bool) -> list[Text]:
    """Mean samples seen, samples spent behind it if they differ; the fewest spent in italics."""
    known = [cell.samples_spent for cell in cells if cell.samples_spent is not None]
    least = min(known) if mark and len(set(known)) > 1 else None
    texts = []
    for cell, key in zip(cells, keys, strict=True):
        if cell.samples_seen is None or cell.samples_spent is None:
            texts.append(Text("", key=key))
            continue
        small = [_range(sheet, key)] if interval else []
        small += [f"({cell.samples_spent:,.0f} spent)"] if cell.samples_spent != cell.samples_seen else []
        texts.append(Text(f"{cell.samples_seen:,.0f}", " ".join(filter(None, small)), italic=cell.samples_spent == least, key=key))
    return texts


def _range(sheet: Sheet, key: str) -> str:
    """Interval of the samples to a peak; empty where it is that one number."""
    cell = sheet.score(key)
    if cell.samples_low is None or cell.samples_high is None or cell.samples_low == cell.samples_high:
        return ""
    return f"[{cell.samples_low:,.0f}, {cell.samples_high:,.0f}]"


def _optimism(sheet: Sheet, key: str) -> Text:
    cell = sheet.score(key)
    if cell.optimism is None:
        return Text("")
    return Text(number_text(cell.optimism), range_text(cell.optimism_low, cell.optimism_high), key=key)


# --- grid ------------------------------------------------------------------------------------------------------------


def _add_grid(sheet: Sheet, table: GridTable, pair: Pair) -> None:
    recipes = _grid_recipes(sheet.results.study, table, pair)
    for benchmark, definition in sheet.results.study.benchmarks.items():
        for normalised in (False, True) if definition.normalised else (False,):
            for measure in MEASURES:
                block = _grid_block(sheet, table, pair, recipes, benchmark, measure, normalised=normalised)
                if measure == "peak":
                    sheet.printed.blocks.append(block)


def _grid_block(
    sheet: Sheet, table: GridTable, pair: Pair, recipes: dict[Levels, str], benchmark: str, measure: Measure, *, normalised: bool
) -> Block:
    results, assumed = sheet.results, sheet.assumed
    base = sheet.base(pair, benchmark, measure, normalised=normalised)
    places = {
        levels: Place(pair, benchmark, measure, recipe, row=levels[0], column=levels[1], normalised=normalised)
        for levels, recipe in recipes.items()
    }
    cells = {levels: sheet.cell(place) for levels, place in places.items()}
    verdicts = [None] * len(cells) if normalised else judge(list(cells.values()), results.study.benchmarks[benchmark])
    texts = {}
    for (levels, cell), verdict in zip(cells.items(), verdicts, strict=True):
        text = sheet.add(places[levels], cell, verdict)
        half = cell.estimate.half if cell.estimate else None
        mark = assumed.mark("recipe", recipes[levels]) if text.main else ""
        texts[levels] = replace(text, mark=text.mark + mark, small=text.small if half is None else f"± {number_text(half)}")
    columns = sorted({column for _, column in recipes}, key=sortable)
    rows = [
        (Text(factor_text(row)), *(texts.get((row, column), Text("")) for column in columns))
        for row in sorted({row for row, _ in recipes}, key=sortable)
    ]
    title = f"{benchmark}, {NORMALISED}" if normalised else f"{benchmark}{assumed.mark('benchmark', benchmark)}"
    header = (f"{_words(table.rows)} / {_words(table.columns)}", *map(factor_text, columns))
    return Block(f"{_heading(results, pair)}{title}", header, tuple(rows), base)


def _grid_recipes(study: StudySpec, table: GridTable, pair: Pair) -> dict[Levels, str]:
    """(row, column) -> recipe. Raises StudyError if a factor is unknown, or two recipes of the sweep share a place."""
    factors = {stage.recipe: stage.factors for stage in study.stages if (stage.model, stage.data) == pair}
    places: dict[Levels, str] = {}
    for recipe in study.sweeps.get(table.sweep, ()):
        if recipe not in factors:
            continue
        for name in (table.rows, table.columns):
            if name not in factors[recipe]:
                raise StudyError(f"study {study.name}: recipe {recipe} has no factor {name} for a grid table")
        place = factors[recipe][table.rows], factors[recipe][table.columns]
        if place in places:
            raise StudyError(
                f"study {study.name}: recipes {places[place]} and {recipe} share {table.rows} and {table.columns};"
                f" a grid table of sweep {table.sweep} needs one recipe per cell"
            )
        places[place] = recipe
    return places


def _words(name: str) -> str:
    return name.replace("_", " ")


def _heading(results: Results, pair: Pair) -> str:
    return f"{pair[0]}, {pair[1]}: " if len(results.pairs) > 1 else ""


def _notes(printed: Printed, results: Results, losses: Sequence[str], shown: Sequence[str]) -> list[str]:
    """What a reader must know to trust the numbers; `shown` explains columns that not every table has."""
    benchmarks = results.study.benchmarks
    seeds = sorted({line["num_planned_seeds"] for line in printed.lines if line.get("recipe")})
    sources = "items only: they say nothing about other seeds"
    if seeds and seeds[-1] > 1:
        sources = "items and seeds" if len(seeds) == 1 else "items, and over seeds where there are several"
    count = " or ".join(map(str, seeds)) or "no"
    judges = sorted({definition.judge for definition in benchmarks.values() if definition.judge})
    chance = ", ".join(f"{name} {definition.chance:g}" for name, definition in benchmarks.items() if definition.unit == "fraction")
    lowest = ", ".join(name for name, definition in benchmarks.items() if definition.unit == "rating")
    notes = [
        f"Mean over {count} seed{'' if count == '1' else 's'} per arm; intervals are 95 % over {sources}.",
        "Peak: each run's best checkpoint, chosen per benchmark on the very items reported, so peaks are optimistic;"
        " of equal scores the one with the fewest samples."
        " Samples: seen by that checkpoint from the base model on, mean over seeds.",
        *shown,
        "Bold: best of its row or block. †: no difference to the best can be shown (paired by item, Holm-corrected, 0.05).",
    ]
    if any(row_text.italic for block in printed.blocks for row in block.rows for row_text in row):
        notes.append("Italics: fewest samples, counting those spent beyond selected checkpoints.")
    if any("‡" in text.mark for block in printed.blocks for row in block.rows for text in row):
        notes.append("‡: fewer seeds than planned.")
    empty = [line["status"].split("; ") for line in printed.lines if "status" in line and line["value"] is None]
    statuses = sorted({reason for reasons in empty for reason in reasons} - {"", *FAULTS})
    notes += [
        f"{status}: by a rule of the study, so there is no score; screen/audit.md has what that costs." for status in statuses
    ]
    if any(set(reasons) & {"", *FAULTS} for reasons in empty):
        notes.append("Empty: a record is missing, stale or without a valid score; results/missing.csv names it.")
    if chance:
        notes.append(f"Guessing scores: {chance}.")
    if lowest:
        notes.append(f"On the judge's 1-10 scale: {lowest}. Judge: {', '.join(judges) or 'not named'}.")
    notes += [
        f"{name}: judged again, a score moves by {spread:.2f} (standard deviation between judgings, mean over checkpoints)."
        for name, spread in results.spreads.items()
    ]
    notes += [
        f"{name}: checkpoints of {', '.join(recipes)} raced for a phase's best one (§). Those that were dropped have no score on"
        " it; the peak of such a phase is the winner's."
        for name, recipes in results.raced.items()
    ]
    if losses:
        notes.append(f"Loss normalisation in training: {'; '.join(losses)}.")
    return notes
