"""A small study through a real cluster's queue: two nodes with two processes each, from first job to tables."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from checkouts import copy_checkout, snakemake, variables
from daemons import run, wait_for
from queue_runs import OVERLAY, PHASED, STAGES
from sftstudy.records import TrainingRecord, read_metrics, read_record


def test_a_screened_phased_run_on_two_nodes_agrees_with_one_machine(undisturbed: Path, tmp_path: Path) -> None:
    assert (undisturbed / "results/studies/cluster/tables/run.md").is_file()
    stopped = (undisturbed / "results/missing.csv").read_text().splitlines()[1:]
    assert [line.split(",")[2] for line in stopped] == ["stopped at rung 0.5"] * len(STAGES)

    alone = copy_checkout(tmp_path / "alone")
    last = str("results" / PHASED / STAGES[-1] / "training.json")
    local = snakemake(alone, last, "-c2", "--config", f"overlay={OVERLAY}")
    assert local.returncode == 0, local.stdout[-3000:]
    for stage, num_attempts in zip(STAGES, (2, 1), strict=True):  # the first one to its rung, then on from there
        record = read_record(undisturbed / "results" / PHASED / stage / "training.json", TrainingRecord)
        assert (record.num_processes, record.num_attempts) == (4, num_attempts)
        together, single = (
            [step.loss for step in read_metrics(root / "results" / PHASED / stage / "metrics.jsonl")]
            for root in (undisturbed, alone)
        )
        assert len(together) > 5
        assert together == pytest.approx(single, rel=1e-4)


def test_the_hours_are_those_that_slurm_accounts_for(undisturbed: Path, tmp_path: Path) -> None:
    """With one job more, which is cancelled before its program begins: SLURM's comment alone tells whose it was."""
    comment = "rule_train_stage_wildcards_small-llama_small_small-stacked_1_01-stacked"
    job = run(
        "sbatch", "--parsable", "--job-name=sftstudy_1", f"--comment={comment}", f"--chdir={undisturbed}", "--partition=gpu",
        "--gres=gpu:2", "--output=/dev/null", "--wrap=sleep 60",
    ).strip()  # fmt: skip
    wait_for(lambda: run("squeue", "--noheader", "--jobs", job, "--format=%T") == "RUNNING\n", "the job does not begin")
    time.sleep(2)
    run("scancel", job)
    wait_for(lambda: gpu_seconds(undisturbed).get(job, (False, 0))[0], "accounting does not hear of the job's end")

    count = [sys.executable, "workflow/scripts/count_hours.py", "--config", f"overlay={OVERLAY}", "--csv", tmp_path / "hours.csv"]
    subprocess.run([*count, "--html", tmp_path / "hours.html"], cwd=undisturbed, env=variables(undisturbed), check=True)
    hours = pd.read_csv(tmp_path / "hours.csv", keep_default_na=False)
    accounted = gpu_seconds(undisturbed)
    assert set(hours["source"]) == {"sacct"}
    assert hours["gpu_hours_allocated"].sum() == pytest.approx(sum(seconds for _, seconds in accounted.values()) / 3600, abs=1e-5)
    stacked = hours[(hours["rule"] == "train_stage") & (hours["recipe"] == "small-stacked")].squeeze()
    assert stacked["ends"] == "finished 1, never began 1"
    assert stacked["gpu_hours_wasted"] == pytest.approx(accounted[job][1] / 3600, abs=1e-5)
    assert stacked["gpu_hours_wasted"] > 0


def gpu_seconds(folder: Path) -> dict[str, tuple[bool, int]]:
    """Job -> whether it has ended, and GPUs x seconds, of those that sacct knows to have been submitted in a folder."""
    found = {}
    fields = "--format=JobIDRaw,State,ElapsedRaw,AllocTRES,WorkDir"
    for line in run("sacct", "--allocations", "--noheader", "--parsable2", "--starttime=now-1day", fields).splitlines():
        job, state, elapsed, resources, where = line.split("|")
        if where == str(folder) and (gpus := re.search(r"gres/gpu=(\d+)", resources)):
            found[job] = (state != "RUNNING", int(elapsed) * int(gpus[1]))
    return found
