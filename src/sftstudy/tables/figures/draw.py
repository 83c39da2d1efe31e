"""A study's figures as PNG and PDF. The same records give the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from sftstudy import records
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.spec import StudySpec
from sftstudy.tables.aggregate import load_results
from sftstudy.tables.figures.benefit import draw_benefit
from sftstudy.tables.figures.dynamics import draw_dynamics
from sftstudy.tables.figures.early import draw_early
from sftstudy.tables.figures.factor import draw_factor
from sftstudy.tables.figures.final import draw_final
from sftstudy.tables.figures.look import STYLE, encoded
from sftstudy.tables.figures.scores import draw_scores

KINDS: dict[str, Callable[..., Figure]] = {
    "scores": draw_scores,
    "final": draw_final,
    "benefit": draw_benefit,
    "factor": draw_factor,
    "dynamics": draw_dynamics,
    "early": draw_early,
}
"""Kind of a figure in config -> (results, definition, layout) -> figure."""


def render_figure(study: StudySpec, figure: str, *, layout: Layout) -> None:
    """Write `figures/{figure}.png` and `.pdf` of a study. Raises StudyError on an unknown figure."""
    if figure not in study.figures:
        raise StudyError(f"study {study.name} has no figure {figure}; it has {', '.join(sorted(study.figures)) or 'none'}")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        drawn = draw_figure(study, figure, layout=layout)
        stem = layout.study_folder(study.name) / "figures" / figure
        records.write_bytes(stem.with_name(f"{figure}.png"), encoded(drawn, "png"))
        records.write_bytes(stem.with_name(f"{figure}.pdf"), encoded(drawn, "pdf"))


def draw_figure(study: StudySpec, figure: str, *, layout: Layout) -> Figure:
    """The figure, in whatever style is set."""
    definition: Any = study.figures[figure]
    return KINDS[definition.kind](load_results(study, layout=layout), definition, layout=layout)
