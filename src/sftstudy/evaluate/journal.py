"""Append-only JSONL journals: what is in them survives the death of the process at any moment."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sftstudy.errors import StudyError

E = TypeVar("E", bound=BaseModel)


def read_journal(path: Path, kind: type[E]) -> list[E]:
    """All whole lines of a journal; a line that a killed job left unfinished is dropped."""
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(errors="replace").split("\n"):
        try:
            entries.append(kind.model_validate_json(line))
        except ValidationError:
            continue
    return entries


@contextmanager
def open_journal(path: Path) -> Iterator[Callable[[BaseModel], None]]:
    """A function that appends an entry as one whole line and returns when the disk has it; StudyError if the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.is_file() and path.stat().st_size > 0 and not _ends_whole(path)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(entry: BaseModel) -> None:
        try:
            _write(file, entry.model_dump_json().encode() + b"\n")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StudyError(f"{path}: the disk is full; make room and run again, what stands there is kept") from None

    try:
        if torn:
            _write(file, b"\n")
        yield append
    finally:
        os.close(file)


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
    os.fsync(file)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
