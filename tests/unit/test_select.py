import math
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_toys import Toy

from sftstudy import spec
from sftstudy.config import HarnessBenchmark, HarnessSuite, LocalFile, Selection, Training
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import Score, ScoreRecord, SelectionRecord, provenance, read_record, write_record
from sftstudy.select import read_candidates, select_checkpoint, selection_record


def score(ckpt: str, value: float | None, *, samples: int = 100, higher: bool = True, **protocol: str) -> Score:
    return Score(
        ckpt=ckpt,
        samples_seen=samples,
        samples_spent=samples,
        weights_hash=f"weights of {ckpt}",
        benchmark="mmlu",
        task="mmlu",
        task_version="1",
        metric="acc",
        value=value,
        stderr=None,
        num_items=10,
        num_fewshot=0,
        higher_is_better=higher,
        harness="lm-eval",
        harness_version="0",
        **({"items_hash": "items", "protocol_hash": "protocol"} | protocol),
        first_tokens=[],
    )


def test_best_takes_the_highest_value():
    assert select_checkpoint([score("ckpt01", 0.3), score("ckpt02", 0.5), score("ckpt03", 0.4)], rule="best").ckpt == "ckpt02"


def test_best_takes_the_lowest_value_where_lower_is_better():
    assert select_checkpoint([score("ckpt01", 3.0, higher=False), score("ckpt02", 2.0, higher=False)], rule="best").ckpt == "ckpt02"


@pytest.mark.parametrize("order", [1, -1])
def test_ties_go_to_fewest_samples_then_to_the_name(order):
    tied = [score("ckpt03", 0.5, samples=300), score("ckpt02", 0.5, samples=200), score("ckpt01", 0.5, samples=200)]
    assert select_checkpoint(tied[::order], rule="best").ckpt == "ckpt01"


def test_last_takes_the_longest_trained_whatever_its_value():
    assert select_checkpoint([score("ckpt02", None, samples=200), score("ckpt01", 0.9)], rule="last").ckpt == "ckpt02"


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_checkpoint_without_a_value_is_not_passed_over(value):
    with pytest.raises(StudyError, match="ckpt02: has no value on mmlu"):
        select_checkpoint([score("ckpt01", 0.3), score("ckpt02", value)], rule="best")


def test_nothing_to_choose_from_is_an_error():
    with pytest.raises(StudyError, match="no checkpoint has a score"):
        select_checkpoint([], rule="best")


@pytest.fixture
def scored(tmp_path: Path):
    """A stage of two checkpoints scored in two parts, and a function that writes its records."""
    stage = spec.StageSpec(
        model="tiny",
        data="toys",
        recipe="phased",
        seed=0,
        stage="01-knowledge",
        model_hash="model",
        training=Training(effective_batch_size=4, learning_rate=1e-3, epochs=1, num_checkpoints=2),
        num_steps=2,
        checkpoints=[spec.Place(ckpt=f"ckpt0{i}", step=i, num_samples=4 * i) for i in (1, 2)],
    )
    benchmark = HarnessBenchmark(tasks=["mmlu"], metric="acc", uses=[LocalFile(path="mmlu.jsonl")])
    suite = spec.SuiteSpec(name="suite", suite=HarnessSuite(kind="harness", benchmarks={"mmlu": benchmark}, checkpoints_per_job=1))
    toy = Toy(Layout(tmp_path / "results", tmp_path / "scratch"), stage)

    def write(part: str, ckpts: list[str], scores: list[Score]) -> Path:
        path = toy.results / f"scores/suite/{part}.json"
        names = {"model": "tiny", "data": "toys", "recipe": "phased", "seed": 0, "stage": "01-knowledge", "suite": "suite"}
        hashes = {"spec_hash": spec.score_hash(spec.spec_hash(stage), spec.spec_hash(suite), ckpts), "content_hash": "c"}
        write_record(path, ScoreRecord(part=part, scores=scores, **names, **hashes, **provenance()))
        return path

    return stage, suite, write


def test_candidates_of_all_parts_make_the_selection_record(scored):
    stage, suite, write = scored
    extra = score("ckpt01", 0.99).model_copy(update={"task": "mmlu_law"})
    paths = [write("part01", ["ckpt01"], [score("ckpt01", 0.4), extra]), write("part02", ["ckpt02"], [score("ckpt02", 0.6)])]
    selection = Selection(benchmark="mmlu", rule="best")
    candidates = read_candidates(stage, suite, benchmark="mmlu", records=paths)
    record = selection_record(stage, suite, selection=selection, candidates=candidates)
    assert (record.ckpt, record.candidates) == ("ckpt02", {"ckpt01": 0.4, "ckpt02": 0.6})
    assert record.spec_hash == spec.selection_hash(spec.spec_hash(stage), suite, selection)


def test_the_program_writes_the_record(scored, tmp_path):
    stage, suite, write = scored
    paths = [write("part01", ["ckpt01"], [score("ckpt01", 0.4)]), write("part02", ["ckpt02"], [score("ckpt02", 0.6)])]
    spec.write(tmp_path / "stage.yaml", stage)
    spec.write(tmp_path / "suite.yaml", suite)
    program = Path(__file__).parents[2] / "workflow/scripts/select_checkpoint.py"
    roots = ["--results", tmp_path / "results", "--scratch", tmp_path / "scratch"]
    command = [sys.executable, program, tmp_path / "stage.yaml", tmp_path / "suite.yaml", "--benchmark", "mmlu", *roots, "--scores"]
    subprocess.run([*command, *paths], check=True)
    record = read_record(next((tmp_path / "results").rglob("selection.json")), SelectionRecord)
    assert (record.ckpt, record.rule) == ("ckpt02", "best")
    failed = subprocess.run([*command, tmp_path / "gone.json", paths[1]], check=False, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1


def test_a_stale_part_or_other_items_are_refused(scored):
    stage, suite, write = scored
    first, stale = write("part01", ["ckpt01"], [score("ckpt01", 0.4)]), write("part02", ["ckpt07"], [score("ckpt07", 0.6)])
    with pytest.raises(StudyError, match=r"part02.json: answers to another spec"):
        read_candidates(stage, suite, benchmark="mmlu", records=[first, stale])
    for field in ("items_hash", "protocol_hash"):
        other = write("part02", ["ckpt02"], [score("ckpt02", 0.6, **{field: "others"})])
        with pytest.raises(StudyError, match=f"different {field} on mmlu"):
            read_candidates(stage, suite, benchmark="mmlu", records=[first, other])
    with pytest.raises(StudyError, match="has 2 parts"):
        read_candidates(stage, suite, benchmark="mmlu", records=[first])
