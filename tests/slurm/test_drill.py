"""The fault drill: `snakemake --profile slurm` under every fault we know of, and its results those of an undisturbed run.

Each row removes what some rules made, breaks their work while it is made again, and lets Snakemake go on; what hangs on it is then
made again on this machine, sooner than on the cluster, and all of it compared with the undisturbed run. The first line of a row's
docstring is its line in the table that `make drill` prints. Rows that are marked `drill` run only there, the others in CI too.
"""

from __future__ import annotations

import shutil
import signal
import time

import pytest

from daemons import run
from drill import Drill
from queue_runs import BASE, PHASED, STACKED, STAGES

SCORES = "scores/small-mt-bench"


def test_a_scoring_job_is_killed(drill: Drill) -> None:
    """A scoring job's process is killed"""
    drill.forget(f"results/{BASE}/{SCORES}/part01.json", f"scratch/{BASE}/{SCORES}/*.replies.jsonl")
    drill.start()
    drill.program("judge_mt_bench").kill()
    drill.end()
    assert drill.retries == 1


def test_a_training_job_is_over_memory(drill: Drill) -> None:
    """A training job needs more memory than it asked for"""
    drill.forget_stage()
    drill.start(train_stage={"mem_mb": "400 * attempt**2"})
    drill.end()
    assert drill.retries == 1


def test_a_training_job_is_cancelled(drill: Drill) -> None:
    """A training job is cancelled by scancel"""
    drill.forget_stage()
    drill.start()
    drill.steps(300)
    run("scancel", drill.job("train_stage"))
    drill.end()
    assert (drill.retries, drill.restarts) == (1, 0)


@pytest.mark.drill
def test_a_node_is_set_down(drill: Drill) -> None:
    """A training job's node is set down"""
    drill.forget_stage()
    drill.start()
    drill.steps(300)
    run("scontrol", "update", f"nodename={drill.node_of('train_stage')}", "state=down", "reason=drill")
    drill.end()
    assert (drill.retries, drill.restarts) == (0, 1)


@pytest.mark.drill
def test_a_nodes_daemon_is_killed(drill: Drill) -> None:
    """slurmd is killed (-9), its jobs live on"""
    drill.forget_stage()
    drill.start()
    drill.steps(300)
    drill.cluster.stop(drill.node_of("train_stage"), number=signal.SIGKILL)
    drill.end()
    assert drill.retries == 0


@pytest.mark.drill
def test_a_node_dies(drill: Drill) -> None:
    """A training job's node dies with all that runs on it"""
    drill.forget_stage()
    drill.start()
    drill.steps(300)
    drill.end_node_of("train_stage")
    drill.end()
    assert (drill.retries, drill.restarts, drill.attempts) == (0, 1, 2)


@pytest.mark.drill
def test_a_training_job_is_preempted(drill: Drill) -> None:
    """A training job is preempted by a higher partition"""
    drill.forget_stage()
    drill.start()
    drill.steps(300)
    urgent = ["--partition=urgent", "--nodes=2", "--nodelist=gn[1-2]", "--exclusive", "--output=/dev/null"]
    run("sbatch", *urgent, "--wrap=sleep 1")
    drill.end()
    assert (drill.retries, drill.restarts) == (0, 1)


@pytest.mark.drill
def test_the_controller_is_restarted(drill: Drill) -> None:
    """slurmctld is away for 20 s in the middle of a run"""
    drill.forget_stage()
    drill.start()
    drill.steps(300)
    drill.cluster.stop("slurmctld")
    time.sleep(20)
    drill.cluster.start_controller()
    drill.end()
    assert (drill.retries, drill.restarts) == (0, 0)


@pytest.mark.drill
def test_a_stage_is_longer_than_its_limit(drill: Drill) -> None:
    """A stage of four minutes has a limit of one"""
    stage = PHASED / STAGES[-1]
    drill.forget_stage(stage)
    drill.start(train_stage={"runtime": 1})
    drill.end()
    assert drill.retries == 0
    assert drill.restarts > 3


@pytest.mark.drill
def test_snakemake_is_interrupted(drill: Drill) -> None:
    """Snakemake gets SIGINT (Ctrl-C), and is started again for the one stage"""
    drill.forget_stage()
    snakemake = drill.start()
    drill.steps(300)
    job = drill.job("train_stage")
    snakemake.send_signal(signal.SIGINT)
    drill.end(status=1)
    drill.wait_for(lambda: job not in run("squeue", "--noheader", "--format=%i").split(), f"job {job} goes on", patience_s=60)
    assert drill.doctor().startswith("nothing was left")
    drill.start()
    assert drill.rules(drill.end()) == ["train_stage"]
    assert drill.attempts == 2


@pytest.mark.drill
def test_snakemake_is_told_to_end(drill: Drill) -> None:
    """Snakemake gets SIGTERM, waits for its jobs, and is started again"""
    drill.forget_stage()
    snakemake = drill.start("all")
    drill.steps(300)
    snakemake.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert "Snakemake is at work here" in drill.doctor()
    drill.end(status=1)
    assert (drill.checkout / "results" / STACKED / "training.json").is_file()
    drill.start("all")
    drill.end()


def test_snakemake_is_killed_while_a_stage_trains(drill: Drill) -> None:
    """Snakemake is killed (-9), and started again beside its orphan that trains"""
    drill.forget_stage()
    drill.start()
    drill.steps(300)
    job, orphan = drill.job("train_stage"), drill.program("train_stage")
    orphan.suspend()
    drill.kill()
    said = drill.doctor()
    assert f"job {job} (train_stage of small-llama_small_small-stacked_1_01-stacked, running" in said
    assert "locks of a Snakemake that has ended\n  -> `snakemake --unlock`" in said
    assert f"results/{STACKED}/training.json: was being made" in said
    drill.unlock()
    drill.start()
    drill.wait_for(lambda: "waits for process" in drill.log("train_stage", STACKED), "the second job does not wait")
    orphan.resume()
    drill.end()
    assert drill.attempts == 1


@pytest.mark.drill
def test_snakemake_is_killed_while_a_stage_is_scored(drill: Drill) -> None:
    """Snakemake is killed (-9), and started again after its orphan that scores"""
    replies = f"scratch/{BASE}/{SCORES}/ckpt00.replies.jsonl"
    drill.forget(f"results/{BASE}/{SCORES}/part01.json", replies)
    drill.start()
    drill.program("judge_mt_bench")
    drill.kill()
    assert "no Snakemake here waits for it\n  -> wait for its end before you unlock" in drill.doctor()
    drill.wait_for(lambda: "waits for it" not in drill.doctor(), "the orphan does not end")
    drill.unlock()
    drill.start()
    drill.end()
    made, once = ((root / replies).read_text().count("\n") for root in (drill.checkout, drill.undisturbed))
    assert made == once


def test_the_disk_is_full_for_a_while(drill: Drill) -> None:
    """The disk with the weights is full for a while"""
    drill.forget_stage()
    drill.small_disk("scratch")
    drill.start()
    drill.steps(300)
    ballast = drill.fill_disk("scratch")
    drill.wait_for(lambda: "the disk is full; make room" in drill.log("train_stage", STACKED), "no word of the disk")
    ballast.unlink()
    assert "the disk is full; make room" in drill.end(), "the log of a failed attempt is not shown, and the next one removes it"
    assert drill.retries == 1


@pytest.mark.drill
def test_the_disk_of_the_records_is_full_for_a_while(drill: Drill) -> None:
    """The disk with the records is full for a while"""
    drill.forget_stage()
    drill.small_disk("results")
    drill.start()
    drill.steps(300)
    ballast = drill.fill_disk("results")
    drill.wait_for(lambda: "the disk is full; make room" in drill.log("train_stage", STACKED), "no word of the disk")
    ballast.unlink()
    drill.end()
    assert (drill.retries, drill.attempts) == (1, 1)


@pytest.mark.drill
def test_the_whole_disk_is_full_for_a_while(drill: Drill) -> None:
    """The disk with all of the checkout is full until Snakemake gives up; started again"""
    drill.forget_stage()
    drill.small_disk(".")
    drill.start()
    drill.steps(300)
    ballast = drill.fill_disk(".")
    drill.end(status=1)
    ballast.unlink()
    drill.start()
    drill.end()


@pytest.mark.drill
def test_a_preparation_is_over_memory(drill: Drill) -> None:
    """Preparing data needs more memory than it asked for"""
    phase = "results/data/small-llama/small/skills/phase.json"
    drill.forget(phase, "scratch/tokenised/*")
    drill.start(phase, prepare_phase={"mem_mb": "300 * attempt**2"})
    drill.end()
    assert drill.retries > 0


@pytest.mark.drill
def test_a_stage_is_made_again_by_force(drill: Drill) -> None:
    """No fault: --forcerun of a finished stage, then once more without its weights"""
    record, finished = f"results/{STACKED}/training.json", drill.checkout / "scratch" / STACKED / "finished.json"
    made = finished.stat().st_mtime
    drill.start("--forcerun", record)
    scored = ["answer_mt_bench", "audit_screen", "collect_scores", "judge_mt_bench", "render_table", "retain_weights"]
    behind = [*scored, "summarize_study", "train_stage", "write_guide", "write_index", "write_numbers", "write_report"]
    assert drill.rules(drill.end()) == behind
    assert "only published again; remove it to have it trained again" in drill.log("train_stage", STACKED)
    assert finished.stat().st_mtime == made

    shutil.rmtree(finished.parent)
    drill.start("--forcerun", record)
    assert drill.rules(drill.end()) == behind
    assert finished.stat().st_mtime > made
