"""Races with real weights: they choose as full scoring does, ask a model nothing twice, and survive a kill."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from evaluation_toys import COLOURS, Toy, make_toy, write_jsonl, write_task

from sftstudy import spec
from sftstudy.config import CrossCheck, HarnessBenchmark, HarnessSuite, LocalFile, Race, Selection
from sftstudy.errors import StudyError
from sftstudy.evaluate import harness
from sftstudy.evaluate.fetch import fetch_suite
from sftstudy.evaluate.harness import score_harness
from sftstudy.evaluate.lm import Checks
from sftstudy.evaluate.racing import race_checkpoints
from sftstudy.evaluate.weights import Weights
from sftstudy.hours import read_attempts
from sftstudy.records import RaceRecord, Score, ScoreRecord, SelectionRecord, read_record
from sftstudy.select import select_checkpoint, select_winner

SIZES = {"small": 12, "medium": 28, "large": 60}
NUM_ITEMS = sum(SIZES.values())
CHOICES = ["red", "green and blue", "pink", "blue"]
FAST = {"first": 8, "growth": 2.0}
RACED = Selection(benchmark="colours", race=Race(error_rate=0.2, **FAST))
TO_THE_END = Selection(benchmark="colours", race=Race(first=NUM_ITEMS))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def items(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files and items in three tasks, of which ckpt02 gets about four in five right."""
    folder = tmp_path_factory.mktemp("items")
    (folder / "tasks").mkdir()
    things = itertools.product(COLOURS, ["ball", "hat", "car", "a"], ["ball", "hat", "car", "the", "what", "is", "and"])
    for name, size in SIZES.items():
        rows = [
            {"question": f"what colour is {' '.join(words)} ?", "choices": CHOICES, "answer": 0}
            for words in itertools.islice(things, size)
        ]
        write_jsonl(folder / f"{name}.jsonl", rows)
        task = {
            "task": name,
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "fewshot_split": "test",
            "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
        }
        write_task(folder, task)
    full(toy, make_suite(folder))
    table = pq.read_table(toy.results / "scores/raced/part01.parquet").to_pylist()
    for name in SIZES:
        said = {int(row["item"]): row["prediction"] for row in table if (row["ckpt"], row["task"]) == ("ckpt02", name)}
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        answers = [(CHOICES.index(said[i]) + (i % 5 == 0)) % 4 for i in range(len(rows))]
        write_jsonl(folder / f"{name}.jsonl", [row | {"answer": answer} for row, answer in zip(rows, answers, strict=True)])
    return folder


def make_suite(folder: Path, **changes) -> spec.SuiteSpec:
    """The raced benchmark, and another one of the same suite."""
    shared = {"metric": "acc", "uses": [LocalFile(path=str(folder / f"{name}.jsonl")) for name in SIZES]}
    benchmarks = {
        "other": HarnessBenchmark(tasks=["small"], chat_template=True, **shared),
        "colours": HarnessBenchmark(tasks=list(SIZES), **(shared | changes)),
    }
    suite = HarnessSuite(kind="harness", benchmarks=benchmarks, include_path=str(folder / "tasks"), stock_tasks=False, batch_size=4)
    return spec.SuiteSpec(name="raced", suite=suite)


def full(toy: Toy, suite: spec.SuiteSpec, race: RaceRecord | None = None) -> ScoreRecord:
    fetch_suite(suite, layout=toy.layout)
    return score_harness(toy.stage, suite, part="part01", checkpoints=toy.checkpoints, layout=toy.layout, race=race)


def raced(toy: Toy, suite: spec.SuiteSpec, selection: Selection = RACED) -> RaceRecord:
    fetch_suite(suite, layout=toy.layout)
    return race_checkpoints(toy.stage, suite, selection=selection, layout=toy.layout)


def forget(toy: Toy) -> None:
    shutil.rmtree(toy.layout.scratch / "scores", ignore_errors=True)


def files(toy: Toy) -> list[bytes]:
    return [(toy.results / name).read_bytes() for name in ("race.json", "race.parquet")]


def rows(record: ScoreRecord, ckpt: str, benchmark: str = "colours") -> list[Score]:
    return [score for score in record.scores if (score.ckpt, score.benchmark) == (ckpt, benchmark)]


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many requests each call really put to a model."""
    found, real = [], Checks._loglikelihood_tokens

    def ask(self, requests, *args, **kwargs):
        found.append(len(requests))
        return real(self, requests, *args, **kwargs)

    monkeypatch.setattr(Checks, "_loglikelihood_tokens", ask)
    return found


def items_of(toy: Toy, file: str) -> dict[tuple[str, str, str], dict]:
    """Checkpoint, task and item -> row of the raced benchmark, but for likelihoods: their last digits differ between batches."""
    table = [row for row in pq.read_table(toy.results / file).to_pylist() if row["benchmark"] == "colours"]
    return {(row["ckpt"], row["task"], row["item"]): row | {"log_likelihoods": None} for row in table}


@pytest.mark.parametrize("shots", [0, 1])
def test_a_race_chooses_as_full_scoring_does_and_nothing_is_asked_twice(toy, items, asked, shots):
    """Shots are drawn anew for each item, and hang on the items before it."""
    suite = make_suite(items, num_fewshot=shots)
    forget(toy)
    everything = full(toy, suite)
    per_item = items_of(toy, "scores/raced/part01.parquet")
    forget(toy)
    asked.clear()
    record = raced(toy, suite)
    entries = {entry.ckpt: entry for entry in record.checkpoints}
    num_items = [entry.num_items for entry in entries.values()]
    assert record.num_items == NUM_ITEMS
    assert record.saved == pytest.approx(1 - sum(num_items) / (2 * NUM_ITEMS))
    assert sum(asked) == len(CHOICES) * sum(num_items)
    in_race = items_of(toy, "race.parquet")
    assert len(in_race) == sum(num_items)
    assert all(row == per_item[key] for key, row in in_race.items())

    asked.clear()
    after = full(toy, suite, race=record)
    left = sum(NUM_ITEMS - entry.num_items for entry in entries.values() if not entry.dropped)
    assert sum(asked) == len(CHOICES) * (2 * SIZES["small"] + left)
    assert [rows(after, ckpt, "other") for ckpt in entries] == [rows(everything, ckpt, "other") for ckpt in entries]
    best = max(entries, key=lambda ckpt: rows(everything, ckpt)[0].value)
    assert record.ckpt == best
    for ckpt, entry in entries.items():
        if not entry.dropped:
            assert rows(after, ckpt) == rows(everything, ckpt)
    if not shots:
        assert (record.ckpt, num_items[0] == num_items[1] < NUM_ITEMS) == ("ckpt02", True)
        (dropped,) = rows(after, "ckpt01")
        assert (dropped.task, dropped.metric, dropped.value, dropped.dropped_after) == ("colours", "acc", None, num_items[0])
    assert after.spec_hash != everything.spec_hash


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backend": "hf-prefix"},
        {"average": "macro", "families": {"both": ["small", "medium"]}},
        {"metric": "acc_norm", "average": "macro"},
    ],
)
def test_the_value_that_a_race_ends_with_is_the_one_that_selection_reads(toy, items, changes):
    """Looked at once, after all items, it must be the selection from score records, value by value."""
    suite = make_suite(items, **changes)
    forget(toy)
    record = raced(toy, suite, TO_THE_END)
    assert (record.saved, [entry.dropped for entry in record.checkpoints]) == (0, [False, False])
    forget(toy)
    full(toy, suite)
    plain = Selection(benchmark="colours")
    chosen = select_checkpoint(toy.stage, [suite], selection=plain, records=[toy.results / "scores/raced/part01.json"])
    assert {entry.ckpt: entry.value for entry in record.checkpoints} == chosen.candidates
    winner = select_winner(toy.stage, [suite], selection=TO_THE_END, path=toy.results / "race.json")
    assert (winner.ckpt, winner.candidates, winner.race) == (chosen.ckpt, chosen.candidates, 0.05)
    assert winner.spec_hash != chosen.spec_hash


def test_a_killed_race_continues_behind_the_last_look_to_the_same_bytes(toy, items, asked, monkeypatch):
    suite = make_suite(items)
    forget(toy)
    raced(toy, suite)
    unbroken, num_asked = files(toy), sum(asked)
    forget(toy)
    asked.clear()
    real, calls = harness.Bench.take_some, itertools.count()

    def die_at_the_third(*args):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(harness.Bench, "take_some", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        raced(toy, suite)
    raced(toy, suite)
    assert files(toy) == unbroken
    assert sum(asked) == num_asked


def test_a_race_over_finished_scores_asks_no_model_and_ends_alike(toy, items, monkeypatch):
    suite = make_suite(items)
    forget(toy)
    raced(toy, suite)
    fresh, in_race = files(toy)[0], items_of(toy, "race.parquet")
    forget(toy)
    full(toy, suite)
    monkeypatch.setattr(harness.Bench, "take_some", lambda *_: pytest.fail("asked again"))
    raced(toy, suite)
    assert files(toy)[0] == fresh
    assert items_of(toy, "race.parquet") == in_race


def test_answers_in_several_blocks_are_found_too(toy, items, monkeypatch):
    suite = make_suite(items)
    forget(toy)
    monkeypatch.setattr(harness, "ITEMS_PER_BLOCK", 7)
    full(toy, suite)
    monkeypatch.setattr(harness.Bench, "take_some", lambda *_: pytest.fail("asked again"))
    assert raced(toy, suite, TO_THE_END).saved == 0


def test_where_less_is_better_the_least_wins(toy, items):
    tasks = items.parent / "less"
    shutil.copytree(items, tasks, dirs_exist_ok=True)
    for path in (tasks / "tasks").glob("*.yaml"):
        path.write_text(path.read_text().replace('"higher_is_better": true', '"higher_is_better": false'))
    record = raced(toy, make_suite(tasks))
    assert (record.ckpt, record.higher_is_better) == ("ckpt01", False)
    after = full(toy, make_suite(tasks), race=record)
    assert {row.higher_is_better for row in after.scores} == {False}


def test_a_dropped_checkpoint_needs_no_weights_any_more(toy, items, monkeypatch):
    suite = make_suite(items, backend="hf-prefix", cross_check=CrossCheck(num_items=4))
    benchmarks = {"colours": suite.suite.benchmarks["colours"]}
    suite = suite.model_copy(update={"suite": suite.suite.model_copy(update={"benchmarks": benchmarks})})
    forget(toy)
    record = raced(toy, suite)
    assert [entry.dropped for entry in record.checkpoints] == [True, False]
    monkeypatch.setattr(Weights, "check_there", lambda _: pytest.fail("asked for weights"))
    dropped = score_harness(toy.stage, suite, part="part01", checkpoints=["ckpt01"], layout=toy.layout, race=record)
    assert [score.dropped_after for score in dropped.scores] == [record.checkpoints[0].num_items]
    assert pq.read_table(toy.results / "scores/raced/part01.parquet").num_rows == 0


def test_other_weights_than_raced_are_refused(toy, items):
    suite = make_suite(items)
    record = raced(toy, suite)
    other = record.checkpoints[0].model_copy(update={"weights_hash": "other"})
    with pytest.raises(StudyError, match="--raced: ckpt01 was trained again"):
        full(toy, suite, race=record.model_copy(update={"checkpoints": [other, record.checkpoints[1]]}))


def test_a_record_of_other_rules_chooses_nothing(toy, items):
    suite = make_suite(items)
    raced(toy, suite)
    with pytest.raises(StudyError, match=r"race.json: answers to another spec"):
        select_winner(toy.stage, [suite], selection=TO_THE_END, path=toy.results / "race.json")


def test_the_programs_write_the_records(toy, items, tmp_path):
    suite = make_suite(items)
    fetch_suite(suite, layout=toy.layout)
    spec.write(tmp_path / "stage.yaml", toy.stage)
    spec.write(tmp_path / "suite.yaml", suite)
    programs, roots = (
        Path(__file__).parents[2] / "workflow/scripts",
        ["--results", toy.layout.results, "--scratch", toy.layout.scratch],
    )
    rules = ["--benchmark", "colours", "--race", RACED.race.model_dump_json(), *roots]
    subprocess.run(
        [sys.executable, programs / "race_checkpoints.py", tmp_path / "stage.yaml", tmp_path / "suite.yaml", *rules], check=True
    )
    record = read_record(toy.results / "race.json", RaceRecord)
    assert record.spec_hash == spec.race_hash(spec.spec_hash(toy.stage), suite, RACED)
    attempt = read_attempts(toy.layout)[-1]
    assert (attempt.rule, attempt.spec_hash, attempt.outcome) == ("race_checkpoints", record.spec_hash, "finished")
    assert attempt.units_before + attempt.units == sum(len(raced.shards) for raced in record.checkpoints)
    choose = [
        sys.executable,
        programs / "select_checkpoint.py",
        tmp_path / "stage.yaml",
        "--suites",
        tmp_path / "suite.yaml",
        *rules,
    ]
    subprocess.run([*choose, "--scores", "--raced", toy.results / "race.json"], check=True)
    chosen = read_record(toy.results / "selection.json", SelectionRecord)
    assert (chosen.ckpt, chosen.race, chosen.rule) == ("ckpt02", 0.2, "best")
    alone = subprocess.run([*choose, "--scores"], check=False, capture_output=True, text=True)
    assert (alone.returncode, alone.stderr.count("\n")) == (1, 1)
    assert "--raced race.json" in alone.stderr

    training, before = toy.results / "training.json", (toy.results / "training.json").read_text()
    training.write_text(before.replace('"finished"', '"stopped at rung 0.1"'))
    try:
        command = [sys.executable, programs / "race_checkpoints.py", tmp_path / "stage.yaml", tmp_path / "suite.yaml", *rules]
        subprocess.run(command, check=True)
    finally:
        training.write_text(before)
    stopped = read_record(toy.results / "race.json", RaceRecord)
    assert (stopped.status, stopped.checkpoints, stopped.ckpt) == ("stopped at rung 0.1", [], "")
    assert stopped.spec_hash == record.spec_hash
