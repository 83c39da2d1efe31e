"""Which of a study's stages and recipes a figure draws, how each recipe looks, and which of its runs are not there."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import Colormap, to_hex

from sftstudy import records
from sftstudy.paths import Layout
from sftstudy.records import SelectionRecord
from sftstudy.spec import PlannedStage, StudySpec
from sftstudy.tables.aggregate import Pair, Results
from sftstudy.tables.collect import read_training
from sftstudy.tables.figures.look import DASHES, MARKERS, OKABE_ITO, Dashes, Line
from sftstudy.tables.printed import factor_text, sortable

SHADES = ("viridis", "plasma")
"""Of the first sweep of a figure, and of all others: both grow lighter evenly, for colour-blind eyes too."""


def lines_of(arms: Mapping[str, str]) -> list[Line]:
    """Recipes by name: a hue, dashes and a marker each."""
    free = _Free()
    hues = itertools.cycle(OKABE_ITO)
    return [Line(label, recipe, next(hues), *free.take(at, at)) for at, (label, recipe) in enumerate(arms.items())]


def expand_recipes(study: StudySpec, named: Mapping[str, str], pair: Pair) -> list[Line]:
    """The figure's lines of one model and data; a sweep becomes its cells, and a recipe that is named twice is drawn once."""
    factors = {stage.recipe: stage.factors for stage in study.stages}
    here = {stage.recipe for stage in study.stages if (stage.model, stage.data) == pair}
    shades, hues, free = itertools.chain(SHADES, itertools.repeat(SHADES[-1])), itertools.cycle(OKABE_ITO), _Free()
    found: dict[str, Line] = {}
    for at, (label, recipe) in enumerate(named.items()):
        hue = next(hues)
        if recipe in study.sweeps:
            cells = {cell: factors[cell] for cell in study.sweeps[recipe] if cell in factors}
            lines = _cells(cells, label, colormaps[next(shades)], free, alone=len(named) == 1)
        else:
            lines = [Line(label, recipe, hue, *free.take(at, at))]
        for line in lines:
            found.setdefault(line.recipe, line)
    return [line for line in found.values() if line.recipe in here]


def _cells(cells: Mapping[str, Mapping[str, Any]], label: str, colormap: Colormap, free: _Free, *, alone: bool) -> list[Line]:
    """Lines of a sweep in order of the factors in which its cells differ, which label them.

    Cells of a sweep by two factors have dashes by the first, a shade and a marker by the second; else each has its own.
    """
    keys = [key for key in next(iter(cells.values()), ()) if len({str(factors.get(key)) for factors in cells.values()}) > 1]
    levels = {recipe: tuple(sortable(factors.get(key)) for key in keys) for recipe, factors in cells.items()}
    crossed = len(keys) == 2 and len({level[0] for level in levels.values()}) <= len(DASHES)
    groups = sorted({level[:1] if crossed else level for level in levels.values()})
    shades = sorted({level[1:] if crossed else level for level in levels.values()})
    lines = []
    for recipe, level in sorted(levels.items(), key=lambda item: item[1]):
        text = ", ".join(f"{factor_name(key)} {factor_text(cells[recipe].get(key))}" for key in keys)
        group, place = groups.index(level[:1] if crossed else level), shades.index(level[1:] if crossed else level)
        color = to_hex(colormap(0.8 * place / max(1, len(shades) - 1)))
        name = text if alone and text else ": ".join(filter(None, (label, text)))
        lines.append(Line(name, recipe, color, *free.take(group, place)))
    return lines


class _Free:
    """Pairs of dashes and marker that no line of a figure has yet; after 28 of them they come again."""

    def __init__(self) -> None:
        self._taken: set[tuple[int, int]] = set()

    def take(self, dashes: int, marker: int) -> tuple[Dashes, str]:
        """The wanted ones by their numbers, or else the same dashes with the next free marker, or else the next dashes."""
        if len(self._taken) == len(DASHES) * len(MARKERS):
            self._taken.clear()
        steps = itertools.product(range(len(DASHES)), range(len(MARKERS)))
        places = (((dashes + by) % len(DASHES), (marker + on) % len(MARKERS)) for by, on in steps)
        found = next(place for place in places if place not in self._taken)
        self._taken.add(found)
        return DASHES[found[0]], MARKERS[found[1]]


def selected(stage: PlannedStage, *, layout: Layout) -> SelectionRecord | None:
    """The checkpoint of a stage that the next one started from, if that was decided."""
    path = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage) / "selection.json"
    chosen = records.read_record(path, SelectionRecord) if path.exists() else None
    return chosen if chosen and chosen.ckpt else None


def stages_of(study: StudySpec, pair: Pair, recipe: str) -> list[PlannedStage]:
    """A recipe's stages, by seed."""
    stages = [stage for stage in study.stages if (stage.model, stage.data, stage.recipe) == (*pair, recipe)]
    return sorted(stages, key=lambda stage: (stage.seed, stage.stage))


def factor_name(factor: str) -> str:
    """A training key in a label."""
    return {"effective_batch_size": "batch", "learning_rate": "LR"}.get(factor, factor.replace("_", " "))


def absences(results: Results, lines: Mapping[Pair, Sequence[Line]], benchmarks: Sequence[str], *, layout: Layout) -> list[str]:
    """Which runs of a figure are not there, or lack scores on its benchmarks, in words: a sentence per reason."""
    found: dict[str, dict[str, list[int]]] = {}
    for pair, drawn in lines.items():
        for line in drawn:
            stages = stages_of(results.study, pair, line.recipe)
            for seed in dict.fromkeys(stage.seed for stage in stages):
                reason = _reason(results, [stage for stage in stages if stage.seed == seed], benchmarks, layout=layout)
                name = f"{line.label} ({pair[0]}, {pair[1]})" if len(lines) > 1 else line.label
                if reason:
                    found.setdefault(reason, {}).setdefault(name, []).append(seed)
    return [
        f"{reason}: {'; '.join(f'{name}, {_seeds(seeds)}' for name, seeds in runs.items())}."
        for reason, runs in sorted(found.items())
    ]


def _reason(results: Results, stages: Sequence[PlannedStage], benchmarks: Sequence[str], *, layout: Layout) -> str:
    """Why a run is not drawn as planned; empty if it is."""
    for stage in stages:
        training = read_training(stage, layout=layout)
        if training is None:
            return "Not trained yet"
        if training.status != "finished":
            return f"{training.status[0].upper()}{training.status[1:]}"
    first = stages[0]
    runs = [(name, run) for name in benchmarks for run in results.runs((first.model, first.data), first.recipe, name)]
    lacking = [name for name, run in runs if run.seed == first.seed and not run.complete]
    return f"Scores missing on {', '.join(lacking)}" if lacking else ""


def _seeds(seeds: Iterable[int]) -> str:
    numbers = [str(seed) for seed in seeds]
    return f"seed{'s' if len(numbers) > 1 else ''} {' and '.join(numbers)}"
