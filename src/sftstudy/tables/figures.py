"""A study's figures as PNG and PDF: training dynamics and scores over samples seen. The same records give the same bytes.

A phased run goes on along the x axis from where its selected checkpoint stood; what a stage trained beyond that checkpoint is drawn
faint. Models and data are rows of panels.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from sftstudy import records
from sftstudy.config import NO_NAME, DynamicsFigure, ScoresFigure
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import SelectionRecord, StepMetrics
from sftstudy.spec import PlannedStage, StudySpec
from sftstudy.tables.aggregate import Pair, Results, Run, load_results
from sftstudy.tables.collect import read_training
from sftstudy.tables.printed import factor_text, sortable

Array = NDArray[np.float64]

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Dashes = tuple[float, tuple[float, ...]]
DASHES: tuple[Dashes, ...] = ((0, ()), (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "grid.linewidth": 0.3,
    "axes.grid": True, "grid.color": "0.85", "axes.axisbelow": True, "axes.formatter.useoffset": False, "legend.frameon": False,
    "pdf.fonttype": 42, "savefig.dpi": 200,
}  # fmt: skip
WIDTH = 6.75
"""Inches: two columns of a paper."""


@dataclass(frozen=True)
class Line:
    """A recipe as a figure draws it."""

    label: str
    recipe: str
    color: str
    dashes: Dashes


@dataclass(frozen=True)
class Curve:
    """A stage of one run: `past` marks steps beyond the checkpoint that the next stage started from."""

    samples: Array
    loss: Array
    grad_norm: Array
    past: NDArray[np.bool_]


@dataclass(frozen=True)
class Segment:
    """A stage of an arm on one benchmark, over its seeds: mean, least and greatest value at each place."""

    samples: Array
    mean: Array
    low: Array
    high: Array


def render_figure(study: StudySpec, figure: str, *, layout: Layout) -> None:
    """Write `figures/{figure}.png` and `.pdf` of a study. Raises StudyError on an unknown figure."""
    if figure not in study.figures:
        raise StudyError(f"study {study.name} has no figure {figure}; it has {', '.join(sorted(study.figures)) or 'none'}")
    definition = study.figures[figure]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        if isinstance(definition, DynamicsFigure):
            drawn = draw_dynamics(study, definition, layout=layout)
        else:
            drawn = draw_scores(load_results(study, layout=layout), definition, layout=layout)
        stem = layout.study_folder(study.name) / "figures" / figure
        records.write_bytes(stem.with_name(f"{figure}.png"), encoded(drawn, "png"))
        records.write_bytes(stem.with_name(f"{figure}.pdf"), encoded(drawn, "pdf"))


# --- dynamics --------------------------------------------------------------------------------------------------------


def draw_dynamics(study: StudySpec, figure: DynamicsFigure, *, layout: Layout) -> Figure:
    """Loss and gradient norm over samples seen; seeds of a recipe share a colour."""
    pairs = list(dict.fromkeys((s.model, s.data) for s in study.stages if s.recipe != NO_NAME))
    drawn, panels = _panels(len(pairs), 2, height=2.3)
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
            _finish(axes, f"{_pair_prefix(pair, pairs)}{name}{note}", empty=not axes.lines)
        if row == 0:
            _legend(drawn, [Line2D([], [], color=line.color, linestyle=line.dashes, label=line.label) for line in lines])
    return drawn


def curves(study: StudySpec, pair: Pair, recipe: str, *, layout: Layout) -> list[Curve]:
    """One curve per stage and seed that has today's training record, with samples counted from the base model on."""
    found = []
    for stage in _stages(study, pair, recipe):
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


def running_mean(values: Array, window: int) -> Array:
    """Centred mean over `window` neighbours, fewer at the ends; as long as the input."""
    ones = np.ones(window)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same") if window > 1 else values


# --- scores ----------------------------------------------------------------------------------------------------------


def draw_scores(results: Results, figure: ScoresFigure, *, layout: Layout) -> Figure:
    """Scores over samples seen, a panel per benchmark, an arm's mean over seeds with the range over seeds as a band."""
    study = results.study
    pairs, benchmarks = results.pairs, list(study.benchmarks)
    per_row = min(3, len(benchmarks))
    rows_per_pair = -(-len(benchmarks) // per_row)
    drawn, panels = _panels(len(pairs) * rows_per_pair, per_row, height=2.0)
    looks = _looks(list(figure.arms))
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
                    for stage in _stages(study, pair, recipe)
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
            _finish(axes, f"{_pair_prefix(pair, pairs)}{name}", empty=empty)
    lines: list[Line2D | Patch] = [
        Line2D([], [], color=color, marker=marker, markersize=3, label=label) for label, (color, marker) in looks.items()
    ]
    lines += [Patch(facecolor="0.6", alpha=0.4, linewidth=0, label="range over seeds")] if several else []
    lines.append(Line2D([], [], color="0.35", linestyle=(0, (5, 3)), linewidth=0.9, label="base model"))
    lines.append(Line2D([], [], color="0.35", linestyle=(0, (1, 2)), linewidth=0.9, label="guessing"))
    _legend(drawn, lines)
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


def selected(stage: PlannedStage, *, layout: Layout) -> SelectionRecord | None:
    """The checkpoint of a stage that the next one started from, if that was decided."""
    path = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage) / "selection.json"
    chosen = records.read_record(path, SelectionRecord) if path.exists() else None
    return chosen if chosen and chosen.ckpt else None


# --- common ----------------------------------------------------------------------------------------------------------


def _stages(study: StudySpec, pair: Pair, recipe: str) -> list[PlannedStage]:
    stages = [stage for stage in study.stages if (stage.model, stage.data, stage.recipe) == (*pair, recipe)]
    return sorted(stages, key=lambda stage: (stage.seed, stage.stage))


def _column(steps: Sequence[StepMetrics], pick: Callable[[StepMetrics], float]) -> Array:
    return np.array([pick(step) for step in steps], dtype=np.float64)


def _looks(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each arm. Beyond seven arms they repeat, shifted, so that the two together stay distinct."""
    number = len(OKABE_ITO)
    return {label: (OKABE_ITO[at % number], MARKERS[(at + at // number) % number]) for at, label in enumerate(labels)}


def _panels(num_rows: int, num_columns: int, *, height: float) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(WIDTH, max(1, num_rows) * height + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(max(1, num_rows), num_columns, squeeze=False)
    return figure, [list(row) for row in grid]


def _finish(axes: Axes, title: str, *, empty: bool) -> None:
    axes.set_title(title, loc="left")
    if empty:
        axes.set_xticks([])
        axes.yaxis.set_major_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.text(0.5, 0.5, "no records yet", transform=axes.transAxes, ha="center", va="center", color="0.4")
        return
    axes.set_xlabel("samples seen")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _legend(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = max(1, min(len(handles), int(WIDTH * 16 / (longest + 7))))
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)


def _pair_prefix(pair: Pair, pairs: Sequence[Pair]) -> str:
    return f"{pair[0]}, {pair[1]}: " if len(pairs) > 1 else ""


def _short(factor: str) -> str:
    return {"effective_batch_size": "batch", "learning_rate": "LR"}.get(factor, factor.replace("_", " "))


def encoded(figure: Figure, kind: str) -> bytes:
    """The file without dates and names of programs, so that equal figures are equal files."""
    out = io.BytesIO()
    nothing = {"png": ("Software",), "pdf": ("Creator", "Producer", "CreationDate")}[kind]
    figure.savefig(out, format=kind, metadata=dict.fromkeys(nothing))
    return out.getvalue()
