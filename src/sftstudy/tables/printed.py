"""A table between its numbers and its formats: text cells in blocks, and the same as CSV, Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from typing import Any

from sftstudy.pedigree import PedigreeRecord

BETTER, FEWEST = "00795A", "0063A6"
"""Colours of the better score and the fewest samples in LaTeX: the paper's green and blue, apart for colour-blind eyes too."""


@dataclass(frozen=True)
class Text:
    """A printed cell: the main number, what follows it in small type, and marks. Better scores are bold, fewest samples italic.

    `key` names its pedigree; headings have none.
    """

    main: str
    small: str = ""
    bold: bool = False
    italic: bool = False
    mark: str = ""
    key: str = ""


@dataclass(frozen=True)
class Block:
    """Rows under a common title, with a base if all of them have the same."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    base: Text | None = None

    @property
    def heading(self) -> str:
        """The title with the base."""
        if self.base is None or not self.base.main:
            return self.title
        return f"{self.title}, base {self.base.main} {self.base.small}".rstrip()


@dataclass(frozen=True)
class Printed:
    """A table before it has a format. `columns` are those of its tidy lines; `wide` are columns of long text, if any."""

    study: str
    table: str
    caption: str
    columns: tuple[str, ...]
    pedigree: PedigreeRecord
    wide: tuple[int, ...] = ()
    blocks: list[Block] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def number_text(value: float) -> str:
    """Two decimals, as in the paper; never -0.00, and 0.01 is the least half width that prints as such."""
    if 0 < abs(value) < 0.005:
        return f"{value:.3f}" if abs(value) >= 0.0005 else "0.00"
    return f"{value + 0.0:.2f}"


def range_text(low: float | None, high: float | None) -> str:
    """`[low, high]` as tables print it; empty where it is not known."""
    return "" if low is None or high is None else f"[{number_text(low)}, {number_text(high)}]"


def factor_text(value: Any) -> str:
    """A factor's level as people write it: 2e-5, 3,840, cosine, none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "none" if value is None else str(value)
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    digits, _, exponent = f"{value:e}".partition("e")
    small = f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return small if abs(value) <= 0.01 else f"{value:g}"


def slug(text: str) -> str:
    """A name without what LaTeX, addresses or file systems would stumble over."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-") or "-"


def sortable(value: Any) -> tuple[int, float, str]:
    """Key that puts a factor's levels in order: numbers first, then words."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, "" if value is None else str(value)


# --- formats ---------------------------------------------------------------------------------------------------------


def to_csv(printed: Printed) -> str:
    """Tidy: one row per cell, unrounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, printed.columns, restval="", lineterminator="\n")
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
        lines = [
            header,
            ["-" * widths[0]] + ["-" * (width - 1) + ("-" if printed.wide else ":") for width in widths[1:]],
            *rows,
        ]
        text = "\n".join("| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines)
        parts.append(f"{_escape_markdown(block.heading)}\n\n{text}")
    parts.append("\n".join(f"- {_escape_markdown(note)}" for note in printed.notes))
    return "\n\n".join(parts) + "\n"


def to_latex(printed: Printed) -> str:
    """A `table` float for booktabs, or a `longtable` if there is long text; non-ASCII marks are commands of plain LaTeX."""
    width = max((len(block.header) for block in printed.blocks), default=1)
    columns = ["l" if printed.wide or number == 0 else "r" for number in range(width)]
    for number in printed.wide:
        columns[number] = rf"p{{{0.6 / len(printed.wide):g}\linewidth}}"
    names = {"caption": escape_latex(printed.caption), "label": f"{printed.study}-{printed.table}", "columns": "".join(columns)}
    body = "\n".join(_latex_rows(printed.blocks, width))
    notes = "\n".join(f"    {escape_latex(note)}" for note in printed.notes)
    return (_LONG if printed.wide else _FLOAT) % (names | {"body": body, "notes": notes})


def _latex_rows(blocks: list[Block], width: int) -> list[str]:
    """Lines between the first and the last rule: a header wherever it changes, then heading and rows of each block."""
    lines: list[str] = []
    header: tuple[str, ...] = ()
    for number, block in enumerate(blocks):
        if number:
            lines.append(r"    \midrule")
        if block.header != header:
            header = block.header
            names = [escape_latex(name) for name in header] + [""] * (width - len(header))
            lines += ["    " + " & ".join(names) + r" \\", r"    \midrule"]
        lines.append(rf"    \multicolumn{{{width}}}{{l}}{{\itshape {escape_latex(block.heading)}}} \\")
        for row in block.rows:
            texts = [_to_latex(text) for text in row] + [""] * (width - len(row))
            lines.append("    " + " & ".join(texts) + r" \\")
    return lines


_FLOAT = r"""%% needs \usepackage{booktabs} and \usepackage{xcolor}
\begin{table*}
  \centering
  \caption{%(caption)s}
  \label{tab:%(label)s}
  \small\setlength{\tabcolsep}{4pt}
  \begin{tabular}{%(columns)s}
    \toprule
%(body)s
    \bottomrule
  \end{tabular}

  \smallskip
  \begin{minipage}{\linewidth}\footnotesize
%(notes)s
  \end{minipage}
\end{table*}
"""
_LONG = r"""%% needs \usepackage{booktabs}, \usepackage{longtable} and \usepackage{xcolor}
{\small\setlength{\tabcolsep}{4pt}
  \begin{longtable}{%(columns)s}
    \caption{%(caption)s}
    \label{tab:%(label)s} \\
    \toprule
%(body)s
    \bottomrule
  \end{longtable}
  \noindent\footnotesize
%(notes)s\par}
"""


def _to_markdown(text: Text) -> str:
    main = _escape_markdown(text.main)
    main = f"**{main}**" if text.bold else f"*{main}*" if text.italic else main
    return f"{main} {text.small}{text.mark}".rstrip() if text.small else main + text.mark


def _escape_markdown(text: str) -> str:
    for character in "\\|*_":
        text = text.replace(character, f"\\{character}")
    return text


def _to_latex(text: Text) -> str:
    main = escape_latex(text.main)
    if text.bold or text.italic:
        command, colour = (r"\textbf", BETTER) if text.bold else (r"\textit", FEWEST)
        main = rf"\textcolor[HTML]{{{colour}}}{{{command}{{{main}}}}}"
    mark = "".join(_LATEX[character] for character in text.mark)
    small = rf" {{\scriptsize {escape_latex(text.small)}}}" if text.small else ""
    return main + small + mark


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$",
    "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "±": r"$\pm$", "ᵃ": r"$^{\mathrm{a}}$", "ᵇ": r"$^{\mathrm{b}}$",
    "§": r"$^{\mathsection}$", "ᶜ": r"$^{\mathrm{c}}$", "ᵖ": r"$^{\mathrm{p}}$", "→": r"$\to$", "…": r"\ldots{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in text)
