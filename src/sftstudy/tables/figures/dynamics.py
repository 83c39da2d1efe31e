"""Training dynamics: loss and gradient norm over samples seen.

A phased run goes on along the x axis from where its selected checkpoint stood; what a stage trained beyond that checkpoint is drawn
faint. Models and data are rows of panels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from sftstudy import records
from sftstudy.config import NO_NAME, DynamicsFigure
from sftstudy.paths import Layout
from sftstudy.records import StepMetrics
from sftstudy.spec import StudySpec
from sftstudy.stats import Array
from sftstudy.tables.aggregate import Pair
from sftstudy.tables.collect import read_training
from sftstudy.tables.figures.look import OKABE_ITO, finish, legend, pair_prefix, panels_of
from sftstudy.tables.figures.runs import expand_recipes, selected, stages_of


@dataclass(frozen=True)
class Curve:
    """A stage of one run: `past` marks steps beyond the checkpoint that the next stage started from."""

    samples: Array
    loss: Array
    grad_norm: Array
    past: NDArray[np.bool_]


def draw_dynamics(study: StudySpec, figure: DynamicsFigure, *, layout: Layout) -> Figure:
    """Loss and gradient norm over samples seen; seeds of a recipe share a colour."""
    pairs = list(dict.fromkeys((s.model, s.data) for s in study.stages if s.recipe != NO_NAME))
    drawn, panels = panels_of(len(pairs), 2, height=2.3)
    smoothed = False
    for row, pair in enumerate(pairs):
        lines = expand_recipes(study, figure.recipes, pair)
        width = 1.0 if len(lines) <= len(OKABE_ITO) else 0.7
        loss_axes, norm_axes = panels[row]
        for line in lines:
            for curve in curves(study, pair, line.recipe, layout=layout):
                window = max(1, len(curve.samples) // 50)
                smoothed |= window > 1
                for axes, values in ((loss_axes, curve.loss), (norm_axes, curve.grad_norm)):
                    smooth = running_mean(values, window)
                    for part, faint in ((~curve.past, 1.0), (curve.past, 0.4)):
                        axes.plot(
                            curve.samples[part], smooth[part], color=line.color, linestyle=line.dashes, linewidth=width, alpha=faint
                        )
        norm_axes.set_yscale("log")
        norm_axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        norm_axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        norm_axes.yaxis.set_minor_formatter(NullFormatter())
        note = ", running mean over 2 % of a stage" if smoothed else ""
        loss_axes.set_ylabel("loss (nats per supervised token)")
        norm_axes.set_ylabel("gradient norm before clipping")
        for axes, name in ((loss_axes, "loss"), (norm_axes, "gradient norm")):
            finish(axes, f"{pair_prefix(pair, pairs)}{name}{note}", empty=not axes.lines)
        if row == 0:
            legend(drawn, [Line2D([], [], color=line.color, linestyle=line.dashes, label=line.label) for line in lines])
    return drawn


def curves(study: StudySpec, pair: Pair, recipe: str, *, layout: Layout) -> list[Curve]:
    """One curve per stage and seed that has today's training record, with samples counted from the base model on."""
    found = []
    for stage in stages_of(study, pair, recipe):
        folder = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
        training = read_training(stage, layout=layout)
        if training is None or not (folder / "metrics.jsonl").exists():
            continue
        steps = records.read_metrics(folder / "metrics.jsonl")
        if not steps:
            continue
        before = training.samples_seen - steps[-1].samples_seen
        samples = _column(steps, lambda step: step.samples_seen) + before
        chosen = None if stage.last else selected(stage, layout=layout)
        past = samples > chosen.samples_seen if chosen else np.zeros(len(samples), dtype=bool)
        found.append(Curve(samples, _column(steps, lambda s: s.loss), _column(steps, lambda s: s.grad_norm), past))
    return found


def running_mean(values: Array, window: int) -> Array:
    """Centred mean over `window` neighbours, fewer at the ends; as long as the input."""
    ones = np.ones(window)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same") if window > 1 else values


def _column(steps: Sequence[StepMetrics], pick: Callable[[StepMetrics], float]) -> Array:
    return np.array([pick(step) for step in steps], dtype=np.float64)
