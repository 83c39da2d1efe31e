"""Weights that were removed on purpose: the mark in a stage's scratch folder that says which, and how to have them again."""

from __future__ import annotations

import json
from pathlib import Path

from sftstudy.environment import config_flags
from sftstudy.records import write_text


def mark_of(scratch: Path) -> Path:
    """Where a stage's scratch folder says which of its checkpoints were removed."""
    return scratch / "retired.json"


def read_mark(scratch: Path) -> dict[str, int]:
    """Removed checkpoint -> bytes that it took. Empty if there is no mark, or a broken one: all of them are then trained again."""
    try:
        found = json.loads(mark_of(scratch).read_bytes())
        return {str(ckpt): int(size) for ckpt, size in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def write_mark(scratch: Path, sizes: dict[str, int]) -> None:
    """Say that these checkpoints are, or are about to be, removed; their stage then counts as finished without them."""
    write_text(mark_of(scratch), json.dumps(sizes, sort_keys=True) + "\n")


def forget_mark(scratch: Path) -> None:
    """Take the mark away: what it names will be trained again."""
    mark_of(scratch).unlink(missing_ok=True)


def remedy(training: Path, scratch: Path) -> str:
    """The command that makes a stage's weights again: with the mark in place they would not be. `training` is its record."""
    forced = f"snakemake -c all --forcerun {training}{config_flags()}"
    return f"rm {mark_of(scratch)} && {forced}" if read_mark(scratch) else forced
