r"""The numbers of a study's tables for prose: `numbers.json`, and `numbers.tex`, which a paper inputs to say `\SftNumber{...}`.

They are read from the tables' CSV files and rounded as the tables are, so a text cannot say what no table does. Differences of two
arms are among them, which no table prints.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from sftstudy import records
from sftstudy.config import ArmsTable, GridTable
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.pedigree import Number, NumbersRecord
from sftstudy.spec import StudySpec
from sftstudy.tables.printed import escape_latex, number_text, range_text

_TEX = r"""%% Numbers of the study %(study)s, rounded as in its tables. In a paper:
%%   \input{%(study)s/numbers/numbers}
%%   LAB reaches \SftNumber{%(example)s/value} \SftNumber{%(example)s/interval}.
%% Quantities: %(quantities)s. Behind each stands tables/TABLE.pedigree.json.
%% Of two studies with tables of one name, \SftNumber{%(study)s/...} says which is meant.
\makeatletter
\providecommand{\SftNumber}[1]{%%
  \ifcsname sft@#1\endcsname\csname sft@#1\endcsname\else\sft@unknown{#1}\fi}
\providecommand{\sft@unknown}[1]{%%
  \PackageError{sftstudy}{No number \detokenize{#1}}{No numbers.tex that was input has it; mind the spelling.}\textbf{??}}
\providecommand{\sft@several}[1]{%%
  \PackageError{sftstudy}{Several studies have a number \detokenize{#1}}{Put one's name and a slash before it.}\textbf{??}}
\providecommand{\sft@define}[3]{%%
  \ifcsname sft@#1/#2\endcsname\else
    \expandafter\gdef\csname sft@#1/#2\endcsname{#3}%%
    \ifcsname sft@#2\endcsname
      \expandafter\gdef\csname sft@#2\endcsname{\sft@several{#2}}%%
    \else
      \expandafter\gdef\csname sft@#2\endcsname{#3}%%
    \fi
  \fi}
%(numbers)s
\makeatother
"""


def write_numbers(study: StudySpec, *, layout: Layout) -> None:
    """Write both files of a study. Raises StudyError if a table was not made yet."""
    folder = layout.study_folder(study.name)
    record = NumbersRecord(study=study.name, numbers=numbers_of(study, folder / "tables"))
    records.write_record(folder / "numbers" / "numbers.json", record)
    records.write_text(folder / "numbers" / "numbers.tex", to_latex(record))


def numbers_of(study: StudySpec, tables: Path) -> dict[str, Number]:
    """`table/cell` -> its number, of all cells of tables of scores that have a value."""
    found: dict[str, Number] = {}
    for table, definition in study.tables.items():
        if not isinstance(definition, ArmsTable | GridTable):
            continue
        path = tables / f"{table}.csv"
        try:
            lines = list(csv.DictReader(path.read_text().splitlines()))
        except FileNotFoundError:
            raise StudyError(f"{path}: missing; build it with `snakemake -c1 {path}`") from None
        for line in lines:
            if line["value"]:
                values = {name: float(text) for name, text in line.items() if name in _NUMBERS and text}
                found[f"{table}/{line['key']}"] = Number(
                    pedigree=f"tables/{table}.pedigree.json#{line['key']}",
                    text=texts(values),
                    **{name: values.get(name) for name in ("value", "low", "high")},
                )
    return found


_NUMBERS = (
    "value", "low", "high", "p", "p_against_best", "samples_seen", "samples_low", "samples_high", "samples_spent", "optimism",
    "optimism_low", "optimism_high", "num_items", "num_seeds",
)  # fmt: skip


def texts(values: Mapping[str, float]) -> dict[str, str]:
    """Quantity -> as a text prints it, from a CSV line; what a cell does not have is absent."""
    counts = {"samples": "samples_seen", "spent": "samples_spent", "items": "num_items", "seeds": "num_seeds"}
    p = values.get("p", values.get("p_against_best"))
    found = {
        "value": number_text(values["value"]),
        "interval": range_text(values.get("low"), values.get("high")),
        **{name: f"{values[column]:,.0f}" for name, column in counts.items() if values.get(column)},
        "optimism": number_text(values["optimism"]) if "optimism" in values else "",
        "optimism-interval": range_text(values.get("optimism_low"), values.get("optimism_high")),
        "p": "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}",
    }
    if "samples_low" in values:
        found["samples-interval"] = f"[{values['samples_low']:,.0f}, {values['samples_high']:,.0f}]"
    return {name: text for name, text in found.items() if text}


def to_latex(record: NumbersRecord) -> str:
    """Macros for all numbers; a key that is not there stops LaTeX with its name."""
    lines = [
        rf"\sft@define{{{record.study}}}{{{key}/{quantity}}}{{{escape_latex(text).replace('-', '$-$')}}}"
        for key, number in record.numbers.items()
        for quantity, text in number.text.items()
    ]
    quantities = dict.fromkeys(quantity for number in record.numbers.values() for quantity in number.text)
    example = next((key for key in record.numbers if not key.endswith("/base")), "table/benchmark/arm/peak")
    names = {"study": record.study, "example": example, "quantities": ", ".join(quantities), "numbers": "\n".join(lines)}
    return _TEX % names
