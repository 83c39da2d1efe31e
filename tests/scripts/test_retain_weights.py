"""Weights that nobody will ask for go; what is asked for all the same ends with the line that brings them back."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sftstudy.errors import StudyError
from sftstudy.evaluate.weights import find_weights
from sftstudy.records import (
    RetentionRecord,
    Score,
    ScoreRecord,
    SelectionRecord,
    TrainingRecord,
    provenance,
    read_record,
    write_record,
)
from sftstudy.train import checkpoints, retain
from sftstudy.train.retain import retain_weights
from sftstudy.train.stage import train_stage

PROGRAM = Path(__file__).parents[2] / "workflow" / "scripts" / "retain_weights.py"
CKPTS = ["ckpt01", "ckpt02", "ckpt03"]


def scored(study: Any, stage: Any, *, ckpts: list[str] = CKPTS, **changes: Any) -> Path:
    """The score record of one suite on a finished stage."""
    training = read_record(study.results(stage) / "training.json", TrainingRecord)
    score = Score(
        ckpt="",
        samples_seen=0,
        samples_spent=0,
        weights_hash="",
        benchmark="exam",
        task="exam",
        task_version="1",
        metric="acc",
        value=0.5,
        stderr=None,
        num_items=1,
        num_fewshot=0,
        harness="toy",
        harness_version="1",
        items_hash="",
        protocol_hash="",
        first_tokens=[],
    )
    entries = [entry for entry in training.checkpoints if entry.ckpt in ckpts]
    record = ScoreRecord(
        spec_hash="",
        content_hash="",
        **provenance(),
        **stage.model_dump(include={"model", "data", "recipe", "seed", "stage"}),
        suite="exams",
        part="part01",
        scores=[score.model_copy(update={"ckpt": entry.ckpt, "weights_hash": entry.weights_hash, **changes}) for entry in entries],
    )
    path: Path = study.results(stage) / "scores" / "exams" / "part01.json"
    write_record(path, record)
    return path


def retain_toy(study: Any, stage: Any, scores: Path, *, removable: list[str] = CKPTS[:2], children: tuple[Path, ...] = ()) -> Any:
    return retain_weights(stage, removable=removable, scores=[scores], children=children, layout=study.layout)


def weights_of(study: Any, stage: Any) -> list[str]:
    return sorted(path.name for path in study.scratch(stage).glob("ckpt*"))


@pytest.fixture
def stage(study: Any) -> Any:
    """A finished stage of three checkpoints."""
    made = study.stage()
    train_stage(made, layout=study.layout)
    return made


def test_the_program_removes_what_may_go_twice_with_the_same_record_and_without_torch(study: Any, stage: Any) -> None:
    sizes = [path.stat().st_size for name in CKPTS[:2] for path in (study.scratch(stage) / name).iterdir()]
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "assert 'torch' not in sys.modules"
    )
    roots = ["--results", str(study.layout.results), "--scratch", str(study.layout.scratch)]
    command = [sys.executable, "-c", code, str(PROGRAM), str(study.results(stage) / "spec.yaml"), *roots, "--removable", *CKPTS[:2]]
    records = []
    for _ in ("first", "again"):
        subprocess.run([*command, "--scores", str(scored(study, stage)), "--children"], check=True)
        assert weights_of(study, stage) == ["ckpt03"]
        records.append(read_record(study.results(stage) / "retention.json", RetentionRecord))
    assert (records[0].kept, records[0].removed, records[0].bytes_freed) == (["ckpt03"], CKPTS[:2], sum(sizes))
    assert records[1] == records[0]


def test_what_the_next_stage_starts_from_stays(study: Any, stage: Any) -> None:
    path = study.results(stage) / "training.json"
    chosen = read_record(path, TrainingRecord).checkpoints[1]
    selection = SelectionRecord(
        spec_hash="",
        content_hash="",
        **provenance(),
        **chosen.model_dump(include={"ckpt", "samples_seen", "weights_hash"}),
        benchmark="exam",
        rule="best",
        candidates={},
    )
    write_record(study.results(stage) / "selection.json", selection)
    child = study.results(stage).with_name("02-more") / "training.json"
    with pytest.raises(StudyError, match=r"02-more/training.json: missing"):
        retain_toy(study, stage, scored(study, stage), removable=CKPTS, children=(child,))
    write_record(child, read_record(path, TrainingRecord))
    assert retain_toy(study, stage, scored(study, stage), removable=CKPTS, children=(child,)).kept == ["ckpt02"]
    assert weights_of(study, stage) == ["ckpt02"]


def test_without_all_scores_of_these_weights_nothing_goes(study: Any, stage: Any) -> None:
    with pytest.raises(StudyError, match=r"--scores: exams has no score of ckpt02; name the records of all parts"):
        retain_toy(study, stage, scored(study, stage, ckpts=["ckpt01", "ckpt03"]))
    with pytest.raises(StudyError, match=r"part01.json: ckpt01 was trained again since; score it again with"):
        retain_toy(study, stage, scored(study, stage, weights_hash="other"))
    assert weights_of(study, stage) == CKPTS


def test_weights_of_another_training_are_not_touched(study: Any, stage: Any) -> None:
    """Records were copied here; what lies in scratch is ours."""
    finished = study.scratch(stage) / "finished.json"
    write_record(finished, read_record(finished, TrainingRecord).model_copy(update={"time_s": 1.0}))
    assert retain_toy(study, stage, scored(study, stage)).bytes_freed == 0
    finished.unlink()
    assert retain_toy(study, stage, scored(study, stage)).bytes_freed == 0
    assert weights_of(study, stage) == CKPTS


def only_published(capsys: pytest.CaptureFixture[str], study: Any, stage: Any) -> bool:
    """Whether that is all that was said of a stage."""
    said = capsys.readouterr().err
    return said.startswith(f"{study.scratch(stage)}: finished before, only published again") and said.count("\n") == 1


def test_a_stage_without_retired_weights_is_only_published_again(
    study: Any, stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study.results(stage) / "training.json"
    record = read_record(path, TrainingRecord)
    retain_toy(study, stage, scored(study, stage))
    path.unlink()
    capsys.readouterr()
    train_stage(stage, layout=study.layout)
    assert read_record(path, TrainingRecord) == record
    assert only_published(capsys, study, stage)
    assert weights_of(study, stage) == ["ckpt03"]


def test_asking_for_retired_weights_names_the_command_that_trains_them_again(
    study: Any, stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_CONFIG", "overlay=mine studies=a,b")
    path, mark = study.results(stage) / "training.json", study.scratch(stage) / "retired.json"
    retain_toy(study, stage, scored(study, stage))
    weights = find_weights(stage, CKPTS, study.layout)
    with pytest.raises(StudyError) as caught:
        weights[0].check()
    command = f"rm {mark} && snakemake -c all --forcerun {path} --config overlay=mine studies=a,b"
    assert str(caught.value) == f"{weights[0].folder}: weights are gone; to make them again: {command}"
    weights[2].check()

    subprocess.run(command.split(" && ")[0], shell=True, check=True)
    train_stage(stage, layout=study.layout)
    assert weights_of(study, stage) == CKPTS
    for found in weights:
        found.check()
    assert not mark.exists()


def test_a_kill_while_weights_go_leaves_no_riddle(
    study: Any, stage: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Killed(BaseException):
        pass

    def half(folder: Path) -> None:
        (folder / checkpoints.MARKER).unlink()
        (folder / "model.safetensors").unlink()
        raise Killed

    whole = sum(path.stat().st_size for name in CKPTS[:2] for path in (study.scratch(stage) / name).iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(retain.checkpoints, "remove", half)
        with pytest.raises(Killed):
            retain_toy(study, stage, scored(study, stage))
    capsys.readouterr()
    train_stage(stage, layout=study.layout)
    assert only_published(capsys, study, stage)
    assert retain_toy(study, stage, scored(study, stage)).bytes_freed == whole
    assert weights_of(study, stage) == ["ckpt03"]


def test_a_lost_mark_or_a_lost_last_checkpoint_trains_all_of_them_again(study: Any, stage: Any) -> None:
    before = read_record(study.results(stage) / "training.json", TrainingRecord)
    retain_toy(study, stage, scored(study, stage))
    checkpoints.remove(study.scratch(stage) / "ckpt03")
    train_stage(stage, layout=study.layout)
    assert weights_of(study, stage) == CKPTS
    assert read_record(study.results(stage) / "training.json", TrainingRecord).checkpoints == before.checkpoints
    assert not (study.scratch(stage) / "retired.json").exists()
