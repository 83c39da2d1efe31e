"""From a study's axes to its runs: a pure, sorted, deduplicated product, with every name checked against the registry."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from sftstudy.config import (
    BenefitFigure,
    FinalFigure,
    GridTable,
    HarnessSuite,
    HubSplit,
    LocalFile,
    Location,
    MtBenchSuite,
    RobustnessClaim,
    ScoresFigure,
    SignalClaim,
    Study,
    Suite,
    Training,
    TwoArms,
)
from sftstudy.errors import StudyError
from sftstudy.registry import Registry, known


@dataclass(frozen=True, order=True)
class Run:
    """One model x data x recipe x seed; these four names are its folders."""

    model: str
    data: str
    recipe: str
    seed: int


def expand_recipe(name: str, registry: Registry) -> list[str]:
    """A sweep's name stands for its cells, any other for itself."""
    return registry.sweeps.get(name, [name])


def runs_of(name: str, registry: Registry) -> list[Run]:
    """All runs of a study, sorted. Raises StudyError for a name that no registry has."""
    study, where, instead = registry.studies[name], registry.files["studies"][name], registry.settings.instead
    runs: set[Run] = set()
    for number, grid in enumerate(study.runs):
        at = f"{where}: runs.{number}"
        for model in grid.model:
            known(model, registry.models, what="model", where=f"{at}.model")
        for data in grid.data:
            known(data, registry.data, what="data set", where=f"{at}.data")
        for recipe in grid.recipe:
            known(recipe, registry.recipes | registry.sweeps, what="recipe", where=f"{at}.recipe")
        cells = [cell for recipe in grid.recipe for cell in expand_recipe(recipe, registry)]
        models = [instead.model.get(model, model) for model in grid.model]
        data_sets = [instead.data.get(data, data) for data in grid.data]
        runs.update(Run(*coordinates) for coordinates in itertools.product(models, data_sets, cells, grid.seed))
    for number, benchmark in enumerate(study.benchmarks):
        known(benchmark, registry.benchmarks, what="benchmark", where=f"{where}: benchmarks.{number}")
    recipes = {run.recipe for run in runs}
    _check_outputs(study, registry, where=where, recipes=recipes)
    _check_claims(study, registry, where=where, runs=runs)
    _check_looks(study, where=where)
    return sorted(runs)


def _check_outputs(study: Study, registry: Registry, *, where: Path, recipes: set[str]) -> None:
    for name, table in study.tables.items():
        if table.kind == "grid":
            known(table.sweep, registry.sweeps, what="sweep", where=f"{where}: tables.{name}.sweep")
            if absent := sorted(set(registry.sweeps[table.sweep]) - recipes):
                raise StudyError(f"{where}: tables.{name}.sweep: {absent[0]!r} is not run; add {table.sweep!r} to the study's runs")
            _check_grid(table, registry, where=f"{where}: tables.{name}")
        elif table.kind == "arms":
            for label, recipe in table.arms.items():
                known(recipe, recipes, what="recipe of this study", where=f"{where}: tables.{name}.arms.{label}")
            if table.paper:
                at = f"{where}: tables.{name}.paper"
                published = registry.published[known(table.paper, registry.published, what="table of paper/", where=at)]
                if [*table.arms] != published.arms:
                    raise StudyError(f"{at}: the arms of {table.paper!r} are {', '.join(published.arms)}; call yours the same")
        elif table.kind == "published":
            for key, held in (("tables", registry.published), ("quoted", registry.quoted)):
                for number in getattr(table, key):
                    known(number, held, what=f"entry of paper/{key}.yaml", where=f"{where}: tables.{name}.{key}")
    for name, figure in study.figures.items():
        at = f"{where}: figures.{name}"
        if isinstance(figure, ScoresFigure | FinalFigure | BenefitFigure):
            lines, names = figure.arms, recipes
        else:
            lines, names = figure.recipes, recipes | registry.sweeps.keys()
        for label, recipe in lines.items():
            known(recipe, names, what="recipe of this study", where=f"{at}.{label}")
            if absent := sorted(set(expand_recipe(recipe, registry)) - recipes):
                raise StudyError(f"{at}.{label}: {absent[0]!r} is not run; add {recipe!r} to the study's runs")
        for benchmark in figure.benchmarks:
            known(benchmark, study.benchmarks, what="benchmark of this study", where=f"{at}.benchmarks")


def _check_grid(table: GridTable, registry: Registry, *, where: str) -> None:
    """Raise StudyError unless rows and columns are two training keys that give each recipe of the sweep a cell of its own."""
    for key in ("rows", "columns"):
        known(getattr(table, key), Training.model_fields, what="training key", where=f"{where}.{key}")
    if table.rows == table.columns:
        raise StudyError(f"{where}.columns: {table.columns} is in the rows; name another key that the sweep varies")
    cells: dict[tuple[str, str], str] = {}
    for recipe in registry.sweeps[table.sweep]:
        training = registry.recipes[recipe].training
        other = cells.setdefault((str(getattr(training, table.rows)), str(getattr(training, table.columns))), recipe)
        if other != recipe:
            raise StudyError(
                f"{where}: {other!r} and {recipe!r} share {table.rows} and {table.columns}; name two keys that tell the sweep's "
                "recipes apart"
            )


def _check_looks(study: Study, *, where: Path) -> None:
    for name, looks in (("screen", study.screen), ("replay", study.replay)):
        if looks:
            known(looks.benchmark, study.benchmarks, what="benchmark of this study", where=f"{where}: {name}.benchmark")


def published_tables(study: Study) -> list[str]:
    """Tables of the paper that a study's tables show."""
    beside = [table.paper for table in study.tables.values() if table.kind == "arms" and table.paper]
    alone = [name for table in study.tables.values() if table.kind == "published" for name in table.tables]
    return sorted({*beside, *alone})


def quoted_numbers(study: Study) -> list[str]:
    """Numbers of the paper's prose that a study's tables show."""
    return sorted({name for table in study.tables.values() if table.kind == "published" for name in table.quoted})


def _check_claims(study: Study, registry: Registry, *, where: Path, runs: set[Run]) -> None:
    recipes = {run.recipe for run in runs}
    for name, claim in study.claims.items():
        at = f"{where}: claims.{name}"
        if isinstance(claim, RobustnessClaim):
            checked = [other for other, one in study.claims.items() if not isinstance(one, RobustnessClaim)]
            for other in claim.claims:
                known(other, checked, what="claim to pool", where=f"{at}.claims")
            continue
        for benchmark in claim.benchmarks:
            known(benchmark, study.benchmarks, what="benchmark of this study", where=f"{at}.benchmarks")
        for recipe in claim.recipes:
            cells = expand_recipe(recipe, registry) if isinstance(claim, SignalClaim) else [recipe]
            for cell in cells:
                known(cell, recipes, what="recipe of this study", where=at)
        _check_pairs(claim, registry, at=at, runs=runs)
        if isinstance(claim, SignalClaim) and claim.within:
            known(claim.within, Training.model_fields, what="training key", where=f"{at}.within")


def _check_pairs(claim: TwoArms | SignalClaim, registry: Registry, *, at: str, runs: set[Run]) -> None:
    """A claim is about at least one pair of model and data, and knows its arms there."""
    pairs: dict[tuple[str, str], set[str]] = {}
    for run in sorted(runs):
        pairs.setdefault((run.model, run.data), set()).add(run.recipe)
    if isinstance(claim, SignalClaim):
        ranked = {cell for recipe in claim.recipes for cell in expand_recipe(recipe, registry)}
        if not any(len(ranked & recipes) > 1 for recipes in pairs.values()):
            raise StudyError(f"{at}: recipes: no model and data set has two of them; there is nothing to rank")
        return
    try:
        found = [claim.arms_among(recipes) for recipes in pairs.values()]
    except ValueError as error:
        raise StudyError(f"{at}: {error}; name one of them") from None
    if not any(found):
        raise StudyError(f"{at}: no model and data set has both arms; run both on one")
    if same := [pair[0] for pair in found if pair and pair[0] == pair[1]]:
        raise StudyError(f"{at}: {same[0]!r} is both arms; name another recipe for one of them")


def check_no_leak(registry: Registry, *, data: str, suites: set[str]) -> None:
    """Raises StudyError if a training source is the very split that a benchmark scores."""
    scored = {_key(item): suite for suite in sorted(suites) for item in items_of(registry.suites[suite])}
    for phase, definition in registry.data[data].phases.items():
        for number, source in enumerate(definition.sources):
            if suite := scored.get(_key(source.location)):
                raise StudyError(
                    f"{registry.where('data', data)}.phases.{phase}.sources.{number}.from: the suite {suite!r} scores these very "
                    "items; train on another split"
                )


def items_of(suite: Suite) -> list[Location]:
    """Where a suite's scored items come from."""
    if isinstance(suite, HarnessSuite):
        return [item for benchmark in suite.benchmarks.values() for item in benchmark.uses]
    return [suite.questions]


def files_of(suite: Suite) -> dict[str, Location]:
    """Key in the suite's definition -> what it reads from there: a file of a world, a path, a package or the hub."""
    if isinstance(suite, MtBenchSuite):
        found: dict[str, Location | None] = {"questions": suite.questions, "prompts": suite.prompts, "references": suite.references}
        found["against"] = None if suite.against == "base" else suite.against
        found |= {f"judges.{number}.prompts": judge.prompts for number, judge in enumerate(suite.judges)}
        return {key: place for key, place in found.items() if place is not None}
    return {
        f"benchmarks.{name}.uses.{number}": place
        for name, benchmark in suite.benchmarks.items()
        for number, place in enumerate(benchmark.uses)
    }


def judge_models(suite: Suite) -> list[str]:
    """Models whose weights a suite's judges are served from."""
    return [judge.weights for judge in suite.judges if judge.weights] if isinstance(suite, MtBenchSuite) else []


def definition_files(suite: Suite, folder: Path) -> list[Path]:
    """Files that define a suite beside the config: lm-eval task files, item lists, and what it reads from the shipped folder."""
    read = [Path(place.path) for place in files_of(suite).values() if isinstance(place, LocalFile)]
    found = [path for path in read if path.is_relative_to(folder)]
    if isinstance(suite, HarnessSuite):
        found += [Path(benchmark.items) for benchmark in suite.benchmarks.values() if benchmark.items]
        if suite.include_path:
            found += [path for path in Path(suite.include_path).rglob("*.*") if path.suffix in {".yaml", ".py"}]
    return sorted({path for path in found if path.is_file()})


def _key(location: Location) -> tuple[str, ...]:
    if isinstance(location, HubSplit):  # whatever its revision, and whichever config: a split is not to be trained on in part
        return (location.hub, location.split)
    if isinstance(location, LocalFile):
        return (str(Path(location.path).resolve()),)
    return tuple(str(value) for value in location.model_dump().values())
