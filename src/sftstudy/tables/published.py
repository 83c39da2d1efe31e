"""The paper's own numbers as tables: alone, in the paper's layout, and as a row beside ours."""

from __future__ import annotations

from typing import Any

from sftstudy.config import Grade, PublishedNumbers, PublishedRow, PublishedTable, Quoted
from sftstudy.spec import StudySpec
from sftstudy.tables.printed import Block, Printed, Text, number_text

EVIDENCE: dict[Grade, str] = {
    "A": "seen in a copy of the paper",
    "B": "seen in a text that says it read the paper",
    "C": "seen in its authors' code or earlier papers",
    "D": "derived from what was seen",
    "M": "unverified",
}
QUOTED_HEADER = ("Statement", "Values", "Evidence", "Where")
CSV_COLUMNS = ("place", "grade", "model", "data", "benchmark", "row", "column", "quantity", "value", "better")


def build_published(study: StudySpec, table: str, definition: PublishedNumbers) -> Printed:
    """A table of published numbers: a block per table of the paper, and one for numbers of its prose."""
    wide = () if definition.tables else (0, len(QUOTED_HEADER) - 1)
    printed = Printed(name=f"{study.name}-{table}", caption=definition.caption, columns=CSV_COLUMNS, wide=wide)
    grades: list[Grade] = []
    for name in definition.tables:
        published = study.published[name]
        grades.append(published.grade)
        rows = tuple(
            (Text(row.label), Text("-" if row.base is None else number_text(row.base)), *arm_texts(row, published.arms))
            for row in published.rows.values()
        )
        heading = f"{published.place} ({published.grade}): {published.caption} {published.model}, {published.data}"
        printed.blocks.append(Block(heading, arms_header(published.arms), rows))
        printed.lines.extend(_lines(published))
    if definition.tables:
        printed.notes.append("Bold: the better score. Italics: the fewer samples. Equal ones are both marked. -: not printed.")
    if quotes := [study.quoted[name] for name in definition.quoted]:
        grades += [quote.grade for quote in quotes]
        printed.blocks.append(Block("Quoted", QUOTED_HEADER, tuple(map(_quoted_row, quotes))))
        printed.lines.extend(_quoted_line(quote, value) for quote in quotes for value in quote.values)
    meanings = "; ".join(f"{grade}: {EVIDENCE[grade]}" for grade in sorted(set(grades)))
    printed.notes.append(f"Published numbers only, nothing measured here. Evidence {meanings}.")
    return printed


def arms_header(arms: list[str]) -> tuple[str, ...]:
    """Columns of the paper's layout: base, scores, samples."""
    return ("Benchmark", "Base", *arms, *(f"{arm} samples" for arm in arms))


def arm_texts(row: PublishedRow, arms: list[str]) -> list[Text]:
    """Scores, then samples, of the arms; the better score and the fewer samples marked, several if they are equal."""
    best, least = max(row.scores.values()), min(row.samples.values())
    scores = [Text(number_text(row.scores[arm]), bold=row.scores[arm] == best) for arm in arms]
    return scores + [Text(f"{row.samples[arm]:,}", italic=row.samples[arm] == least) for arm in arms]


def beside(published: PublishedTable, benchmark: str) -> list[tuple[Text, ...]]:
    """The paper's rows for a benchmark, to stand below ours; none if the paper has none."""
    rows = [row for name, row in published.rows.items() if benchmark in (name, *row.also)]
    bases = [Text("" if row.base is None else number_text(row.base)) for row in rows]
    return [(Text(f"paper, {row.label}"), base, *arm_texts(row, published.arms)) for row, base in zip(rows, bases, strict=True)]


def _lines(published: PublishedTable) -> list[dict[str, Any]]:
    """A line per printed number."""
    known = {"place": published.place, "grade": published.grade, "model": published.model, "data": published.data}
    lines = []
    for benchmark, row in published.rows.items():
        line = known | {"benchmark": benchmark, "row": row.label}
        if row.base is not None:
            lines.append(line | {"column": "Base", "quantity": "score", "value": row.base})
        best, least = max(row.scores.values()), min(row.samples.values())
        for arm in published.arms:
            score, samples = row.scores[arm], row.samples[arm]
            lines.append(line | {"column": arm, "quantity": "score", "value": score, "better": score == best})
            lines.append(line | {"column": arm, "quantity": "samples", "value": samples, "better": samples == least})
    return lines


def _quoted_row(quote: Quoted) -> tuple[Text, ...]:
    return (
        Text(quote.statement),
        Text(", ".join(f"{value:.{_decimals(value)}f}" for value in quote.values)),
        Text(quote.grade),
        Text(quote.place),
    )


def _decimals(value: float) -> int:
    """As many as the number has, two at least."""
    return max(2, len(f"{value:.6f}".rstrip("0").partition(".")[2]))


def _quoted_line(quote: Quoted, value: float) -> dict[str, Any]:
    return {"place": quote.place, "grade": quote.grade, "row": quote.statement, "quantity": "quoted", "value": value}
