"""Tokenised rows on disk: an Arrow file of `input_ids` (lists of int32) and `supervised` (lists of bool)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sftstudy.errors import StudyError


@dataclass(frozen=True, eq=False)
class Rows:
    """All rows end to end; row i is the slice offsets[i]:offsets[i+1]. `supervised` marks the tokens that are trained on."""

    input_ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row."""
        return np.diff(self.offsets)

    @property
    def supervised_lengths(self) -> NDArray[np.int64]:
        """Supervised tokens per row."""
        before = np.concatenate([[0], np.cumsum(self.supervised, dtype=np.int64)])
        return np.diff(before[self.offsets])

    def row(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids and their mask."""
        span = slice(self.offsets[number], self.offsets[number + 1])
        return self.input_ids[span], self.supervised[span]

    def data_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the rows."""
        digest = hashlib.sha256()
        for array, kind in ((self.offsets, "<i8"), (self.input_ids, "<i4"), (self.supervised, "?")):
            digest.update(np.ascontiguousarray(array.astype(kind, copy=False)).tobytes())
        return digest.hexdigest()[:16]


def from_lists(input_ids: Sequence[Sequence[int]], supervised: Sequence[Sequence[bool]]) -> Rows:
    """Rows from Python lists."""
    lengths = np.array([len(row) for row in input_ids], dtype=np.int64)
    return Rows(
        input_ids=np.fromiter((token for row in input_ids for token in row), dtype=np.int32, count=int(lengths.sum())),
        supervised=np.fromiter((flag for row in supervised for flag in row), dtype=np.bool_, count=int(lengths.sum())),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def write_rows(path: Path, rows: Rows) -> None:
    """Write an Arrow file whole or not at all."""
    import pyarrow as pa

    offsets = pa.array(rows.offsets, pa.int64())
    table = pa.table(
        {
            "input_ids": pa.LargeListArray.from_arrays(offsets, pa.array(rows.input_ids, pa.int32())),
            "supervised": pa.LargeListArray.from_arrays(offsets, pa.array(rows.supervised, pa.bool_())),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_rows(path: Path, *, remedy: str) -> Rows:
    """Read an Arrow file. Raises StudyError with the remedy if it is missing or broken."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
        ids, flags = (table.column(name).chunk(0) for name in ("input_ids", "supervised"))
        rows = Rows(
            input_ids=ids.values.to_numpy(),
            supervised=flags.values.to_numpy(zero_copy_only=False),
            offsets=ids.offsets.to_numpy().astype(np.int64),
        )
    except FileNotFoundError:
        raise StudyError(f"{path}: missing; {remedy}") from None
    except (pa.ArrowInvalid, KeyError, IndexError):
        raise StudyError(f"{path}: not the tokenised rows that were written; {remedy}") from None
    return rows
