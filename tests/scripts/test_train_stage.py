"""The program as users run it: killed at any time it continues, and ends with the very weights of an undisturbed run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sftstudy import hashes, spec, timesheet
from sftstudy.errors import StudyError
from sftstudy.hours import read_attempts, split
from sftstudy.records import SelectionRecord, TrainingRecord, provenance, read_metrics, read_record, write_record
from sftstudy.train.checkpoints import Saving
from sftstudy.train.schedule import learning_rate
from sftstudy.train.stage import train_stage

PROGRAM = Path(__file__).parents[2] / "workflow" / "scripts" / "train_stage.py"
STATE = "__0_0.distcp"
"""What the first process writes of its resume state."""

SLOW = 0.15
"""Seconds that a step is made to last in the runs that get killed."""


def train(study: Any, stage: Any, **settings: Any) -> TrainingRecord:
    train_stage(stage, layout=study.layout, saving=Saving(**settings), device="cpu")
    return read_record(study.results(stage) / "training.json", TrainingRecord)


def numbers(study: Any, stage: Any) -> list[Any]:
    timed = {"time_s", "tokens_per_s", "peak_memory_gb"}
    return [entry.model_dump(exclude=timed) for entry in read_metrics(study.results(stage) / "metrics.jsonl")]


def start(study: Any, stage: Any, *flags: str) -> "subprocess.Popen[str]":
    """The program, each of its steps slowed down, so that a signal finds it at work."""
    slow = (
        "import runpy, sys, time, sftstudy.train.loop as loop\n"
        "fast = loop.train_step\n"
        f"loop.train_step = lambda *a, **k: (time.sleep({SLOW}), fast(*a, **k))[1]\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    roots = ["--results", str(study.layout.results), "--scratch", str(study.layout.scratch)]
    return subprocess.Popen(
        [sys.executable, "-c", slow, str(PROGRAM), str(study.results(stage) / "spec.yaml"), *roots, *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(study: Any, stage: Any, number: int) -> None:
    for _ in range(600):
        lines = "".join(path.read_text() for path in (study.scratch(stage) / "attempts").glob("*.jsonl")).count("\n")
        if lines >= number:
            return
        time.sleep(0.05)
    raise AssertionError(f"step {number} was not reached in 30 seconds")


@pytest.fixture(scope="module")
def undisturbed(_prepared: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(study, stage, record) of a stage that nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    for name in ("results", "scratch"):
        shutil.copytree(_prepared.layout.results.parent / name, root / name)
    study = type(_prepared)(type(_prepared.layout)(root / "results", root / "scratch"), _prepared.model, _prepared.phase)
    stage = study.stage()
    return study, stage, train(study, stage)


def test_records_of_an_undisturbed_stage(undisturbed: Any) -> None:
    study, stage, record = undisturbed
    assert [(entry.ckpt, entry.step, entry.samples_seen) for entry in record.checkpoints] == [
        ("ckpt01", 4, 16),
        ("ckpt02", 8, 32),
        ("ckpt03", 12, 48),
    ]
    assert (record.num_steps, record.samples_seen, record.samples_spent, record.num_attempts) == (12, 48, 48, 1)
    metrics = read_metrics(study.results(stage) / "metrics.jsonl")
    planned = [learning_rate(index, num_steps=12, training=stage.training) for index in range(12)]
    assert [entry.learning_rate for entry in metrics] == planned
    assert [entry.samples_seen for entry in metrics] == list(range(4, 49, 4))
    assert metrics[-1].loss < metrics[0].loss
    tokens = [sum(entry.num_supervised_tokens for entry in metrics[:step]) for step in (4, 8, 12)]
    assert [entry.supervised_tokens_seen for entry in record.checkpoints] == tokens
    found = {entry.ckpt: hashes.weights_hash(study.scratch(stage) / entry.ckpt) for entry in record.checkpoints}
    assert found == {entry.ckpt: entry.weights_hash for entry in record.checkpoints}
    assert len(set(found.values())) == 3
    assert not (study.scratch(stage) / "resume").exists()


def test_killed_program_continues_bit_for_bit(undisturbed: Any, study: Any) -> None:
    stage = study.stage()
    program = start(study, stage, "--resume-every-steps", "3")
    wait_for_steps(study, stage, 7)
    program.kill()
    program.communicate()
    assert not (study.results(stage) / "training.json").exists()
    with timesheet.opened("train_stage", spec.stage_names(stage), spec_hash=spec.spec_hash(stage), layout=study.layout):
        record = train(study, stage)
    _, _, expected = undisturbed
    assert record.checkpoints == expected.checkpoints
    assert numbers(study, stage) == numbers(*undisturbed[:2])
    assert record.num_attempts == 2
    first = json.loads((study.scratch(stage) / "attempts" / "metrics-0002.jsonl").read_text().splitlines()[0])
    assert first["step"] >= 7
    attempts = read_attempts(study.layout)
    (killed, lost), (end, went_on) = split(attempts, published=record.spec_hash, now=time.time())
    assert (killed, end) == ("killed", "finished")
    assert lost.useful + went_on.useful == pytest.approx(record.time_s)
    assert attempts[1].units_before == attempts[0].safe_units >= 6


def test_sigterm_saves_and_ends_with_one_line(undisturbed: Any, study: Any) -> None:
    stage = study.stage()
    program = start(study, stage)
    wait_for_steps(study, stage, 2)
    program.terminate()
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 75
    assert errors.splitlines()[-1].startswith("error: stopped by SIGTERM after step ")
    steps = (study.scratch(stage) / "attempts" / "metrics-0001.jsonl").read_text().count("\n")
    assert 2 <= steps < 12
    (attempt,) = read_attempts(study.layout)
    assert (attempt.outcome, attempt.units, attempt.safe_units, attempt.num_gpus) == ("stopped", steps, steps, 0)
    record = train(study, stage)
    assert record.checkpoints == undisturbed[2].checkpoints
    assert numbers(study, stage) == numbers(*undisturbed[:2])
    assert json.loads((study.scratch(stage) / "attempts" / "metrics-0002.jsonl").read_text().splitlines()[0])["step"] == steps + 1


def test_a_clusters_warning_stops_after_the_step(undisturbed: Any, study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sftstudy.train import loop

    stage, calls, fast = study.stage(), [], loop.train_step

    def warned(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGUSR1)
        return fast(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", warned)
    with pytest.raises(StudyError, match=r"^stopped by SIGUSR1 after step 6 of 12, state saved; start it again to continue$"):
        train(study, stage)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert train(study, stage).checkpoints == undisturbed[2].checkpoints
    assert len(calls) == 12


class Killed(BaseException):
    """Stands for a kill inside this process, at an exact place."""


@pytest.mark.parametrize("place", ["save_weights", "save_resume", "sealed_folder"])
def test_kill_at_each_boundary(place: str, undisturbed: Any, study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sftstudy.train import checkpoints

    stage = study.stage()
    calls = []
    original = getattr(checkpoints, place)

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(checkpoints, place, dying)
    with pytest.raises(Killed):
        train(study, stage)
    monkeypatch.undo()
    record = train(study, stage)
    assert record.checkpoints == undisturbed[2].checkpoints
    assert numbers(study, stage) == numbers(*undisturbed[:2])


def test_lost_checkpoint_or_broken_state_is_made_again(undisturbed: Any, study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sftstudy.train import finish as module
    from sftstudy.train.attempts import find_resume

    stage = study.stage()
    monkeypatch.setattr(module, "check_metrics", lambda *_, **__: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        train(study, stage)
    monkeypatch.undo()
    states = sorted((study.scratch(stage) / "resume").iterdir())
    assert [path.name for path in states] == ["step00000008", "step00000012"]
    (states[1] / STATE).write_bytes(b"broken")
    (study.scratch(stage) / "ckpt02" / "model.safetensors").unlink()
    assert find_resume(stage, study.scratch(stage), json.loads((study.scratch(stage) / "identity.json").read_text())) is None
    assert train(study, stage).checkpoints == undisturbed[2].checkpoints


@pytest.mark.parametrize("lost", ["newest state", "all states", "metrics"])
def test_after_a_restart_further_back_new_states_stay(
    lost: str, undisturbed: Any, study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kills: the second attempt starts behind states of the first, and what it saves must last until the third."""
    from sftstudy.train import loop

    stage, steps, fast = study.stage(), [], loop.train_step
    dying_after = 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        if len(steps) == dying_after:
            raise Killed
        steps.append(1)
        return fast(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", dying)
    dying_after = 11
    with pytest.raises(Killed):
        train(study, stage, every_steps=5)  # states after steps 8 and 10
    log, resume = study.scratch(stage) / "attempts" / "metrics-0001.jsonl", study.scratch(stage) / "resume"
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 11
    assert sorted(path.name for path in resume.iterdir()) == ["step00000008", "step00000010"]
    if lost == "metrics":
        log.write_bytes(b"".join([*lines[:2], b"\0" * 200 + b"\n", b"\xff\n", *lines[4:]]))
    for path in sorted(resume.iterdir())[{"newest state": 1, "all states": 0, "metrics": 2}[lost] :]:
        (path / STATE).write_bytes(b"broken")
    first_step = 8 if lost == "newest state" else 0
    dying_after = 11 + 1
    with pytest.raises(Killed):
        train(study, stage, every_steps=1)
    states = sorted(path.name for path in resume.iterdir())
    assert states == (["step00000008", "step00000009"] if lost == "newest state" else ["step00000001"])
    dying_after = 100
    assert train(study, stage).checkpoints == undisturbed[2].checkpoints
    assert len(steps) == 11 + 12 - first_step
    assert numbers(study, stage) == numbers(*undisturbed[:2])


def test_a_garbled_line_ends_its_attempt_only(study: Any) -> None:
    from sftstudy.train.attempts import merge_attempts

    stage = study.stage()
    train(study, stage)
    folder = study.scratch(stage) / "attempts"
    lines = (folder / "metrics-0001.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics-0001.jsonl").write_bytes(b"".join([*lines[:6], b"\0" * 9 + b"\n", *lines[7:]]))
    assert [entry.step for entry in merge_attempts(folder)] == [1, 2, 3, 4, 5, 6]
    (folder / "metrics-0002.jsonl").write_bytes(b"".join([*lines[4:10], lines[10][:-1]]))
    assert [entry.step for entry in merge_attempts(folder)] == list(range(1, 11))


def test_finished_stage_only_publishes_and_loads_no_torch(study: Any) -> None:
    stage = study.stage()
    record = train(study, stage)
    metrics = (study.results(stage) / "metrics.jsonl").read_bytes()
    for name in ("training.json", "metrics.jsonl"):
        (study.results(stage) / name).unlink()
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "assert 'torch' not in sys.modules"
    )
    roots = ["--results", str(study.layout.results), "--scratch", str(study.layout.scratch)]
    command = [sys.executable, "-c", code, str(PROGRAM), str(study.results(stage) / "spec.yaml"), *roots]
    done = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    assert done.stderr == f"{study.scratch(stage)}: finished before, only published again; remove it to have it trained again\n"
    assert read_record(study.results(stage) / "training.json", TrainingRecord) == record
    assert (study.results(stage) / "metrics.jsonl").read_bytes() == metrics


def test_no_resume_state_and_no_half_written_folder_stays_of_a_finished_stage(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sftstudy.train import checkpoints

    stage, whole = study.stage(), checkpoints.save_weights
    scratch = study.scratch(stage)

    def dying(folder: Path, *args: Any, **kwargs: Any) -> None:
        if folder.name == "ckpt02":  # what a SIGKILL leaves
            for path in (scratch / ".ckpt02.partial", scratch / "resume" / ".step00000008.partial"):
                path.mkdir()
                (path / "half").touch()
            raise Killed
        whole(folder, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_weights", dying)
        with pytest.raises(Killed):
            train(study, stage)
    train(study, stage)
    left = ["attempts", "ckpt01", "ckpt02", "ckpt03", "finished.json", "identity.json", "metrics.jsonl"]
    assert sorted(path.name for path in scratch.iterdir()) == left
    (scratch / "resume" / "step00000012").mkdir(parents=True)  # a kill after the record was written
    train(study, stage)
    assert sorted(path.name for path in scratch.iterdir()) == left


def test_finished_stage_without_its_weights_trains_again(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stage = study.stage()
    record = train(study, stage)
    shutil.rmtree(study.scratch(stage) / "ckpt02")
    assert train(study, stage).checkpoints == record.checkpoints
    assert "finished, but ckpt02 is gone or broken; training again" in capsys.readouterr().err


def test_state_of_another_spec_is_moved_aside(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(study, study.stage())
    stage = study.stage(learning_rate=2e-2)
    second = train(study, stage)
    assert first.checkpoints[-1].weights_hash != second.checkpoints[-1].weights_hash
    (stale,) = study.scratch(stage).parent.glob("01-stacked.stale-*")
    assert f"from another spec or other data; moved to {stale}, which may be deleted" in capsys.readouterr().err
    assert hashes.weights_hash(stale / "ckpt03") == first.checkpoints[-1].weights_hash


def test_a_recipe_that_comes_back_finds_its_run(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A, B, C, B, A: three are trained, each is kept, and what comes back is published without a step."""
    rates = {"a": 1e-2, "b": 2e-2, "c": 3e-2}
    records = {name: train(study, study.stage(learning_rate=rate)) for name, rate in rates.items()}
    folder = study.scratch(study.stage())
    assert len(list(folder.parent.glob("01-stacked.stale-*"))) == 2
    capsys.readouterr()
    for name in ("b", "a"):
        (study.results(study.stage()) / "training.json").unlink()
        assert train(study, study.stage(learning_rate=rates[name])) == records[name]
        errors = capsys.readouterr().err
        assert f"{folder}: taken back from {folder}.stale-" in errors
        assert "step " not in errors
    assert len(list(folder.parent.glob("01-stacked.stale-*"))) == 2


def test_claim_deletes_nothing_and_takes_back_only_its_own(tmp_path: Path) -> None:
    from sftstudy.train.attempts import claim

    ours, folder = {"spec_hash": "a", "content_hash": "b"}, tmp_path / "01-stacked"
    for number in (1, 2):  # folders whose mark is unreadable, twice
        folder.mkdir()
        (folder / "ckpt01").write_text(str(number))
        claim(folder, ours)
        assert [path.name for path in folder.iterdir()] == ["identity.json"]
        shutil.rmtree(folder)
    kept = {path.name: (path / "ckpt01").read_text() for path in tmp_path.iterdir()}
    assert kept == {"01-stacked.stale-unknown": "1", "01-stacked.stale-unknown-2": "2"}
    stale = tmp_path / f"01-stacked.stale-{spec.digest(ours)}"
    shutil.copytree(tmp_path / "01-stacked.stale-unknown", stale)  # bears our name, but not our mark
    claim(folder, ours)
    assert [path.name for path in folder.iterdir()] == ["identity.json"]
    claim(folder, {"spec_hash": "other"})
    moved = tmp_path / f"{stale.name}-2"
    assert [path.name for path in moved.iterdir()] == ["identity.json"]
    shutil.rmtree(stale)
    moved.rename(stale)
    shutil.rmtree(folder)  # as after a kill between the two renames
    claim(folder, ours)
    assert not stale.exists()
    assert json.loads((folder / "identity.json").read_text()) == ours


def test_only_one_process_trains_a_stage(undisturbed: Any, study: Any) -> None:
    stage = study.stage()
    program = start(study, stage)
    wait_for_steps(study, stage, 1)
    for rate in (1e-2, 2e-2):  # another recipe may not move the folder away either
        with pytest.raises(StudyError) as caught:
            train(study, study.stage(learning_rate=rate))
        assert f"01-stacked: another process works on it (process {program.pid} on " in str(caught.value)
        assert "\n" not in str(caught.value)
    program.kill()
    program.communicate()
    assert train(study, study.stage()).checkpoints == undisturbed[2].checkpoints


def test_a_base_with_another_config_is_another_start(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sftstudy.train import loop

    stage, path, fast, calls = study.stage(), study.layout.model_folder("toy") / "config.json", loop.train_step, []

    def stopping(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return fast(*args, **kwargs)

    whole = path.read_text()
    for _ in ("before the first step", "on continuing"):
        path.write_text(json.dumps({**json.loads(whole), "rms_norm_eps": 1e-2}))
        with pytest.raises(
            StudyError, match=r"toy: other weights or another config than its record says; .* --forcerun .*model.json"
        ):
            train(study, stage)
        path.write_text(whole)
        monkeypatch.setattr(loop, "train_step", stopping)
        if not calls:
            with pytest.raises(StudyError, match="stopped by SIGUSR1 after step 2"):
                train(study, stage)
    train(study, stage)
    assert len(calls) == 12


def test_a_stage_starts_from_the_selected_checkpoint_and_counts_what_was_spent(study: Any) -> None:
    stage = study.stage()
    first = train(study, stage)
    chosen = first.checkpoints[1]
    selection = SelectionRecord(
        spec_hash="chosen",
        content_hash="",
        **provenance(),
        ckpt=chosen.ckpt,
        samples_seen=chosen.samples_seen,
        weights_hash=chosen.weights_hash,
        benchmark="mmlu",
        rule="best",
        candidates={},
    )
    write_record(study.results(stage) / "selection.json", selection)
    child = second_stage(study, stage, selection_hash="chosen")
    record = train(study, child)
    assert (record.samples_seen, record.samples_spent) == (32 + 48, 48 + 48)
    assert (record.checkpoints[0].samples_seen, record.checkpoints[0].samples_spent) == (32 + 16, 48 + 16)
    assert record.checkpoints[0].supervised_tokens_seen > chosen.supervised_tokens_seen
    assert read_metrics(study.results(child) / "metrics.jsonl")[0].samples_seen == 36
    with pytest.raises(StudyError, match=r"selection.json: made from another spec than today's"):
        train(study, second_stage(study, stage, selection_hash="other"))
    shutil.rmtree(study.scratch(stage) / chosen.ckpt)
    shutil.rmtree(study.scratch(child))
    with pytest.raises(StudyError, match=r"ckpt02: weights are gone; .* --forcerun .*01-stacked/training.json"):
        train(study, second_stage(study, stage, selection_hash="chosen"))


def second_stage(study: Any, parent: Any, *, selection_hash: str) -> Any:
    """The same training once more, as another recipe's stage that continues from `parent`."""
    from sftstudy.config import Selection
    from sftstudy.data.mix import mix_stage

    child = parent.model_copy(
        update={
            "recipe": "branch",
            "stage": "02-more",
            "parent": spec.Parent(
                recipe=parent.recipe,
                stage=parent.stage,
                spec_hash=spec.spec_hash(parent),
                selection=Selection(benchmark="mmlu"),
                selection_hash=selection_hash,
            ),
        }
    )
    write_record(study.results(child) / "data.json", mix_stage(child, layout=study.layout))
    return child


def test_changed_inputs_end_with_one_line(study: Any) -> None:
    stage = study.stage()
    weights = study.layout.model_folder("toy") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"1234")
    with pytest.raises(StudyError, match=r"toy: other weights or another config than its record says"):
        train(study, stage)
    weights.write_bytes(whole)
    (rows,) = study.layout.scratch.glob("tokenised/*.arrow")
    rows.unlink()
    with pytest.raises(StudyError, match=r"arrow: missing; snakemake -c1 --forcerun"):
        train(study, stage)
