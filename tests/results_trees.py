"""Compares two `results/` folders byte by byte, but for what no two runs can have in common."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPEED = {"time_s": "how fast the machine was", "tokens_per_s": "how fast the machine was"}
MEMORY = {"peak_memory_gb": "measured, of a process that may have begun in the middle"}
LEFT_ASIDE: Mapping[str, Mapping[str, str]] = {
    "training.json": SPEED | MEMORY | {"num_attempts": "how often the stage was begun: the one number that a fault may change"},
    "metrics.jsonl": SPEED | MEMORY,
    "*.answers.jsonl": {"tstamp": "when the question was answered"},
    "*.judgments.jsonl": {"tstamp": "when the verdict was given"},
    "guide.json": {"device_hours": "the steps' times, added up"},
    "audit.json": {"hours": "the steps' times, added up", "hours_saved": "by the pace of finished stages"},
}
"""File name -> keys of its objects, at any depth, that are not compared, and why. Of all other files every byte counts."""

PAGES = {"guide.html": "guide.json", "audit.md": "audit.json", "screen.html": "audit.json"}
"""Pages that print such keys -> the file that they show, which is compared instead."""

ATTEMPTS = "attempts"
"""Folder of `results/` that is not compared: what each attempt at a job took, in files named by hour, host and process."""


def differences(left: Path, right: Path) -> list[str]:
    """A line per file that only one of two `results/` folders has, or in which they differ; none if they say the same."""
    names = {path.relative_to(root) for root in (left, right) for path in root.rglob("*") if not path.is_dir()}
    names = {name for name in names if name.parts[0] != ATTEMPTS and name.name not in PAGES}
    found = []
    for name in sorted(names):
        missing = [root for root in (left, right) if not (root / name).is_file()]
        if missing:
            found.append(f"{name}: not in {missing[0]}")
        elif difference := _difference(left / name, right / name):
            found.append(f"{name}: {difference}")
    return found


def _difference(left: Path, right: Path) -> str | None:
    if left.read_bytes() == right.read_bytes():
        return None
    aside = next((keys for pattern, keys in LEFT_ASIDE.items() if fnmatch.fnmatch(left.name, pattern)), None)
    if aside is None:
        return f"{left.stat().st_size} and {right.stat().st_size} bytes, not the same"
    ours, theirs = _objects(left), _objects(right)
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)} lines"
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True), start=1):
        # as text: the order of keys counts, and how numbers are written
        if _without(one, aside) != _without(other, aside):
            keys = [key for key in {**one, **other} if key not in aside and one.get(key) != other.get(key)]
            return f"object {number}: {', '.join(keys) or 'order of keys'}"
    return None


def _objects(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]


def _without(value: Any, keys: Mapping[str, str]) -> str:
    return json.dumps(_pruned(value, keys))


def _pruned(value: Any, keys: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _pruned(entry, keys) for key, entry in value.items() if key not in keys}
    return [_pruned(entry, keys) for entry in value] if isinstance(value, list) else value
