"""Reads `config/`: the shipped folder and, if given, a user's overlay folder of the same layout, into one registry.

A registry is a file such as `recipes.yaml` and, where there are many definitions, the files of a folder `recipes/` besides.
Every mistake in a file ends as one line that names file, key and remedy. Paths in a file are relative to the file's folder.
"""

from __future__ import annotations

import difflib
import itertools
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sftstudy.config import (
    NAME,
    NO_NAME,
    PATH_KEYS,
    Advice,
    Data,
    HarnessSuite,
    HubModel,
    Model,
    PublishedTable,
    Quoted,
    Recipe,
    Settings,
    Sources,
    Strict,
    Study,
    Suite,
    Sweep,
    Training,
    World,
    location_tag,
)
from sftstudy.errors import StudyError


class Registry(Strict):
    """All definitions by name, as the shipped folder and the overlay hold them, and the settings of the last of the two."""

    worlds: dict[str, World]
    models: dict[str, Model]
    data: dict[str, Data]
    recipes: dict[str, Recipe]
    sweeps: dict[str, list[str]]
    suites: dict[str, Suite]
    studies: dict[str, Study]
    published: dict[str, PublishedTable]
    quoted: dict[str, Quoted]
    advice: dict[str, Advice]
    settings: Settings
    files: dict[str, dict[str, Path]]

    def where(self, kind: str, name: str) -> str:
        """File and name of a definition, such as `config/recipes/paper.yaml: lab-stacked`, for a message about it."""
        return f"{self.files[kind].get(name, f'{kind}.yaml')}: {name}"

    @property
    def benchmarks(self) -> dict[str, str]:
        """Benchmark name -> suite that scores it."""
        return {
            benchmark: name
            for name, suite in self.suites.items()
            for benchmark in (suite.benchmarks if isinstance(suite, HarnessSuite) else [name])
        }


class RecipesFile(Strict):
    """What `recipes.yaml` holds."""

    recipes: dict[str, Recipe] = {}
    sweeps: dict[str, Sweep] = {}


_REGISTRIES: dict[str, TypeAdapter[Any]] = {
    "worlds": TypeAdapter(dict[str, World]),
    "models": TypeAdapter(dict[str, Model]),
    "data": TypeAdapter(dict[str, Data]),
    "benchmarks": TypeAdapter(dict[str, Suite]),
    "paper/tables": TypeAdapter(dict[str, PublishedTable]),
    "paper/quoted": TypeAdapter(dict[str, Quoted]),
    "paper/advice": TypeAdapter(dict[str, Advice]),
}


def load(folder: Path, *, overlay: Path | None = None) -> tuple[Registry, list[str]]:
    """Read the shipped config folder, then the overlay's; return all definitions and the names of the active studies.

    The overlay's `config.yaml` decides which studies are active, and which weights are kept. A name that both folders define is an
    error: results are filed by name. Raises StudyError, one line that names file, key and remedy.
    """
    folders = [folder] + ([overlay] if overlay else [])
    if overlay and not overlay.is_dir():
        raise StudyError(f"--config overlay={overlay}: no such folder; make one with the layout of {folder}/")
    files: dict[str, dict[str, Path]] = {}
    parsed = {name: _merged(folders, name, adapter, files) for name, adapter in _REGISTRIES.items()}
    _check_benchmark_names(parsed["benchmarks"], files["benchmarks"])
    recipes, sweeps = _recipes(folders, files)
    studies = _studies(folders, files)
    settings_file = folders[-1] / "config.yaml"
    settings: Settings = _typed(TypeAdapter(Settings), _content(settings_file, required=True), settings_file)
    if settings.mirror:
        for name, suite in parsed["benchmarks"].items():
            if isinstance(suite, HarnessSuite) and suite.mirror is None:
                parsed["benchmarks"][name] = suite.model_copy(update={"mirror": settings.mirror})
    registry = Registry.model_construct(
        worlds=parsed["worlds"],
        models=_pinned(parsed["models"], settings, where=f"{settings_file}: pins"),
        data=parsed["data"],
        recipes=recipes,
        sweeps=sweeps,
        suites=parsed["benchmarks"],
        studies=studies,
        published=parsed["paper/tables"],
        quoted=parsed["paper/quoted"],
        advice=parsed["paper/advice"],
        settings=settings,
        files=files,
    )
    for name, advice in registry.advice.items():
        for number in advice.quoted:
            known(number, registry.quoted, what="quoted number", where=f"{registry.where('paper/advice', name)}.quoted")
    for name in settings.studies:
        known(name, registry.studies, what="study", where=f"{settings_file}: studies")
    for kind, what, held in (("model", "model", registry.models), ("data", "data set", registry.data)):
        for name, other in getattr(settings.instead, kind).items():
            for either in (name, other):
                known(either, held, what=what, where=f"{settings_file}: instead.{kind}")
    for name in settings.keep:
        known(name, registry.recipes | registry.sweeps, what="recipe", where=f"{settings_file}: keep")
    return registry, settings.studies


def _pinned(models: dict[str, Any], settings: Settings, *, where: str) -> dict[str, Any]:
    """Models, with the revisions that `pins` has for those without one."""
    open_models = {name: model for name, model in models.items() if isinstance(model, HubModel) and model.revision is None}
    identifiers = {model.id for model in open_models.values()}
    for identifier in settings.pins:
        known(identifier, identifiers, what="model without a revision and with the id", where=where)
    pinned = {
        name: model.model_copy(update={"revision": settings.pins[model.id]})
        for name, model in open_models.items()
        if model.id in settings.pins
    }
    return models | pinned


def known(name: str, registry: Any, *, what: str, where: str) -> str:
    """`name` if the registry has it; else a StudyError that says where it stands and what was probably meant."""
    if name in registry:
        return name
    close = difflib.get_close_matches(name, list(registry), n=1)
    remedy = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(registry)) or 'none'}"
    raise StudyError(f"{where}: no {what} {name!r}; {remedy}")


def _content(file: Path, *, required: bool = False) -> Any:
    if not file.exists():
        if required:
            raise StudyError(f"{file}: missing; it names the active studies, such as `studies: [tiny]`")
        return {}
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_UniqueKeys) or {}
    except UnicodeDecodeError:
        raise StudyError(f"{file}: not in UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise StudyError(f"{file}: nested too deeply; use fewer brackets") from None
    return _located(content, file.parent)


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, and reads 3e-4 as a number, as YAML 1.2 does."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _located(value: Any, base: Path) -> Any:
    """Relative paths made `BASE//PATH`: opened as they are, and identified by what stands behind the double slash."""
    if isinstance(value, list):
        return [_located(item, base) for item in value]
    if not isinstance(value, dict):
        return value
    relative = {key for key, item in value.items() if key in PATH_KEYS and isinstance(item, str) and not Path(item).is_absolute()}
    return {key: f"{base}//{item}" if key in relative else _located(item, base) for key, item in value.items()}


def _typed(adapter: TypeAdapter[Any], content: Any, file: Path) -> Any:
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        raise StudyError(_one_line(error, content, file)) from None


def _one_line(error: ValidationError, content: Any, file: Path) -> str:
    """The first problem of a validation as `file: key.key: what is wrong; remedy`."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "unknown_key"), problems[0])
    keys = _keys(problem, content)
    if problem["type"] == "missing":
        message = "missing; add this key (config/README.md says what it means)"
    elif problem["type"] == "unknown_key":
        keys.append(str(problem["ctx"]["key"]))
        message = problem["msg"]
    else:
        message = problem["msg"].removeprefix("Value error, ")
        message = f"{message[0].lower()}{message[1:]} (got {problem['input']!r:.60})"
    return " ".join(": ".join(filter(None, [str(file), ".".join(keys), message])).split())


def _keys(problem: ErrorDetails, content: Any) -> list[str]:
    """The keys that lead to a problem. pydantic names the members of unions between them, which no user typed."""
    keys: list[str] = []
    here, is_told = content, False
    for part in problem["loc"]:
        if not is_told and isinstance(here, dict) and part in _kinds(here):
            is_told = True
        elif part in here if isinstance(here, dict) else isinstance(here, list) and isinstance(part, int):
            keys.append(str(part))
            here, is_told = here[part], False
    return [*keys, str(problem["loc"][-1])] if problem["type"] == "missing" else keys


def _kinds(definition: dict[Any, Any]) -> list[Any]:
    """What pydantic may call a definition that is one of several kinds."""
    return [definition.get("kind"), definition.get("source"), location_tag(definition)]


def read_suites(file: Path) -> dict[str, Any]:
    """Suites that one file of benchmarks defines."""
    suites: dict[str, Any] = _typed(_REGISTRIES["benchmarks"], _content(file), file)
    return suites


def _registry_files(base: Path, name: str) -> list[Path]:
    return [base / f"{name}.yaml", *sorted((base / name).glob("*.yaml"))]


def _merged(folders: list[Path], kind: str, adapter: TypeAdapter[Any], files: dict[str, dict[str, Path]]) -> dict[str, Any]:
    """All definitions of a kind; `files` learns which file has which."""
    merged: dict[str, Any] = {}
    files[kind] = {}
    for base in folders:
        for file in _registry_files(base, kind):
            new = _typed(adapter, _content(file), file)
            _add(merged, new, file)
            files[kind] |= dict.fromkeys(new, file)
    return merged


def _studies(folders: list[Path], files: dict[str, dict[str, Path]]) -> dict[str, Study]:
    """A study per file of `studies/`. Its tables, figures and claims have names like its own: they are files, too."""
    studies: dict[str, Study] = {}
    files["studies"] = {}
    for file in (file for base in folders for file in sorted((base / "studies").glob("*.yaml"))):
        study: Study = _typed(TypeAdapter(Study), _content(file), file)
        _check_name(file.stem, f"{file}: {file.stem}")
        for key in ("tables", "figures", "claims"):
            for name in getattr(study, key):
                _check_name(name, f"{file}: {key}.{name}")
        studies[file.stem] = study
        files["studies"][file.stem] = file
    return studies


def _check_benchmark_names(suites: dict[str, Suite], files: dict[str, Path]) -> None:
    seen: dict[str, str] = {}
    for name, suite in suites.items():
        for benchmark in suite.benchmarks if isinstance(suite, HarnessSuite) else [name]:
            where = f"{files[name]}: {name}.benchmarks.{benchmark}"
            if benchmark in seen:
                raise StudyError(f"{where}: suite {seen[benchmark]!r} has a benchmark of this name; choose another")
            _check_name(benchmark, where)
            seen[benchmark] = name


def _check_name(name: str, where: str) -> None:
    if name == NO_NAME or not NAME.fullmatch(name):
        remedy = f"use at most 100 small letters, digits, dots and dashes, and not {NO_NAME!r}"
        raise StudyError(f"{' '.join(where.split())}: not a usable name; {remedy}")


def _add(merged: dict[str, Any], new: dict[str, Any], file: Path) -> None:
    for name in new:
        if name in merged:
            raise StudyError(f"{file}: {name}: defined before; choose another name, results are filed by it")
        _check_name(name, f"{file}: {name}")
    merged.update(new)


def _recipes(folders: list[Path], files: dict[str, dict[str, Path]]) -> tuple[dict[str, Recipe], dict[str, list[str]]]:
    recipes: dict[str, Recipe] = {}
    cells: dict[str, list[str]] = {}
    files["recipes"] = {}
    for base in folders:
        for file in _registry_files(base, "recipes"):
            before = set(recipes)
            parsed: RecipesFile = _typed(TypeAdapter(RecipesFile), _content(file), file)
            _add(recipes, parsed.recipes, file)
            for name, recipe in parsed.recipes.items():
                for phase in recipe.stages:
                    stage_training(recipe, phase, where=f"{file}: recipes.{name}")
            _add_sweeps(recipes, cells, parsed.sweeps, file)
            if both := sorted(recipes.keys() & cells.keys()):
                raise StudyError(f"{file}: {both[0]}: a recipe and a sweep have this name; choose another")
            for name in parsed.recipes:
                _check_start(name, recipes, where=f"{file}: recipes.{name}.starts_from")
            files["recipes"] |= dict.fromkeys(recipes.keys() - before, file)
    return recipes, cells


def _add_sweeps(recipes: dict[str, Recipe], cells: dict[str, list[str]], sweeps: dict[str, Sweep], file: Path) -> None:
    """Add the cells of a file's sweeps to the recipes, those that several sweeps share once."""
    made: dict[str, Recipe] = {}
    for name, sweep in sweeps.items():
        where = f"{file}: sweeps.{name}"
        known(sweep.base, recipes, what="recipe", where=f"{where}.base")
        if recipes[sweep.base].stages:
            raise StudyError(f"{where}.base: a recipe with overrides by stage would not vary in them; move them into training")
        expanded = _expand(sweep, recipes[sweep.base], where)
        new = {cell: recipe for cell, recipe in expanded.items() if cell != sweep.base and made.get(cell) != recipe}
        _add(recipes, new, file)
        made |= new
        _add(cells, {name: list(expanded)}, file)


def _check_start(name: str, recipes: dict[str, Recipe], *, where: str) -> None:
    """Raise StudyError unless a recipe starts from phased recipes, and in the end from the base."""
    path = [name]
    while start := recipes[path[-1]].starts_from:
        known(start.recipe, recipes, what="recipe", where=f"{where}.recipe")
        if recipes[start.recipe].strategy == "stacked":
            raise StudyError(f"{where}.recipe: {start.recipe!r} is stacked and has no stage of one phase; name a phased recipe")
        if start.recipe in path:
            circle = " -> ".join([*path, start.recipe])
            raise StudyError(f"{where}.recipe: {circle} is a circle; let one of them start from the base")
        path.append(start.recipe)


def _expand(sweep: Sweep, base: Recipe, where: str) -> dict[str, Recipe]:
    expanded: dict[str, Recipe] = {}
    for values in itertools.product(*sweep.vary.values()):
        factors = dict(zip(sweep.vary, values, strict=True))
        for key in factors:
            known(key, Training.model_fields, what="training key", where=f"{where}.vary")
        training = base.training.model_dump(exclude_unset=True) | factors
        update = {"training": _typed(TypeAdapter(Training), training, Path(f"{where}.vary"))}
        same = update["training"] == base.training
        recipe = base if same else base.model_copy(update=update | {"sources": _cell_sources(sweep, base)})
        try:
            name = sweep.base if same else sweep.name.format(base=sweep.base, **factors)
        except (KeyError, IndexError, ValueError) as error:
            raise StudyError(f"{where}.name: {error} is no factor of the sweep; use {{base}} and the keys of `vary`") from None
        if name in expanded:
            raise StudyError(f"{where}.name: two cells are called {name!r}; put every factor of `vary` into the template")
        expanded[name] = recipe
    return expanded


def _cell_sources(sweep: Sweep, base: Recipe) -> Sources | None:
    """The base's sources, but for the varied keys those of the sweep."""
    if base.sources is None:
        return sweep.sources
    own = sweep.sources or Sources.model_validate({})
    kept = {origin: [key for key in getattr(base.sources, origin) if key not in sweep.vary] for origin in Sources.model_fields}
    return Sources.model_validate({origin: keys + getattr(own, origin) for origin, keys in kept.items()})


def stage_training(recipe: Recipe, phase: str, *, where: str) -> Training:
    """Hyper-parameters of a phased recipe's stage: the recipe's own with the stage's overrides."""
    override = recipe.stages.get(phase, {})
    merged = recipe.training.model_dump(exclude_unset=True) | override
    try:
        return Training.model_validate(merged)
    except ValidationError as error:
        raise StudyError(_one_line(error, merged, Path(f"{where}: stages.{phase}"))) from None
