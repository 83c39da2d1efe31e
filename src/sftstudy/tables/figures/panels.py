"""What panels have in common: titles, axes with units, the base model and guessing, and what stands in an empty one."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from sftstudy.spec import PlannedBenchmark, StudySpec
from sftstudy.tables.aggregate import Measure, Pair, Results
from sftstudy.tables.figures.labels import End
from sftstudy.tables.figures.look import BASE_DASHES, CHANCE_DASHES, GREY, LABEL_SIZE, Line, ink
from sftstudy.tables.printed import number_text

FAR = 0.6
"""Base model and guessing are drawn unless they lie further off than this share of the span of the scores; then they are told."""

TITLE_LINE = 0.12
"""Inches of a second line of a title."""

ROW = 0.17
"""Inches of a row of a panel of dots."""

PAST = ", faint past the checkpoint that the next stage starts from"
"""What is said of curves of phased runs."""

MEASURES: dict[Measure, str] = {"peak": "best checkpoint", "last": "last checkpoint"}


def title(axes: Axes, name: str, pair: Pair, pairs: Sequence[Pair]) -> None:
    """What a panel shows, and of which model and data where there are several."""
    axes.set_title(f"{pair[0]}, {pair[1]}\n{name}" if len(pairs) > 1 else name, loc="left")


def no_records(axes: Axes) -> None:
    """An empty panel that says so."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.text(0.5, 0.5, "no records yet", transform=axes.transAxes, ha="center", va="center", color=GREY)


def samples_axis(axes: Axes) -> None:
    """Samples from zero on, as 2k and 1.5M."""
    axes.set_xlabel("samples seen")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def count_text(number: float) -> str:
    """A number of samples to three digits: 576, 6.53k, 1.25M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def unit_text(benchmark: PlannedBenchmark) -> str:
    """What a score is measured in."""
    return "score (fraction)" if benchmark.unit == "fraction" else "rating (1\N{EN DASH}10)"


def panels_of(study: StudySpec, wanted: Sequence[str]) -> list[str]:
    """The benchmarks that a figure shows: those it names, or all of the study."""
    return list(wanted) or list(study.benchmarks)


def per_row(number: int) -> int:
    """Panels of a row; four are two rows of two."""
    return number if number <= 3 else 2 if number == 4 else 3


def has_phases(results: Results, lines: Iterable[Line]) -> bool:
    """Whether any of the recipes trains in several stages."""
    recipes = {line.recipe for line in lines}
    return any(not stage.last for stage in results.study.stages if stage.recipe in recipes)


def dots_height(num_rows: int, *, pairs: int) -> float:
    """Inches of a panel of dots."""
    return 0.75 + ROW * num_rows + TITLE_LINE * (pairs > 1)


def rows_axis(axes: Axes, names: Sequence[str]) -> None:
    """A panel of dots: a row per name, from the top down."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def beside(axes: Axes, row: int, text: str, color: str) -> None:
    """A row's numbers, right of the panel."""
    place = axes.get_yaxis_transform() + ScaledTranslation(6 / 72, 0, axes.figure.dpi_scale_trans)
    axes.text(1, row, text, transform=place, va="center_baseline", fontsize=LABEL_SIZE, color=ink(color))


def references(axes: Axes, results: Results, pair: Pair, benchmark: str, values: Iterable[float]) -> tuple[list[End], str]:
    """Lines for the base model and for guessing with their labels, and, in words, which of them lie far off the scores `values`."""
    known = np.array([value for value in values if np.isfinite(value)])
    base = results.base(pair[0], benchmark).estimate
    levels = [("guessing", results.study.benchmarks[benchmark].chance, CHANCE_DASHES)]
    levels += [("base model", base.value, BASE_DASHES)] if base else []
    low, high = known.min(), known.max()
    reach = FAR * max(high - low, 0.02 * max(abs(high), abs(low)))
    near = [level for level in levels if low - reach <= level[1] <= high + reach]
    for _, value, dashes in near:
        axes.axhline(value, color=GREY, linestyle=dashes, linewidth=0.8)
    right = axes.get_xlim()[1]
    far = ", ".join(f"{name} {number_text(value)}" for name, value, _ in levels if all(name != other for other, _, _ in near))
    return [End(right, value, name, GREY, dashes) for name, value, dashes in near], f"{benchmark}, {far}" if far else ""


def off_axes(told: Iterable[str]) -> list[str]:
    """A note on what lies off the axes of some panels."""
    found = [text for text in dict.fromkeys(told) if text]
    return [f"Off the axes: {'; '.join(found)}."] if found else []


def wrapped(label: str, width: int = 13) -> str:
    """A text on lines of so many characters; a number stays on the line of its name, and a % sign on that of its number."""
    return "\n".join(textwrap.wrap(re.sub(r" (?=[\d%])", "\N{NO-BREAK SPACE}", label), width))


def seeds_of(results: Results, lines: Mapping[Pair, Sequence[Line]]) -> list[int]:
    """The numbers of planned seeds that occur among a figure's lines, ascending; one if it has none."""
    runs = {(s.model, s.data, s.recipe, s.seed) for s in results.study.stages}
    counts = Counter((model, data, recipe) for model, data, recipe, _ in runs)
    return sorted({counts[*pair, line.recipe] for pair, drawn in lines.items() for line in drawn}) or [1]


def seeds_text(numbers: Sequence[int]) -> str:
    """What a mean is over, from the numbers of seeds that occur."""
    return "one seed" if numbers[-1] == 1 else f"means over {' or '.join(map(str, numbers))} seeds"


def sources_text(numbers: Sequence[int]) -> str:
    """What an interval is over."""
    return "items and seeds" if numbers[-1] > 1 else "items"


def one_seed(numbers: Sequence[int]) -> list[str]:
    """A note that intervals need where no arm has several seeds."""
    return [] if numbers[-1] > 1 else ["One seed: the intervals say nothing of other seeds."]
