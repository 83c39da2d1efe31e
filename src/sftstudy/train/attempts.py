"""What the attempts at a stage leave under scratch: whose folder it is, whether it is finished, and where to continue."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from sftstudy.records import StepMetrics, TrainingRecord, read_record, write_text
from sftstudy.retired import forget_mark, read_mark
from sftstudy.spec import StageSpec, digest
from sftstudy.train import checkpoints


def claim(scratch: Path, identity: dict[str, str]) -> None:
    """Make the stage's scratch folder ours.

    One of another spec or of other data is never continued, and never deleted: it is moved to `<stage>.stale-<digest>`, and taken
    back once its spec and data are today's again.
    """
    found = _identity_of(scratch)
    if found == identity:
        return
    if scratch.is_dir() and any(scratch.iterdir()):
        stale = free = _stale(scratch, found)
        number = 1
        while free.exists():
            number += 1
            free = stale.with_name(f"{stale.name}-{number}")
        print(f"{scratch}: from another spec or other data; moved to {free}, which may be deleted", file=sys.stderr)
        os.replace(scratch, free)
    ours = _stale(scratch, identity)
    if _identity_of(ours) == identity:
        print(f"{scratch}: taken back from {ours}", file=sys.stderr)
        os.replace(ours, scratch)
        return
    write_text(scratch / "identity.json", json.dumps(identity) + "\n")


def _identity_of(folder: Path) -> Any:
    """What a stage's folder was claimed for; None if it was not, or its mark is broken. StudyError if it cannot be read now."""
    try:
        return json.loads((folder / "identity.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise checkpoints.unreadable(folder / "identity.json", error) from None


def set_aside(scratch: Path) -> None:
    """Make room for a fresh start. What earlier attempts left and cannot be continued is kept until the stage is finished."""
    if not any((scratch / "resume").glob("step*")):
        shutil.rmtree(scratch / "attempts", ignore_errors=True)
        return
    number = 1 + len(list(scratch.glob("aside-*")))
    aside = scratch / f"aside-{number}"
    aside.mkdir()
    for name in ("resume", "attempts"):
        if (scratch / name).exists():
            os.replace(scratch / name, aside / name)
    why = "a checkpoint, metrics or state that it relies on is gone or broken"
    print(f"{scratch}: no earlier attempt can be continued: {why}; moved to {aside.name}, starting anew", file=sys.stderr)


def _stale(scratch: Path, identity: Any) -> Path:
    return scratch.with_name(f"{scratch.name}.stale-{'unknown' if identity is None else digest(identity)}")


def is_finished(spec: StageSpec, scratch: Path, identity: dict[str, str]) -> bool:
    """Whether all is there to publish: the finished record, merged metrics, and every declared checkpoint, whole.

    Checkpoints that were retired need not be there. A finished stage whose other weights are gone starts anew, since nothing can
    bring them back but training.
    """
    if not (scratch / "finished.json").is_file():
        forget_mark(scratch)
        return False
    retired = read_mark(scratch)
    finished = read_record(scratch / "finished.json", TrainingRecord)
    hashes_of = {entry.ckpt: entry.weights_hash for entry in finished.checkpoints}
    broken = [
        place.ckpt
        for place in spec.checkpoints
        if place.ckpt not in retired
        and (
            (facts := checkpoint_facts(scratch / place.ckpt, identity)) is None
            or facts["weights_hash"] != hashes_of.get(place.ckpt)
        )
    ]
    if not broken and (scratch / "metrics.jsonl").is_file():
        shutil.rmtree(scratch / "resume", ignore_errors=True)  # a kill after the last step may have left it
        return True
    print(f"{scratch}: finished, but {', '.join(broken) or 'metrics.jsonl'} is gone or broken; training again", file=sys.stderr)
    (scratch / "finished.json").unlink()
    forget_mark(scratch)
    shutil.rmtree(scratch / "resume", ignore_errors=True)
    shutil.rmtree(scratch / "attempts", ignore_errors=True)
    return False


def checkpoint_facts(folder: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    """The facts of a checkpoint that is whole and was made from these inputs, else None."""
    facts = checkpoints.facts_of(folder)
    return facts if facts is not None and identity.items() <= facts.items() else None


def merge_attempts(folder: Path) -> list[StepMetrics]:
    """Metrics of all attempts, oldest first: from the step where it resumed, a later attempt replaces the earlier ones.

    An attempt counts up to its first line that is cut off by a kill or garbled by a loss of power; whether what is left suffices to
    continue is for `find_resume` to judge.
    """
    merged: list[StepMetrics] = []
    for path in sorted(folder.glob("metrics-*.jsonl")):
        found: list[StepMetrics] = []
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                found.append(StepMetrics.model_validate_json(line))
            except ValidationError:
                break
        if found:
            merged = [entry for entry in merged if entry.step < found[0].step] + found
    return merged


def find_resume(spec: StageSpec, scratch: Path, identity: dict[str, str]) -> tuple[int, Path] | None:
    """(steps done, file) of the newest resume state that is whole and before which no checkpoint and no metrics are missing."""
    steps = [entry.step for entry in merge_attempts(scratch / "attempts")]
    for step, path in checkpoints.resume_states(scratch / "resume", **identity):
        due = [place.ckpt for place in spec.checkpoints if place.step <= step]
        if steps[:step] == list(range(1, step + 1)) and all(checkpoint_facts(scratch / ckpt, identity) for ckpt in due):
            return step, path
    return None


@contextmanager
def attempt_file(folder: Path) -> Iterator[TextIO]:
    """A new metrics file for this attempt, numbered after the earlier ones."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.stem.split("-")[1]) for path in folder.glob("metrics-*.jsonl")), default=0)
    with (folder / f"metrics-{number:04d}.jsonl").open("x") as file:
        yield file
