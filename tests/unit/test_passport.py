"""The data passport: a golden page, its remarks, and nothing on it that reaches outside."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sftstudy import spec
from sftstudy.config import Phase
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import (
    BenchmarkOverlap,
    DataRecord,
    LengthHistogram,
    ModelRecord,
    OverlapExample,
    OverlapRecord,
    PhaseOverlap,
    PhaseRecord,
    RoleTokens,
    write_record,
)
from sftstudy.tables.passport import render_passport

GOLDEN = Path(__file__).parents[1] / "golden" / "passport.html"
COMMON: dict[str, Any] = {"spec_hash": "5bec", "content_hash": "c0de", "commit": "abc", "versions": {}}


def phase_record(**changes: Any) -> PhaseRecord:
    """Three short chats, all of them whole."""
    settings: dict[str, Any] = {
        "num_read": 3,
        "num_samples": 3,
        "dropped": {},
        "truncated": 0,
        "repeated": 0,
        "exact_duplicates": 0,
        "data_hash": "da7a",
        "rows_key": "da7a",
        "num_tokens": 40,
        "num_supervised_tokens": 15,
        "tokens_per_sample": {"min": 10, "median": 12, "mean": 13.3, "p95": 17.4, "max": 18},
        "length_histogram": LengthHistogram(edges=[10, 14, 19], counts=[2, 1]),
        "role_tokens": {
            "user": RoleTokens(num_turns=3, num_tokens=25, num_supervised_tokens=0),
            "assistant": RoleTokens(num_turns=3, num_tokens=15, num_supervised_tokens=15),
        },
        "supervised_per_turn": 5.0,
        "eos_supervised_share": 1.0,
        "bos_per_sample": 1.0,
        "chat_template": "tulu",
    }
    return PhaseRecord(**COMMON, **{**settings, **changes})


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Records of a sound phase, and of one that lost rows and shares words with one benchmark while another is unread."""
    made = Layout(tmp_path / "results", tmp_path / "scratch")
    skills = phase_record(
        num_read=1005, dropped={"over_length": 2, "empty_reply": 1000}, truncated=1, eos_supervised_share=2 / 3, bos_per_sample=0.5
    )
    write_record(made.phase_record("m<1>", "mine", "facts"), phase_record())
    write_record(made.phase_record("m<1>", "mine", "skills"), skills)
    base = ModelRecord(**COMMON, num_parameters=1, weights_hash="w", tokenizer_hash="70ce", chat_template="tulu")
    write_record(made.model_record("m<1>"), base)
    write_record(made.data_record("mine"), DataRecord(**COMMON, num_chats={"facts": 3, "skills": 1005}))
    none = BenchmarkOverlap(num_items=20_000, items_hit=0, rows_hit=0, examples=[])
    example = OverlapExample(row="/home/me/train.jsonl:7", item="hub/exam.jsonl:2", item_number=1, words="is 1 < 2 " * 9)
    some = none.model_copy(update={"items_hit": 1, "rows_hit": 4, "examples": [example]})
    gone = BenchmarkOverlap(num_items=0, items_hit=0, rows_hit=0, examples=[], unread="org/gone: no network")
    phases = {
        "facts": PhaseOverlap(num_rows=3, benchmarks={"exam": none, "gone": gone}),
        "skills": PhaseOverlap(num_rows=1005, benchmarks={"exam": some, "gone": gone}),
    }
    write_record(made.overlap_record("mine"), OverlapRecord(**COMMON, num_words=13, min_words=5, phases=phases))
    return made


def page(layout: Layout, *phases: str) -> str:
    sources = [{"from": {"path": f"{phase}//rows/{phase}.jsonl"}, "weight": 0.5} for phase in phases]
    definitions = {
        phase: Phase.model_validate({"sources": [source], "num_samples": 3}) for phase, source in zip(phases, sources, strict=True)
    }
    render_passport(spec.OverlapSpec(data="mine", phases=definitions, benchmarks={}), "m<1>", layout=layout)
    return layout.passport("m<1>", "mine").read_text()


class Tags(HTMLParser):
    """Every tag and attribute of a page, and the tags that are still open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen |= {tag, *(name for name, _ in attrs)}
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen |= {tag, *(name for name, _ in attrs)}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_the_golden_and_the_same_twice(layout: Layout, pytestconfig: pytest.Config) -> None:
    text = page(layout, "facts", "skills")
    assert page(layout, "facts", "skills") == text
    if pytestconfig.getoption("--fix"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_the_page_is_whole_and_reaches_nothing_outside(layout: Layout) -> None:
    text = page(layout, "facts", "skills")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert {"main", "svg", "table"} <= tags.seen
    assert tags.seen & {"script", "link", "img", "iframe", "src", "href", "onload"} == set()
    assert "url(" not in text
    assert "@import" not in text
    assert "m&lt;1&gt;" in text
    assert "home" not in text


def test_what_stands_out_is_said_first(layout: Layout) -> None:
    remarks = re.findall(r"<li>(.*)</li>", page(layout, "facts", "skills").split("</ul>")[0])
    assert [re.sub("<.*?>", "", line) for line in remarks] == [
        "skills: 1,000 of 1,005 rows dropped: empty reply.",
        "skills: 2 of 1,005 rows dropped: over length.",
        "skills: 1 of 3 samples are cut off at the length limit.",
        "skills: 33.3 % of the replies do not train the closing token.",
        "skills: 4 of 1,005 rows share words with 1 of 20,000 items of exam (&lt;0.1 %).",
        "gone: overlap is unknown, the items could not be read: org/gone: no network.",
    ]


def test_a_clean_data_set_is_called_so(layout: Layout) -> None:
    clean = BenchmarkOverlap(num_items=20, items_hit=0, rows_hit=0, examples=[])
    phases = {"facts": PhaseOverlap(num_rows=3, benchmarks={"exam": clean})}
    write_record(layout.overlap_record("mine"), OverlapRecord(**COMMON, num_words=13, min_words=5, phases=phases))
    text = page(layout, "facts")
    assert '<ul class="remarks calm">\n<li>Nothing was dropped or cut off' in text


def test_a_missing_record_ends_in_one_line(layout: Layout) -> None:
    layout.overlap_record("mine").unlink()
    with pytest.raises(StudyError, match=r"overlap.json: missing; build it with `snakemake -c1 .*overlap.json`"):
        page(layout, "facts")
