"""What tables, claims and jobs make of checkpoints that a race dropped: a value, never a gap."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sftstudy.claims.arms import Arms
from sftstudy.config import ArmsTable, Race
from sftstudy.environment import Site
from sftstudy.errors import StudyError
from sftstudy.forecast import Forecast
from sftstudy.gpus import GPUS
from sftstudy.outlook import longest_chain
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.race import random_order
from sftstudy.records import RacedCheckpoint, RaceRecord, provenance, write_record
from sftstudy.resources import JobResources
from sftstudy.tables.aggregate import Results, load_results
from sftstudy.tables.collect import collect_scores
from sftstudy.tables.races import describe, replay_races, to_csv
from sftstudy.tables.render import render_table
from table_toys import CHAT, EXAM, Tree, drop

CONFIG = Path(__file__).parents[2] / "config"
PAIR = ("m", "d")
NUM_ITEMS = 400


def items(share: float, seed: int) -> dict[str, list[float | None]]:
    rng = np.random.default_rng(seed)
    return {"exam": [float(value) for value in rng.uniform(size=NUM_ITEMS) < share], "chat": [5.0] * 4}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Two phased recipes alike; of one the first stage's checkpoints raced on the exam, and the first was dropped."""
    tree = Tree(Layout(tmp_path / "results", tmp_path / "scratch"), benchmarks={"exam": EXAM, "chat": CHAT})
    tree.base(items(0.2, 0))
    for recipe in ("full", "raced"):
        first = {"ckpt01": (10, 10, items(0.3, 1)), "ckpt02": (20, 20, items(0.8, 2))}
        tree.stage(recipe, first, stage="01-knowledge", last=False)
        tree.stage(recipe, {"ckpt01": (30, 30, items(0.6, 3)), "ckpt02": (40, 40, items(0.7, 4))}, stage="02-skills")
    tree.tables = {"arms": ArmsTable(kind="arms", caption="Both.", arms={"Full": "full", "Raced": "raced"})}
    drop(tree, "raced", "ckpt01", after=48, stage="01-knowledge")
    return tree


def results(tree: Tree) -> Results:
    collect_scores([tree.study()], layout=tree.layout)
    return load_results(tree.study(), layout=tree.layout)


def test_a_dropped_checkpoint_is_a_row_without_value_and_nothing_is_missing(tree: Tree) -> None:
    results(tree)
    scores = pd.read_csv(tree.layout.scores_csv())
    dropped = scores[scores["dropped_after"].notna()]
    assert dropped[["recipe", "stage", "ckpt", "benchmark", "dropped_after"]].values.tolist() == [
        ["raced", "01-knowledge", "ckpt01", "exam", 48.0]
    ]
    assert dropped["value"].isna().all()
    assert scores[scores["benchmark"] == "chat"]["value"].notna().all()
    assert pd.read_csv(tree.layout.missing_csv()).empty


def test_the_peak_is_the_winners_and_the_table_says_who_raced(tree: Tree) -> None:
    found = results(tree)
    full, raced = (found.cell(PAIR, recipe, "exam", "peak") for recipe in ("full", "raced"))
    assert full.estimate == raced.estimate
    assert raced.samples_seen == 20
    (run,) = found.runs(PAIR, "raced", "exam")
    assert (run.complete, run.raced, [point.ckpt for point in run.points]) == (True, True, ["ckpt02", "ckpt01", "ckpt02"])
    (other,) = found.runs(PAIR, "raced", "exam", metric="normalised")
    assert other.raced
    assert not any(run.raced for name in ("full", "raced") for run in found.runs(PAIR, name, "chat"))
    render_table(tree.study(), "arms", ["md"], layout=tree.layout)
    text = (tree.layout.study_folder("toy") / "tables" / "arms.md").read_text()
    assert "- exam: checkpoints of raced raced for a phase's best one (§)." in text
    assert "results/missing.csv" not in text


def test_only_what_needs_no_dropped_checkpoint_is_claimed(tree: Tree) -> None:
    found = results(tree)
    assert found.curves(PAIR, "full", "exam", over="samples_seen") is not None
    assert found.curves(PAIR, "raced", "exam", over="samples_seen") is None
    arms = Arms(found, layout=tree.layout, seed=1)
    for reading in ("peak", "last"):
        difference = arms.compare("full", "raced", PAIR, "exam", reading)
        assert difference is not None
        assert difference.value == 0
    assert arms.compare("full", "raced", PAIR, "exam", "held-out-peak") is None
    assert arms.curves(PAIR, "full", "exam") is not None
    assert arms.curves(PAIR, "raced", "exam") is None


def test_a_replay_races_what_was_scored_in_full(tree: Tree) -> None:
    results(tree)
    rules = Race(error_rate=0.1)
    lines = replay_races(tree.study(), "exam", rules=rules, num_orders=20, layout=tree.layout)
    assert [(line.recipe, line.stage, line.ckpt) for line in lines] == [
        ("full", "01-knowledge", "ckpt02"),
        ("full", "02-skills", "ckpt02"),
    ]
    assert lines[0].saved > 0.6 > lines[1].saved >= 0
    assert lines[0].other_choice == 0
    assert lines[1].other_choice <= 0.1
    assert to_csv(lines).splitlines()[1].startswith("m,d,full,1,01-knowledge,2,400,ckpt02,0.")
    assert describe(lines, rules=rules).startswith("2 stages: racing saves ")
    with pytest.raises(StudyError, match=r"--benchmark chat: nothing to race on in study toy; name one of exam"):
        replay_races(tree.study(), "chat", rules=rules, num_orders=1, layout=tree.layout)


def test_orders_differ_by_seed_and_not_by_the_order_of_the_names() -> None:
    names = [f"task\t{number}" for number in range(20)]
    order = [names[place] for place in random_order(names, seed=3)]
    assert order == [names[::-1][place] for place in random_order(names[::-1], seed=3)]


def raced_plan(folder: Path) -> Plan:
    """One phased run whose second stage races on a suite of one benchmark, a checkpoint a job."""
    (folder / "studies").mkdir(parents=True)
    training = "{effective_batch_size: 64, learning_rate: 2e-3, epochs: 2, num_checkpoints: 3}"
    files = {
        "config.yaml": "studies: [own]",
        "benchmarks.yaml": (
            "exam-alone: {kind: harness, include_path: tasks, stock_tasks: false, checkpoints_per_job: 1, benchmarks: {exam-alone: "
            "{tasks: [t], metric: acc, uses: [{world: tiny, file: mmlu_music.jsonl}]}}}"
        ),
        "recipes.yaml": (
            f"recipes: {{own: {{strategy: phased, training: {training}, select: {{instruct: {{benchmark: tiny-mmlu}}, "
            "knowledge: {benchmark: exam-alone, race: {}}}}}"
        ),
        "studies/own.yaml": (
            "question: q\nruns: [{model: [tiny-llama], data: [tiny], recipe: [own], seed: [1]}]\nbenchmarks: [exam-alone]\n"
        ),
    }
    (folder / "tasks").mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    planned = Plan.from_config(CONFIG, overlay=folder)
    return Plan(planned.registry, planned.studies, planned.folder, Layout(folder / "results", folder / "scratch"))


def test_a_job_whose_checkpoints_were_all_dropped_asks_for_no_gpu(tmp_path: Path) -> None:
    plan = raced_plan(tmp_path / "overlay")
    (stage,) = (stage for stage in plan.stages.values() if stage.stage == "02-knowledge")
    asks = JobResources(plan, Site(GPUS["H100"], gpu_partition="gpu", cpu_partition="cpu")).of("score_harness")

    def gres(part: str) -> str | None:
        names = {"model": "tiny-llama", "data": "tiny", "recipe": "own", "seed": "1", "stage": "02-knowledge"}
        answer: str | None = asks["gres"](names | {"suite": "exam-alone", "part": part}, SimpleNamespace(), 1)
        return answer

    with pytest.raises(FileNotFoundError):
        gres("part01")
    path = plan.race_of(stage, "exam-alone")
    assert path is not None
    entries = [
        RacedCheckpoint(
            ckpt=place.ckpt, samples_seen=1, weights_hash="w", num_items=32, dropped=place.ckpt != "ckpt02", value=None, shards=[]
        )
        for place in stage.checkpoints
    ]
    shared = {"suite": "exam-alone", "benchmark": "exam-alone", "metric": "acc", "error_rate": 0.05, "seed": 1, "looks": [32]}
    record = RaceRecord(
        spec_hash="r", content_hash="c", num_items=99, checkpoints=entries, ckpt="ckpt02", saved=0.5, **shared, **provenance()
    )
    write_record(path, record)
    assert [gres(part) for part in ("part01", "part02", "part03")] == [None, "gpu:1", None]


def test_a_race_is_forecast_as_if_nobody_were_dropped(tmp_path: Path) -> None:
    plan = raced_plan(tmp_path / "overlay")
    made = Forecast(plan, Site(GPUS["H100"]))
    stages = {stage.stage: stage for stage in plan.stages.values()}
    race, scores = made.racing(stages["02-knowledge"]), made.scoring(stages["02-knowledge"], "exam-alone", num_checkpoints=3)
    assert race is not None
    assert scores is not None
    assert race.memory == scores.memory
    assert 0 < race.seconds - scores.seconds < 60  # loading a model of 0.7M parameters a few times
    assert made.racing(stages["01-instruct"]) is None
    assert "race tiny-llama/tiny/own/02-knowledge on exam-alone" in {link.job for link in longest_chain(made)}
