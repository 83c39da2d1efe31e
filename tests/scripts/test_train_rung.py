"""A stage over rungs: nothing is trained twice, it ends as an unscreened one does, and stopped it keeps what it has."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sftstudy import spec
from sftstudy.config import Selection
from sftstudy.errors import StudyError
from sftstudy.records import TrainingRecord, read_metrics, read_record, write_text
from sftstudy.train.checkpoints import Saving
from sftstudy.train.stage import train_stage

PROGRAM = Path(__file__).parents[2] / "workflow" / "scripts" / "train_rung.py"
MEASURED = {"time_s", "tokens_per_s", "peak_memory_gb", "num_attempts"}


def train(study: Any, stage: Any, *, rung: float | None = None, verdict: Path | None = None) -> TrainingRecord:
    train_stage(stage, layout=study.layout, saving=Saving(), device="cpu", rung=rung, verdict=verdict)
    folder = study.layout.rung(study.results(stage), f"{rung:g}") if rung else study.results(stage)
    return read_record(folder / "training.json", TrainingRecord)


def numbers(folder: Path) -> list[dict[str, Any]]:
    return [entry.model_dump(exclude=MEASURED) for entry in read_metrics(folder / "metrics.jsonl")]


def says(study: Any, stage: Any, status: str) -> Path:
    """A verdict on disk."""
    path: Path = study.results(stage) / "screen.json"
    write_text(path, json.dumps({"status": status}))
    return path


def trained_steps(study: Any, stage: Any) -> list[int]:
    """Steps in the order in which all attempts did them."""
    attempts = sorted((study.scratch(stage) / "attempts").iterdir())
    return [json.loads(line)["step"] for path in attempts for line in path.read_text().splitlines()]


def num_attempts(study: Any, stage: Any) -> int:
    return len(list((study.scratch(stage) / "attempts").iterdir()))


def test_over_rungs_a_stage_ends_bit_for_bit_as_without_them(study: Any) -> None:
    stage = study.stage()
    whole = train(study, stage)
    expected = numbers(study.results(stage))
    cut = train(study, stage, rung=0.4)  # of a finished stage, it is cut out of the records

    (study.scratch(stage)).rename(study.scratch(stage).with_name("before"))
    (study.results(stage) / "training.json").unlink()
    first = train(study, stage, rung=0.1)
    assert (first.status, first.num_steps, first.samples_seen, first.checkpoints) == ("at rung 0.1", 2, 8, [])
    second = train(study, stage, rung=0.4, verdict=says(study, stage, "go"))
    assert [entry.ckpt for entry in second.checkpoints] == ["ckpt01"]
    assert second.model_dump(exclude=MEASURED) == cut.model_dump(exclude=MEASURED)
    assert not (study.results(stage) / "training.json").exists()
    last = train(study, stage, verdict=says(study, stage, "go"))
    assert last.model_dump(exclude=MEASURED) == whole.model_dump(exclude=MEASURED)
    assert numbers(study.results(stage)) == expected
    assert numbers(study.results(stage) / "rungs" / "0.4") == expected[:5]
    assert trained_steps(study, stage) == list(range(1, 13))


def test_a_rung_is_read_off_results_whose_scratch_is_gone(study: Any) -> None:
    stage = study.stage()
    train(study, stage)
    cut = train(study, stage, rung=0.25)
    shutil.rmtree(study.scratch(stage))
    shutil.rmtree(study.results(stage) / "rungs")
    assert train(study, stage, rung=0.25) == cut
    assert not (study.scratch(stage) / "attempts").exists()


def test_a_rung_that_was_reached_is_only_published(study: Any) -> None:
    stage = study.stage()
    train(study, stage, rung=0.5)
    path = study.results(stage) / "rungs" / "0.5" / "training.json"
    before = path.read_bytes()
    path.unlink()
    train(study, stage, rung=0.5)
    assert path.read_bytes() == before
    earlier = train(study, stage, rung=0.25)  # another study wants an earlier one
    assert (earlier.status, earlier.num_steps) == ("at rung 0.25", 3)
    assert [entry["step"] for entry in numbers(study.results(stage) / "rungs" / "0.25")] == [1, 2, 3]
    assert trained_steps(study, stage) == list(range(1, 7))


def test_a_stopped_stage_is_published_as_it_was_at_its_rung_and_may_go_on_later(study: Any) -> None:
    stage = study.stage()
    at_rung = train(study, stage, rung=0.5)
    stop = says(study, stage, "stopped at rung 0.5")
    later = train(study, stage, rung=0.75, verdict=stop)
    stopped = train(study, stage, verdict=stop)
    assert later == stopped == at_rung.model_copy(update={"status": "stopped at rung 0.5"})
    assert numbers(study.results(stage)) == numbers(study.results(stage) / "rungs" / "0.5")
    assert num_attempts(study, stage) == 1
    finished = train(study, stage, verdict=says(study, stage, "go"))
    assert (finished.status, finished.num_attempts, finished.num_steps) == ("finished", 2, 12)
    assert train(study, stage, rung=0.75, verdict=says(study, stage, "go")).status == "at rung 0.75"


def test_what_continues_from_a_stopped_stage_is_published_as_nothing(study: Any) -> None:
    stage = study.stage()
    train(study, stage, rung=0.5)
    stopped = train(study, stage, verdict=says(study, stage, "stopped at rung 0.5"))
    parent = spec.Parent(
        recipe=stage.recipe,
        stage=stage.stage,
        spec_hash=spec.spec_hash(stage),
        selection=Selection(benchmark="exam"),
        selection_hash="",
    )
    child = stage.model_copy(update={"stage": "02-more", "parent": parent})
    record = train(study, child)
    assert (record.status, record.num_steps, record.checkpoints) == ("stopped at rung 0.5", 0, [])
    assert record.samples_seen == stopped.samples_seen
    assert (study.results(child) / "metrics.jsonl").read_bytes() == b""
    assert not study.scratch(child).exists()


def test_killed_before_the_rung_it_goes_on_from_its_last_state(study: Any) -> None:
    stage = study.stage()
    kill = (
        "import os, runpy, signal, sys, sftstudy.train.loop as loop\n"
        "step, done = loop.train_step, []\n"
        "def killed(*a, **k):\n"
        "    done.append(len(done) < 4 or os.kill(os.getpid(), signal.SIGKILL))\n"
        "    return step(*a, **k)\n"
        "loop.train_step = killed\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    roots = ["--results", str(study.layout.results), "--scratch", str(study.layout.scratch)]
    flags = ["--rung", "0.5", "--device", "cpu", "--resume-every-steps", "2"]
    command = [sys.executable, "-c", kill, str(PROGRAM), str(study.results(stage) / "spec.yaml"), *roots, *flags]
    killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (study.results(stage) / "rungs" / "0.5" / "training.json").exists()
    assert train(study, stage, rung=0.5).num_attempts == 2
    broken = numbers(study.results(stage) / "rungs" / "0.5")
    other = study.stage(num_steps=12)
    train(study, other)
    assert broken == numbers(study.results(other))[:6]


def test_a_verdict_without_the_rung_it_names_is_an_error_of_one_line(study: Any) -> None:
    stage = study.stage()
    with pytest.raises(StudyError, match=r"rungs/0\.5/training\.json: missing"):
        train(study, stage, verdict=says(study, stage, "stopped at rung 0.5"))
