import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluation_toys import Toy

from sftstudy import spec
from sftstudy.config import HarnessBenchmark, HarnessSuite, LocalFile, Selection, Training
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import Score, ScoreRecord, SelectionRecord, provenance, read_record, write_record
from sftstudy.select import Candidate, choose, errors_to_best, natural, read_candidates, select_checkpoint
from sftstudy.stats import ItemScores
from sftstudy.stats.peaks import in_first_half


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
    assert choose([Candidate("ckpt01", 1, 0.3), Candidate("ckpt02", 2, 0.5), Candidate("ckpt03", 3, 0.4)], rule="best").samples == 2


@pytest.mark.parametrize("order", [1, -1])
def test_ties_go_to_fewest_samples_then_to_the_name(order):
    tied = [Candidate("ckpt3", 300, 0.3), Candidate("ckpt10", 200, 0.1 + 0.2), Candidate("ckpt2", 200, 0.3)]
    assert choose(tied[::order], rule="best").ckpt == "ckpt2"


def test_last_takes_the_longest_trained_whatever_its_value():
    assert choose([Candidate("ckpt02", 200, None), Candidate("ckpt01", 100, 0.9)], rule="last").ckpt == "ckpt02"


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_checkpoint_without_a_value_is_not_passed_over(value):
    with pytest.raises(StudyError, match="ckpt02: has no value"):
        choose([Candidate("ckpt01", 1, 0.3), Candidate("ckpt02", 2, value)], rule="best")


def test_nothing_to_choose_from_is_an_error():
    with pytest.raises(StudyError, match="no checkpoint has a score"):
        choose([], rule="best")


def arm(values: list[float]) -> ItemScores:
    items = tuple(str(number) for number in range(len(values)))
    return ItemScores((0,), items, ("t",) * len(items), items, np.array([values]))


def test_earliest_is_within_one_standard_error_of_the_paired_difference():
    best, near, far = [1.0] * 60 + [0.0] * 40, [1.0] * 59 + [0.0] * 41, [1.0] * 50 + [0.0] * 50
    arms = {"ckpt1": arm(far), "ckpt2": arm(near), "ckpt3": arm(best)}
    errors = errors_to_best("ckpt3", arms, unit="fraction", average="micro")
    candidates = [Candidate(name, place, one.values.mean()) for place, (name, one) in enumerate(arms.items())]
    assert choose(candidates, rule="earliest", errors=errors).ckpt == "ckpt2"
    # ten items that only the best has: its own standard error would be 0.05, half of the gap; that of the difference is 0.03
    gap = np.array(best) - np.array(far)
    assert errors["ckpt1"] == pytest.approx(gap.std(ddof=1) / 10, rel=0.2)
    assert errors["ckpt3"] == 0


def test_numbers_in_names_are_numbers():
    assert sorted(["ckpt10", "ckpt2", "step1-b", "ckpt02"], key=natural) == ["ckpt02", "ckpt2", "ckpt10", "step1-b"]
    assert sorted(["a10", "a2²", "²"], key=natural) == ["a2²", "a10", "²"]


def test_about_half_of_the_items_are_in_the_first_half():
    assert 450 < sum(in_first_half(f"task\t{number}") for number in range(1000)) < 550


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
    record = select_checkpoint(stage, [suite], selection=selection, records=paths)
    assert (record.ckpt, record.candidates) == ("ckpt02", {"ckpt01": 0.4, "ckpt02": 0.6})
    assert record.spec_hash == spec.selection_hash(spec.spec_hash(stage), [suite], selection)


def test_less_is_better_where_the_metric_says_so(scored):
    stage, suite, write = scored
    paths = [write(f"part0{i}", [f"ckpt0{i}"], [score(f"ckpt0{i}", value, higher=False)]) for i, value in ((1, 2.0), (2, 3.0))]
    assert select_checkpoint(stage, [suite], selection=Selection(benchmark="mmlu"), records=paths).ckpt == "ckpt01"
    with pytest.raises(StudyError, match="mmlu: less is better"):
        select_checkpoint(stage, [suite], selection=Selection(weights={"mmlu": 1}), records=paths)


def test_a_weighted_sum_is_of_normalised_scores(scored):
    """On raw scores ckpt02 would win by 0.1; from chance to the top, arc's 0.1 weigh four times as much as mmlu's 0.15."""
    stage, suite, write = scored
    mmlu = suite.suite.benchmarks["mmlu"]
    benchmarks = {"mmlu": mmlu, "arc": mmlu.model_copy(update={"chance": 0.75})}
    suite = suite.model_copy(update={"suite": suite.suite.model_copy(update={"benchmarks": benchmarks})})
    paths = []
    for ckpt, values in (("ckpt01", (0.4, 0.9)), ("ckpt02", (0.6, 0.8))):
        scores = [
            score(ckpt, value).model_copy(update={"benchmark": b, "task": b}) for b, value in zip(benchmarks, values, strict=True)
        ]
        path = write(f"part{ckpt[-2:]}", [ckpt], scores)
        record = read_record(path, ScoreRecord)
        hashed = spec.score_hash(spec.spec_hash(stage), spec.spec_hash(suite), [ckpt])
        write_record(path, record.model_copy(update={"spec_hash": hashed}))
        paths.append(path)
    record = select_checkpoint(stage, [suite], selection=Selection(weights={"mmlu": 1, "arc": 1}), records=paths)
    assert record.ckpt == "ckpt01"
    assert record.candidates == pytest.approx({"ckpt01": (0.4 + 0.6) / 2, "ckpt02": (0.6 + 0.2) / 2})
    assert record.benchmark == "1 mmlu + 1 arc"


def test_holdout_chooses_on_one_half_and_reports_on_the_other(scored):
    stage, suite, write = scored
    names = [f"mmlu\t{number}\th{number}" for number in range(40)]
    first = [in_first_half(name) for name in names]
    right = {"ckpt01": [float(half) for half in first], "ckpt02": [1.0 - half for half in first]}
    paths = []
    for ckpt, values in right.items():
        path = write(f"part{ckpt[-2:]}", [ckpt], [score(ckpt, float(np.mean(values)))])
        table = {"ckpt": ckpt, "benchmark": "mmlu", "task": "mmlu", "item": [str(i) for i in range(40)], "value": values}
        pd.DataFrame({**table, "item_hash": [f"h{i}" for i in range(40)], "metric": "acc", "weight": 1.0}).to_parquet(
            path.with_suffix(".parquet")
        )
        paths.append(path)
    record = select_checkpoint(stage, [suite], selection=Selection(benchmark="mmlu", holdout=True), records=paths)
    assert (record.ckpt, record.candidates, record.held_out) == ("ckpt01", {"ckpt01": 1, "ckpt02": 0}, {"ckpt01": 0, "ckpt02": 1})
    assert record.optimism == 1


def test_the_program_writes_the_record(scored, tmp_path):
    stage, suite, write = scored
    paths = [write("part01", ["ckpt01"], [score("ckpt01", 0.4)]), write("part02", ["ckpt02"], [score("ckpt02", 0.6)])]
    (paths[0].parents[2] / "training.json").write_text('{"status": "finished"}')
    spec.write(tmp_path / "stage.yaml", stage)
    spec.write(tmp_path / "suite.yaml", suite)
    program = Path(__file__).parents[2] / "workflow/scripts/select_checkpoint.py"
    roots = ["--results", tmp_path / "results", "--scratch", tmp_path / "scratch"]
    command = [sys.executable, program, tmp_path / "stage.yaml", "--suites", tmp_path / "suite.yaml", "--benchmark", "mmlu"]
    command += [*roots, "--scores"]
    subprocess.run([*command, *paths], check=True)
    record = read_record(next((tmp_path / "results").rglob("selection.json")), SelectionRecord)
    assert (record.ckpt, record.rule) == ("ckpt02", "best")
    failed = subprocess.run([*command, tmp_path / "gone.json", paths[1]], check=False, capture_output=True, text=True)
    contradicting = [
        subprocess.run([*command, *paths, *more], check=False, capture_output=True, text=True)
        for more in (["--weights", "mmlu=1"], ["--race", "{}", "--raced", "race.json", "--rule", "last"])
    ]
    for done in (failed, *contradicting):
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith("error: ")


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
