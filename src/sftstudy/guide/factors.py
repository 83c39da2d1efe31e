"""What recipes differ in: their factors with levels, and the pairs of recipes that differ in a single one.

Warm-up is one factor however it is given, and so is the budget. How often a run is saved changes no weights and is none. A phased
recipe differs from a stacked one in its replay, its choices of checkpoints and its budget by stage as well: all that is `strategy`.
Recipes that are equal in all of this differ in how a step is computed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sftstudy.config import Recipe, Training
from sftstudy.spec import PlannedStage, StudySpec
from sftstudy.tables.printed import factor_text

WARM_UP, BUDGET, STRATEGY, COMPUTATION = "warm-up", "budget", "strategy", "computation"
GIVEN_BY = {
    "warmup_steps": WARM_UP,
    "warmup_ratio": WARM_UP,
    "epochs": BUDGET,
    "budget_samples": BUDGET,
}
SAVING = ("num_checkpoints", "save_every")
OF_PHASES = frozenset({"replay", "stages", "select", "starts_from", BUDGET})
"""What is part of the strategy where that differs."""

WORDS = {"effective_batch_size": "batch size", "learning_rate": "learning rate", COMPUTATION: "how a step is computed"}


@dataclass(frozen=True)
class Level:
    """A factor's value in a recipe: as text, for comparison, and as a number where it has an order."""

    text: str
    key: str
    number: float | None = None


Levels = Mapping[str, Level]
"""Factor -> level, of one recipe."""


def levels_of(study: StudySpec, recipe: str) -> dict[str, Level]:
    """The factors of a recipe, from the study's plan."""
    values = recipe_values(study, recipe)
    training: dict[str, Any] = values["training"]
    num_steps = first_stage(study, recipe).num_steps
    found = {STRATEGY: _level(values["strategy"]), WARM_UP: _warm_up(training, num_steps), BUDGET: _budget(training)}
    for key in ("stages", "select", "starts_from"):
        found[key] = _level(values.get(key))
    for key in Training.model_fields:
        if key not in {*GIVEN_BY, *SAVING, *Training.incidental}:
            found[key] = _level(training.get(key))
    return found


def difference(first: Levels, second: Levels) -> frozenset[str]:
    """The factors in which two recipes differ; `computation` if there is none."""
    found = {factor for factor in first if first[factor].key != second[factor].key}
    if STRATEGY in found:
        found -= OF_PHASES
    return frozenset(found or {COMPUTATION})


def neighbours(levels: Mapping[str, Levels]) -> dict[str, list[tuple[str, str]]]:
    """Factor -> pairs of recipes that differ in it alone; of levels with an order only those with none between them."""
    pairs = list(itertools.combinations(levels, 2))
    differing = {frozenset(pair): difference(levels[pair[0]], levels[pair[1]]) for pair in pairs}
    found: dict[str, list[tuple[str, str]]] = {}
    for first, second in pairs:
        factors = differing[frozenset((first, second))]
        others = [
            other
            for other in levels
            if other not in (first, second)
            and factors == differing[frozenset((first, other))] == differing[frozenset((other, second))]
        ]
        (factor, *more) = factors
        if not more and not any(_is_between(levels, factor, first, other, second) for other in others):
            found.setdefault(factor, []).append((first, second))
    order = list(dict.fromkeys([*(factor for each in levels.values() for factor in each), COMPUTATION]))
    return {factor: found[factor] for factor in sorted(found, key=order.index)}


def scale_around(levels: Mapping[str, Levels], recipe: str, factor: str) -> list[float]:
    """Levels with an order that the study tried while all else was as in a recipe, ascending, the recipe's own among them."""
    own = levels[recipe]
    alike = [other for other in levels.values() if other is own or difference(own, other) == {factor}]
    return sorted({number for other in alike if factor in other and (number := other[factor].number) is not None})


def level_text(factor: str, levels: Levels, study: StudySpec, recipe: str) -> str:
    """A level as a reader needs it; how a step is computed has no name but the recipe's."""
    if factor == COMPUTATION:
        factors = first_stage(study, recipe).factors
        odd = [key for key in sorted(Training.incidental) if factors[key] != Training.model_fields[key].default]
        return ", ".join([recipe, *(f"{key} {factor_text(factors[key])}" for key in odd)])
    return levels[factor].text


def word(factor: str) -> str:
    """A factor as people say it."""
    return WORDS.get(factor, factor.replace("_", " "))


def recipe_values(study: StudySpec, recipe: str) -> dict[str, Any]:
    """A recipe as it stands in `recipes.yaml`, resolved: every value that counts, and those that say how a step is computed.

    Values of single stages stand under `stages`; the others are those of the training as a whole.
    """
    settings = [one for one in study.settings if (one.subject, one.name) == ("recipe", recipe)]
    whole = {one.key: one.value for one in settings if not one.part}
    stages: dict[str, dict[str, Any]] = {}
    select: dict[str, Any] = {}
    for one in settings:
        if one.part and one.key == "select":
            select[one.part] = one.value
        elif one.part:
            stages.setdefault(one.part, {})[one.key] = one.value
    factors, overridden = first_stage(study, recipe).factors, {key for values in stages.values() for key in values}
    training = {
        key: whole.get(key) if key in overridden else factors[key]
        for key in Training.model_fields
        if (whole.get(key) if key in overridden else factors.get(key)) is not None
    }
    values = {"strategy": whole["strategy"], "training": training}
    values |= {key: whole[key] for key in ("starts_from",) if key in whole}
    return values | ({"stages": stages} if stages else {}) | ({"select": select} if select else {})


def written(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's values for a config file: what says how a step is computed only where it is no default."""
    usual = {key: field.default for key, field in Training.model_fields.items() if key in Training.incidental}
    usual["replay"] = 0.0
    training = {key: value for key, value in values["training"].items() if key not in usual or value != usual[key]}
    checked = dict(values) | {"training": training}
    Recipe.model_validate(checked)
    return checked


def first_stage(study: StudySpec, recipe: str) -> PlannedStage:
    """The first stage that a recipe trains."""
    return min((stage for stage in study.stages if stage.recipe == recipe), key=lambda stage: (stage.stage, stage.seed))


def _is_between(levels: Mapping[str, Levels], factor: str, first: str, other: str, second: str) -> bool:
    if factor == COMPUTATION:
        return False
    low, middle, high = (levels[name][factor].number for name in (first, other, second))
    if low is None or middle is None or high is None:
        return False
    return min(low, high) < middle < max(low, high)


def _level(value: Any) -> Level:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return Level(_text(value), json.dumps(value, sort_keys=True), number)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return ", ".join(map(_text, value)) if isinstance(value, list) else factor_text(value)


def _warm_up(training: Mapping[str, Any], num_steps: int) -> Level:
    steps, ratio = training.get("warmup_steps"), training.get("warmup_ratio")
    if ratio:
        return Level(f"{ratio:.0%} of the steps", f"ratio {ratio}", ratio * num_steps)
    return Level(f"{steps:,} steps" if steps else "none", f"steps {steps or 0}", float(steps or 0))


def _budget(training: Mapping[str, Any]) -> Level:
    epochs, samples = training.get("epochs"), training.get("budget_samples")
    if epochs is not None:
        return Level(f"{epochs:g} epochs", f"epochs {epochs}", float(epochs))
    return Level(f"{samples:,} samples", f"samples {samples}", None)
