"""The report on what a data set shares with benchmarks, by the program that a rule would start."""

import json
import subprocess
import sys
from pathlib import Path

from sftstudy import config, spec
from sftstudy.records import OverlapExample, OverlapRecord, read_record

PROGRAM = Path(__file__).parents[2] / "workflow" / "scripts" / "check_overlap.py"
PUN = "Can you share a pun about the sun?"


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_leaks_are_counted_and_shown_and_unread_items_are_no_error(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"prompt": text, "response": "Because it shines."} for text in (PUN, "Hello", PUN.lower())])
    write(tmp_path / "test.jsonl", [{"question": "Who are you?"}, {"question": PUN}, {"question": f"{PUN} Why?"}])
    source = config.Source.model_validate({"from": {"path": "train.jsonl"}, "format": "prompt-response"})
    written = spec.OverlapSpec(
        data="mine",
        phases={"jokes": config.Phase(sources=[source], num_samples=3)},
        benchmarks={
            "puns": spec.ItemPlaces(uses=[config.LocalFile(path="test.jsonl")]),
            "gone": spec.ItemPlaces(uses=[config.HubSplit(hub="org/gone", split="test")], mirror="nowhere"),
        },
    )
    path = "results/overlap/mine/spec.yaml"
    spec.write(tmp_path / path, written)
    done = subprocess.run([sys.executable, str(PROGRAM), path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    record = read_record(tmp_path / "results/overlap/mine/overlap.json", OverlapRecord)
    assert record.spec_hash == spec.spec_hash(written)
    jokes = record.phases["jokes"]
    puns, gone = jokes.benchmarks["puns"], jokes.benchmarks["gone"]
    assert (jokes.num_rows, puns.num_items, puns.items_hit, puns.rows_hit, puns.unread) == (3, 3, 1, 2, None)
    words = "can you share a pun about the sun"
    assert puns.examples == [OverlapExample(row="train.jsonl:1", item="test.jsonl:2", item_number=1, words=words)]
    assert (gone.num_items, gone.unread and gone.unread.split(";")[0]) == (0, "nowhere/org/gone: has no files of split 'test'")
