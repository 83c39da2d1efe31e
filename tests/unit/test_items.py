"""A benchmark's items as texts, from files, from a mirror with a list of its files, and from one without."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sftstudy.config import HubSplit, LocalFile
from sftstudy.data.items import mirror_files, read_items
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.spec import ItemPlaces

HEADER = """---
license: mit
configs:
- config_name: botany
  data_files:
  - {split: test, path: botany/test-*.parquet}
  - {split: dev, path: botany/dev-00000-of-00001.parquet}
- config_name: music
  data_files:
  - {split: test, path: [music/part-1.parquet]}
---
# A tiny exam
"""


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """org/exam lists its files; org/plain has them named by split."""
    rows = {"botany/test-00000": "oak", "botany/dev-00000-of-00001": "elm", "music/part-1": "lute"}
    for name, word in rows.items():
        path = tmp_path / "org" / "exam" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"question": f"What is an {word}?", "choices": ["a tree", "a thing"], "answer": 1, "meta": {"source": "me"}}
        pq.write_table(pa.Table.from_pylist([row]), path)
    (tmp_path / "org" / "exam" / "README.md").write_text(HEADER)
    for name in ("main/test.jsonl", "main/train.jsonl", "socratic/test-1.jsonl", "contest/train.jsonl"):
        path = tmp_path / "org" / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"turns": [name, "and?"]}) + "\n")
    return tmp_path


def texts(mirror: Path, **split: str) -> list[list[str]]:
    places = ItemPlaces(uses=[HubSplit(**split)], mirror=str(mirror))
    return [item.texts for item in read_items(places, layout=Layout())]


def test_a_split_of_one_config_or_of_all_that_have_it(mirror: Path) -> None:
    oak, lute = (["What is an oak?", "a tree", "a thing", "me"], ["What is an lute?", "a tree", "a thing", "me"])
    assert texts(mirror, hub="org/exam", split="test") == [oak, lute]
    assert texts(mirror, hub="org/exam", split="test", config="music") == [lute]
    assert texts(mirror, hub="org/exam", split="dev")[0][0] == "What is an elm?"


def test_files_named_by_split(mirror: Path) -> None:
    assert texts(mirror, hub="org/plain", split="test") == [
        ["main/test.jsonl", "and?"],
        ["socratic/test-1.jsonl", "and?"],
    ]
    assert texts(mirror, hub="org/plain", split="train", config="main") == [["main/train.jsonl", "and?"]]


def test_what_is_not_there_is_named(mirror: Path) -> None:
    with pytest.raises(StudyError, match=r"org/exam: has no files of config 'music', split 'dev'; correct `uses` or `mirror`"):
        mirror_files(mirror / "org" / "exam", HubSplit(hub="org/exam", split="dev", config="music"))


def test_a_fixed_subset_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"question_id": number, "turns": [f"number {number}"]}) + "\n" for number in range(4)))
    found = read_items(ItemPlaces(uses=[LocalFile(path=str(path))], question_ids=[1, 3]), layout=Layout())
    assert [(item.texts, item.origin) for item in found] == [(["number 1"], f"{path}:2"), (["number 3"], f"{path}:4")]
