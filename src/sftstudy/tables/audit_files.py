"""Writes a study's audit: its numbers, two figures, a page and Markdown, all under `screen/`."""

from __future__ import annotations

import matplotlib

from sftstudy import records
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.spec import StudySpec
from sftstudy.tables.aggregate import load_results
from sftstudy.tables.audit import audit_pair
from sftstudy.tables.audit_figures import draw_savings, draw_signals
from sftstudy.tables.audit_page import to_html, to_markdown
from sftstudy.tables.figures import STYLE, encoded

CAPTIONS = {
    "signals": "Final score over what each competitor showed before the decision; lines are 95 % intervals over items and seeds.",
    "savings": "What the stops up to each rung save and lose, beside as many at random; the line is the 95 % interval of the loss.",
}


def audit_study(study: StudySpec, *, layout: Layout) -> None:
    """Write all files of a study's audit. Raises StudyError if it has no screen."""
    screen = study.screen
    if screen is None:
        raise StudyError(f"studies/{study.name}.yaml: screen: missing; there is nothing to audit")
    results = load_results(study, layout=layout)
    reports = [audit_pair(results, screen, pair, layout=layout) for pair in results.pairs]
    folder = layout.study_folder(study.name) / "screen"
    text = ",\n".join(report.model_dump_json(indent=1) for report in reports)
    records.write_text(folder / "audit.json", f"[{text}]\n")
    records.write_text(folder / "audit.md", "\n".join(to_markdown(study, screen, report) for report in reports))
    images = {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        for name, figure in (
            ("signals", draw_signals(reports, screen, screen.benchmark)),
            ("savings", draw_savings(reports, screen.benchmark)),
        ):
            images[CAPTIONS[name]] = encoded(figure, "png")
            records.write_bytes(folder / f"{name}.png", images[CAPTIONS[name]])
            records.write_bytes(folder / f"{name}.pdf", encoded(figure, "pdf"))
    records.write_text(folder / "screen.html", to_html(study, screen, reports, images))
