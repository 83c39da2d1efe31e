"""Which of a study's stages and recipes a figure draws, and how each recipe looks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.colors import to_hex

from sftstudy import records
from sftstudy.paths import Layout
from sftstudy.records import SelectionRecord
from sftstudy.spec import PlannedStage, StudySpec
from sftstudy.tables.aggregate import Pair
from sftstudy.tables.figures.look import DASHES, OKABE_ITO, Dashes
from sftstudy.tables.printed import factor_text, sortable


@dataclass(frozen=True)
class Line:
    """A recipe as a figure draws it."""

    label: str
    recipe: str
    color: str
    dashes: Dashes


def expand_recipes(study: StudySpec, named: Mapping[str, str], pair: Pair) -> list[Line]:
    """The figure's lines. A sweep becomes its cells, labelled by the factors in which they differ.

    Recipes have a hue each. Cells of a sweep by two factors have dashes by the first and a shade by the second, else a shade each.
    """
    factors = {stage.recipe: stage.factors for stage in study.stages if (stage.model, stage.data) == pair}
    lines: list[Line] = []
    for (label, name), hue in zip(named.items(), itertools.cycle(OKABE_ITO)):
        if name not in study.sweeps:
            lines.append(Line(label, name, hue, DASHES[0]))
            continue
        cells = [recipe for recipe in study.sweeps[name] if recipe in factors]
        keys = [key for key in (factors[cells[0]] if cells else ()) if len({str(factors[c].get(key)) for c in cells}) > 1]
        levels = {recipe: tuple(sortable(factors[recipe].get(key)) for key in keys) for recipe in cells}
        crossed = len(keys) == 2 and len({level[0] for level in levels.values()}) <= len(DASHES)
        groups = sorted({level[0] for level in levels.values()}) if crossed else []
        shades = sorted({level[1:] if crossed else level for level in levels.values()})
        for recipe in sorted(cells, key=levels.__getitem__):
            text = ", ".join(f"{_short(key)} {factor_text(factors[recipe].get(key))}" for key in keys)
            level = levels[recipe]
            place = shades.index(level[1:] if crossed else level)
            color = to_hex(colormaps["viridis"](0.9 * place / max(1, len(shades) - 1)))
            dashes = DASHES[groups.index(level[0])] if crossed else DASHES[0]
            lines.append(Line(f"{label}: {text}" if len(named) > 1 else text, recipe, color, dashes))
    return lines


def selected(stage: PlannedStage, *, layout: Layout) -> SelectionRecord | None:
    """The checkpoint of a stage that the next one started from, if that was decided."""
    path = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage) / "selection.json"
    chosen = records.read_record(path, SelectionRecord) if path.exists() else None
    return chosen if chosen and chosen.ckpt else None


def stages_of(study: StudySpec, pair: Pair, recipe: str) -> list[PlannedStage]:
    """A recipe's stages, by seed."""
    stages = [stage for stage in study.stages if (stage.model, stage.data, stage.recipe) == (*pair, recipe)]
    return sorted(stages, key=lambda stage: (stage.seed, stage.stage))


def _short(factor: str) -> str:
    return {"effective_batch_size": "batch", "learning_rate": "LR"}.get(factor, factor.replace("_", " "))
