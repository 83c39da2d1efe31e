"""Writes a study's replay: every number as CSV, and the figure."""

from __future__ import annotations

import matplotlib

from sftstudy import records
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.spec import StudySpec
from sftstudy.tables.aggregate import load_results
from sftstudy.tables.early import competitors, history
from sftstudy.tables.figures import STYLE, encoded
from sftstudy.tables.replay import replay_pair, to_csv
from sftstudy.tables.replay_figure import draw_replay


def replay_study(study: StudySpec, *, layout: Layout) -> None:
    """Write `replay.csv`, `.png` and `.pdf` of a study. Raises StudyError if it has no `replay:`."""
    looks = study.replay
    if looks is None:
        raise StudyError(f"studies/{study.name}.yaml: replay: missing; say by which benchmark and at which rungs to replay")
    results = load_results(study, layout=layout)
    found = {
        pair: [
            past
            for competitor in competitors(study, looks, pair)
            if (past := history(results, looks, pair, competitor, layout=layout))
        ]
        for pair in results.pairs
    }
    lines = [line for pair, histories in found.items() for line in replay_pair(pair, histories, looks)]
    folder = layout.study_folder(study.name) / "replay"
    records.write_text(folder / "replay.csv", to_csv(lines))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        drawn = draw_replay(lines, results.pairs, looks, unit=study.benchmarks[looks.benchmark].unit)
        for kind in ("png", "pdf"):
            records.write_bytes(folder / f"replay.{kind}", encoded(drawn, kind))
