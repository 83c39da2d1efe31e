"""What is said of records that were cut off by a copy or a full disk, or garbled: the file and what to do."""

from pathlib import Path

import pytest

from sftstudy import records
from sftstudy.errors import StudyError
from sftstudy.evaluate.judgments import summarize_judgments
from sftstudy.pedigree import made_by
from sftstudy.records import StepMetrics, read_content, read_metrics

STEP = StepMetrics(
    step=1, samples_seen=4, loss=float("nan"), grad_norm=1, learning_rate=1e-3, num_supervised_tokens=1, num_tokens=1, time_s=1,
    tokens_per_s=1,
)  # fmt: skip


@pytest.mark.parametrize("rest", [STEP.model_dump_json()[:40], "null", "[]", "{}", '{"step": 2}', "\udcff"])
def test_of_broken_metrics_file_and_line_are_told(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(STEP.model_dump_json() + "\n", errors="surrogateescape")
    assert [step.samples_seen for step in read_metrics(path)] == [4]
    with path.open("a", errors="surrogateescape") as file:
        file.write(rest)
    with pytest.raises(StudyError, match=rf"^{path}: line 2 is no step; delete the file and build it again$"):
        read_metrics(path)


def test_metrics_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"metrics.jsonl: missing; build it with"):
        read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("content", [b"", b'{"spec_hash": "a', b"null", b"[]", b"\xff"])
def test_a_broken_record_of_any_kind_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "training.json"
    path.write_bytes(content)
    for read in (read_content, records.stopped_status):
        with pytest.raises(StudyError, match=rf"^{path}: not a record; delete the file and build it again$"):
            read(path)


@pytest.mark.parametrize("content", [None, b'{"spec_hash": "a', b"null", b"{}", b'{"spec_hash": 1, "content_hash": 1}'])
def test_a_record_behind_a_cell_that_broke_since_is_collected_again(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "training.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StudyError, match=rf"^{path}: missing or broken since the scores were collected; collect them again"):
        made_by(path)


@pytest.mark.parametrize("content", [b"\xff\xfe{", b'{"question_id": 81, "model": "\xe9"}'])
def test_judgments_that_are_not_utf_8_are_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "judgments.jsonl"
    path.write_bytes(b"\n" + content)
    with pytest.raises(StudyError, match=rf"^{path}: line 2: .*; see FastChat's format$"):
        summarize_judgments(path)
