"""GPUs of a workstation, by fake names: no two jobs have the same one, and a killed job's are free again."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Start = Callable[..., "subprocess.Popen[str]"]

JOB = """
import os, subprocess, sys
from sftstudy.devices import claim
from sftstudy.errors import StudyError
try:
    claim(int(sys.argv[1]), patience_s=float(sys.argv[2]))
except StudyError as error:
    print(error, flush=True)
    raise SystemExit(1)
worker = "import sys; from sftstudy.devices import claim; claim(1, is_worker=True); print('held', flush=True); sys.stdin.read()"
if sys.argv[3:] == ["with-worker"]:
    started = subprocess.Popen([sys.executable, "-c", worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    started.stdout.readline()
    print(started.pid, flush=True)
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a job that claims GPUs of a machine that has 0, 1 and 2, and then holds them."""
    jobs = []

    def job(number: int, *more: str, patience_s: float = 0.0, devices: str = "0,1,2") -> "subprocess.Popen[str]":
        environment = os.environ | {"STUDY_DEVICES": devices, "TMPDIR": str(tmp_path)}
        jobs.append(
            subprocess.Popen(
                [sys.executable, "-c", JOB, str(number), str(patience_s), *more],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        )
        return jobs[-1]

    yield job
    for one in jobs:
        one.kill()
        one.communicate()


def said(job: "subprocess.Popen[str]") -> str:
    assert job.stdout is not None
    return job.stdout.readline().strip()


def test_jobs_that_start_together_never_share_a_gpu(start: Start) -> None:
    given = sorted(said(job) for job in [start(1) for _ in range(3)])
    assert given == ["0", "1", "2"]
    assert said(start(1)).startswith("of the GPUs 0, 1, 2 not 1 are free after 0 s")


def test_several_gpus_are_taken_at_once_or_not_at_all(start: Start) -> None:
    assert said(start(2)) == "0,1"
    assert "not 2 are free" in said(start(2))
    assert said(start(1)) == "2"
    assert said(start(4)) == "STUDY_DEVICES lists 3 GPUs, the job wants 4; list more, or ask for fewer"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_jobs_gpus_are_free_again_and_who_waits_gets_them(number: int, start: Start) -> None:
    first = start(3)
    assert said(first) == "0,1,2"
    waiting = start(1, patience_s=30)
    first.send_signal(number)
    first.wait()
    assert said(waiting) == "0"


def test_gpus_stay_taken_while_a_worker_of_a_killed_job_lives(start: Start) -> None:
    job = start(2, "with-worker")
    worker = int(said(job))
    assert said(job) == "0,1"
    os.kill(worker, signal.SIGSTOP)  # so that it does not notice its parent's end
    job.kill()
    job.wait()
    assert said(start(1)) == "2"
    assert "not 1 are free" in said(start(1))
    os.kill(worker, signal.SIGKILL)
    assert said(start(1, patience_s=30)) == "0"


def test_without_a_list_of_gpus_nothing_is_done(start: Start) -> None:
    assert said(start(1, devices="")) == str(os.environ.get("CUDA_VISIBLE_DEVICES"))
