"""What to try next, computed from where the advised recipe stands: with intervals, and with the lines of config to do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from sftstudy.config import SignalClaim
from sftstudy.findings import ClaimRecord, GuideStep, StepKind
from sftstudy.guide.composite import compare
from sftstudy.guide.evidence import interval_text, margins_of
from sftstudy.guide.factors import Level, Levels, difference, recipe_values, scale_around, word
from sftstudy.guide.recommend import Choice
from sftstudy.paths import BASE_STAGE
from sftstudy.spec import StudySpec
from sftstudy.stats import SCALE
from sftstudy.stats.power import POWER, needed
from sftstudy.tables.aggregate import ALPHA, Pair
from sftstudy.tables.printed import factor_text

CELLS = {
    "learning_rate": "{base}-next-lr{learning_rate:g}",
    "effective_batch_size": "{base}-next-bs{effective_batch_size}",
    "epochs": "{base}-next-epochs{epochs:g}",
    "budget_samples": "{base}-next-samples{budget_samples}",
}
"""Training key -> how the cells of a sweep over it are called."""

SEARCHED = ("learning_rate", "effective_batch_size")
"""Keys whose levels have a beyond."""

STEP = 2.0
"""Factor down and up of a search around a level that was not varied: "slightly lower and slightly higher values" (A.5.8)."""

MARGIN = 0.01
"""Least difference of the normalised mean that matters, where the study's claims state none."""

MOST_SEEDS = 10
"""More seeds than that are named and not written out."""


def beyond(scale: Sequence[float], level: float) -> float | None:
    """The next value in the same ratio beyond a level at an end of a scale; None inside it, at zero, or of a single level."""
    if len(scale) < 2 or level <= 0 or min(scale) <= 0 or level not in (scale[0], scale[-1]):
        return None
    neighbour = scale[1] if level == scale[0] else scale[-2]
    return level * level / neighbour


def rounded(key: str, value: float, scale: Sequence[float]) -> float | int:
    """A value as people would type it: a batch as a whole number, a rate with as few digits as keep it off the scale."""
    if key == "effective_batch_size":
        return max(1, round(value))
    return next(short for digits in range(17) if (short := float(f"{value:.{digits}e}")) not in scale)


def grid_steps(study: StudySpec, pair: Pair, choice: Choice, levels: Mapping[str, Levels]) -> list[GuideStep]:
    """Beyond the edges of what was tried around the advised recipe, and a search where its learning rate was not varied."""
    recipe = choice.advised.recipe
    found = []
    for key in SEARCHED:
        level, scale = levels[recipe][key], scale_around(levels, recipe, key)
        if level.number is None:
            continue
        if (value := beyond(scale, level.number)) is not None:
            text = _edge(choice, levels, key, level, scale)
            found.append(_sweep(study, pair, "edge", key, text, [rounded(key, value, scale)], recipe))
        elif len(scale) < 2 and key == "learning_rate":
            tries = [rounded(key, level.number / STEP, scale), level.number, rounded(key, level.number * STEP, scale)]
            text = (
                f"The learning rate was not varied around {recipe}, so nothing says that {level.text} is the best one. The paper's"
                " way is one factor at a time: a step down and a step up, keep what improves, then the next factor."
            )
            found.append(_sweep(study, pair, "search", key, text, tries, recipe))
    return found


def longer_step(study: StudySpec, pair: Pair, choice: Choice, levels: Mapping[str, Levels]) -> GuideStep | None:
    """A larger budget, if the advised recipe is best at its last checkpoint."""
    recipe = choice.advised.recipe
    top = next(one for one in choice.tops if one.recipe == recipe)
    before = [one for one in choice.candidates if one.recipe == recipe and one.samples_seen < top.samples_seen]
    if not top.last or not before:
        return None
    previous = max(before, key=lambda one: one.samples_seen)
    found = compare(top.arm, previous.arm)
    if found is None:
        return None
    sure = "above" if found.p <= ALPHA else "not shown to be above"
    schedule = levels[recipe]["schedule"].text
    text = (
        f"{recipe} is best at its last checkpoint ({top.samples_seen:,.0f} samples), {sure} the one before"
        f" ({interval_text(found)}), so its peak may lie beyond its budget."
    )
    if schedule != "constant":
        text += f" Its {schedule} schedule ends at zero, so a longer one is another run and no continuation of this."
    training = recipe_values(study, recipe)["training"]
    key = "epochs" if "epochs" in training else "budget_samples"
    return _sweep(study, pair, "longer", key, text, [2 * training[key]], recipe)


def power_step(study: StudySpec, choice: Choice, counted: Sequence[str], seeds: Sequence[int]) -> GuideStep | None:
    """Seeds and items that would tell the best recipe from those that it cannot be told from."""
    tied = [one for one in choice.tops if one is not choice.best and one.recipe in choice.tied]
    if not tied:
        return None
    margin, stated = composite_margin(study, counted)
    parts, most = [], 0
    for one in tied:
        assert one.behind is not None, "a recipe that is tied was compared"
        need = needed(one.behind, margin, "direction")
        seeds_needed = need.seeds or (need.both or (0, 0))[0]
        most = max(most, seeds_needed if seeds_needed <= MOST_SEEDS else 0)
        ways = [f"{need.seeds:,} seeds each"] if need.seeds else []
        ways += [f"{need.items / one.behind.num_items:,.1f} times as many items"] if need.items else []
        ways += (
            [f"{need.both[0]:,} seeds each with {need.both[1] / one.behind.num_items:,.1f} times as many items"]
            if need.both
            else []
        )
        parts.append(f"{one.recipe} ({interval_text(one.behind)}): {' or '.join(ways) or 'no number up to 100 seeds'}")
    where = "the mean of the study's margins" if stated else "a hundredth of the scale"
    text = (
        f"To show a difference of {margin:.3f} on the mean ({where}) to {choice.best.recipe} with {POWER:.0%} power it takes, for "
        f"{'; '.join(parts)}."
    )
    if len(seeds) < 2:
        text += " With one seed how much seeds differ is unknown; a second one tells."
        most = 2
    more = [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + most - len(seeds))]
    wanted = len(more) > len(seeds)
    return GuideStep(
        kind="power", sentence=text, snippet=f"seed: {more}\n" if wanted else "", file="the study's runs" if wanted else ""
    )


def composite_margin(study: StudySpec, counted: Sequence[str]) -> tuple[float, bool]:
    """The least difference of the mean that matters, and whether the study's claims state it for every benchmark."""
    margins = margins_of(study)
    if not counted or any(name not in margins for name in counted):
        return MARGIN, False
    spans = {name: SCALE[study.benchmarks[name].unit][1] - study.benchmarks[name].chance for name in counted}
    return sum(margins[name] / spans[name] for name in counted) / len(counted), True


def signal_steps(study: StudySpec, claims: Sequence[ClaimRecord], pair: Pair) -> list[GuideStep]:
    """What the claims on early signals say about stopping weak runs early; those without an interval say nothing."""
    found = []
    for record in claims:
        claim = study.claims[record.name]
        cells = [cell for cell in record.cells if (cell.model, cell.data) == pair and cell.effect.low is not None]
        if not isinstance(claim, SignalClaim) or not cells:
            continue
        told = ", ".join(
            f"{cell.benchmark} {cell.effect.value:+.2f} [{cell.effect.low:+.2f}, {cell.effect.high:+.2f}]" for cell in cells
        )
        signal = f"{claim.promising} {claim.signal.replace('_', ' ')}"
        groups = f" within {word(claim.within)}" if claim.within else ""
        head = f"Rank correlation of an early {signal}{groups} with the last score: {told}."
        opposite = [cell.benchmark for cell in cells if cell.effect.high is not None and cell.effect.high < 0]
        if record.verdict == "holds":
            rung = {"benchmark": cells[0].benchmark, "rungs": [claim.until]}
            best = {"low": "lowest", "high": "highest"}[claim.promising]
            rule = {"kind": "top", "signal": claim.signal.replace("_", "-"), "best": best, "keep": claim.keep}
            screen = {"screen": rung | {"rule": rule, "audit": {"share": 0.2}}}
            found.append(
                GuideStep(
                    kind="signals", sentence=f"{head} Weak runs can be stopped by it.", snippet=to_yaml(screen), file="the study"
                )
            )
            continue
        why = (
            f"Its interval points the other way on {', '.join(opposite)}"
            if opposite
            else "That is not shown to be above zero throughout"
        )
        replay = {"replay": {"benchmark": cells[0].benchmark, "rungs": [claim.until]}}
        found.append(
            GuideStep(
                kind="signals",
                sentence=f"{head} {why}: do not stop runs by it here.",
                snippet="" if study.replay else to_yaml(replay),
                file="" if study.replay else "the study",
            )
        )
    return found


def next_study(study: StudySpec, tried: Mapping[Pair, tuple[str, Sequence[GuideStep]]], seeds: Sequence[int]) -> tuple[str, str]:
    """All sweeps of the steps, and a study that runs them beside each pair's advised recipe; both empty if there are none."""
    sweeps = {name: sweep for _, steps in tried.values() for step in steps for name, sweep in step.sweeps.items()}
    if not sweeps:
        return "", ""
    runs = [
        {"model": [model], "data": [data], "recipe": [recipe, *names], "seed": list(seeds)}
        for (model, data), (recipe, steps) in tried.items()
        if (names := [name for step in steps for name in step.sweeps])
    ]
    question = f"Does anything beyond what {study.name} tried do better?"
    return to_yaml({"sweeps": sweeps}), to_yaml({"question": question, "runs": runs, "benchmarks": list(study.benchmarks)})


# --- pieces ----------------------------------------------------------------------------------------------------------


def _edge(choice: Choice, levels: Mapping[str, Levels], key: str, level: Level, scale: Sequence[float]) -> str:
    """That a level stands at an end, and what its neighbour scores."""
    recipe = choice.advised.recipe
    neighbour = scale[1] if level.number == scale[0] else scale[-2]
    end = "lowest" if level.number == scale[0] else "highest"
    mine, other = (next(one for one in choice.tops if one.recipe == name) for name in (recipe, _at(choice, levels, key, neighbour)))
    found = compare(mine.arm, other.arm)
    tried = ", ".join(factor_text(value) for value in scale)
    text = f"{word(key).capitalize()} {level.text} is the {end} that was tried around {recipe} ({tried})"
    if found is None:
        return f"{text}, so the best may lie beyond."
    shown = "above" if found.p <= ALPHA and found.value > 0 else "below" if found.p <= ALPHA else "not shown to differ from"
    return f"{text}; on the mean it is {shown} {factor_text(neighbour)} ({interval_text(found)}). The best may lie beyond."


def _at(choice: Choice, levels: Mapping[str, Levels], key: str, number: float) -> str:
    """The complete recipe that differs from the advised one in a key alone, with this level."""
    own = levels[choice.advised.recipe]
    return next(
        one.recipe
        for one in choice.tops
        if levels[one.recipe][key].number == number and difference(own, levels[one.recipe]) == {key}
    )


def suffix(study: StudySpec, pair: Pair) -> str:
    """What tells the names for one model and data set from those for another, if the study has several."""
    pairs = {(stage.model, stage.data) for stage in study.stages if stage.stage != BASE_STAGE}
    return f"-{pair[0]}-{pair[1]}" if len(pairs) > 1 else ""


def _sweep(study: StudySpec, pair: Pair, kind: StepKind, key: str, text: str, values: Sequence[float], recipe: str) -> GuideStep:
    """A step that varies one key of a recipe. A recipe with values of its own by stage cannot be swept: it has no snippet."""
    text = f"{text} Try {word(key)} {', '.join(factor_text(value) for value in values)}."
    if "stages" in recipe_values(study, recipe):
        return GuideStep(
            kind=kind, sentence=f"{text} Its stages have values of their own: write a recipe beside it.", snippet="", file=""
        )
    name = f"{recipe}-next-{word(key).replace(' ', '-')}{suffix(study, pair)}"
    sweeps = {name: {"base": recipe, "vary": {key: list(values)}, "name": CELLS[key]}}
    return GuideStep(kind=kind, sentence=text, snippet=to_yaml({"sweeps": sweeps}), file="recipes.yaml", sweeps=sweeps)


def to_yaml(value: Any) -> str:
    """Config as people write it: short lists and mappings in a line."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=88, default_flow_style=None)
