"""A study's table as CSV (tidy, one row per cell), Markdown and LaTeX (booktabs), from the same cells.

Two kinds. Arms: the paper's layout, a row per benchmark with base, score per arm and samples per arm; above the peak over
checkpoints (the paper's measure), below the last checkpoint. Grid: a block per benchmark, two factors of a sweep. Blocks of several
models and data are stacked. What is not known is an empty cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sftstudy import records
from sftstudy.config import ArmsTable, GridTable
from sftstudy.errors import StudyError
from sftstudy.paths import BASE_STAGE, Layout
from sftstudy.spec import StudySpec
from sftstudy.tables.aggregate import Cell, Measure, Pair, Results, Verdict, judge, load_results
from sftstudy.tables.collect import read_training

MEASURES: dict[Measure, str] = {"peak": "Peak over checkpoints", "last": "Last checkpoint"}
CSV_COLUMNS = (
    "model", "data", "benchmark", "unit", "chance", "judge", "measure", "arm", "recipe", "row", "column", "value", "low", "high",
    "num_items", "num_seeds", "num_planned_seeds", "samples_seen", "samples_spent", "best", "p_against_best",
)  # fmt: skip


@dataclass(frozen=True)
class Text:
    """A printed cell: the main number, what follows it in small type, and how it is marked."""

    main: str
    small: str = ""
    bold: bool = False
    italic: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Block:
    """Rows under a common heading."""

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]


@dataclass(frozen=True)
class Printed:
    """A table before it has a format."""

    name: str
    caption: str
    blocks: list[Block] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def render_table(study: StudySpec, table: str, formats: Sequence[str], *, layout: Layout) -> None:
    """Write `tables/{table}.{format}` of a study for each format. Raises StudyError on an unknown table or format."""
    writers: dict[str, Callable[[Printed], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex}
    if unknown := sorted(set(formats) - set(writers)):
        raise StudyError(f"unknown format {', '.join(unknown)}; known are {', '.join(writers)}")
    printed = build_table(load_results(study, layout=layout), table, losses=loss_normalisations(study, layout=layout))
    for name in formats:
        records.write_text(layout.study_folder(study.name) / "tables" / f"{table}.{name}", writers[name](printed))


def build_table(results: Results, table: str, *, losses: Sequence[str] = ()) -> Printed:
    """The blocks, tidy lines and notes of one table. `losses` are the loss normalisations that its runs were trained with."""
    study = results.study
    if table not in study.tables:
        raise StudyError(f"study {study.name} has no table {table}; it has {', '.join(sorted(study.tables)) or 'none'}")
    definition = study.tables[table]
    printed = Printed(name=f"{study.name}-{table}", caption=definition.caption)
    for pair in results.pairs:
        if isinstance(definition, ArmsTable):
            _add_arms(printed, results, definition, pair)
        else:
            _add_grid(printed, results, definition, pair)
    printed.notes.extend(_notes(printed, results, losses))
    return printed


def loss_normalisations(study: StudySpec, *, layout: Layout) -> list[str]:
    """How the losses of a study's trained stages were normalised, as far as there are records."""
    trainings = [read_training(stage, layout=layout) for stage in study.stages if stage.stage != BASE_STAGE]
    return sorted({training.loss_normalisation for training in trainings if training})


# --- arms ------------------------------------------------------------------------------------------------------------


def _add_arms(printed: Printed, results: Results, table: ArmsTable, pair: Pair) -> None:
    arms = list(table.arms)
    header = ("Benchmark", "Base", *arms, *(f"{arm} samples" for arm in arms))
    for measure, title in MEASURES.items():
        rows = []
        for benchmark in results.study.benchmarks:
            cells = [results.cell(pair, recipe, benchmark, measure) for recipe in table.arms.values()]
            base = results.base(pair[0], benchmark)
            verdicts = judge(cells, results.study.benchmarks[benchmark])
            rows.append((Text(benchmark), _score(base), *map(_score, cells, verdicts), *_samples(cells)))
            printed.lines.append(_line(results, pair, benchmark, measure, "base", "", base))
            for (arm, recipe), cell, verdict in zip(table.arms.items(), cells, verdicts, strict=True):
                printed.lines.append(_line(results, pair, benchmark, measure, arm, recipe, cell, verdict))
        printed.blocks.append(Block(f"{_heading(results, pair)}{title}", header, tuple(rows)))


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
    cells_of = _grid_recipes(results.study, table, pair)
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
            body = [(Text(factor_text(row)), *(_grid_score(cells, verdicts, (row, column)) for column in columns)) for row in rows]
            base_text = _score(base)
            heading = f"{_heading(results, pair)}{benchmark}" + (
                f", base {base_text.main} {base_text.small}" if base_text.main else ""
            )
            header = (f"{_words(table.rows)} / {_words(table.columns)}", *map(factor_text, columns))
            printed.blocks.append(Block(heading, header, tuple(body)))


def _grid_recipes(study: StudySpec, table: GridTable, pair: Pair) -> dict[tuple[Any, Any], str]:
    """(row, column) -> recipe. Raises StudyError if a factor is unknown, or two recipes of the sweep share a place."""
    factors = {stage.recipe: stage.factors for stage in study.stages if (stage.model, stage.data) == pair}
    places: dict[tuple[Any, Any], str] = {}
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


def _grid_score(cells: dict[tuple[Any, Any], Cell], verdicts: dict[tuple[Any, Any], Verdict], place: tuple[Any, Any]) -> Text:
    if place not in cells:
        return Text("")
    text, estimate = _score(cells[place], verdicts[place]), cells[place].estimate
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


def number_text(value: float) -> str:
    """Two decimals, as in the paper; never -0.00, and 0.01 is the least half width that prints as such."""
    if 0 < value < 0.005:
        return f"{value:.3f}" if value >= 0.0005 else "0.00"
    return f"{value + 0.0:.2f}"


def factor_text(value: Any) -> str:
    """A factor's level as people write it: 2e-5, 3,840, cosine, none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "none" if value is None else str(value)
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    digits, _, exponent = f"{value:e}".partition("e")
    small = f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return small if abs(value) <= 0.01 else f"{value:g}"


def sortable(value: Any) -> tuple[int, float, str]:
    """Key that puts a factor's levels in order: numbers first, then words."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, "" if value is None else str(value)


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
    seeds = sorted({line["num_planned_seeds"] for line in printed.lines if line["arm"] != "base"})
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


# --- formats ---------------------------------------------------------------------------------------------------------


def to_csv(printed: Printed) -> str:
    """Tidy: one row per cell, unrounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(printed.lines)
    return out.getvalue()


def to_markdown(printed: Printed) -> str:
    """Caption, a pipe table per block, notes."""
    parts = [f"**{_escape_markdown(printed.caption)}**"]
    for block in printed.blocks:
        rows = [[_to_markdown(text) for text in row] for row in block.rows]
        header = [_escape_markdown(name) for name in block.header]
        widths = [max(3, *(len(row[column]) for row in [header, *rows])) for column in range(len(header))]
        lines = [header, ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]], *rows]
        text = "\n".join("| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines)
        parts.append(f"{_escape_markdown(block.heading)}\n\n{text}")
    parts.append("\n".join(f"- {_escape_markdown(note)}" for note in printed.notes))
    return "\n\n".join(parts) + "\n"


def to_latex(printed: Printed) -> str:
    """A `table` float for booktabs; non-ASCII marks are commands of plain LaTeX."""
    width = max((len(block.header) for block in printed.blocks), default=1)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"  \centering",
        rf"  \caption{{{_escape_latex(printed.caption)}}}",
        rf"  \label{{tab:{printed.name}}}",
        r"  \small\setlength{\tabcolsep}{4pt}",
        rf"  \begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"    \toprule",
    ]
    header: tuple[str, ...] = ()
    for number, block in enumerate(printed.blocks):
        if number:
            lines.append(r"    \midrule")
        if block.header != header:
            header = block.header
            names = [_escape_latex(name) for name in header] + [""] * (width - len(header))
            lines += ["    " + " & ".join(names) + r" \\", r"    \midrule"]
        lines.append(rf"    \multicolumn{{{width}}}{{l}}{{\itshape {_escape_latex(block.heading)}}} \\")
        for row in block.rows:
            texts = [_to_latex(text) for text in row] + [""] * (width - len(row))
            lines.append("    " + " & ".join(texts) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}", "", r"  \smallskip", r"  \begin{minipage}{\linewidth}\footnotesize"]
    lines += [f"    {_escape_latex(note)}" for note in printed.notes]
    lines += [r"  \end{minipage}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _to_markdown(text: Text) -> str:
    main = _escape_markdown(text.main)
    main = f"**{main}**" if text.bold else f"*{main}*" if text.italic else main
    return f"{main} {text.small}{text.mark}".rstrip() if text.small else main + text.mark


def _escape_markdown(text: str) -> str:
    for character in "\\|*_":
        text = text.replace(character, f"\\{character}")
    return text


def _to_latex(text: Text) -> str:
    main = _escape_latex(text.main)
    main = rf"\textbf{{{main}}}" if text.bold else rf"\textit{{{main}}}" if text.italic else main
    mark = "".join(_LATEX[character] for character in text.mark)
    small = rf" {{\scriptsize {_escape_latex(text.small)}}}" if text.small else ""
    return main + small + mark


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$",
    "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "±": r"$\pm$",
}  # fmt: skip


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
