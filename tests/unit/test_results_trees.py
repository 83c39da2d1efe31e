"""The comparison of two results folders is strict: it sees every byte but the few that it says it leaves aside."""

import json
from pathlib import Path

import pytest

from results_trees import differences

RECORD = {"weights_hash": "1f", "time_s": 1.5, "num_attempts": 1}


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("left", "right"):
        (tmp_path / name / "runs").mkdir(parents=True)
        (tmp_path / name / "runs" / "training.json").write_text(json.dumps(RECORD))
        (tmp_path / name / "runs" / "metrics.jsonl").write_text('{"step": 1, "time_s": 0.1}\n{"step": 2, "time_s": 0.2}\n')
        (tmp_path / name / "scores.csv").write_text("value\n0.5\n")
        (tmp_path / name / "guide.json").write_text('{"pairs": [{"recipe": "a", "device_hours": 1.0}]}')
    return tmp_path / "left", tmp_path / "right"


def test_only_times_and_attempts_may_differ(trees: tuple[Path, Path]) -> None:
    left, right = trees
    (right / "runs" / "training.json").write_text(json.dumps(RECORD | {"time_s": 9.0, "num_attempts": 3}))
    (right / "runs" / "metrics.jsonl").write_text('{"step": 1, "time_s": 7}\n{"step": 2, "time_s": 8}\n')
    (right / "guide.json").write_text('{"pairs": [{"recipe": "a", "device_hours": 2.0}]}')
    assert differences(left, right) == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("runs/training.json", json.dumps(RECORD | {"weights_hash": "2e"}), "object 1: weights_hash"),
        ("runs/training.json", json.dumps(dict(reversed(RECORD.items())) | {"more": 1}), "object 1: more"),
        ("runs/metrics.jsonl", '{"step": 1, "time_s": 0.1}\n', "2 and 1 lines"),
        ("runs/metrics.jsonl", '{"step": 1, "time_s": 0.1}\n{"step": 3, "time_s": 0.2}\n', "object 2: step"),
        ("guide.json", '{"pairs": [{"recipe": "b", "device_hours": 1.0}]}', "object 1: pairs"),
        ("scores.csv", "value\n0.50\n", "10 and 11 bytes, not the same"),
        ("scores.csv", "value\n0.6\n", "10 and 10 bytes, not the same"),
    ],
)
def test_everything_else_is_told(trees: tuple[Path, Path], name: str, text: str, said: str) -> None:
    left, right = trees
    (right / name).write_text(text)
    assert differences(left, right) == [f"{name}: {said}"]


def test_a_file_that_one_of_them_lacks_is_told(trees: tuple[Path, Path]) -> None:
    left, right = trees
    (left / "scores.csv").unlink()
    assert differences(left, right) == [f"scores.csv: not in {left}"]
