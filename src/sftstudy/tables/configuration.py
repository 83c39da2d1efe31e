"""What a study's numbers rest on: its configuration as a table, and the marks of what is assumed in all other tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sftstudy.config import ConfigurationTable, Origin
from sftstudy.pedigree import PedigreeRecord, SettingCell, ValueOfRun
from sftstudy.spec import Setting, StudySpec
from sftstudy.tables.printed import Block, Printed, Text, factor_text, slug

CSV_COLUMNS = ("cell", "subject", "name", "part", "key", "value", "source")
MARKS: dict[Origin, str] = {"paper": "ᵖ", "cited": "ᵇ", "code": "ᶜ", "assumed": "ᵃ"}
SOURCES: dict[Origin, str] = {
    "paper": "stated by the paper",
    "cited": "stated by a paper that it builds on",
    "code": "as in its authors' code",
    "assumed": "assumed",
}
TITLES = {"study": "Study", "model": "Models", "data": "Data", "recipe": "Recipes", "benchmark": "Benchmarks"}
LONGEST_LIST = 6


def build_configuration(study: StudySpec, table: str, definition: ConfigurationTable) -> Printed:
    """Every value of every run with its source: what is common to all of a kind first, then the rest name by name."""
    pedigree = PedigreeRecord(study=study.name, table=table, cells={}, records={})
    printed = Printed(study.name, table, definition.caption, CSV_COLUMNS, pedigree, wide=(1,))
    for subject, title in TITLES.items():
        settings = [setting for setting in study.settings if setting.subject == subject]
        names = list(dict.fromkeys(setting.name for setting in settings))
        common = [setting for setting in settings if setting.name == names[0] and _is_common(setting, settings, names)]
        heading = f"{title}: {', '.join(names)}" if len(names) <= LONGEST_LIST else f"{title}: all {len(names)}"
        rows = []
        for setting in common:
            same = [other for other in settings if _identity(other) == _identity(setting)]
            key = _add(printed, "/".join(slug(part) for part in (subject, setting.part, setting.key) if part), same)
            rows.append((Text(key_text(setting)), replace(_value(setting), key=key), Text(_source(setting))))
        if rows:
            printed.blocks.append(Block(heading, ("Setting", "Value", "Source"), tuple(rows)))
        shared = {_identity(setting) for setting in common}
        lists = []
        for name in names:
            if differing := [s for s in settings if s.name == name and _identity(s) not in shared]:
                key = _add(printed, f"{subject}/{slug(name)}/own", differing)
                lists.append((Text(name), Text(_listed(differing), key=key)))
        if lists:
            printed.blocks.append(Block(f"{title}, where they differ", ("Name", "Values"), tuple(lists)))
    used = [origin for origin in MARKS if any(setting.origin == origin for setting in study.settings)]
    if used:
        printed.notes.append("Source of a value: " + "; ".join(f"{MARKS[origin]} {SOURCES[origin]}" for origin in used) + ".")
    if any(setting.origin is None for setting in study.settings):
        printed.notes.append("Without a source: a user's own.")
    printed.notes.append("Left out: what is absent, and what cannot change a number, such as memory limits.")
    return printed


def _add(printed: Printed, key: str, settings: Sequence[Setting]) -> str:
    """File values that are printed in one cell: a line each, and the cell's pedigree."""
    for setting in settings:
        line = {name: getattr(setting, name) for name in ("subject", "name", "part", "key")}
        value = json.dumps(setting.value, ensure_ascii=False)
        printed.lines.append(line | {"cell": key, "value": value, "source": setting.origin or ""})
    values = [
        ValueOfRun(
            subject=s.subject, name=s.name, part=s.part, key=s.key, value=s.value, source=SOURCES[s.origin] if s.origin else ""
        )
        for s in settings
    ]
    printed.pedigree.cells[key] = SettingCell(values=values)
    return key


class Assumptions:
    """Which cells of a study's tables rest on assumed values. A cell rests on those of its model, data, recipe and benchmark."""

    def __init__(self, study: StudySpec) -> None:
        self._settings = [setting for setting in study.settings if setting.origin == "assumed"]
        recipes = {setting.name for setting in study.settings if setting.subject == "recipe"}
        self._common = {
            _identity(setting)
            for setting in self._settings
            if setting.subject == "recipe" and _is_common(setting, self._settings, sorted(recipes))
        }

    def mark(self, subject: str, name: str) -> str:
        """Mark of a recipe that assumes more than all others do, or of a benchmark that assumes anything; else empty."""
        return MARKS["assumed"] if self._of(subject, name) else ""

    def of_cell(self, model: str, data: str, recipe: str, benchmark: str) -> list[Setting]:
        """All assumed values that a cell rests on."""
        names = {"model": model, "data": data, "recipe": recipe, "benchmark": benchmark}
        return [s for s in self._settings if names.get(s.subject, s.name) == s.name]

    def notes(self, recipes: dict[str, str], benchmarks: Sequence[str]) -> list[str]:
        """What the mark means, and a list of what is assumed. `recipes` is label -> name."""
        if not self._settings:
            return []
        everywhere = [
            setting
            for setting in self._settings
            if setting.subject in ("study", "model", "data") or _identity(setting) in self._common
        ]
        labels: dict[str, list[str]] = {_keys(everywhere): ["all cells"]} if everywhere else {}
        for label, settings in [
            *((label, self._of("recipe", name)) for label, name in recipes.items()),
            *((name, self._of("benchmark", name)) for name in benchmarks),
        ]:
            if settings:
                labels.setdefault(_keys(settings), []).append(label)
        text = "; ".join(f"in {', '.join(named)}: {keys}" for keys, named in labels.items())
        mark = MARKS["assumed"]
        return [
            f"Assumed, as the paper does not state it ({mark} marks rows, columns or cells that rest on more than all do), {text}."
        ]

    def _of(self, subject: str, name: str) -> list[Setting]:
        return [s for s in self._settings if (s.subject, s.name) == (subject, name) and _identity(s) not in self._common]


def _identity(setting: Setting) -> tuple[str, str, str, str, str]:
    value = json.dumps(setting.value, sort_keys=True)
    return setting.subject, setting.part, setting.key, value, setting.origin or ""


def _is_common(setting: Setting, settings: Sequence[Setting], names: Sequence[str]) -> bool:
    """Whether all of these names have the same value from the same source."""
    return {other.name for other in settings if _identity(other) == _identity(setting)} == set(names)


def key_text(setting: Setting) -> str:
    """A key with the phase that it is of."""
    return f"{setting.part}: {setting.key}" if setting.part else setting.key


def _keys(settings: Sequence[Setting]) -> str:
    """Names of keys, each once however many phases have it."""
    return ", ".join(dict.fromkeys(setting.key for setting in settings))


def _value(setting: Setting) -> Text:
    return Text(value_text(setting.value))


def _source(setting: Setting) -> str:
    return f"{setting.origin} {MARKS[setting.origin]}" if setting.origin else ""


def _listed(settings: Sequence[Setting]) -> str:
    return ", ".join(f"{key_text(s)} {value_text(s.value)}{MARKS[s.origin] if s.origin else ''}" for s in settings)


def value_text(value: Any) -> str:
    """A value as people write it; long lists are cut."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {value_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        shown = [value_text(item) for item in value[:LONGEST_LIST]]
        return ", ".join(shown) + (f", … ({len(value)})" if len(value) > LONGEST_LIST else "")
    return factor_text(value)
