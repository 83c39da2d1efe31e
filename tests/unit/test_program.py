"""What programs do with a wrong option, an output that is an input, a place that cannot be written: one line, and no harm."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from sftstudy import program, records, spec
from sftstudy.errors import StudyError

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"
STAGE = ("SPEC", "--suites", "SUITE")
RACED = ("--benchmark", "b")
KEYS = "give JSON with error_rate, first, growth"


def call(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "option", "output"),
    [
        ("select_checkpoint", "--items", "./mine.csv"),
        ("summarize_mt_bench", "--judgments", "link.csv"),
        ("normalize_leaderboard", "--scores", "hard.csv"),
    ],
)
def test_an_input_is_not_written_over(tmp_path: Path, name: str, option: str, output: str) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("garbage that nobody reads\n")
    (tmp_path / "link.csv").symlink_to(mine)
    (tmp_path / "hard.csv").hardlink_to(mine)
    done = call(tmp_path, name, option, "mine.csv", "--record", output)
    said = f"error: --record {Path(output)}: is the file that is read, mine.csv; name another one\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert mine.read_text() == "garbage that nobody reads\n"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("replay_race", ["SPEC", *RACED, "--orders", "0"], "--orders: 0: give a whole number, 1 or more"),
        ("replay_race", ["SPEC", *RACED, "--orders", "-3"], "--orders: -3: give a whole number, 1 or more"),
        ("prepare_phase", ["SPEC", "--threads", "1.5"], "--threads: 1.5: give a whole number, 1 or more"),
        ("plan_study", ["--gpus-per-stage", "0"], "--gpus-per-stage: 0: give a whole number, 1 or more"),
        ("plan_study", ["--gpus-per-stage", "-64"], "--gpus-per-stage: -64: give a whole number, 1 or more"),
        ("replay_race", ["SPEC", *RACED, "--race", "x"], f"--race: {KEYS}: Invalid JSON: expected value at line 1 column 1"),
        ("race_checkpoints", ["A", "B", *RACED, "--race", '{"first":0}'], f"--race: {KEYS}: first: Input should be greater than 0"),
        ("decide_screen", ["SPEC", "--rung", "a/b"], "--rung: a/b: give a share of a stage's steps, such as 0.1"),
        ("write_screen", ["SPEC", "--rung", "1.5"], "--rung: 1.5: give a share of a stage's steps, such as 0.1"),
        ("select_checkpoint", [*STAGE, "--race", '{"frist": 3}'], f"--race: {KEYS}: frist: unknown key; did you mean 'first'?"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_told(tmp_path: Path, name: str, arguments: list[str], said: str) -> None:
    done = call(tmp_path, name, *arguments)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"{name}.py: error: argument {said}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "b=-1"], "weights: b: Input should be greater than 0; change that option"),
        (["--weights", "b=1", "--benchmark", "b"], "give either benchmark or weights; change that option"),
    ],
)
def test_options_of_a_selection_that_do_not_go_together_are_told(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = call(tmp_path, "select_checkpoint", *STAGE, *arguments)
    assert (done.returncode, done.stderr) == (1, f"error: {said}\n")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("folder", "folder: Is a directory; name a file"),
        ("file/out.json", "file: File exists; a file is in the way; name a folder"),
        ("file/more/out.json", "file/more: Not a directory; name a folder"),
        ("n" * 300, f"{'n' * 300}: File name too long; give it a shorter name"),
    ],
)
def test_a_place_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    with pytest.raises(SystemExit) as ended:
        program.run(lambda: records.write_text(Path(path), "text"))
    assert (ended.value.code, capsys.readouterr().err) == (1, f"error: {said}\n")
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_full_disk_is_told_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(SystemExit):
        program.run(lambda: records.write_text(tmp_path / "out.json", "text"))
    assert capsys.readouterr().err == f"error: {tmp_path / 'out.json'}: No space left on device; make room and run again\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.EPIPE, "Broken pipe"), FileNotFoundError(errno.ENOENT, "No such file", "x")])
def test_other_errors_of_the_system_keep_their_traceback(error: OSError) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        program.run(fail)


@pytest.mark.parametrize("content", [b"kind: study\n\tname: x", b"name: [a", b"name: \xff", b"day: 2026-99-99", b"", b"- a"])
def test_a_garbled_spec_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=rf"^{path}: .*; `snakemake -c1 --force {path}`$"):
        spec.read(path)
