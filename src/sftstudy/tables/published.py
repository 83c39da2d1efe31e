"""The paper's own numbers as tables: alone, in the paper's layout, and as a row beside ours."""

from __future__ import annotations

from typing import Any

from sftstudy.config import Grade, PublishedNumbers, PublishedTable, Quoted
from sftstudy.pedigree import PedigreeRecord, PrintedCell
from sftstudy.spec import StudySpec
from sftstudy.tables.printed import Block, Printed, Text, number_text, slug

EVIDENCE: dict[Grade, str] = {
    "A": "seen in a copy of the paper",
    "B": "seen in a text that says it read the paper",
    "C": "seen in its authors' code or earlier papers",
    "D": "derived from what was seen",
    "M": "unverified",
}
QUOTED_HEADER = ("Statement", "Values", "Evidence", "Where")
CSV_COLUMNS = ("key", "place", "grade", "model", "data", "benchmark", "row", "column", "quantity", "value", "better")


def build_published(study: StudySpec, table: str, definition: PublishedNumbers) -> Printed:
    """A table of published numbers: a block per table of the paper, and one for numbers of its prose."""
    wide = () if definition.tables else (0, len(QUOTED_HEADER) - 1)
    pedigree = PedigreeRecord(study=study.name, table=table, cells={}, records={})
    printed = Printed(study.name, table, definition.caption, CSV_COLUMNS, pedigree, wide=wide)
    grades: list[Grade] = []
    for name in definition.tables:
        published = study.published[name]
        grades.append(published.grade)
        rows = tuple(
            (Text(row.label), *row_texts(pedigree, published, benchmark, f"{slug(name)}/{benchmark}", absent="-"))
            for benchmark, row in published.rows.items()
        )
        heading = f"{published.place} ({published.grade}): {published.caption} {published.model}, {published.data}"
        printed.blocks.append(Block(heading, arms_header(published.arms), rows))
        printed.lines.extend(_lines(published, slug(name)))
    if definition.tables:
        printed.notes.append("Bold: the better score. Italics: the fewer samples. Equal ones are both marked. -: not printed.")
    if quotes := [study.quoted[name] for name in definition.quoted]:
        grades += [quote.grade for quote in quotes]
        printed.blocks.append(
            Block("Quoted", QUOTED_HEADER, tuple(_quoted_row(pedigree, study, name) for name in definition.quoted))
        )
        printed.lines.extend(
            _quoted_line(study.quoted[name], value, f"quoted/{slug(name)}")
            for name in definition.quoted
            for value in study.quoted[name].values
        )
    meanings = "; ".join(f"{grade}: {EVIDENCE[grade]}" for grade in sorted(set(grades)))
    printed.notes.append(f"Published numbers only, nothing measured here. Evidence {meanings}.")
    return printed


def arms_header(arms: list[str]) -> tuple[str, ...]:
    """Columns of the paper's layout: base, scores, samples."""
    return ("Benchmark", "Base", *arms, *(f"{arm} samples" for arm in arms))


def row_texts(pedigree: PedigreeRecord, published: PublishedTable, benchmark: str, key: str, *, absent: str) -> list[Text]:
    """Base, scores, then samples, of the arms; the better score and the fewer samples marked, several if they are equal.

    Every cell is filed under `key` and the arm. `absent` stands for a base that is not printed.
    """
    row = published.rows[benchmark]
    best, least = max(row.scores.values()), min(row.samples.values())
    known = {"place": published.place, "grade": published.grade, "row": row.label}
    keys = {arm: f"{key}/{slug(arm)}" for arm in published.arms}
    texts = [Text(absent)]
    if row.base is not None:
        texts = [Text(number_text(row.base), key=f"{key}/base")]
        pedigree.cells[f"{key}/base"] = PrintedCell.model_validate(known | {"numbers": {"score": row.base}})
    for arm in published.arms:
        texts.append(Text(number_text(row.scores[arm]), bold=row.scores[arm] == best, key=keys[arm]))
        numbers = {"score": row.scores[arm], "samples": row.samples[arm]}
        pedigree.cells[keys[arm]] = PrintedCell.model_validate(known | {"numbers": numbers})
    return texts + [Text(f"{row.samples[arm]:,}", italic=row.samples[arm] == least, key=keys[arm]) for arm in published.arms]


def beside(pedigree: PedigreeRecord, published: PublishedTable, benchmark: str) -> list[tuple[Text, ...]]:
    """The paper's rows for a benchmark, to stand below ours; none if the paper has none."""
    return [
        (Text(f"paper, {row.label}"), *row_texts(pedigree, published, name, f"paper/{name}", absent=""))
        for name, row in published.rows.items()
        if benchmark in (name, *row.also)
    ]


def _lines(published: PublishedTable, table: str) -> list[dict[str, Any]]:
    """A line per printed number."""
    known = {"place": published.place, "grade": published.grade, "model": published.model, "data": published.data}
    lines = []
    for benchmark, row in published.rows.items():
        line = known | {"benchmark": benchmark, "row": row.label}
        if row.base is not None:
            lines.append(line | {"key": f"{table}/{benchmark}/base", "column": "Base", "quantity": "score", "value": row.base})
        best, least = max(row.scores.values()), min(row.samples.values())
        for arm in published.arms:
            score, samples = row.scores[arm], row.samples[arm]
            here = line | {"key": f"{table}/{benchmark}/{slug(arm)}", "column": arm}
            lines.append(here | {"quantity": "score", "value": score, "better": score == best})
            lines.append(here | {"quantity": "samples", "value": samples, "better": samples == least})
    return lines


def _quoted_row(pedigree: PedigreeRecord, study: StudySpec, name: str) -> tuple[Text, ...]:
    quote, key = study.quoted[name], f"quoted/{slug(name)}"
    numbers = {f"value {place}": value for place, value in enumerate(quote.values, 1)}
    pedigree.cells[key] = PrintedCell(place=quote.place, grade=quote.grade, row=quote.statement, numbers=numbers)
    values = ", ".join(f"{value:.{_decimals(value)}f}" for value in quote.values)
    return Text(quote.statement), Text(values, key=key), Text(quote.grade), Text(quote.place)


def _decimals(value: float) -> int:
    """As many as the number has, two at least."""
    return max(2, len(f"{value:.6f}".rstrip("0").partition(".")[2]))


def _quoted_line(quote: Quoted, value: float, key: str) -> dict[str, Any]:
    return {
        "key": key,
        "place": quote.place,
        "grade": quote.grade,
        "row": quote.statement,
        "quantity": "quoted",
        "value": value,
    }
