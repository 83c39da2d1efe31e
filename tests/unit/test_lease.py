"""One process works on a stage, wherever the others run, and a dead one's lease holds nobody up for long."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sftstudy.errors import StudyError
from sftstudy.train import lease
from sftstudy.train.lease import Holder, held, holder_of, lease_path

HOLD = """
import sys, time
from pathlib import Path
from sftstudy.train.lease import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
ELSEWHERE = Holder("another machine", "node7", 4711, "1", "99")


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return tmp_path / "01-stacked"


def hold(stage: Path) -> "subprocess.Popen[str]":
    """Another process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(stage)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_by_whom(stage: Path) -> None:
    other = hold(stage)
    with (
        pytest.raises(
            StudyError, match=rf"01-stacked: another process works on it \(process {other.pid} on .*\); wait for its end"
        ),
        held(stage),
    ):
        pass
    other.kill()
    other.wait()


def test_who_has_patience_takes_it_when_the_holder_ends(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = hold(stage)
    threading.Timer(0.5, other.kill).start()
    threading.Timer(0.6, other.wait).start()
    with held(stage, patience_s=30):
        assert other.poll() is not None
    assert f"01-stacked: waits for process {other.pid}" in capsys.readouterr().err


def test_a_killed_holder_of_this_machine_is_seen_at_once(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = hold(stage)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with held(stage):
        assert holder_of(lease_path(stage)) == Holder.me()
    assert f"taken over from process {other.pid}" in capsys.readouterr().err
    assert list(stage.parent.iterdir()) == []


def test_a_number_that_is_used_again_is_another_process() -> None:
    me = Holder.me()
    assert not me.is_gone()
    assert replace(me, started="1").is_gone()
    assert not replace(me, started="1", machine="another machine").is_gone()


@pytest.mark.parametrize(("age_s", "is_free"), [(0.0, False), (lease.EXPIRES_S - 30, False), (lease.EXPIRES_S + 30, True)])
def test_a_lease_of_another_node_expires(age_s: float, is_free: bool, stage: Path) -> None:
    path = lease_path(stage)
    path.write_text(json.dumps(asdict(ELSEWHERE)))
    now = path.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))
    if is_free:
        with held(stage):
            pass
    else:
        with pytest.raises(StudyError, match=r"process 4711 on node7, SLURM job 99.*`scancel 99`"), held(stage):
            pass


def test_a_lease_that_is_being_written_is_respected(stage: Path) -> None:
    lease_path(stage).touch()
    with pytest.raises(StudyError, match="another process works on it"), held(stage):
        pass


def test_it_is_touched_while_it_is_held(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TOUCHED_EVERY_S", 0.01)
    with held(stage):
        path = lease_path(stage)
        os.utime(path, (0, 0))
        for _ in range(500):
            if path.stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_who_lost_its_lease_may_not_write_and_does_not_remove_the_new_one(stage: Path) -> None:
    with held(stage) as mine:
        mine.check()
        mine.path.write_text(json.dumps(asdict(ELSEWHERE)))
        with pytest.raises(StudyError, match="no longer ours"):
            mine.check()
    assert holder_of(lease_path(stage)) == ELSEWHERE


def test_a_fresh_lease_moved_by_mistake_is_put_back(stage: Path) -> None:
    """Two found the same stale lease; the quicker one's new lease is what the slower one gets hold of."""
    path = lease_path(stage)
    path.write_text(json.dumps(asdict(ELSEWHERE)))
    lease._drop(path, replace(ELSEWHERE, process=1))
    assert holder_of(path) == ELSEWHERE
    assert list(stage.parent.iterdir()) == [path]
