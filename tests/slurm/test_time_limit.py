"""A stage that is longer than its job's time limit saves, has the job queued again under its number, and ends as if undisturbed."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from cluster import Cluster, run
from sftstudy.records import TrainingRecord, read_record
from sftstudy.train.checkpoints import USUAL
from sftstudy.train.stage import train_stage

PROGRAM = Path(__file__).parents[2] / "workflow" / "scripts" / "train_stage.py"
LIMIT_S, SPARE_S = 120, 100


def submit(study: Any, stage: Any, *flags: str) -> str:
    """Number of a job that trains a stage."""
    roots = ["--results", study.layout.results, "--scratch", study.layout.scratch]
    program = [sys.executable, PROGRAM, study.results(stage) / "spec.yaml", *roots, "--device", "cpu", *flags]
    command = shlex.join(map(str, program))
    settings = ["--parsable", "--partition=gpu", "--mem=2000", f"--time={LIMIT_S // 60}", "--export=ALL", "--requeue"]
    log = f"--output={study.layout.scratch}/job.log"
    return run("sbatch", *settings, "--open-mode=append", log, f"--wrap=OMP_NUM_THREADS=1 {command}").strip()


def wait_for(job: str, *, patience_s: float = 400) -> str:
    """What SLURM says of a job that has ended."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        said = run("scontrol", "show", "job", job)
        if re.search(r"JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|OUT_OF_MEMORY)", said):
            return said
        time.sleep(0.5)
    raise AssertionError(f"job {job} did not end:\n{run('scontrol', 'show', 'job', job)}")


def test_out_of_time_is_queued_again_and_changes_nothing(cluster: Cluster, study: Any) -> None:
    stage = study.stage(num_steps=2500, places=(1000, 2500))
    said = wait_for(submit(study, stage, "--spare-s", str(SPARE_S)))
    log = (study.layout.scratch / "job.log").read_text()
    assert "JobState=COMPLETED" in said, log
    restarts = re.search(r"Restarts=(\d+)", said)
    assert restarts
    record = read_record(study.results(stage) / "training.json", TrainingRecord)
    assert record.num_attempts == int(restarts[1]) + 1 > 1, log
    assert "the job's time is up after step" in log
    assert "was queued again" in log

    alone = stage.model_copy(update={"recipe": "alone"})
    study.write(alone)
    train_stage(alone, layout=study.layout, saving=USUAL, device="cpu")
    undisturbed = read_record(study.results(alone) / "training.json", TrainingRecord)
    assert [entry.weights_hash for entry in record.checkpoints] == [entry.weights_hash for entry in undisturbed.checkpoints]


def test_a_cancelled_job_is_not_queued_again(cluster: Cluster, study: Any) -> None:
    stage = study.stage(num_steps=20000, places=(20000,))
    job = submit(study, stage)
    for _ in range(600):
        if list((study.scratch(stage) / "attempts").glob("*.jsonl")):
            break
        time.sleep(0.1)
    run("scancel", job)
    said = wait_for(job)
    assert "JobState=CANCELLED" in said
    assert "Restarts=0" in said
