"""A training job on a real cluster: out of time, preempted, its node lost, started twice, cancelled; the weights are the same."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from cluster import Cluster
from daemons import run
from sftstudy.doctor import examine
from sftstudy.paths import Layout
from sftstudy.records import TrainingRecord, read_record
from sftstudy.train.checkpoints import USUAL
from sftstudy.train.stage import train_stage

ROOT = Path(__file__).parents[2]
PROGRAM, SOURCE = ROOT / "workflow" / "scripts" / "train_stage.py", ROOT / "src"


def submit(study: Any, stage: Any, *flags: str, minutes: int = 30) -> str:
    """Number of a job that trains a stage."""
    roots = ["--results", study.layout.results, "--scratch", study.layout.scratch]
    program = [sys.executable, PROGRAM, study.results(stage) / "spec.yaml", *roots, "--device", "cpu", *flags]
    command = shlex.join(map(str, program))
    settings = ["--parsable", "--partition=gpu", "--mem=2000", f"--time={minutes}", "--export=ALL", "--requeue"]
    log = f"--output={study.layout.scratch}/job.log"
    return run("sbatch", *settings, "--open-mode=append", log, f"--wrap=OMP_NUM_THREADS=1 PYTHONPATH={SOURCE} {command}").strip()


def wait_for(job: str, *, patience_s: float = 400) -> str:
    """What SLURM says of a job that has ended."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        said = run("scontrol", "show", "job", job)
        if re.search(r"JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL|OUT_OF_MEMORY)", said):
            return said
        time.sleep(0.5)
    raise AssertionError(f"job {job} did not end:\n{run('scontrol', 'show', 'job', job)}")


def wait_for_steps(study: Any, stage: Any, number: int = 1, *, patience_s: float = 120) -> None:
    """Until the attempts at a stage have noted so many steps."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if sum(path.read_text().count("\n") for path in (study.scratch(stage) / "attempts").glob("*.jsonl")) >= number:
            return
        time.sleep(0.1)
    raise AssertionError(f"step {number} was not reached:\n{log_of(study)}")


def log_of(study: Any) -> str:
    """What the study's jobs have printed."""
    path = study.layout.scratch / "job.log"
    return path.read_text() if path.is_file() else ""


def check_undisturbed(study: Any, stage: Any) -> TrainingRecord:
    """The stage's record, if its weights are those of the same stage trained here, to the last bit."""
    record = read_record(study.results(stage) / "training.json", TrainingRecord)
    alone = stage.model_copy(update={"recipe": "alone"})
    study.write(alone)
    train_stage(alone, layout=study.layout, saving=USUAL, device="cpu")
    undisturbed = read_record(study.results(alone) / "training.json", TrainingRecord)
    assert [entry.weights_hash for entry in record.checkpoints] == [entry.weights_hash for entry in undisturbed.checkpoints]
    return record


def restarts(said: str) -> int:
    """How often SLURM started a job again."""
    found = re.search(r"Restarts=(\d+)", said)
    assert found
    return int(found[1])


def test_out_of_time_is_queued_again_and_changes_nothing(cluster: Cluster, study: Any) -> None:
    """Of two minutes 119 seconds are kept for the end: each start has time for one step, on any machine."""
    stage = study.stage(num_steps=3, places=(2, 3), warmup_steps=0)
    said = wait_for(submit(study, stage, "--spare-s", "119", minutes=2))
    log = log_of(study)
    assert "JobState=COMPLETED" in said, log
    assert restarts(said) == 2, log
    assert check_undisturbed(study, stage).num_attempts == 3
    assert "the job's time is up after step 1 of 3, state saved; job" in log
    assert "was queued again" in log


def test_preempted_by_a_higher_partition_it_goes_on_later(cluster: Cluster, study: Any) -> None:
    stage = study.stage(num_steps=2500, places=(1000, 2500))
    job = submit(study, stage, "--resume-every-steps", "50")
    wait_for_steps(study, stage, 60)
    run(
        "sbatch",
        "--partition=urgent",
        "--nodes=2",
        "--nodelist=gn[1-2]",
        "--exclusive",
        "--wait",
        "--output=/dev/null",
        "--wrap=sleep 1",
    )
    said = wait_for(job)
    assert "JobState=COMPLETED" in said, log_of(study)
    assert restarts(said) == 1
    assert check_undisturbed(study, stage).num_attempts == 2


def test_when_its_node_is_lost_it_goes_on_elsewhere(cluster: Cluster, study: Any) -> None:
    stage = study.stage(num_steps=4000, places=(4000,))
    job = submit(study, stage, "--resume-every-steps", "50")
    wait_for_steps(study, stage, 60)
    node = re.search(r"BatchHost=(\w+)", run("scontrol", "show", "job", job))
    assert node
    try:
        run("scontrol", "update", f"nodename={node[1]}", "state=down", "reason=drill")
        said = wait_for(job)
    finally:
        run("scontrol", "update", f"nodename={node[1]}", "state=resume", check=False)  # it may have come back by itself
    assert "JobState=COMPLETED" in said, log_of(study)
    assert restarts(said) == 1
    check_undisturbed(study, stage)


def test_a_stage_that_is_started_twice_is_trained_once(cluster: Cluster, study: Any) -> None:
    """As after a Snakemake that was killed, whose orphan still trains when the next one submits the stage again."""
    stage = study.stage(num_steps=2500, places=(2500,))
    orphan = submit(study, stage)
    wait_for_steps(study, stage, 10)
    again = submit(study, stage)
    assert ["JobState=COMPLETED" in wait_for(job) for job in (orphan, again)] == [True, True], log_of(study)
    assert "waits for process" in log_of(study)
    assert check_undisturbed(study, stage).num_attempts == 1


def test_a_cancelled_job_is_not_queued_again(cluster: Cluster, study: Any) -> None:
    stage = study.stage(num_steps=20000, places=(20000,))
    job = submit(study, stage)
    wait_for_steps(study, stage)
    run("scancel", job)
    said = wait_for(job)
    assert "JobState=CANCELLED" in said
    assert restarts(said) == 0


def test_the_doctor_names_a_job_that_nobody_waits_for(cluster: Cluster, tmp_path: Path) -> None:
    """Of this checkout, by what Snakemake wrote into its comment."""
    comment = "--comment=rule_train_stage_wildcards_small_1"
    settings = ["--parsable", comment, "--output=/dev/null", "--wrap=sleep 60"]
    ours = ["--job-name=sftstudy_1234", f"--chdir={tmp_path}"]
    job, held, large = (
        run("sbatch", *ours, *flags, *settings).strip() for flags in ([], ["--hold"], ["--partition=cpu", "--nodes=2"])
    )
    others = [
        run("sbatch", *where, *settings).strip()
        for where in (["--job-name=another", f"--chdir={tmp_path}"], ["--job-name=sftstudy_99", "--chdir=/"])
    ]
    try:
        end = time.monotonic() + 30
        while "Limit" not in run("squeue", "--noheader", "--jobs", large, "--format=%r"):  # the scheduler has not looked yet
            assert time.monotonic() < end
            time.sleep(0.2)
        findings = examine(tmp_path, Layout(tmp_path / "results", tmp_path / "scratch"))
        found = {finding.what.split()[1]: finding for finding in findings}
        assert found.keys() == {job, held, large}
        assert found[job].what.startswith(f"job {job} (train_stage of small_1, ")
        assert f"`scancel {job}`" in found[job].remedy
        assert "(PartitionNodeLimit) and never starts" in found[large].what
        assert "is held (JobHeld" in found[held].what
        assert found[held].remedy == f"`scontrol release {held}`"
    finally:
        run("scancel", job, held, large, *others)
