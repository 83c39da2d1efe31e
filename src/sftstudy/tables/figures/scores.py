"""Scores over samples seen, a panel per benchmark. A stage's line starts where its selected checkpoint stood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sftstudy.config import ScoresFigure
from sftstudy.paths import Layout
from sftstudy.stats import Array
from sftstudy.tables.aggregate import Results, Run
from sftstudy.tables.figures.look import finish, legend, looks_of, pair_prefix, panels_of
from sftstudy.tables.figures.runs import selected, stages_of


@dataclass(frozen=True)
class Segment:
    """A stage of an arm on one benchmark, over its seeds: mean, least and greatest value at each place."""

    samples: Array
    mean: Array
    low: Array
    high: Array


def draw_scores(results: Results, figure: ScoresFigure, *, layout: Layout) -> Figure:
    """Scores over samples seen, a panel per benchmark, an arm's mean over seeds with the range over seeds as a band."""
    study = results.study
    pairs, benchmarks = results.pairs, list(study.benchmarks)
    per_row = min(3, len(benchmarks))
    rows_per_pair = -(-len(benchmarks) // per_row)
    drawn, panels = panels_of(len(pairs) * rows_per_pair, per_row, height=2.0)
    looks = looks_of(list(figure.arms))
    several = False
    for number, pair in enumerate(pairs):
        cells = [axes for row in panels[number * rows_per_pair : (number + 1) * rows_per_pair] for axes in row]
        for axes in cells[len(benchmarks) :]:
            axes.set_visible(False)
        for axes, name in zip(cells, benchmarks, strict=False):
            definition = study.benchmarks[name]
            for label, recipe in figure.arms.items():
                runs = results.runs(pair, recipe, name)
                starts = {
                    (stage.seed, stage.stage): chosen.ckpt
                    for stage in stages_of(study, pair, recipe)
                    if not stage.last and (chosen := selected(stage, layout=layout))
                }
                color, marker = looks[label]
                for part in segments(runs, starts):
                    several |= len(runs) > 1
                    axes.plot(part.samples, part.mean, color=color, marker=marker, markersize=3, markeredgewidth=0)
                    if len(runs) > 1:
                        axes.fill_between(part.samples, part.low, part.high, color=color, alpha=0.18, linewidth=0)
            empty = not axes.lines
            base = results.base(pair[0], name).estimate
            if base is not None and not empty:
                axes.axhline(base.value, color="0.35", linestyle=(0, (5, 3)), linewidth=0.9)
            if not empty:
                axes.axhline(definition.chance, color="0.35", linestyle=(0, (1, 2)), linewidth=0.9)
            axes.set_ylabel("score (fraction)" if definition.unit == "fraction" else "rating (1-10)")
            axes.set_xlim(left=0)
            finish(axes, f"{pair_prefix(pair, pairs)}{name}", empty=empty)
    lines: list[Line2D | Patch] = [
        Line2D([], [], color=color, marker=marker, markersize=3, label=label) for label, (color, marker) in looks.items()
    ]
    lines += [Patch(facecolor="0.6", alpha=0.4, linewidth=0, label="range over seeds")] if several else []
    lines.append(Line2D([], [], color="0.35", linestyle=(0, (5, 3)), linewidth=0.9, label="base model"))
    lines.append(Line2D([], [], color="0.35", linestyle=(0, (1, 2)), linewidth=0.9, label="guessing"))
    legend(drawn, lines)
    return drawn


def segments(runs: Sequence[Run], starts: Mapping[tuple[int, str], str]) -> list[Segment]:
    """An arm's stages, each from the checkpoint that it started from; places where every run with scores has a value.

    `starts`: (seed, stage) -> the checkpoint of that stage which the next one continues from, where it is known.
    """
    paths: list[dict[tuple[str, str], tuple[int, float]]] = []
    for run in runs:
        path: dict[tuple[str, str], tuple[int, float]] = {}
        start: tuple[int, float] | None = None
        for stage in dict.fromkeys(point.stage for point in run.points):
            points = {p.ckpt: (p.samples_seen, p.value) for p in run.points if p.stage == stage and p.value is not None}
            if start is not None:
                path[stage, ""] = start
            path |= {(stage, ckpt): place for ckpt, place in points.items()}
            start = points.get(starts.get((run.seed, stage), ""))
        if path:
            paths.append(path)
    found = []
    for stage in dict.fromkeys(stage for path in paths for stage, _ in path):
        keys = [key for key in paths[0] if key[0] == stage and all(key in path for path in paths)]
        if keys:
            samples = np.array([[path[key][0] for key in keys] for path in paths], dtype=np.float64).mean(axis=0)
            values = np.array([[path[key][1] for key in keys] for path in paths], dtype=np.float64)
            found.append(Segment(samples, values.mean(axis=0), values.min(axis=0), values.max(axis=0)))
    return found
