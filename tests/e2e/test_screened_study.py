"""Early stopping in the whole workflow: three short runs of two stages, one kept, one stopped, one audited."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from checkouts import SITE, copy_checkout, job_counts, planned_jobs, snakemake, variables

RUNS = Path("runs/tiny-llama/quick")
STAGES = ("01-first", "02-second")
ROWS = [json.dumps({"prompt": f"say {word}", "response": word}) for word in ("yes", "no") * 16]
RUNGS = ("0.25", "0.5")
NUM_STEPS = 8


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three phased recipes, screened."""
    folder = tmp_path_factory.mktemp("screened") / "overlay"
    (folder / "studies").mkdir(parents=True)
    source = "{sources: [{from: {path: chats.jsonl}, format: prompt-response}], num_samples: 32}"
    training = "{effective_batch_size: 8, learning_rate: 1e-3, epochs: 2, num_checkpoints: 1}"
    recipe = f"{{strategy: phased, training: {training}, select: {{first: {{benchmark: tiny-mmlu}}}}}}"
    files = {
        "config.yaml": "studies: [quick]",
        "data.yaml": f"quick: {{phases: {{first: {source}, second: {source}}}}}",
        "recipes.yaml": f"recipes: {{quick: {recipe}}}\n"
        "sweeps: {quick-lr: {base: quick, vary: {learning_rate: [1e-4, 1e-3, 1e-2]}, name: 'quick-{learning_rate}'}}\n",
        "studies/quick.yaml": (
            "question: Does a stopped run stay stopped?\n"
            "runs: [{model: [tiny-llama], data: [quick], recipe: [quick-lr], seed: [1]}]\nbenchmarks: [tiny-mmlu]\n"
            "screen: {benchmark: tiny-mmlu, rungs: [0.25, 0.5], window: 0.01, audit: {share: 0.5},"
            " rule: {kind: top, signal: loss, best: lowest, keep: 0.3}}\n"
        ),
        "chats.jsonl": "\n".join(ROWS),
    }
    for file, text in files.items():
        (folder / file).write_text(text)
    return folder


@pytest.fixture(scope="module")
def checkout(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that has the tiny study's base model and nothing else: the study's own results are for other tests."""
    made = copy_checkout(tmp_path_factory.mktemp("screened") / "checkout")
    for folder in ("results/worlds", "results/models", "scratch/worlds", "scratch/models"):
        shutil.copytree(study / folder, made / folder)
    return made


def settings(overlay: Path) -> tuple[str, str]:
    return "--config", f"overlay={overlay}"


def calls(checkout: Path, rung: str) -> dict[str, str]:
    """Recipe -> what the study's decision says of it."""
    record = json.loads((checkout / "results/studies/quick/screens" / f"{rung}.json").read_text())
    return {key.split("/")[2]: ruling["call"] for key, ruling in record["rulings"].items()}


def status(checkout: Path, recipe: str, stage: str = STAGES[0], record: str = "training.json") -> str:
    found: str = json.loads((checkout / "results" / RUNS / recipe / "seed1" / stage / record).read_text())["status"]
    return found


def trained_steps(checkout: Path, recipe: str, stage: str = STAGES[0]) -> list[int]:
    """Steps in the order in which all attempts did them."""
    attempts = sorted((checkout / "scratch" / RUNS / recipe / "seed1" / stage / "attempts").glob("*.jsonl"))
    return [json.loads(line)["step"] for path in attempts for line in path.read_text().splitlines()]


def missing_reasons(checkout: Path) -> set[tuple[str, str]]:
    table = pd.read_csv(checkout / "results" / "missing.csv")
    return {(path.split("/")[4], reason) for path, reason in zip(table["path"], table["reason"], strict=True)}


def test_a_screen_stops_runs_and_everything_behind_them_and_is_done_once(checkout: Path, overlay: Path) -> None:
    planned = snakemake(checkout, "-n", *settings(overlay))
    counts = job_counts(planned.stdout)
    assert {rule: counts.get(rule) for rule in ("train_rung", "decide_screen", "write_screen", "train_stage")} == {
        "train_rung": 6, "decide_screen": 2, "write_screen": 6, "train_stage": 6,
    }  # fmt: skip

    killed_at_the_barrier(checkout, overlay)
    assert len(list((checkout / "results" / RUNS).rglob("rungs/0.25/screen.json"))) == 1
    decision = (checkout / "results/studies/quick/screens/0.25.json").read_bytes()
    result = snakemake(checkout, "-c", "all", "--rerun-incomplete", *settings(overlay))
    assert result.returncode == 0, result.stdout[-3000:]
    assert {rule: sum(found == rule for found, _ in planned_jobs(result.stdout)) for rule in ("decide_screen", "train_rung")} == {
        "decide_screen": 1,
        "train_rung": 3,
    }
    assert (checkout / "results/studies/quick/screens/0.25.json").read_bytes() == decision

    first = calls(checkout, "0.25")
    assert sorted(first.values()) == ["audit", "go", "stop"]
    (stopped,) = [recipe for recipe, call in first.items() if call == "stop"]
    for stage in STAGES:
        assert {recipe: status(checkout, recipe, stage) for recipe in first} == {
            recipe: "stopped at rung 0.25" if recipe == stopped else "finished" for recipe in first
        }
    assert status(checkout, stopped, record="selection.json") == "stopped at rung 0.25"
    assert {recipe: trained_steps(checkout, recipe) for recipe in first} == {
        recipe: list(range(1, 3 if recipe == stopped else NUM_STEPS + 1)) for recipe in first
    }
    assert not (checkout / "scratch" / RUNS / stopped / "seed1" / STAGES[1]).exists()
    assert missing_reasons(checkout) == {(stopped, "stopped at rung 0.25")}
    assert "Nothing to be done" in snakemake(checkout, "-n", *settings(overlay)).stdout


def killed_at_the_barrier(checkout: Path, overlay: Path) -> None:
    """Let the first verdict be written, then kill all there is, as a lost node would."""
    (target,) = [f"results/{RUNS}/quick/seed1/01-first/rungs/0.25/screen.json"]
    command = [sys.executable, "-m", "snakemake", "-c1", *settings(overlay), "--", target]
    with subprocess.Popen(command, cwd=checkout, env=variables(checkout), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          start_new_session=True) as job:  # fmt: skip
        while not (checkout / target).exists():
            assert job.poll() is None
            time.sleep(0.02)
        os.killpg(job.pid, signal.SIGKILL)
    snakemake(checkout, "--unlock", *settings(overlay))


def test_a_stopped_run_asks_a_cluster_for_no_gpu(checkout: Path, overlay: Path) -> None:
    forced = ("--forcerun", "train_stage", "score_harness")
    planned = snakemake(checkout, "-n", "--profile", "slurm", *forced, *settings(overlay), environment=SITE).stdout
    blocks = re.findall(r"^rule (train_stage|score_harness):\n((?: {4}.*\n)*)", planned, flags=re.MULTILINE)
    stopped = next(recipe for recipe, call in calls(checkout, "0.25").items() if call == "stop")
    found = {
        (rule, f"recipe={stopped}," in block, *re.findall(r"slurm_partition=(\w+)", block), *re.findall(r"gres=(gpu:\d+)", block))
        for rule, block in blocks
    }
    assert found == {
        ("score_harness", False, "gpu", "gpu:1"),
        ("score_harness", True, "cpu"),
        ("train_stage", False, "cpu"),  # it is finished
        ("train_stage", True, "cpu"),
    }


def test_a_changed_rule_trains_only_whom_it_lets_go_on(checkout: Path, overlay: Path) -> None:
    before = {recipe: trained_steps(checkout, recipe) for recipe in calls(checkout, "0.25")}
    stopped = next(recipe for recipe, call in calls(checkout, "0.25").items() if call == "stop")
    file = overlay / "studies" / "quick.yaml"
    text = file.read_text()
    file.write_text(text.replace("keep: 0.3", "keep: 0.9").replace("audit: {share: 0.5},", ""))
    result = snakemake(checkout, "-c", "all", *settings(overlay))
    assert result.returncode == 0, result.stdout[-3000:]
    assert {recipe: status(checkout, recipe, STAGES[1]) for recipe in before} == dict.fromkeys(before, "finished")
    assert {recipe: trained_steps(checkout, recipe) for recipe in before} == before | {stopped: list(range(1, NUM_STEPS + 1))}
    assert missing_reasons(checkout) == set()

    kept = weights(checkout, stopped)
    file.write_text(text)
    assert snakemake(checkout, "-c", "all", *settings(overlay)).returncode == 0
    assert status(checkout, stopped) == "stopped at rung 0.25"
    file.write_text(text.split("screen:")[0])
    result = snakemake(checkout, "-c", "all", *settings(overlay))
    assert result.returncode == 0, result.stdout[-3000:]
    assert weights(checkout, stopped) == kept  # what was trained was never lost
    assert trained_steps(checkout, stopped) == list(range(1, NUM_STEPS + 1))


def weights(checkout: Path, recipe: str) -> list[Any]:
    records = [
        json.loads((checkout / "results" / RUNS / recipe / "seed1" / stage / "training.json").read_text()) for stage in STAGES
    ]
    return [[entry["weights_hash"] for entry in record["checkpoints"]] for record in records]


def test_results_of_a_screened_study_are_adopted_and_rebuilt_alone(checkout: Path, overlay: Path, tmp_path: Path) -> None:
    elsewhere = copy_checkout(tmp_path / "elsewhere")
    shutil.copytree(checkout / "results", elsewhere / "results")
    command = [sys.executable, "workflow/scripts/adopt_results.py", *settings(overlay)]
    adopted = subprocess.run(command, cwd=elsewhere, env=variables(elsewhere), capture_output=True, text=True, check=False)
    assert adopted.returncode == 0, adopted.stderr
    assert "Nothing to be done" in snakemake(elsewhere, "-n", "tables", *settings(overlay)).stdout
