"""What all programs in `workflow/scripts/` share: their arguments, and one line on stderr for what a user can mend."""

from __future__ import annotations

import argparse
import errno
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from sftstudy import spec, timesheet
from sftstudy.config import Strict
from sftstudy.errors import StudyError, exit_status, tell
from sftstudy.paths import Layout
from sftstudy.records import RaceRecord, read_record, stopped_status
from sftstudy.screen import rung_name
from sftstudy.train.lease import held, patience

S = TypeVar("S", bound=Strict)

REMEDIES = {
    errno.EACCES: "give yourself the right to it, or name another place",
    errno.EPERM: "give yourself the right to it, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a folder",
    errno.EEXIST: "a file is in the way; name a folder",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOSPC: "make room and run again",
    errno.EDQUOT: "make room and run again",
}
"""What a user can do about an error of the system on a file. Any other is a bug of ours, or the machine's fault."""


def run(main: Callable[[], None]) -> None:
    """Call a program's `main`; what a user can mend becomes one line and exit status 1, or 75 if it was stopped and has saved.

    That is a StudyError, or an error of the system on a file.
    """
    try:
        main()
    except StudyError as error:
        tell(error)
        sys.exit(exit_status(error))
    except OSError as error:
        if error.filename is None or error.errno not in REMEDIES:
            raise
        tell(StudyError(f"{error.filename}: {error.strerror}; {REMEDIES[error.errno]}"))
        sys.exit(1)


def count(text: str) -> int:
    """Type of an argument that counts something: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number, 1 or more")
    return int(text)


def rung(text: str) -> str:
    """Type of an argument that is a rung, in the spelling of folders and records."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a share of a stage's steps, such as 0.1")
    return rung_name(value)


def from_json(kind: type[S]) -> Callable[[str], S]:
    """Type of an argument that holds settings of one kind as JSON."""

    def read(text: str) -> S:
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            raise argparse.ArgumentTypeError(f"give JSON with {', '.join(kind.model_fields)}: {problem(error)}") from None

    return read


def problem(error: ValidationError) -> str:
    """The first problem of a validation, as `key: what is wrong`."""
    first = error.errors()[0]
    keys = [*first["loc"], *([first["ctx"]["key"]] if first["type"] == "unknown_key" else [])]
    return "".join(f"{key}: " for key in keys) + first["msg"].removeprefix("Value error, ")


def refuse_overwriting(output: Path, *inputs: Path | None) -> None:
    """Raise StudyError if a program would write over a file that it reads, whatever name or link leads to it."""
    for path in inputs:
        if path and path.exists() and output.exists() and output.samefile(path):
            raise StudyError(f"--record {output}: is the file that is read, {path}; name another one")


def name() -> str:
    """What this program is called: as its rule."""
    return Path(sys.argv[0]).stem


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments of a program that works on one spec: the `spec.yaml`, and the two roots."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("spec", type=Path, help="the job's spec.yaml")
    made.add_argument("--results", type=Path, default=Path("results"), help="root of the records")
    made.add_argument("--scratch", type=Path, default=Path("scratch"), help="root of weights and tokenised data")
    return made


def config_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """What `--config KEY=VALUE ...` gave. Raises StudyError for an entry that is no such pair."""
    for entry in arguments.config:
        if "=" not in entry:
            raise StudyError(f"--config {entry}: is no KEY=VALUE; write such as studies=tiny")
    return dict(entry.split("=", 1) for entry in arguments.config)


def layout_of(arguments: argparse.Namespace) -> Layout:
    """The roots that the user named."""
    return Layout(results=arguments.results, scratch=arguments.scratch)


def score_block(work: Callable[..., object], description: str | None, *, skip: Callable[..., object], races: bool = False) -> None:
    """Body of the programs that score: parse stage, suite and part, and call `work` on that block of the stage's checkpoints.

    Of a stage that was stopped nothing is scored: `skip` then writes what `work` would, empty, with the `status`. With `races` both
    get the record of the race that dropped some of the checkpoints on a benchmark of the suite, None if there was none.
    """
    arguments_parser = parser(description)
    arguments_parser.add_argument("suite", type=Path, help="the suite's spec.yaml")
    arguments_parser.add_argument("--part", required=True, help="block of the stage's checkpoints, such as part01")
    if races:
        arguments_parser.add_argument("--raced", type=Path, nargs="*", default=[], help="race.json, if it raced on this suite")
    arguments = arguments_parser.parse_args()
    stage, suite = read_spec(arguments.spec, spec.StageSpec), read_spec(arguments.suite, spec.SuiteSpec)
    blocks = spec.parts([place.ckpt for place in stage.checkpoints], suite.suite.checkpoints_per_job)
    if arguments.part not in blocks:
        raise StudyError(f"--part {arguments.part}: {suite.name} on {stage.stage} has {', '.join(blocks)}; name one of them")
    layout = layout_of(arguments)
    block = {"part": arguments.part, "checkpoints": blocks[arguments.part], "layout": layout}
    race = next((read_record(path, RaceRecord) for path in arguments.raced), None) if races else None
    if races:
        block["race"] = race
    training = layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage) / "training.json"
    hashes = (spec.spec_hash(stage), spec.spec_hash(suite))
    expected = spec.score_hash(*hashes, blocks[arguments.part], race=race.spec_hash if race else None)
    job = spec.stage_names(stage) | {"suite": suite.name, "part": arguments.part}
    scratch = layout.stage_scratch(stage.model, stage.data, stage.recipe, stage.seed, stage.stage) / "scores" / suite.name
    with timesheet.opened(name(), job, spec_hash=expected, layout=layout):
        if stage.training and (status := stopped_status(training)):
            skip(stage, suite, status=status, **block)
            return
        with held(scratch / arguments.part, patience_s=patience()):
            work(stage, suite, **block)


def read_spec(path: Path, kind: type[S]) -> S:
    """Read a `spec.yaml` of one kind. Raises StudyError if it is missing, outdated or of another kind."""
    found = spec.read(path)
    if not isinstance(found, kind):
        raise StudyError(f"{path}: holds a {type(found).__name__}, this program wants a {kind.__name__}")
    return found
