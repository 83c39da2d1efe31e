"""`select_checkpoint.py --items`: arithmetic by hand, order, ties, and one line for what is wrong with a file."""

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from sftstudy.errors import StudyError
from sftstudy.outside import choose_from_items, describe

PROGRAM = Path(__file__).parents[2] / "workflow" / "scripts" / "select_checkpoint.py"
CORRECT = {"ckpt2": "1100 11", "ckpt10": "1110 00", "ckpt1": "1000 10"}


def table(correct: dict[str, str] = CORRECT) -> pd.DataFrame:
    """Task a has four items, task b two; a checkpoint's are the digits."""
    rows = [
        {"ckpt": ckpt, "task": task, "item": str(number), "correct": digit}
        for ckpt, digits in correct.items()
        for task, block in zip("ab", digits.split(), strict=True)
        for number, digit in enumerate(block)
    ]
    return pd.DataFrame(rows)


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), *arguments], cwd=folder, capture_output=True, text=True, check=False)


def choose(folder: Path, items: pd.DataFrame, *, name: str = "items.csv", **options: Any) -> dict[str, Any]:
    items.to_csv(folder / name, index=False) if name.endswith("csv") else items.to_parquet(folder / name)
    return choose_from_items(folder / name, **options).model_dump()


def test_scores_choice_and_verdict_by_hand(tmp_path):
    table().to_csv(tmp_path / "items.csv", index=False)
    done = program(tmp_path, "--items", "items.csv", "--record", "out.json")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((tmp_path / "out.json").read_text())
    assert [score["ckpt"] for score in record["scores"]] == ["ckpt1", "ckpt2", "ckpt10"]
    assert [score["micro"]["value"] for score in record["scores"]] == pytest.approx([2 / 6, 4 / 6, 3 / 6])
    assert [score["macro"]["value"] for score in record["scores"]] == pytest.approx(
        [(1 / 4 + 1 / 2) / 2, (2 / 4 + 1) / 2, (3 / 4) / 2]
    )
    assert record["scores"][1]["tasks"] == {"a": 0.5, "b": 1.0}
    assert (record["ckpt"], record["tasks"]) == ("ckpt2", {"a": 4, "b": 2})
    verdict = record["best_against_last"]
    assert (verdict["best"], verdict["last"], verdict["only_best"], verdict["only_last"]) == ("ckpt2", "ckpt10", 2, 1)
    assert verdict["mcnemar_p"] == pytest.approx(reference.binomtest(2, 3).pvalue)
    assert not verdict["distinguishable"]
    assert (record["racing"]["same_choice"], record["racing"]["saved"]) == (True, 0)
    assert "chosen: ckpt2 (best, micro)" in done.stdout


def test_parquet_of_booleans_numbers_or_grades_says_the_same(tmp_path):
    expected = choose(tmp_path, table())
    for convert in (lambda column: column == "1", lambda column: column.astype(int), lambda column: column.astype(float)):
        record = choose(tmp_path, table().assign(correct=lambda t, convert=convert: convert(t["correct"])), name="items.parquet")
        assert record["scores"] == expected["scores"]
    graded = choose(tmp_path, table().assign(correct=table()["correct"].map({"0": "0.25", "1": "0.75"})))
    assert graded["scores"][1]["micro"]["value"] == pytest.approx((4 * 0.75 + 2 * 0.25) / 6)
    assert graded["best_against_last"]["mcnemar_p"] is None


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("ITEMS.CSV", lambda t, path: t.to_csv(path, index=False)),
        ("items.csv.gz", lambda t, path: t.to_csv(path, index=False)),
        ("ITEMS.PARQUET", lambda t, path: t.to_parquet(path)),
        ("indexed.parquet", lambda t, path: t.set_index(["ckpt", "item"]).to_parquet(path)),
        ("bytes.parquet", lambda t, path: t.map(str.encode).to_parquet(path)),
        ("excel.csv", lambda t, path: t.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n", quoting=1)),
        ("more.csv", lambda t, path: t[t.columns[::-1]].assign(note="a,b", other=1).to_csv(path)),
        ("notes.csv", lambda t, path: t.assign(x="", y="").rename(columns={"x": "n", "y": "n"}).to_csv(path, index=False)),
    ],
)
def test_files_as_they_come_say_the_same(tmp_path, name, write):
    expected = choose(tmp_path, table())
    write(table(), tmp_path / name)
    assert choose_from_items(tmp_path / name).model_dump()["scores"] == expected["scores"]


@pytest.mark.parametrize(
    ("correct", "options", "chosen"),
    [
        ({"ckpt9": "1100 11", "ckpt10": "1100 11", "ckpt1": "0000 00"}, {}, "ckpt9"),  # a tie goes to the earlier one
        (CORRECT, {"rule": "last"}, "ckpt10"),
        ({"ckpt1": "1111 00", "ckpt2": "1000 11"}, {"average": "macro"}, "ckpt2"),
        ({"ckpt1": "1111 00", "ckpt2": "1000 11"}, {}, "ckpt1"),
        ({"ckpt1": "1110 11", "ckpt2": "1111 11"}, {"rule": "earliest"}, "ckpt1"),
    ],
)
def test_rules(tmp_path, correct, options, chosen):
    assert choose(tmp_path, table(correct), **options)["ckpt"] == chosen


def test_a_column_of_samples_sets_the_order(tmp_path):
    items = table().assign(samples=lambda t: t["ckpt"].map({"ckpt2": 300, "ckpt10": 100, "ckpt1": 200}))
    record = choose(tmp_path, items)
    assert [(score["ckpt"], score["samples"]) for score in record["scores"]] == [("ckpt10", 100), ("ckpt1", 200), ("ckpt2", 300)]
    verdict = record["best_against_last"]
    assert (verdict["best"], verdict["last"], verdict["difference"], verdict["low"]) == ("ckpt2", "ckpt2", 0, None)
    assert (verdict["p"], verdict["distinguishable"], verdict["distinguishable_after_choice"]) == (1, False, False)


def test_one_item_and_one_checkpoint_tell_nothing_apart(tmp_path):
    one = choose(tmp_path, pd.DataFrame({"ckpt": ["a", "b"], "task": "t", "item": "1", "correct": [1, 0]}))
    assert (one["ckpt"], one["best_against_last"]["difference"], one["best_against_last"]["p"]) == ("a", 1, 1)
    assert one["scores"][0]["micro"] == {"value": 1, "low": None, "high": None}
    alone = choose(tmp_path, table({"c": "1100 11"}))
    assert (alone["ckpt"], alone["racing"]["saved"], alone["optimism"]) == ("c", pytest.approx(0, abs=1), 0)


@pytest.mark.parametrize(("cluster", "line"), [(None, "a single item"), ("book", "a single book")])
def test_what_tells_nothing_apart_is_named(tmp_path, cluster, line):
    items = pd.DataFrame({"ckpt": ["a", "b"], "task": "t", "item": "1", "correct": [1, 0], "book": "x"})
    more = items.assign(item="2")
    (pd.concat([items, more]) if cluster else items).to_csv(tmp_path / "items.csv", index=False)
    record = choose_from_items(tmp_path / "items.csv", cluster=cluster)
    assert record.best_against_last.low is None
    assert f"{line} tells nothing apart" in describe(record)


def test_clusters_widen_the_interval(tmp_path):
    digits = ["11110000" * 4, "11111111" * 4]
    rows = [
        {"ckpt": f"c{k}", "task": f"t{n // 8}", "item": n, "correct": row[n], "subject": f"s{n // 4}"}
        for k, row in enumerate(digits)
        for n in range(32)
    ]
    alone = choose(tmp_path, pd.DataFrame(rows))
    together = choose(tmp_path, pd.DataFrame(rows), cluster="subject")
    widths = [record["scores"][0]["micro"]["high"] - record["scores"][0]["micro"]["low"] for record in (alone, together)]
    assert widths[1] > 1.5 * widths[0]


def test_optimism_is_told_by_halves_that_keep_clusters_whole(tmp_path):
    """Items that repeat their cluster's first one add nothing: four of each tell as much as one."""
    right = np.random.default_rng(1).integers(0, 2, size=(8, 50))
    once = pd.DataFrame(
        {"ckpt": f"c{k}", "task": "t", "item": f"{q}-0", "correct": right[k, q], "question": f"q{q}"}
        for k in range(8)
        for q in range(50)
    )
    fourfold = pd.concat([once.assign(item=once["item"].str.replace("-0", f"-{n}")) for n in range(4)])
    expected = choose(tmp_path, once, cluster="question")["optimism"]
    assert expected > 0.05
    assert choose(tmp_path, fourfold, cluster="question")["optimism"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.drop(columns="correct"), "no column 'correct'; rename one of 'ckpt', 'task', 'item'"),
        (lambda t: pd.concat([t, t.iloc[[1]]]), "row 19: checkpoint ckpt2 has item 1 of task a already in row 2; keep one"),
        (lambda t: t.drop(index=7), "checkpoint ckpt10 lacks item 1 of task a (1 rows are missing); every checkpoint needs"),
        (lambda t: t.replace({"correct": {"0": "yes"}}), "row 3: correct is 'yes'; give true or false, 1 or 0, or a grade"),
        (lambda t: t.replace({"correct": {"0": "2"}}), "row 3: correct is '2'; give"),
        (lambda t: t.replace({"correct": {"0": ""}}), "row 3: correct is empty; give"),
        (lambda t: t.replace({"task": {"b": ""}}), "row 5: task is empty; give every row its task"),
        (lambda t: t.assign(samples=range(18)), "checkpoint ckpt1 has several values of samples"),
        (lambda t: t.assign(samples="many"), "row 1: samples is 'many'; give a number"),
        (lambda t: t.assign(samples=[""] * 18), "row 1: samples is empty; give a number"),
        (lambda t: t.iloc[:0], "has no rows"),
        (lambda t: t.assign(other="0").rename(columns={"other": "correct"}), "several columns 'correct'; keep one of them"),
        (lambda t: t.assign(a=1, b=2).rename(columns={"a": "samples", "b": "samples"}), "several columns 'samples'; keep one"),
    ],
)
def test_a_wrong_file_ends_in_one_line(tmp_path, change, line):
    with pytest.raises(StudyError) as told:
        choose(tmp_path, change(table()))
    assert str(told.value).startswith(f"{tmp_path / 'items.csv'}: ")
    assert line in str(told.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"correct": [math.nan] * 18}, "row 1: correct is empty; give"),
        ({"correct": [None] * 18}, "row 1: correct is empty; give"),
        ({"correct": [2.5] * 18}, "row 1: correct is '2.5'; give"),
        ({"correct": [[1, 0]] * 18}, "row 1: correct is '[1 0]'; give"),
        ({"item": [None] * 18}, "row 1: item is empty; give every row its item"),
        ({"ckpt": [b"\xff"] * 18}, "cannot be read ('utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_wrong_parquet_file_ends_in_one_line(tmp_path, change, line):
    with pytest.raises(StudyError) as told:
        choose(tmp_path, table().assign(**change), name="items.parquet")
    assert line in str(told.value)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("items.csv", b"ckpt;task;item;correct\na;t;1;1\n", "is one column: separate columns by commas"),
        ("items.csv.gz", b"ckpt,task,item,correct\n", "cannot be read (Not a gzipped file"),
        ("items.csv.gz", gzip.compress(b"ckpt,task,item,correct\n" * 9, mtime=0)[:-9], "cannot be read (Compressed file ended"),
        ("items.tsv", b"", "not a .csv, .csv.gz or .parquet file; convert it"),
    ],
)
def test_what_is_no_table_ends_in_one_line(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError) as told:
        choose_from_items(tmp_path / name)
    assert line in str(told.value)


ITEMS = ("--items", "items.csv", "--record", "out.json")
STAGE = ("spec.yaml", "--suites", "suite.yaml", "--benchmark", "mmlu")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((*ITEMS, "--holdout"), "--holdout: not with --items, which chooses on all items of its file; leave out"),
        ((*ITEMS, "--benchmark", "mmlu", "--weights", "a=1"), "--benchmark, --weights: not with --items"),
        ((*ITEMS, "spec.yaml"), "spec: not with --items"),
        ((*STAGE, "--cluster", "task"), "--cluster: only with --items FILE; leave out, or give it"),
        ((*STAGE, "--average", "micro", "--record", "out.json"), "--record, --average: only with --items FILE"),
        ((*ITEMS[:3], "items.csv"), "--record items.csv: is the file that is read, items.csv; name another one"),
        ((*ITEMS[:3], "items.csv/out.json"), "items.csv: File exists; a file is in the way; name a folder"),
    ],
)
def test_no_option_is_dropped_and_no_file_lost(tmp_path, arguments, line):
    table().to_csv(tmp_path / "items.csv", index=False)
    done = program(tmp_path, *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert line in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["items.csv"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "items.csv", dtype=str), table(), check_dtype=False)


def test_arguments_of_neither_kind_end_in_one_line(tmp_path):
    for arguments in (
        (),
        ("--items", "x.csv"),
        ("--items", "x.txt", "--record", "out.json"),
        ("--items", "no.csv", "--record", "o"),
    ):
        done = program(tmp_path, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith("error: ")
