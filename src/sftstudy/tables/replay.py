"""What rules of early stopping would have saved and lost in a study, replayed from the logs of its finished runs.

`replay.csv` has a line per rule, rungs and share kept; the figure draws regret over savings. Both are means over bootstrap draws of
what competes, since the best of a handful of recipes is a matter of luck. Nothing is trained for it.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sftstudy import records
from sftstudy.config import MedianRule, PaperRule, RandomRule, Replay, TopRule
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.screen import History, Outcome, replay, replay_asha, rung_name
from sftstudy.spec import StudySpec
from sftstudy.tables.aggregate import Pair, Results, load_results
from sftstudy.tables.early import competitors, history
from sftstudy.tables.figures import MARKERS, OKABE_ITO, STYLE, WIDTH, encoded

SHARES = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Shares kept at each rung, along a rule's curve."""

FEWEST = 3
"""Finished competitors without which there is nothing to replay."""

Contender = Callable[[Sequence[History], float, Sequence[float], int], Outcome]
"""(histories in order of arrival, share kept, rungs, number of the draw) -> outcome."""

_LOW_LOSS = TopRule(kind="top", signal="loss", best="lowest", keep=0.5)
CONTENDERS: dict[str, Contender] = {
    "low norm (paper)": lambda found, keep, rungs, _: replay(found, PaperRule(kind="paper", keep=keep), rungs=rungs),
    "low loss": lambda found, keep, rungs, _: replay(found, _LOW_LOSS.model_copy(update={"keep": keep}), rungs=rungs),
    "low loss (ASHA)": lambda found, keep, rungs, _: replay_asha(found, keep=keep, rungs=rungs, rule=_LOW_LOSS),
    "random": lambda found, keep, rungs, draw: replay(found, RandomRule(kind="random", keep=keep, seed=draw), rungs=rungs),
    "low loss (median)": lambda found, _, rungs, __: replay(
        found, MedianRule(kind="median", signal="loss", best="lowest"), rungs=rungs
    ),
}
"""What is compared, always in these colours. At several rungs, a share of low losses is successive halving by loss."""

ONE_POINT = {"low loss (median)"}
"""Contenders that keep what they keep."""


@dataclass(frozen=True)
class Line:
    """One line of `replay.csv`. Means over draws; `low` and `high` are the 10th and 90th percentile."""

    model: str
    data: str
    rungs: str
    rule: str
    keep: float | None
    num_competitors: int
    savings: float
    savings_low: float
    savings_high: float
    regret: float
    regret_low: float
    regret_high: float
    best_stopped: float


def replay_study(study: StudySpec, *, layout: Layout) -> None:
    """Write `replay.csv`, `.png` and `.pdf` of a study. Raises StudyError if it has no `replay:`."""
    if study.replay is None:
        raise StudyError(f"studies/{study.name}.yaml: replay: missing; say by which benchmark and at which rungs to replay")
    results = load_results(study, layout=layout)
    found = {
        pair: [
            past
            for competitor in competitors(study, study.replay, pair)
            if (past := history(results, study.replay, pair, competitor, layout=layout))
        ]
        for pair in results.pairs
    }
    lines = [line for pair, histories in found.items() for line in replay_pair(pair, histories, study.replay)]
    folder = layout.study_folder(study.name) / "replay"
    records.write_text(folder / "replay.csv", to_csv(lines))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        drawn = draw_replay(lines, results, study.replay)
        for kind in ("png", "pdf"):
            records.write_bytes(folder / f"replay.{kind}", encoded(drawn, kind))


def replay_pair(pair: Pair, histories: Sequence[History], looks: Replay) -> list[Line]:
    """All contenders, at each rung alone and, if there are several, at all of them. Empty if too few are finished."""
    if len(histories) < FEWEST:
        return []
    draws = _draws(histories, looks)
    lines = []
    for rungs in [[rung] for rung in looks.rungs] + ([looks.rungs] if len(looks.rungs) > 1 else []):
        for rule, contender in CONTENDERS.items():
            for keep in SHARES[:1] if rule in ONE_POINT else SHARES:
                found = [contender(drawn, keep, rungs, number) for number, drawn in enumerate(draws)]
                lost = [outcome.regret > 0 for outcome in found]
                lines.append(
                    Line(
                        model=pair[0],
                        data=pair[1],
                        rungs=" ".join(map(rung_name, rungs)),
                        rule=rule,
                        keep=None if rule in ONE_POINT else keep,
                        num_competitors=len(histories),
                        **_spread("savings", [outcome.savings for outcome in found]),
                        **_spread("regret", [outcome.regret for outcome in found]),
                        best_stopped=float(np.mean(lost)),
                    )
                )
    return lines


def to_csv(lines: Sequence[Line]) -> str:
    """Numbers with five digits: what differs beyond is rounding."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(Line)])
    for line in lines:
        values = [getattr(line, field.name) for field in fields(Line)]
        writer.writerow([f"{value:.5f}" if isinstance(value, float) else value for value in values])
    return out.getvalue()


def _draws(histories: Sequence[History], looks: Replay) -> list[list[History]]:
    """Bootstrap draws in random order, the same for every contender; one that is drawn twice competes twice."""
    chance = random.Random(looks.seed)
    return [
        [replace(past, name=f"{past.name}#{place}") for place, past in enumerate(chance.choices(histories, k=len(histories)))]
        for _ in range(looks.num_draws)
    ]


def _spread(name: str, values: Sequence[float]) -> dict[str, Any]:
    low, high = np.percentile(values, [10, 90])
    return {name: float(np.mean(values)), f"{name}_low": float(low), f"{name}_high": float(high)}


# --- the figure --------------------------------------------------------------------------------------------------------


def draw_replay(lines: Sequence[Line], results: Results, looks: Replay) -> Figure:
    """Regret over savings: a panel per rung and one for all rungs, a row of panels per model and data set."""
    pairs = results.pairs
    columns = [rung_name(rung) for rung in looks.rungs] + ([" ".join(map(rung_name, looks.rungs))] if len(looks.rungs) > 1 else [])
    per_row = min(3, len(columns))
    rows_per_pair = -(-len(columns) // per_row)
    figure = Figure(figsize=(WIDTH, 2.3 * len(pairs) * rows_per_pair + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(pairs) * rows_per_pair, per_row, squeeze=False)
    unit = results.study.benchmarks[looks.benchmark].unit
    for number, pair in enumerate(pairs):
        panels = list(grid[number * rows_per_pair : (number + 1) * rows_per_pair].flat)
        mine = [line for line in lines if (line.model, line.data) == pair]
        top = 1.08 * max((line.regret_high if line.rule in _BANDS else line.regret for line in mine), default=1.0)
        for axes, rungs in zip(panels, columns, strict=False):
            _draw_panel(axes, [line for line in mine if line.rungs == rungs])
            where = f"{pair[0]}, {pair[1]}: " if len(pairs) > 1 else ""
            shares = ", ".join(f"{float(rung):.0%}" for rung in rungs.split())
            axes.set_title(f"{where}stop at {shares}", loc="left")
            axes.set_ylim(0, top or 1.0)
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.set_xlabel("samples saved")
            axes.set_ylabel(f"regret on {looks.benchmark}" + (" (rating)" if unit == "rating" else ""))
        for axes in panels[len(columns) :]:
            axes.set_visible(False)
    drawn = next((axes for axes in grid.flat if axes.lines), None)
    if drawn is not None:
        handles, labels = drawn.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


_BANDS = {"low norm (paper)"}
"""Whose percentiles are drawn; those of all would hide the curves, and stand in the CSV."""


def _draw_panel(axes: Axes, lines: Sequence[Line]) -> None:
    if not lines:
        axes.text(0.5, 0.5, "too few finished runs", transform=axes.transAxes, ha="center", va="center", color="0.4")
        return
    for place, rule in enumerate(CONTENDERS):
        curve = sorted((line for line in lines if line.rule == rule), key=lambda line: line.savings)
        savings = [line.savings for line in curve]
        color = OKABE_ITO[place]
        if rule in _BANDS:
            low, high = [line.regret_low for line in curve], [line.regret_high for line in curve]
            axes.fill_between(savings, low, high, color=color, alpha=0.15, linewidth=0, label="its 10th to 90th percentile")
        axes.plot(savings, [line.regret for line in curve], color=color, marker=MARKERS[place], markersize=3.5, label=rule)
