"""A study's figures as PNG and PDF. The same records give the same bytes."""

from __future__ import annotations

import matplotlib

from sftstudy import records
from sftstudy.config import DynamicsFigure
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.spec import StudySpec
from sftstudy.tables.aggregate import load_results
from sftstudy.tables.figures.dynamics import draw_dynamics
from sftstudy.tables.figures.look import STYLE, encoded
from sftstudy.tables.figures.scores import draw_scores


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
