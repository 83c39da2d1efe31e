"""What a study shows of each factor that it varied, in plain sentences, and whether that agrees with the paper.

Recipes that differ in one factor are compared at their peaks, as the tables print them, paired by item; of three levels or more
each with its neighbour. P-values are Holm-corrected over all comparisons of a factor, and a sentence says that a difference is
there only if it is after that. The recipes of a table of arms that differ in several factors are compared as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sftstudy import stats
from sftstudy.claims.arms import Arms
from sftstudy.config import ArmsClaim, ArmsTable, Reading
from sftstudy.findings import GuideComparison, GuideEffect, GuideFactor, GuidePaper, GuideSetting
from sftstudy.guide.factors import COMPUTATION, Levels, difference, level_text, neighbours, word
from sftstudy.spec import PaperAdvice, PlannedBenchmark, StudySpec
from sftstudy.stats import Difference
from sftstudy.tables.aggregate import ALPHA, Pair
from sftstudy.tables.published import EVIDENCE

SEVERAL = "several factors at once"
ORDERS = ("high", "low", "either")
"""Preferences that every pair of levels is a case of; others name a level."""

BESIDE: dict[Reading, str] = {"last": "last checkpoints", "samples_spent": "equal samples spent"}
"""Other checkpoints at which the same is compared."""


@dataclass(frozen=True)
class Contrast:
    """Two recipes and what to call them."""

    first: str
    second: str
    first_level: str
    second_level: str
    context: str = ""


def evidence(arms: Arms, pair: Pair, levels: Mapping[str, Levels]) -> list[GuideFactor]:
    """One entry per factor in which recipes differ by nothing else, then the tables' arms that differ in several."""
    study = arms.results.study
    advice = {said.factor: said for said in study.advice.values()}
    found = []
    for factor, pairs in neighbours(levels).items():
        contrasts = _in_context([_contrast(study, levels, factor, *each, advice.get(factor)) for each in pairs], levels, factor)
        if comparisons := _compare(arms, pair, word(factor), contrasts):
            paper = _paper(advice[factor], comparisons) if factor in advice else None
            found.append(GuideFactor(factor=word(factor), comparisons=comparisons, paper=paper))
    if comparisons := _compare(arms, pair, "", _arms_of_tables(study, levels)):
        found.append(GuideFactor(factor=SEVERAL, comparisons=comparisons, paper=None))
    return found


def beside_paper(study: StudySpec, levels: Mapping[str, Levels], recipe: str) -> list[GuideSetting]:
    """The advised recipe's level of each factor that the paper speaks of, and which of the levels tried the paper prefers."""
    found = []
    for said in study.advice.values():
        if said.factor == COMPUTATION:
            continue
        tried = {level.text: level for each in levels.values() for level in [each[said.factor]]}
        ordered = sorted(tried.values(), key=lambda level: (level.number is None, level.number or 0.0, level.text))
        numbered = [level for level in ordered if level.number is not None]
        ends = {"low": numbered[:1], "high": numbered[-1:]}
        preferred = ends.get(said.prefers, [level for level in ordered if level.text == said.prefers])
        found.append(
            GuideSetting(
                factor=word(said.factor),
                advised=levels[recipe][said.factor].text,
                tried=[level.text for level in ordered],
                preferred=preferred[0].text if preferred else "",
                grade=said.grade,
            )
        )
    return found


def effect_of(found: Difference) -> GuideEffect:
    """A difference as the record holds it."""
    return GuideEffect(value=found.value, low=found.low, high=found.high)


def margins_of(study: StudySpec) -> dict[str, float]:
    """Benchmark -> the least difference that matters, by the claims of the study: the smallest of several."""
    stated = [claim.margins for claim in study.claims.values() if isinstance(claim, ArmsClaim)]
    return {name: min(one[name] for one in stated if name in one) for name in sorted({name for one in stated for name in one})}


def _contrast(
    study: StudySpec, levels: Mapping[str, Levels], factor: str, first: str, second: str, said: PaperAdvice | None
) -> Contrast:
    """The level that the paper prefers first; without its word the higher one, or the one that was planned first."""
    prefers = said.prefers if said else "high"
    if factor != COMPUTATION:
        mine, theirs = levels[first][factor], levels[second][factor]
        if mine.number is not None and theirs.number is not None:
            swap = mine.number > theirs.number if prefers == "low" else mine.number < theirs.number
        else:
            swap = theirs.text == prefers
        first, second = (second, first) if swap else (first, second)
    texts = [level_text(factor, levels.get(name, {}), study, name) for name in (first, second)]
    return Contrast(first, second, *texts)


def _in_context(contrasts: Sequence[Contrast], levels: Mapping[str, Levels], factor: str) -> list[Contrast]:
    """Contrasts of one factor that say what else their recipes have, where that differs between them."""
    fixed = [levels[one.first] for one in contrasts]
    varied = [key for key in fixed[0] if key != factor and len({each[key].key for each in fixed}) > 1]
    return [replace(one, context=", ".join(f"{word(key)} {levels[one.first][key].text}" for key in varied)) for one in contrasts]


def _arms_of_tables(study: StudySpec, levels: Mapping[str, Levels]) -> list[Contrast]:
    """First arm against each other one, where they differ in several factors."""
    found = []
    for table in study.tables.values():
        if isinstance(table, ArmsTable):
            (label, first), *others = table.arms.items()
            found += [
                Contrast(first, second, label, other)
                for other, second in others
                if first in levels and second in levels and len(difference(levels[first], levels[second])) > 1
            ]
    return list({(one.first, one.second): one for one in found}.values())


def _compare(arms: Arms, pair: Pair, factor: str, contrasts: Sequence[Contrast]) -> list[GuideComparison]:
    """All contrasts on all benchmarks, those without a complete run of both left out."""
    benchmarks, margins = arms.results.study.benchmarks, margins_of(arms.results.study)
    known = [
        (contrast, name, found)
        for contrast in contrasts
        for name in benchmarks
        if (found := arms.compare(contrast.first, contrast.second, pair, name, "peak"))
    ]
    corrected = stats.holm([found.p for _, _, found in known])
    return [
        GuideComparison(
            first=contrast.first,
            second=contrast.second,
            first_level=contrast.first_level,
            second_level=contrast.second_level,
            benchmark=name,
            effect=effect_of(found),
            p=p,
            margin=margins.get(name),
            beside={
                title: effect_of(other)
                for reading, title in BESIDE.items()
                if (other := arms.compare(contrast.first, contrast.second, pair, name, reading))
            },
            sentence=_sentence(factor, contrast, name, benchmarks[name], replace(found, p=p), raw=found.p, number=len(known)),
        )
        for (contrast, name, found), p in zip(known, corrected, strict=True)
    ]


def _sentence(
    factor: str, contrast: Contrast, name: str, benchmark: PlannedBenchmark, found: Difference, *, raw: float, number: int
) -> str:
    """What one comparison shows, and nothing that its interval does not."""
    levels = [f"{factor} {level}".strip() for level in (contrast.first_level, contrast.second_level)]
    interval = interval_text(found, benchmark)
    at = f" at {contrast.context}" if contrast.context else ""
    if found.p <= ALPHA:
        side = "higher" if found.value > 0 else "lower"
        return f"{name} is {side} with {levels[0]} than with {contrast.second_level}{at}: {interval}."
    between = f"between {levels[0]} and {contrast.second_level}{at}"
    if raw <= ALPHA:
        return f"{name}: {interval} {between} does not stand after correction for {number} comparisons."
    return f"{name}: no difference can be shown {between}: {interval}."


def interval_text(found: Difference | GuideEffect, benchmark: PlannedBenchmark | None = None) -> str:
    """`+0.031 [-0.012, +0.074]`; ratings with two decimals."""
    digits = 2 if benchmark and benchmark.unit == "rating" else 3
    value, low, high = (f"{round(number, digits) + 0.0:+.{digits}f}" for number in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


# --- the paper -------------------------------------------------------------------------------------------------------


def _paper(said: PaperAdvice, comparisons: Sequence[GuideComparison]) -> GuidePaper:
    numbers = [
        f"{quote.statement} {', '.join(f'{value:g}' for value in quote.values)} ({quote.grade}: {quote.place})"
        for quote in said.numbers
    ]
    return GuidePaper(
        statement=said.statement,
        grade=f"{said.grade}: {EVIDENCE[said.grade]}",
        place=said.place,
        numbers=numbers,
        agreement=agreement(said, [one for one in comparisons if said.prefers in (*ORDERS, one.first_level)]),
    )


def agreement(said: PaperAdvice, comparisons: Sequence[GuideComparison]) -> str:
    """Whether the study agrees with the paper. No significant difference is never called agreement."""
    if not comparisons:
        return f"Cannot tell: nothing was compared with {said.prefers}."
    shown = [one for one in comparisons if one.p <= ALPHA]
    above, below = [one for one in shown if one.effect.value > 0], [one for one in shown if one.effect.value < 0]
    if said.prefers == "either":
        above, below = [], shown
    if said.says == "better":
        if not shown:
            return f"Cannot tell: of {len(comparisons)} comparisons none shows a difference."
        parts = [f"agrees on {_counted(above, comparisons)}"] if above else []
        parts += [f"disagrees on {_counted(below, comparisons)}"] if below else []
        rest = "; elsewhere no difference can be shown" if len(shown) < len(comparisons) else ""
        return _capital(", and ".join(parts)) + f"{rest}."
    if below:
        worse = "a difference is shown" if said.prefers == "either" else "what it prefers is worse"
        better = f"; it is better on {_counted(above, comparisons)}" if above else ""
        return f"Disagrees on {_counted(below, comparisons)}: {worse}{better}."
    inside = [one for one in comparisons if _within(one, both=said.prefers == "either")]
    if len(inside) == len(comparisons):
        return "Agrees: no worse by more than the study's margins throughout."
    parts = [f"better on {_counted(above, comparisons)}"] if above else []
    parts += [f"no worse by more than the study's margin on {_counted(inside, comparisons)}"] if inside else []
    open_ones = [one for one in comparisons if one not in inside and one not in above]
    reach = max((max(-one.effect.low, one.effect.high if said.prefers == "either" else 0.0) for one in open_ones), default=0.0)
    parts += [f"not ruled out on {_counted(open_ones, comparisons)}: a loss of up to {reach:.2f}"] if open_ones else []
    return f"Not contradicted: {'; '.join(parts)}."


def _within(one: GuideComparison, *, both: bool) -> bool:
    """Whether the interval rules out a loss (or, with `both`, any difference) beyond the study's margin."""
    return one.margin is not None and one.effect.low > -one.margin and (not both or one.effect.high < one.margin)


def _counted(some: Sequence[GuideComparison], of: Sequence[GuideComparison]) -> str:
    """`tiny-mmlu, tiny-mt-bench (1 of 2)`: benchmarks, with how many of their comparisons if not all."""
    parts = []
    for name in dict.fromkeys(one.benchmark for one in of):
        mine, whole = sum(one.benchmark == name for one in some), sum(one.benchmark == name for one in of)
        if mine:
            parts.append(name if mine == whole else f"{name} ({mine} of {whole})")
    return ", ".join(parts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
