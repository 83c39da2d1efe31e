"""The benchmark is fair: all settings train on the same samples from the same loss, and its ratios compare like with like."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import train_throughput
from processes import in_processes
from train_throughput import Setting, Timed

BATCH_SIZE, NUM_STEPS = 4, 3
SIZES = {"batch_size": BATCH_SIZE, "num_steps": NUM_STEPS}
DRAW = {"num_samples": 18, "seed": 0}
LENGTHS = [5, 9, 3, 12, 7, 6, 2, 11, 8, 4, 10, 3]


def samples() -> list[tuple[list[int], list[bool]]]:
    """Prompts of one token."""
    return [
        ([3 + (7 * row + place) % 20 for place in range(length)], [False] + [True] * (length - 1))
        for row, length in enumerate(LENGTHS)
    ]


def measured(word: str, model_folder: Path) -> dict[str, Any]:
    """What the benchmark measures of a setting; runs in a process of its own."""
    setting = Setting.parse(word)
    if setting.program == "ours":
        return asdict(train_throughput.ours(setting, model_folder, samples(), **SIZES))
    return asdict(train_throughput.peer(setting, model_folder, samples(), **SIZES, max_length=16))


def test_samples_are_drawn_from_all_chats_within_the_limit(model_folder: Path, tmp_path: Path) -> None:
    chats = [
        [{"role": "user", "content": "what is grass"}, {"role": "assistant", "content": "green " * (1 + number % 7)}]
        for number in range(18)
    ]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    lengths = [len(ids) for ids, _ in train_throughput.tokenised(model_folder, [tmp_path / "chats.jsonl"], **DRAW, max_length=64)]
    assert len(lengths) == 18
    limit = sorted(lengths)[5]
    drawn = train_throughput.tokenised(model_folder, [tmp_path / "chats.jsonl"], **DRAW, max_length=limit)
    assert sorted({len(ids) for ids, _ in drawn}) == sorted({length for length in lengths if length <= limit})
    assert [(len(ids), any(mask)) for ids, mask in drawn] == [(len(mask), True) for _, mask in drawn]


def test_all_train_on_the_same_samples_and_begin_with_the_same_loss(model_folder: Path) -> None:
    words = ["ours:padded:fp32:32", "ours:packed:fp32:32", "trainer:padded:fp32:2", "sft:padded:fp32:2", "sft:free:fp32:2"]
    found = [in_processes(1, measured, word, model_folder)[0] for word in words]
    assert len(found) == 5
    assert [one["num_tokens"] for one in found] == [sum(LENGTHS[BATCH_SIZE:])] * 5
    assert [one["loss"] for one in found] == pytest.approx([found[0]["loss"]] * 5, rel=1e-5)


def test_packed_rows_lose_no_token(model_folder: Path) -> None:
    (one,) = in_processes(1, measured, "sft:packed:fp32:1", model_folder)
    # 80 tokens fill five rows of 16, of which a step has one at least, and three steps no more than three
    assert 2 * 10 <= one["num_tokens"] <= 2 * 16


def test_ratios_compare_like_with_like() -> None:
    rates = {"ours:padded:bf16:64": 30, "ours:packed:fp32:64": 40, "trainer:padded:bf16:2": 20, "sft:packed:pure:1": 50}
    machine = {"bf16": 100.0, "fp32": 400.0, "per_token": 1.0}
    lines = train_throughput.table({word: [Timed(rate, 1.0, 1.0, 0.0, 0.0)] for word, rate in rates.items()}, machine).splitlines()
    assert lines[2].startswith("| sft:packed:pure:1 | no | 50.0 | 50 | 50.0 | 50% |")
    assert lines[3].startswith("| ours:packed:fp32:64 | yes | 40.0 | 40 | 40.0 | 10% |")
    assert lines[-2:] == [
        "bf16, fp32 masters: ours / best peer = 1.50 (ours:padded:bf16:64 / trainer:padded:bf16:2)",
        "any precision: ours / best peer = 0.80 (ours:packed:fp32:64 / sft:packed:pure:1)",
    ]


@pytest.mark.parametrize(
    "word", ["ours:padded:pure:64", "ours:grouped:fp32:64", "trainer:packed:fp32:1", "sft:free:fp32", "x:y:z:1"]
)
def test_a_word_that_is_no_setting_is_named(word: str) -> None:
    with pytest.raises(SystemExit, match=f"^{word}: not a setting; write program:layout:precision:size"):
        Setting.parse(word)
