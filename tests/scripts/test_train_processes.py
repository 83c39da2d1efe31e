"""The program in two processes, as users start it: the numbers of one process, signals passed on, one line for a mistake."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sftstudy import hashes
from sftstudy.hours import read_attempts
from sftstudy.records import TrainingRecord, read_metrics, read_record
from sftstudy.train.checkpoints import Saving
from sftstudy.train.stage import train_stage

PROGRAM = Path(__file__).parents[2] / "workflow" / "scripts" / "train_stage.py"


def start(study: Any, stage: Any, *flags: str, **variables: str) -> "subprocess.Popen[str]":
    roots = ["--results", str(study.layout.results), "--scratch", str(study.layout.scratch)]
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(study.results(stage) / "spec.yaml"), *roots, "--device", "cpu", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_noted(study: Any, stage: Any) -> int:
    return sum(path.read_text().count("\n") for path in (study.scratch(stage) / "attempts").glob("*.jsonl"))


def wait_for_steps(study: Any, stage: Any, number: int, program: "subprocess.Popen[str]") -> None:
    for _ in range(1200):
        if steps_noted(study, stage) >= number:
            return
        assert program.poll() is None, program.communicate()[1]
        time.sleep(0.05)
    raise AssertionError(f"step {number} was not reached in a minute")


def losses(study: Any, stage: Any) -> list[float]:
    return [entry.loss for entry in read_metrics(study.results(stage) / "metrics.jsonl")]


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_give_the_numbers_of_one(study: Any, sharding: str) -> None:
    stage = study.stage(sharding=sharding, packing="on")
    program = start(study, stage, "--processes", "2")
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 0, errors
    record = read_record(study.results(stage) / "training.json", TrainingRecord)
    assert (record.num_processes, record.sharding, record.packed) == (2, sharding, True)
    (attempt,) = read_attempts(study.layout)
    assert (attempt.outcome, attempt.units, attempt.safe_units, attempt.num_processes) == ("finished", 12, 12, 2)
    assert attempt.work_s == pytest.approx(record.time_s)
    assert attempt.work_s < attempt.elapsed_s
    together = losses(study, stage)
    for entry in record.checkpoints:
        assert hashes.weights_hash(study.scratch(stage) / entry.ckpt) == entry.weights_hash
    assert len({entry.weights_hash for entry in record.checkpoints}) == 3

    alone = study.stage().model_copy(update={"recipe": "alone"})
    study.write(alone)
    train_stage(alone, layout=study.layout, device="cpu")
    assert together == pytest.approx(losses(study, alone), rel=1e-5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_all_processes_and_one_process_goes_on(study: Any, number: signal.Signals) -> None:
    stage = study.stage(num_steps=400, places=(200, 400), sharding="full")
    program = start(study, stage, "--processes", "2")
    wait_for_steps(study, stage, 5, program)
    program.send_signal(number)
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 75, errors
    assert f"{number.name}: passed on to all processes" in errors
    assert errors.count("state saved; start it again to continue") == 1
    assert "Traceback" not in errors
    done = steps_noted(study, stage)
    assert 5 <= done < 400
    (state,) = (study.scratch(stage) / "resume").glob("step*")
    assert len(list(state.glob("*.distcp"))) == 2
    # written by two, read by one
    train_stage(stage, layout=study.layout, device="cpu")
    record = read_record(study.results(stage) / "training.json", TrainingRecord)
    assert (record.num_processes, record.num_attempts) == (1, 2)
    assert len(losses(study, stage)) == 400


def test_a_signal_before_the_processes_began_is_obeyed(study: Any) -> None:
    program = start(study, study.stage(), "--processes", "2")
    while "SIGTERM" not in handled(program.pid):
        assert program.poll() is None, program.communicate()[1]
        time.sleep(0.01)
    program.terminate()
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 75, errors
    assert "start it again" in errors.splitlines()[-1]


def handled(pid: int) -> set[str]:
    """Signals for which a process has handlers."""
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), flags=re.MULTILINE)
    return {number.name for number in signal.Signals if int(mask, 16) >> (number - 1) & 1}


def test_an_error_in_one_process_only_is_told_and_ends_all(study: Any) -> None:
    """The other waits for it in the middle of a step; it must not wait for the other."""
    stage = study.stage(num_steps=400, places=(200, 400))
    broken = (
        "import os, runpy, sys, sftstudy.train.loop as loop\n"
        "fast, steps = loop.summed_loss, []\n"
        "def loss(*a):\n"
        "    steps.append(1)\n"
        "    if len(steps) > 5 and os.environ['RANK'] == '1': raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')\n"
        "    return fast(*a)\n"
        "loop.summed_loss = loss\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    wrapper = study.results(stage) / "broken.py"
    wrapper.write_text(broken)
    roots = ["--results", str(study.layout.results), "--scratch", str(study.layout.scratch), "--device", "cpu"]
    meeting = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = subprocess.run(
        [*meeting, str(wrapper), str(PROGRAM), str(study.results(stage) / "spec.yaml"), *roots],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert program.returncode == 1
    assert program.stderr.count("error: step 6: out of memory with max_tokens_per_microbatch 4096; lower it") == 1


def test_a_killed_process_ends_the_others_and_the_next_start_continues(study: Any) -> None:
    stage = study.stage(num_steps=400, places=(200, 400))
    program = start(study, stage, "--processes", "2", "--resume-every-steps", "3")
    wait_for_steps(study, stage, 8, program)
    children = psutil.Process(program.pid).children(recursive=True)
    workers = [child for child in children if any("train_stage.py" in word for word in child.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 1
    assert errors.splitlines()[-1].startswith("error: a process of 2 was ended by SIGKILL")
    assert not any(worker.is_running() for worker in workers)
    train_stage(stage, layout=study.layout, saving=Saving(), device="cpu")
    assert len(losses(study, stage)) == 400


def test_two_nodes_give_the_numbers_of_one(study: Any) -> None:
    """torchrun on each of two nodes, as a cluster's job step starts it; here both are this machine."""
    stage = study.stage(sharding="full")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"localhost:{free.getsockname()[1]}"
    roots = ["--results", str(study.layout.results), "--scratch", str(study.layout.scratch)]
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "drill", "--rdzv-endpoint", place]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *meeting,
        str(PROGRAM),
        str(study.results(stage) / "spec.yaml"),
        *roots,
    ]
    nodes = [
        subprocess.Popen(
            [*command, "--device", "cpu"], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    errors = [node.communicate(timeout=120)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    assert read_record(study.results(stage) / "training.json", TrainingRecord).num_processes == 2
    assert [(one.outcome, one.num_processes, one.units) for one in read_attempts(study.layout)] == [("finished", 2, 12)]
    together = losses(study, stage)
    alone = study.stage().model_copy(update={"recipe": "alone"})
    study.write(alone)
    train_stage(alone, layout=study.layout, device="cpu")
    assert together == pytest.approx(losses(study, alone), rel=1e-5)


def test_a_mistake_is_told_once(study: Any) -> None:
    stage = study.stage(learning_rate=1e30, warmup_steps=0, schedule="constant", clip_norm=1e30)
    program = start(study, stage, "--processes", "2")
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 1
    assert [line for line in errors.splitlines() if "error" in line.lower()] == [
        line for line in errors.splitlines() if line.startswith("error: step ")
    ]
    assert errors.count("lower learning_rate") == 1
    assert "Traceback" not in errors


def test_finished_work_is_only_published_again(study: Any) -> None:
    stage = study.stage()
    train_stage(stage, layout=study.layout, device="cpu")
    (study.results(stage) / "training.json").unlink()
    program = start(study, stage, "--processes", "2")
    _, errors = program.communicate(timeout=120)
    assert program.returncode == 0, errors
    assert read_record(study.results(stage) / "training.json", TrainingRecord).num_processes == 1
    assert "step 1/" not in errors
