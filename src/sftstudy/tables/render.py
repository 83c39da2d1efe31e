"""A study's table as CSV (tidy, one row per cell), Markdown and LaTeX (booktabs), from the same cells.

Two kinds hold scores. Arms: the paper's layout, a row per benchmark with base, score and samples per arm; above the peak over
checkpoints (the paper's measure), perhaps with the paper's own numbers, below the last checkpoint. Grid: a block per benchmark, two
factors of a sweep. Blocks of several models and data are stacked. What is not known is an empty cell. Two more need no scores: the
study's configuration, and published numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sftstudy import records
from sftstudy.averages import NORMALISED
from sftstudy.config import NO_NAME, ArmsTable, ConfigurationTable, GridTable, PublishedNumbers
from sftstudy.errors import StudyError
from sftstudy.paths import BASE_STAGE, Layout
from sftstudy.spec import StudySpec
from sftstudy.tables.aggregate import Cell, Measure, Pair, Results, Verdict, judge, load_results
from sftstudy.tables.collect import read_training
from sftstudy.tables.configuration import Assumptions, build_configuration
from sftstudy.tables.printed import Block, Printed, Text, factor_text, number_text, sortable, to_csv, to_latex, to_markdown
from sftstudy.tables.published import EVIDENCE, arms_header, beside, build_published

MEASURES: dict[Measure, str] = {"peak": "Peak over checkpoints", "last": "Last checkpoint"}
CSV_COLUMNS = (
    "model", "data", "benchmark", "unit", "chance", "judge", "measure", "arm", "recipe", "row", "column", "value", "low", "high",
    "num_items", "num_seeds", "num_planned_seeds", "samples_seen", "samples_spent", "best", "p_against_best",
)  # fmt: skip


Place = tuple[Any, Any]
"""Levels of a grid's two factors."""


def render_table(study: StudySpec, table: str, formats: Sequence[str], *, layout: Layout) -> None:
    """Write `tables/{table}.{format}` of a study for each format. Raises StudyError on an unknown table or format."""
    writers: dict[str, Callable[[Printed], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex}
    if unknown := sorted(set(formats) - set(writers)):
        raise StudyError(f"unknown format {', '.join(unknown)}; known are {', '.join(writers)}")
    printed = build_table(study, table, layout=layout)
    for name in formats:
        records.write_text(layout.study_folder(study.name) / "tables" / f"{table}.{name}", writers[name](printed))


def build_table(study: StudySpec, table: str, *, layout: Layout) -> Printed:
    """A study's table before it has a format. Raises StudyError on an unknown table."""
    if table not in study.tables:
        raise StudyError(f"study {study.name} has no table {table}; it has {', '.join(sorted(study.tables)) or 'none'}")
    match study.tables[table]:
        case ConfigurationTable() as configuration:
            return build_configuration(study, table, configuration)
        case PublishedNumbers() as published:
            return build_published(study, table, published)
        case ArmsTable() | GridTable() as scores:
            losses = loss_normalisations(study, layout=layout)
            return _build_scores(load_results(study, layout=layout), table, scores, losses)


def _build_scores(results: Results, table: str, definition: ArmsTable | GridTable, losses: Sequence[str]) -> Printed:
    """The blocks, tidy lines and notes of one table. `losses` are the loss normalisations that its runs were trained with."""
    study = results.study
    printed = Printed(name=f"{study.name}-{table}", caption=definition.caption, columns=CSV_COLUMNS)
    for pair in results.pairs:
        if isinstance(definition, ArmsTable):
            _add_arms(printed, results, definition, pair)
        else:
            _add_grid(printed, results, definition, pair)
    printed.notes.extend(_notes(printed, results, losses))
    if isinstance(definition, ArmsTable):
        recipes = definition.arms
        if definition.paper:
            published = study.published[definition.paper]
            printed.notes.append(
                f"paper: {published.place} as printed, {published.model}, {published.data}"
                f" (evidence {published.grade}: {EVIDENCE[published.grade]})."
            )
            if any(benchmark.normalised for benchmark in study.benchmarks.values()):
                printed.notes.append(
                    f"{NORMALISED}: on the leaderboard's scale, where guessing is 0, as the paper's leaderboard rows."
                )
    else:
        recipes = {recipe: recipe for recipe in study.sweeps.get(definition.sweep, ())}
    printed.notes.extend(Assumptions(study).notes(recipes, list(study.benchmarks)))
    return printed


def loss_normalisations(study: StudySpec, *, layout: Layout) -> list[str]:
    """How the losses of a study's trained stages were normalised, as far as there are records."""
    trainings = [read_training(stage, layout=layout) for stage in study.stages if stage.stage != BASE_STAGE]
    return sorted({training.loss_normalisation for training in trainings if training})


# --- arms ------------------------------------------------------------------------------------------------------------


def _add_arms(printed: Printed, results: Results, table: ArmsTable, pair: Pair) -> None:
    assumed, published = Assumptions(results.study), results.study.published.get(table.paper or "")
    header = arms_header([arm + assumed.mark("recipe", recipe) for arm, recipe in table.arms.items()])
    for measure, title in MEASURES.items():
        rows = []
        for benchmark in results.study.benchmarks:
            cells = [results.cell(pair, recipe, benchmark, measure) for recipe in table.arms.values()]
            base = results.base(pair[0], benchmark)
            verdicts = judge(cells, results.study.benchmarks[benchmark])
            label = Text(benchmark, mark=assumed.mark("benchmark", benchmark))
            rows.append((label, _score(base), *map(_score, cells, verdicts), *_samples(cells)))
            printed.lines.append(_line(results, pair, benchmark, measure, "base", "", base))
            for (arm, recipe), cell, verdict in zip(table.arms.items(), cells, verdicts, strict=True):
                printed.lines.append(_line(results, pair, benchmark, measure, arm, recipe, cell, verdict))
            if published and measure == "peak":
                if results.study.benchmarks[benchmark].normalised:
                    rows.append(_add_normalised(printed, results, table, pair, benchmark))
                rows += beside(published, benchmark)
        printed.blocks.append(Block(f"{_heading(results, pair)}{title}", header, tuple(rows)))


def _add_normalised(printed: Printed, results: Results, table: ArmsTable, pair: Pair, benchmark: str) -> tuple[Text, ...]:
    """Our peaks on the leaderboard's scale, on which the paper's are; without intervals, which are those of the raw scores."""
    base = results.normalised((pair[0], NO_NAME), NO_NAME, benchmark)
    arms = [results.normalised(pair, recipe, benchmark) for recipe in table.arms.values()]
    line = {"model": pair[0], "data": pair[1], "benchmark": benchmark, "unit": "fraction", "chance": 0.0}
    line |= {"measure": f"{NORMALISED} peak"}
    for arm, recipe, found in zip(["base", *table.arms], ["", *table.arms.values()], [base, *arms], strict=True):
        numbers = {} if found is None else {"value": found[0], "samples_seen": found[1]}
        printed.lines.append(line | {"arm": arm, "recipe": recipe} | numbers)
    scores = [Text("" if found is None else number_text(found[0])) for found in (base, *arms)]
    return Text(f"{benchmark}, {NORMALISED}"), *scores, *(Text("" if found is None else f"{found[1]:,.0f}") for found in arms)


def _samples(cells: Sequence[Cell]) -> list[Text]:
    """Mean samples seen, samples spent behind it if they differ; the fewest spent in italics."""
    known = [cell.samples_spent for cell in cells if cell.samples_spent is not None]
    least = min(known) if len(set(known)) > 1 else None
    texts = []
    for cell in cells:
        if cell.samples_seen is None or cell.samples_spent is None:
            texts.append(Text(""))
            continue
        spent = f"({cell.samples_spent:,.0f} spent)" if cell.samples_spent != cell.samples_seen else ""
        texts.append(Text(f"{cell.samples_seen:,.0f}", spent, italic=cell.samples_spent == least))
    return texts


# --- grid ------------------------------------------------------------------------------------------------------------


def _add_grid(printed: Printed, results: Results, table: GridTable, pair: Pair) -> None:
    cells_of, assumed = _grid_recipes(results.study, table, pair), Assumptions(results.study)
    rows = sorted({row for row, _ in cells_of}, key=sortable)
    columns = sorted({column for _, column in cells_of}, key=sortable)
    for benchmark, definition in results.study.benchmarks.items():
        for measure in MEASURES:
            cells = {place: results.cell(pair, recipe, benchmark, measure) for place, recipe in cells_of.items()}
            verdicts = dict(zip(cells, judge(list(cells.values()), definition), strict=True))
            base = results.base(pair[0], benchmark)
            printed.lines.append(_line(results, pair, benchmark, measure, "base", "", base))
            for (row, column), cell in cells.items():
                line = _line(results, pair, benchmark, measure, "", cells_of[row, column], cell, verdicts[row, column])
                printed.lines.append(line | {"row": row, "column": column})
            if measure != "peak":
                continue
            marks = {place: assumed.mark("recipe", recipe) for place, recipe in cells_of.items()}
            body = [
                (Text(factor_text(row)), *(_grid_score(cells, verdicts, marks, (row, column)) for column in columns))
                for row in rows
            ]
            base_text = _score(base)
            heading = f"{_heading(results, pair)}{benchmark}{assumed.mark('benchmark', benchmark)}" + (
                f", base {base_text.main} {base_text.small}" if base_text.main else ""
            )
            header = (f"{_words(table.rows)} / {_words(table.columns)}", *map(factor_text, columns))
            printed.blocks.append(Block(heading, header, tuple(body)))


def _grid_recipes(study: StudySpec, table: GridTable, pair: Pair) -> dict[Place, str]:
    """(row, column) -> recipe. Raises StudyError if a factor is unknown, or two recipes of the sweep share a place."""
    factors = {stage.recipe: stage.factors for stage in study.stages if (stage.model, stage.data) == pair}
    places: dict[Place, str] = {}
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


def _grid_score(cells: dict[Place, Cell], verdicts: dict[Place, Verdict], marks: dict[Place, str], place: Place) -> Text:
    if place not in cells:
        return Text("")
    text, estimate = _score(cells[place], verdicts[place]), cells[place].estimate
    text = replace(text, mark=text.mark + marks[place])
    if estimate is None or estimate.half is None:
        return text
    return replace(text, small=f"± {number_text(estimate.half)}")


# --- cells -----------------------------------------------------------------------------------------------------------


def _score(cell: Cell, verdict: Verdict | None = None) -> Text:
    if cell.estimate is None:
        return Text("")
    best, tied = (verdict.best, verdict.tied) if verdict else (False, False)
    mark = ("†" if tied else "") + ("‡" if len(cell.seeds) < len(cell.planned_seeds) else "")
    return Text(number_text(cell.estimate.value), interval_text(cell), bold=best, mark=mark)


def interval_text(cell: Cell) -> str:
    """`[low, high]` as tables print it; empty where it is not known."""
    estimate = cell.estimate
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"[{number_text(estimate.low)}, {number_text(estimate.high)}]"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _heading(results: Results, pair: Pair) -> str:
    return f"{pair[0]}, {pair[1]}: " if len(results.pairs) > 1 else ""


def _line(
    results: Results, pair: Pair, benchmark: str, measure: str, arm: str, recipe: str, cell: Cell, verdict: Verdict | None = None
) -> dict[str, Any]:
    definition = results.study.benchmarks[benchmark]
    line: dict[str, Any] = {"model": pair[0], "data": pair[1], "benchmark": benchmark, "unit": definition.unit}
    line |= {"chance": definition.chance, "judge": definition.judge, "measure": measure, "arm": arm, "recipe": recipe}
    line |= {"num_seeds": len(cell.seeds), "num_planned_seeds": len(cell.planned_seeds)}
    line |= {"samples_seen": cell.samples_seen, "samples_spent": cell.samples_spent}
    if cell.estimate is not None:
        line |= {"value": cell.estimate.value, "low": cell.estimate.low, "high": cell.estimate.high}
        line |= {"num_items": cell.estimate.num_items}
    return line | ({"best": verdict.best, "p_against_best": verdict.p} if verdict else {})


def _notes(printed: Printed, results: Results, losses: Sequence[str]) -> list[str]:
    """What a reader must know to trust the numbers."""
    benchmarks = results.study.benchmarks
    seeds = sorted({line["num_planned_seeds"] for line in printed.lines if line["arm"] != "base" and "num_planned_seeds" in line})
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
        "Bold: best of its row or block. †: no difference to the best can be shown (paired by item, Holm-corrected, 0.05).",
    ]
    if any(row_text.italic for block in printed.blocks for row in block.rows for row_text in row):
        notes.append("Italics: fewest samples, counting those spent beyond selected checkpoints.")
    if any("‡" in text.mark for block in printed.blocks for row in block.rows for text in row):
        notes.append("‡: fewer seeds than planned.")
    if any(line.get("value") is None for line in printed.lines):
        notes.append("Empty: a record is missing, stale or without a valid score; results/missing.csv names it.")
    if chance:
        notes.append(f"Guessing scores: {chance}.")
    if lowest:
        notes.append(f"On the judge's 1-10 scale: {lowest}. Judge: {', '.join(judges) or 'not named'}.")
    notes += [
        f"{name}: judged again, a score moves by {spread:.2f} (standard deviation between judgings, mean over checkpoints)."
        for name, spread in results.spreads.items()
    ]
    if losses:
        notes.append(f"Loss normalisation in training: {'; '.join(losses)}.")
    return notes
