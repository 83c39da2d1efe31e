"""The page of a study's guide, for a practitioner: what to train, why, and what to try next. HTML, no scripts, no other files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from sftstudy.findings import GuideCheckpoint, GuideComparison, GuideEffect, GuideFactor, GuidePair, GuideRecord, GuideStep
from sftstudy.spec import StudySpec
from sftstudy.tables.chart import Line, line_chart
from sftstudy.tables.pieces import bullets, code, document, interval_chart, joined, section, table
from sftstudy.tables.style import CLAIMS_STYLE, GUIDE_STYLE

MARKS = {"holds": "holds", "does not hold": "fails", "not enough power": "open"}
TITLES = {
    "missing": "Missing runs",
    "edge": "Edge of the grid",
    "search": "Learning-rate search",
    "longer": "Still rising",
    "power": "Not enough power",
    "signals": "Early signals",
}


def to_html(study: StudySpec, guide: GuideRecord) -> str:
    """The whole page."""
    several = len(guide.pairs) > 1
    return document(
        title=f"Guide: {escape(study.name)}",
        style=CLAIMS_STYLE + GUIDE_STYLE,
        kind="Guide",
        heading=escape(study.name),
        head=[
            f'<p class="note">{escape(study.question)}</p>',
            '<p class="note">Computed from this study&rsquo;s own scores. All intervals are of 95 %. '
            '<a href="report.html">Report</a></p>',
        ],
        body=[*(_pair(study, pair, several=several) for pair in guide.pairs), *_next_study(guide), *_claims(guide), _rule(guide)],
    )


def _pair(study: StudySpec, pair: GuidePair, *, several: bool) -> str:
    head = f'<h2 class="pair">{escape(pair.model)}, {escape(pair.data)}</h2>' if several else ""
    parts = [head, in_short(study, pair)]
    if pair.advised:
        parts += [_recipe(pair), _recipes(pair), _curves(pair, pair.advised), _benchmarks(study, pair), _beside_paper(pair)]
    parts += [_factors(pair.factors)] if pair.factors else []
    parts += [_steps(pair.steps)] if pair.steps else []
    parts += [section("What this study cannot tell", bullets(map(escape, pair.unknown)))] if pair.unknown else []
    return joined(part for part in parts if part)


# --- the advice ------------------------------------------------------------------------------------------------------


def _no_advice(pair: GuidePair) -> str:
    lines = [f"No advice: {escape(pair.why)}.", *(f"{escape(name)}: {escape(why)}." for name, why in pair.absent.items())]
    return bullets(lines, style="remarks")


def in_short(study: StudySpec, pair: GuidePair) -> str:
    """The advice for one model and data set as a list, or why there is none."""
    return _advice(study, pair, pair.advised) if pair.advised else _no_advice(pair)


def _advice(study: StudySpec, pair: GuidePair, advised: GuideCheckpoint) -> str:
    best = pair.best or advised
    place = f"{escape(advised.ckpt)} of {escape(advised.stage)}{', the last one' if advised.last else ''}"
    gain = f" Over the untouched model: {effect_text(pair.gain)}{_not_shown(pair.gain)}." if pair.gain else ""
    lines = [
        f"<b>Train {_code(advised.recipe)}</b> and take the checkpoint at <b>{_count(advised.samples_seen)} samples</b> seen"
        f" ({place}).{_how_to_stop(study, advised)}",
        f"Mean of the normalised benchmarks {effect_text(advised.score, sign=False)}, over {_seeds(advised)}.{gain}",
    ]
    if advised.behind:
        lines.append(
            f"Best is {_code(best.recipe)} at {_count(best.samples_spent)} samples spent, ahead by"
            f" {effect_text(advised.behind)}."
            f" That is within one standard error ({advised.error or 0:.3f}), and the advised one spends"
            f" {_count(advised.samples_spent)}."
        )
    if others := [_code(one.recipe) for one in pair.recipes if one.tied and one.recipe != best.recipe]:
        lines.append(
            f"Cannot be told from {'the best' if advised.behind else 'it'}: {', '.join(others)}."
            " No difference is shown after correction for the number of recipes."
        )
    elif len(pair.recipes) > 1:
        lines.append("Every other recipe is shown to be below the best.")
    if pair.absent:
        lines.append(f"Not compared, without a complete run: {', '.join(map(_code, pair.absent))}.")
    return bullets(lines, style="remarks calm advice")


def _recipe(pair: GuidePair) -> str:
    return section("The recipe", code(pair.overlay), small="for <code>recipes.yaml</code> of an overlay")


def _how_to_stop(study: StudySpec, advised: GuideCheckpoint) -> str:
    if advised.last:
        return ""
    schedule = next(stage.factors["schedule"] for stage in study.stages if stage.recipe == advised.recipe)
    if schedule == "constant":
        return " At a constant rate training can end there."
    return f" Keep the whole budget in the recipe: the {escape(schedule)} schedule is made for it."


def _beside_paper(pair: GuidePair) -> str:
    """The advised recipe's factors beside what the paper would have taken of the levels tried."""
    rows = [
        [
            escape(one.factor),
            _words(one.advised),
            ", ".join(map(_words, one.tried)) if len(one.tried) > 1 else "not varied",
            _words(one.preferred) if len(one.tried) > 1 else "",
            "" if len(one.tried) < 2 or not one.preferred else "yes" if one.preferred == one.advised else "no",
            one.grade,
        ]
        for one in pair.settings
    ]
    heads = ["factor", "advised", "tried", "the paper would take", "the same", "evidence"]
    return section("Beside the paper", table(heads, rows, style="words")) if rows else ""


def _recipes(pair: GuidePair) -> str:
    """All recipes at their best checkpoints, with the distance to the best."""
    behind = [effect for one in pair.recipes if (effect := one.behind)]
    reach = 1.08 * max([abs(end) for effect in behind for end in (effect.low, effect.high)], default=1.0)
    rows = [
        [
            _code(one.recipe),
            effect_text(one.score, sign=False),
            effect_text(one.behind) if one.behind else "best",
            interval_chart(one.behind.low, one.behind.value, one.behind.high, reach=reach) if one.behind else "",
            _p(one.p),
            ("no" if one.tied else "yes") if one.behind else "",
            _count(one.samples_seen) + ("" if one.samples_spent == one.samples_seen else f" ({_count(one.samples_spent)} spent)"),
            "" if one.device_hours is None else f"{one.device_hours:.3g}",
            f"{one.num_seeds}" + ("" if one.num_seeds == one.num_planned_seeds else f" of {one.num_planned_seeds}"),
        ]
        for one in pair.recipes
    ]
    heads = ["recipe", "mean score", "best less this", "", "p, corrected", "told apart", "samples seen", "device-hours", "seeds"]
    note = "Where an interval leaves out zero and a recipe still cannot be told apart: p is corrected for all of them."
    told = any(one.tied and one.behind and (one.behind.low > 0 or one.behind.high < 0) for one in pair.recipes)
    remark = f'<p class="note">{note}</p>' if told else ""
    return section("All recipes", table(heads, rows), remark, small="each at its best checkpoint, one for all benchmarks")


def _curves(pair: GuidePair, advised: GuideCheckpoint) -> str:
    told = "mean of the normalised benchmarks over samples spent; a line per recipe, grey where it is told apart from the best"
    tied = {one.recipe for one in pair.recipes if one.tied}
    lines = [
        Line(one.recipe, one.samples_spent, [score.value for score in one.scores], marked=one.recipe in tied) for one in pair.curves
    ]
    place = (advised.samples_spent, advised.score.value, advised.score.low, advised.score.high)
    chart = line_chart(lines, place=place, label=f"{advised.recipe}, advised", told=told)
    note = f'<p class="note">{told[:1].upper()}{told[1:]}.</p>'
    return section("Where to stop", note, f"<figure>\n{chart}\n</figure>")


def _benchmarks(study: StudySpec, pair: GuidePair) -> str:
    rows = [
        [
            escape(one.benchmark),
            effect_text(one.score, sign=False, digits=_digits(study, one.benchmark)) if one.score else "",
            effect_text(one.gain, digits=_digits(study, one.benchmark)) if one.gain else "",
            _code(one.best_alone) if one.best_alone else "",
        ]
        for one in pair.benchmarks
    ]
    heads = ["benchmark", "advised checkpoint", "over the untouched model", "highest peak on this one alone"]
    return section("Benchmark by benchmark", table(heads, rows))


# --- the evidence ----------------------------------------------------------------------------------------------------


def _factors(factors: Sequence[GuideFactor]) -> str:
    note = "Recipes that differ in nothing else, at their peaks; numbers are the first less the second."
    return section("Evidence, factor by factor", f'<p class="note">{note}</p>', *map(_factor, factors), style="long")


def _factor(factor: GuideFactor) -> str:
    said = []
    if paper := factor.paper:
        numbers = f" {escape('; '.join(paper.numbers))}." if paper.numbers else ""
        why = f'<span class="why">Evidence {escape(paper.grade)}; {escape(paper.place)}.</span>'
        said = [
            f'<p class="paper">The paper: {escape(paper.statement)}{numbers} {why}</p>',
            f"<p><b>This study:</b> {escape(paper.agreement)}</p>",
        ]
    title = f"<h3>{escape(factor.factor[:1].upper() + factor.factor[1:])}</h3>"
    return joined(["<article>", title, *said, bullets(map(_comparison, factor.comparisons)), "</article>"])


def _comparison(one: GuideComparison) -> str:
    beside = [f"at {name} {effect_text(effect)}" for name, effect in one.beside.items() if effect != one.effect]
    told = "; ".join([f"{_code(one.first)} against {_code(one.second)}", *beside])
    return f'{_prose(one.sentence)} <span class="why">{told}</span>'


def _claims(guide: GuideRecord) -> list[str]:
    if not guide.claims:
        return []
    rows = [
        [
            f'<a href="claims.html#{escape(one.name)}">{escape(one.statement)}</a>',
            f'<span class="badge {MARKS[one.verdict]}">{one.verdict}</span>',
        ]
        for one in guide.claims
    ]
    small = '<a href="claims.html">with what they rest on</a>'
    return [section("Claims", table(["claim", "verdict"], rows, style="words"), small=small)]


# --- what next -------------------------------------------------------------------------------------------------------


def _steps(steps: Sequence[GuideStep]) -> str:
    listed = ['<ol class="steps">', *(f"<li>{_step(one)}</li>" for one in steps), "</ol>"]
    return section("What to try next", *listed, style="long")


def _step(one: GuideStep) -> str:
    lines = [f"<b>{TITLES[one.kind]}.</b> {_prose(one.sentence)}"]
    return joined(lines + ([f'<p class="note">In {escape(one.file)}:</p>', code(one.snippet)] if one.snippet else []))


def _next_study(guide: GuideRecord) -> list[str]:
    if not guide.next_study:
        return []
    files = {"recipes.yaml": guide.next_recipes, f"studies/{guide.study}-next.yaml": guide.next_study}
    parts = [f'<p class="note">{escape(name)}:</p>\n{code(text)}' for name, text in files.items()]
    return [section("All of it as one study", *parts, small="two files of an overlay")]


def _rule(guide: GuideRecord) -> str:
    absent = ", ".join(f"{number:,} {reason}" for reason, number in guide.missing.items())
    lines = [*guide.rule, f"Records that are not there: {absent or 'none'}."]
    return section("How the advice is found", bullets(map(escape, lines)))


# --- numbers and words -----------------------------------------------------------------------------------------------


def effect_text(effect: GuideEffect, *, sign: bool = True, digits: int = 3) -> str:
    """A number with its interval in small type, in HTML."""
    plus = "+" if sign else ""
    value, low, high = (
        f"{round(number, digits) + 0.0:{plus}.{digits}f}".replace("-", "&minus;")
        for number in (effect.value, effect.low, effect.high)
    )
    return f"{value} <small>[{low}, {high}]</small>"


def _words(text: str) -> str:
    """A level in HTML; rates such as 2e-3 are kept in one line."""
    return re.sub(r"(?<=\de)-(?=\d)", "&#8209;", escape(text))


def _code(name: str) -> str:
    return f"<code>{escape(name)}</code>"


def _prose(sentence: str) -> str:
    """A sentence in HTML, with true minus signs before its numbers."""
    return re.sub(r"(?<=[\s\[])-(?=\d)", "&minus;", _words(sentence))


def _not_shown(gain: GuideEffect) -> str:
    return "" if gain.low > 0 or gain.high < 0 else ", so that no gain is shown"


def _digits(study: StudySpec, benchmark: str) -> int:
    return 2 if study.benchmarks[benchmark].unit == "rating" else 3


def _seeds(one: GuideCheckpoint) -> str:
    planned = "" if one.num_seeds == one.num_planned_seeds else f" of {one.num_planned_seeds} planned"
    return f"{one.num_seeds} seed{'' if one.num_seeds == 1 else 's'}{planned}"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _p(p: float | None) -> str:
    if p is None:
        return ""
    return "&lt;0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
