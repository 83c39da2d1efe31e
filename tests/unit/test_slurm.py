"""What a training job asks of SLURM, where there is none or its answer is odd. `tests/slurm` asks a real one."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sftstudy.errors import OUT_OF_TIME, OutOfTimeError, StudyError, exit_status
from sftstudy.train import slurm
from sftstudy.train.checkpoints import Saving
from sftstudy.train.launch import launch_on_nodes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("59", 59.0),
        ("4:59", 299.0),
        ("1:00:00\n", 3600.0),
        ("2-03:04:05", ((2 * 24 + 3) * 60 + 4) * 60 + 5.0),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("", None),
    ],
)
def test_time_left_is_read_as_squeue_prints_it(text: str, seconds: float | None) -> None:
    assert slurm.parse_time_left(text) == seconds


def test_outside_a_job_there_is_time_without_end_and_only_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert slurm.ends_at() == math.inf
    with pytest.raises(StudyError, match="--nodes 2: several nodes need a SLURM job"):
        launch_on_nodes(["train_stage.py"], num_nodes=2)


def test_what_slurm_will_not_queue_again_ends_with_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusing = tmp_path / "scontrol"
    refusing.write_text("#!/bin/sh\necho 'Requested operation is presently disabled' >&2; exit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(OutOfTimeError) as caught, slurm.queued_again():
        raise OutOfTimeError("the job's time is up")
    assert exit_status(caught.value) == OUT_OF_TIME
    assert "scontrol: Requested operation is presently disabled" in capsys.readouterr().err


WAITING = """
import signal
from sftstudy.errors import OutOfTimeError
from sftstudy.train import slurm
signal.signal(signal.SIGTERM, lambda *_: None)
with slurm.queued_again():
    raise OutOfTimeError("the job's time is up")
"""


def test_a_job_that_was_queued_again_ends_when_slurm_tells_it_to(tmp_path: Path) -> None:
    """Whatever was done with SIGTERM before: to launchers it is a thing to pass on."""
    (tmp_path / "scontrol").write_text("#!/bin/sh\n")
    (tmp_path / "scontrol").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    with subprocess.Popen([sys.executable, "-c", WAITING], env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert process.stderr.readline() == "the job's time is up; job 7 was queued again\n"
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM


def test_time_is_up_when_a_step_two_saves_and_the_spare_would_not_fit() -> None:
    saving = Saving(ends_at=1000.0, spare_s=60.0)
    assert not saving.is_out_of_time(now=900.0, step_s=10.0, took_s=15.0)
    assert saving.is_out_of_time(now=900.5, step_s=10.0, took_s=15.0)
    assert not Saving().is_out_of_time(now=1e12, step_s=1e6, took_s=1e6)
