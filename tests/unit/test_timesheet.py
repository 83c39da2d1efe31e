"""What an attempt notes of itself, in whatever way it ends."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from sftstudy import timesheet
from sftstudy.errors import OutOfTimeError, StoppedError, StudyError
from sftstudy.hours import read_attempts
from sftstudy.paths import Layout
from sftstudy.records import AttemptRecord

JOB = {"model": "m", "seed": "1"}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "results", tmp_path / "scratch")


def opened(layout: Layout, **more):
    return timesheet.opened("train_stage", JOB, spec_hash="a", layout=layout, **more)


def only(layout: Layout) -> AttemptRecord:
    (found,) = read_attempts(layout)
    return found


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "finished"),
        (SystemExit(0), "finished"),
        (SystemExit(None), "finished"),
        (SystemExit(1), "failed"),
        (SystemExit("a word"), "failed"),
        (SystemExit(75), "stopped"),
        (SystemExit(143), "stopped"),
        (SystemExit(99), "out of time"),
        (OutOfTimeError("time is up"), "out of time"),
        (StoppedError("told to"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (StudyError("a mistake"), "failed"),
        (ValueError("ours"), "failed"),
    ],
)
def test_how_it_ended_is_noted_and_the_error_goes_its_way(error: BaseException | None, outcome: str, layout: Layout) -> None:
    expected = pytest.raises(type(error)) if error else nullcontext()
    with expected, opened(layout):
        if error:
            raise error
    assert only(layout).outcome == outcome
    assert (layout.results / "attempts/train_stage/m/seed1").is_dir()


def test_units_count_when_done_and_are_safe_when_said(layout: Layout) -> None:
    with opened(layout):
        timesheet.known(3)
        timesheet.worked(2.0)
        timesheet.worked(3.0, units=2)
        timesheet.safe()
        timesheet.worked(4.0)
    found = only(layout)
    assert (found.units_before, found.units, found.work_s) == (3, 4, 9.0)
    assert (found.safe_units, found.safe_work_s) == (3, 5.0)
    assert 0 <= found.safe_after_s <= found.elapsed_s


def test_what_fails_is_no_unit_and_laps_share_the_time(layout: Layout) -> None:
    with opened(layout):
        with pytest.raises(StudyError), timesheet.working():
            raise StudyError("no")
        with timesheet.working(units=5):
            time.sleep(0.01)
        lap = timesheet.laps()
        lap()
        lap()
    found = only(layout)
    assert (found.units, found.safe_units) == (7, 7)
    assert 0.01 <= found.work_s <= found.elapsed_s


def test_without_a_sheet_nothing_happens(layout: Layout) -> None:
    timesheet.known(1)
    timesheet.worked(1.0)
    timesheet.safe()
    assert read_attempts(layout) == []


def test_a_killed_process_was_seen_shortly_before(layout: Layout) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sftstudy import timesheet; from sftstudy.paths import Layout\n"
        f"with timesheet.opened('train_stage', {JOB!r}, spec_hash='a', layout=Layout(Path(sys.argv[1]))):\n"
        "    timesheet.worked(1.5); timesheet.safe(); print('at work', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(layout.results)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "at work\n"
    while only(layout).elapsed_s < 1:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = only(layout)
    assert (found.outcome, found.safe_units, found.safe_work_s, found.process) == (None, 1, 1.5, process.pid)


def test_the_first_of_several_processes_goes_on_with_the_sheet(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(layout, num_processes=2, num_nodes=2, starts_others=True):
        timesheet.worked(1.0)  # the one that starts the others does no work
        handed = os.environ[timesheet.SHEET]
        monkeypatch.setenv("RANK", "1")
        with opened(layout, num_processes=2, num_nodes=2):
            timesheet.worked(1.0)
        monkeypatch.setenv("RANK", "0")
        with opened(layout, num_processes=2, num_nodes=2):
            timesheet.worked(5.0, units=2)
            timesheet.safe()
        assert os.environ[timesheet.SHEET] == handed
        monkeypatch.delenv("RANK")
    found = only(layout)
    assert (found.units, found.work_s, found.num_processes, found.outcome) == (2, 5.0, 4, "finished")
    assert timesheet.SHEET not in os.environ


def test_a_sheet_that_cannot_be_written_stops_nothing(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    layout.results.write_text("a file where a folder should be")
    with opened(layout):
        timesheet.worked(1.0)
        timesheet.safe()
    assert capsys.readouterr().err.count("not written, its hours may not be counted") == 1


@pytest.mark.parametrize(
    ("visible", "on_node", "number"),
    [
        ("0,1", None, 2),
        ("GPU-8a5,GPU-9b6", "8", 2),
        ("MIG-1c", None, 1),
        ("", "4", 0),
        ("-1", None, 0),
        ("NoDevFiles", None, 0),
        (None, "4", 4),
        (None, "(null)", 0),
        (None, None, 0),
    ],
)
def test_gpus_are_those_that_the_job_was_given(
    visible: str | None, on_node: str | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"CUDA_VISIBLE_DEVICES": visible, "SLURM_GPUS_ON_NODE": on_node}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert timesheet.gpus_here(0) == number


def test_gpus_of_all_nodes_count_as_the_job_sees_them_last(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with opened(layout, num_processes=4, num_nodes=2):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")  # as a workstation's locks give them
    assert (only(layout).num_gpus, only(layout).num_processes) == (8, 8)


def test_the_kind_of_gpu_is_what_the_driver_says(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timesheet, "DRIVER", tmp_path / "gpus")
    with opened(layout):
        pass
    assert only(layout).device == ""
    information = tmp_path / "gpus" / "0000:18:00.0" / "information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 18\n")
    assert timesheet.device_here() == "NVIDIA H100 80GB HBM3"
