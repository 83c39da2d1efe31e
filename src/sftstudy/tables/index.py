"""The page that lists the studies of a `results/` folder: what each asks, what it advises, and how its claims stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape

from sftstudy import records, spec
from sftstudy.findings import GuidePair, GuideRecord
from sftstudy.paths import Layout
from sftstudy.spec import StudySpec
from sftstudy.tables.guide_page import effect_text
from sftstudy.tables.pieces import document, table
from sftstudy.tables.style import CLAIMS_STYLE, GUIDE_STYLE


def write_index(*, layout: Layout) -> None:
    """Write `index.html` over the studies that have a report, those of earlier runs too, in the order of their names."""
    found = sorted(path.parent for path in layout.study_folder("").glob("*/report.html"))
    studies = {folder.name: spec.read(folder / "spec.yaml") for folder in found}
    guides = {folder.name: records.read_record(folder / "guide.json", GuideRecord) for folder in found}
    rows = {name: (study, guides[name]) for name, study in studies.items() if isinstance(study, StudySpec)}
    records.write_text(layout.index(), to_html(rows))


def to_html(studies: Mapping[str, tuple[StudySpec, GuideRecord]]) -> str:
    """The whole page."""
    rows = [
        [
            f'<a href="studies/{escape(name)}/report.html">{escape(name)}</a><br><span class="why">{escape(study.question)}</span>',
            "<br>".join(_advice(pair, several=len(guide.pairs) > 1) for pair in guide.pairs),
            "<br>".join(f"{verdict}: {number}" for verdict, number in sorted(Counter(c.verdict for c in guide.claims).items())),
            f"{sum(guide.missing.values()):,}" if guide.missing else "none",
        ]
        for name, (study, guide) in studies.items()
    ]
    heads = ["study", "advised, with its mean of normalised benchmarks", "claims", "missing records"]
    return document(
        title="Studies",
        style=CLAIMS_STYLE + GUIDE_STYLE,
        kind="Results",
        heading="Studies",
        head=[],
        body=[table(heads, rows, style="words")],
    )


def _advice(pair: GuidePair, *, several: bool) -> str:
    where = f"{escape(pair.model)}, {escape(pair.data)}: " if several else ""
    if pair.advised is None:
        return f'<span class="why">{where}{escape(pair.why)}</span>'
    return f"{where}<code>{escape(pair.advised.recipe)}</code> {effect_text(pair.advised.score, sign=False)}"
