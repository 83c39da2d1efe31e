"""A study in five lines of text, `summary.txt`: what ran, what did best, what the arms say, where it lies, what is missing."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence

from sftstudy import records
from sftstudy.config import ArmsTable
from sftstudy.paths import BASE_STAGE, Layout
from sftstudy.spec import StudySpec
from sftstudy.stats import Difference
from sftstudy.tables.aggregate import ALPHA, Cell, Pair, Results, compare, judge, load_results
from sftstudy.tables.cells import interval_text
from sftstudy.tables.printed import number_text

MAX_LENGTH = 480


def summarize_study(study: StudySpec, *, layout: Layout) -> None:
    """Write `summary.txt` of a study."""
    path = layout.study_folder(study.name) / "summary.txt"
    records.write_text(path, "\n".join(summarize(load_results(study, layout=layout), layout=layout)) + "\n")


def summarize(results: Results, *, layout: Layout) -> list[str]:
    """The five lines, each of at most `MAX_LENGTH` characters; what does not fit is counted."""
    return [
        _runs(results),
        _best(results),
        _arms(results),
        _places(results.study, layout=layout),
        _missing(results.study, layout=layout),
    ]


def _runs(results: Results) -> str:
    study = results.study
    runs = {(s.model, s.data, s.recipe, s.seed) for s in study.stages if s.stage != BASE_STAGE}
    recipes, seeds = {run[2] for run in runs}, {run[3] for run in runs}
    scored = {
        (pair, recipe, run.seed, point.stage, point.ckpt)
        for pair in results.pairs
        for recipe in {s.recipe for s in study.stages if (s.model, s.data) == pair}
        for benchmark in study.benchmarks
        for run in results.runs(pair, recipe, benchmark)
        for point in run.points
    }
    counts = [(len(runs), "run"), (len(recipes), "recipe"), (len(seeds), "seed"), (len(scored), "scored checkpoint")]
    texts = [_count(number, word) for number, word in [*counts, (len(study.benchmarks), "benchmark")]]
    return _fit(f"Study {study.name}", [", ".join(texts)])


def _best(results: Results) -> str:
    """Per benchmark the recipe with the highest peak, its interval, and what it stands against."""
    full: list[str] = []
    short: list[str] = []
    for pair in results.pairs:
        recipes = list(dict.fromkeys(s.recipe for s in results.study.stages if (s.model, s.data) == pair))
        for name, benchmark in results.study.benchmarks.items():
            cells = {recipe: results.cell(pair, recipe, name, "peak") for recipe in recipes}
            known = {recipe: cell for recipe, cell in cells.items() if cell.estimate is not None}
            place = f"{_prefix(results, pair)}{name}"
            if not known:
                full.append(f"{place} no scores yet")
                short.append(full[-1])
                continue
            verdicts = dict(zip(known, judge(list(known.values()), benchmark), strict=True))
            best = next((recipe for recipe, verdict in verdicts.items() if verdict.best), next(iter(known)))
            base = results.base(pair[0], name)
            score = f"{place} {best} {_value(known[best])} {interval_text(known[best])}".rstrip()
            against = [f"base {_value(base)}"] if base.estimate is not None else []
            guessing = [f"guessing {benchmark.chance:g}"] if benchmark.unit == "fraction" else []
            full.append(f"{score} ({', '.join(against + guessing)})")
            short.append(f"{score} ({', '.join(against)})" if against else score)
    return _fit("Best peaks", full, short)


def _arms(results: Results) -> str:
    """Per arms table and benchmark the first arm minus each other one at their peaks, in neutral words."""
    full: list[str] = []
    short: list[str] = []
    for table in results.study.tables.values():
        if not isinstance(table, ArmsTable):
            continue
        (first, first_recipe), *others = table.arms.items()
        for pair in results.pairs:
            for label, recipe in others:
                differences = {
                    name: compare(
                        results.cell(pair, first_recipe, name, "peak"), results.cell(pair, recipe, name, "peak"), benchmark
                    )
                    for name, benchmark in results.study.benchmarks.items()
                }
                head = f"{_prefix(results, pair)}{first} - {label}: "
                full.append(head + ", ".join(f"{name} {_outcome(found)}" for name, found in differences.items()))
                short.append(head + _brief(differences))
    return _fit("Arms", full or ["no tables of arms"], short)


def _outcome(difference: Difference | None) -> str:
    if difference is None:
        return "not known yet"
    interval = f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
    return interval if difference.p <= ALPHA else f"{interval} no difference can be shown"


def _brief(differences: Mapping[str, Difference | None]) -> str:
    """Differences that can be shown, one by one; the others counted."""
    shown = [f"{name} {_outcome(found)}" for name, found in differences.items() if found and found.p <= ALPHA]
    num_tied = sum(found is not None and found.p > ALPHA for found in differences.values())
    tied = [f"no difference can be shown on {_count(num_tied, 'benchmark')}"] if num_tied else []
    unknown = [f"{num_unknown} not known yet"] if (num_unknown := list(differences.values()).count(None)) else []
    return ", ".join(shown + tied + unknown)


def _places(study: StudySpec, *, layout: Layout) -> str:
    folder = layout.study_folder(study.name).as_posix()
    tables, figures = _count(len(study.tables), "table"), _count(len(study.figures), "figure")
    return _fit("See", [f"{folder}/tables/ ({tables} as csv, md, tex, html), {folder}/figures/ ({figures} as png, pdf)"])


def _missing(study: StudySpec, *, layout: Layout) -> str:
    path = layout.missing_csv()
    with path.open(newline="") as file:
        reasons = Counter(row["reason"] for row in csv.DictReader(file) if row["study"] == study.name)
    if not reasons:
        return "Missing: no records"
    kinds = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    return _fit("Missing", [f"{_count(reasons.total(), 'record')} ({kinds}); see {path.as_posix()}"])


def _fit(head: str, full: Sequence[str], short: Sequence[str] = ()) -> str:
    """`head: part; part; ...`, in full if that fits in a line, else the short form with as many parts as fit, the rest counted."""
    line = f"{head}: {'; '.join(full)}"
    if len(line) <= MAX_LENGTH:
        return line
    parts = short or full
    for kept in range(len(parts), 0, -1):
        rest = f"; {len(parts) - kept} more" if kept < len(parts) else ""
        line = f"{head}: {'; '.join(parts[:kept])}{rest}"
        if len(line) <= MAX_LENGTH:
            return line
    return f"{line[: MAX_LENGTH - 3]}..."


def _prefix(results: Results, pair: Pair) -> str:
    return f"{pair[0]}/{pair[1]} " if len(results.pairs) > 1 else ""


def _value(cell: Cell) -> str:
    return "" if cell.estimate is None else number_text(cell.estimate.value)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
