"""A study's report over toy records, and the list of all studies: whole, self-contained, the same from the same records."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sftstudy import spec
from sftstudy.claims.check import check_claims
from sftstudy.config import ArmsClaim, ArmsTable, ScoresFigure, Screen, Training
from sftstudy.guide.write import write_guide
from sftstudy.paths import Layout
from sftstudy.records import write_bytes
from sftstudy.spec import StudySpec
from sftstudy.tables.audit_files import CAPTIONS
from sftstudy.tables.collect import collect_scores
from sftstudy.tables.figures import render_figure
from sftstudy.tables.index import write_index
from sftstudy.tables.render import FORMATS, render_table
from sftstudy.tables.report import write_report
from sftstudy.tables.summary import summarize_study
from table_toys import Tree, stacked

VOID = {"meta", "img", "br", "rect", "line", "circle"}


class Page(HTMLParser):
    """Fails on a tag that is closed where another is open; collects names, links and sources."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.names |= {found["id"]} if "id" in found else set()
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []
        assert tag not in ("script", "link", "iframe")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(Layout(tmp_path / "results", tmp_path / "scratch"))
    tree.base({"exam": [0, 0, 1, 0] * 10})
    for rate, (recipe, right) in enumerate({"good": [1, 1, 1, 0], "poor": [1, 0, 1, 0]}.items(), start=1):
        factors = Training(effective_batch_size=4, learning_rate=rate, epochs=1, num_checkpoints=1).model_dump()
        tree.stage(recipe, {"ckpt01": (10, 10, {"exam": right * 10})}, factors=factors)
    tree.tables = {"arms": ArmsTable(kind="arms", caption="Good & poor.", arms={"Good": "good", "Poor": "poor"})}
    tree.figures = {"scores": ScoresFigure(kind="scores", caption="Scores.", arms={"Good": "good", "Poor": "poor"})}
    return tree


def make(tree: Tree, **changes: Any) -> StudySpec:
    """All that a report shows, and the report."""
    claim = ArmsClaim(kind="direction", statement="Good is better.", first="good", second="poor", margins={"exam": 0.1}, at="last")
    study = stacked(tree.study()).model_copy(update={"claims": {"better": claim}} | changes)
    spec.write(tree.layout.study_folder("toy") / "spec.yaml", study)
    collect_scores([study], layout=tree.layout)
    check_claims(study, layout=tree.layout)
    write_guide(study, layout=tree.layout)
    summarize_study(study, layout=tree.layout)
    for table in study.tables:
        render_table(study, table, FORMATS, layout=tree.layout)
    for figure in study.figures:
        render_figure(study, figure, layout=tree.layout)
    write_report(study, layout=tree.layout)
    return study


def report(tree: Tree) -> str:
    return (tree.layout.study_folder("toy") / "report.html").read_text()


def test_a_report_has_everything_and_stands_alone(tree: Tree) -> None:
    make(tree)
    text = report(tree)
    page = Page(text)
    assert {"advice", "claims", "tables", "figures", "configuration", "missing", "versions"} <= page.names
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.names
    assert len(page.sources) == 1
    assert page.sources[0].startswith("data:image/png;base64,")
    assert "Good &amp; poor." in text
    assert re.search(r'<a class="cell" href="tables/arms.html#[^"]*Good[^"]*"><b class="better">0.75</b>', text)
    assert "every planned record is there" in text
    assert not re.search(r"(href|src)=\"(https?:|/)", text)


def test_its_links_lead_to_files_beside_it(tree: Tree) -> None:
    make(tree)
    folder = tree.layout.study_folder("toy")
    write_index(layout=tree.layout)
    links = [link.partition("#")[0] for link in Page(report(tree)).links if not link.startswith("#")]
    there = [link for link in links if "passport" not in link]
    assert len(there) >= 5
    assert [link for link in there if not (folder / link).exists()] == []


def test_missing_records_are_named(tree: Tree) -> None:
    (tree.layout.stage_results("m", "d", "poor", 1, "01-stacked") / "scores/exams/all.json").unlink()
    make(tree)
    text = report(tree)
    assert "<summary>1 missing</summary>" in text
    assert "d/poor/seed1/01-stacked/scores/exams/all.json" in text
    Page(text)


def test_the_same_records_make_the_same_bytes(tree: Tree) -> None:
    study = make(tree)
    before = report(tree)
    write_report(study, layout=tree.layout)
    assert report(tree) == before


def test_the_index_lists_studies_with_a_report(tree: Tree) -> None:
    make(tree)
    other = tree.layout.study_folder("other")
    spec.write(other / "spec.yaml", tree.study("other"))
    write_index(layout=tree.layout)
    text = tree.layout.index().read_text()
    page = Page(text)
    assert page.links == ["studies/toy/report.html"]
    assert "<code>good</code>" in text
    assert "other" not in text


def test_a_screens_audit_is_shown_and_linked(tree: Tree) -> None:
    study = make(tree)
    rule = {"kind": "top", "signal": "loss"}
    screen = Screen.model_validate({"benchmark": "exam", "rungs": [0.5], "rule": rule})
    folder = tree.layout.study_folder("toy")
    for name in CAPTIONS:
        write_bytes(folder / "screen" / f"{name}.png", (folder / "figures" / "scores.png").read_bytes())
    write_report(study.model_copy(update={"screen": screen}), layout=tree.layout)
    page = Page(report(tree))
    assert "screen/screen.html" in page.links
    assert len(page.sources) == 1 + len(CAPTIONS)
