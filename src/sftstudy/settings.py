"""Every value that a study's numbers rest on, and where it comes from: what its configuration table prints. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sftstudy.config import (
    Cleaning,
    HarnessSuite,
    HubSplit,
    LocalFile,
    Origin,
    PackageFile,
    Source,
    Sourced,
    Strict,
    Training,
    WorldFile,
)
from sftstudy.locate import name_of
from sftstudy.registry import Registry
from sftstudy.spec import Setting
from sftstudy.study import Run

FOLLOWING = frozenset({"kind", "source", "format", "columns", "threads", "uses"})
"""Keys that say how a thing is read once it is chosen: no choice of the study's."""


def settings_of(name: str, runs: Sequence[Run], registry: Registry) -> list[Setting]:
    """Settings of a study with these runs, of its models, data sets, recipes and benchmarks, each definition once.

    What cannot change a number, what follows from another value and what is absent is left out. A value has no origin if its
    definition names no sources, or if the user put something else in the place of what a study names.
    """
    study, instead = registry.studies[name], registry.settings.instead
    used = {axis: sorted({getattr(run, axis) for run in runs}) for axis in ("model", "data", "recipe", "seed")}
    found = []
    for axis, values in used.items():
        replaced = axis in ("model", "data") and any(value in getattr(instead, axis).values() for value in values)
        found.append(Setting(subject="study", name=name, key=axis, value=values, origin=None if replaced else _origin(study, axis)))
    found.append(Setting(subject="study", name=name, key="benchmarks", value=study.benchmarks, origin=_origin(study, "benchmarks")))
    for model in used["model"]:
        found += _of(registry.models[model], Setting(subject="model", name=model, key="", value=""))
    for data in used["data"]:
        definition = registry.data[data]
        whole = Setting(subject="data", name=data, key="", value="")
        found += _of(definition, whole, without=("phases",))
        for phase, held in definition.phases.items():
            part = whole.model_copy(update={"part": phase})
            found += _of(held, part, definition, without=("sources",))
            for number, source in enumerate(held.sources, start=1):
                one = part if len(held.sources) == 1 else part.model_copy(update={"part": f"{phase} {number}"})
                found += _of(source, one, definition)
    doubted = study.sources.assumed if study.sources else []
    recipes: list[Setting] = []
    for recipe in used["recipe"]:
        chosen = registry.recipes[recipe]
        whole = Setting(subject="recipe", name=recipe, key="", value="")
        recipes += _of(chosen, whole, without=("training", "stages", "select"))
        recipes += _of(chosen.training, whole, chosen)
        for phase, override in chosen.stages.items():
            part = whole.model_copy(update={"part": phase})
            recipes += [_setting(part, key, value, chosen) for key, value in override.items()]
        for phase, selection in chosen.select.items():
            part = whole.model_copy(update={"part": phase})
            recipes.append(_setting(part, "select", _plain(selection), chosen))
    found += [s.model_copy(update={"origin": "assumed"}) if s.origin and s.key in doubted else s for s in recipes]
    for benchmark in study.benchmarks:
        suite = registry.suites[registry.benchmarks[benchmark]]
        whole = Setting(subject="benchmark", name=benchmark, key="", value="")
        if isinstance(suite, HarnessSuite):
            found += _of(suite.benchmarks[benchmark], whole)
            found.append(_setting(whole, "precision", suite.precision, suite.benchmarks[benchmark]))
        else:
            found += _of(suite, whole)
    return found


def _of(held: Strict, whole: Setting, definition: Sourced | None = None, *, without: tuple[str, ...] = ()) -> list[Setting]:
    """The values of one config object; `definition` is what names their sources, if not the object itself."""
    named_by = definition or held
    hidden = {*without, *held.incidental, *FOLLOWING, *_idle(held)}
    return [
        _setting(whole, field.alias or name, _plain(getattr(held, name)), named_by)
        for name, field in type(held).model_fields.items()
        if name not in hidden and not field.exclude and getattr(held, name) not in (None, [], {})
    ]


def _idle(held: Strict) -> set[str]:
    """Keys that other values of the object keep from having an effect."""
    idle = set()
    if isinstance(held, Cleaning) and held.near_duplicates == "keep":
        idle.add("near_duplicate_threshold")
    if isinstance(held, Source) and held.weight == 1:
        idle.add("weight")
    if isinstance(held, Training) and held.replay == 0:
        idle.add("replay")
    return idle


def _setting(whole: Setting, key: str, value: Any, definition: Strict) -> Setting:
    return whole.model_copy(update={"key": key, "value": value, "origin": _origin(definition, key)})


def _origin(definition: Strict, key: str) -> Origin | None:
    sources = definition.sources if isinstance(definition, Sourced) else None
    return sources.origin(key) if sources else None


def _plain(value: Any) -> Any:
    """A value as JSON holds it; places of files by the names that messages use."""
    if isinstance(value, WorldFile | LocalFile | PackageFile | HubSplit):
        return name_of(value)
    if isinstance(value, Strict):
        return {key: _plain(item) for key, item in value if item not in (None, [], {}) and key not in value.incidental}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
