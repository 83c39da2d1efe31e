"""Tokenised rows on disk: an Arrow file of `input_ids` (lists of int32) and `supervised` (lists of 0 or 1), read by memory map."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftstudy.errors import StudyError

TOKENS_PER_COPY = 4_000_000
"""How much is held in memory while rows are put in order."""


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
        """Supervised tokens per row. No row is empty."""
        sums: NDArray[np.int64] = np.add.reduceat(self.supervised, self.offsets[:-1], dtype=np.int64)
        return sums

    def row(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids and their mask."""
        span = slice(self.offsets[number], self.offsets[number + 1])
        return self.input_ids[span], self.supervised[span]

    def data_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the rows."""
        digest = hashlib.sha256()
        for array, kind in ((self.offsets, "<i8"), (self.input_ids, "<i4"), (self.supervised, "?")):
            digest.update(np.ascontiguousarray(array.astype(kind, copy=False)).data)
        return digest.hexdigest()[:16]


def from_lists(input_ids: Sequence[Sequence[int]], supervised: Sequence[Sequence[bool]]) -> Rows:
    """Rows from Python lists."""
    lengths = np.array([len(row) for row in input_ids], dtype=np.int64)
    return Rows(
        input_ids=np.fromiter((token for row in input_ids for token in row), dtype=np.int32, count=int(lengths.sum())),
        supervised=np.fromiter((flag for row in supervised for flag in row), dtype=np.bool_, count=int(lengths.sum())),
        offsets=_offsets(lengths),
    )


class RowsWriter:
    """Collects rows chunk by chunk in a folder of its own below `folder`, then files a choice of them. Use it as a context.

    Only the lengths stay in memory: what is filed is mapped from the collected bytes.
    """

    def __init__(self, folder: Path) -> None:
        self._parent = folder
        self._lengths: list[NDArray[np.int64]] = []

    def __enter__(self) -> RowsWriter:
        self._parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=self._parent, prefix=".collected."))
        self._files = [(self._folder / name).open("wb") for name in ("input_ids", "supervised")]
        return self

    def __exit__(self, *_: Any) -> None:
        for file in self._files:
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def append(self, input_ids: NDArray[np.int32], supervised: NDArray[np.bool_], lengths: NDArray[np.int64]) -> None:
        """Add rows, given end to end."""
        for file, array in zip(self._files, (input_ids, supervised), strict=True):
            file.write(np.ascontiguousarray(array).data)
        self._lengths.append(lengths)

    def choose(self, order: NDArray[np.int64]) -> Rows:
        """The collected rows with these numbers, in this order, none empty; they are mapped until the context ends."""
        for file in self._files:
            file.flush()
        offsets = _offsets(np.concatenate([np.zeros(0, np.int64), *self._lengths]))
        collected = self._rows("", offsets)
        if len(order) == len(collected) and (order == np.arange(len(order))).all():
            return collected
        chosen = _offsets(collected.lengths[order])
        for name, kind in _KINDS.items():
            array = _mapped(self._folder / name, kind)
            with (self._folder / f"chosen_{name}").open("wb") as file:
                for first, last in _stretches(chosen):
                    file.write(np.concatenate([array[offsets[row] : offsets[row + 1]] for row in order[first:last]]).data)
        return self._rows("chosen_", chosen)

    def _rows(self, prefix: str, offsets: NDArray[np.int64]) -> Rows:
        input_ids, supervised = (_mapped(self._folder / f"{prefix}{name}", kind) for name, kind in _KINDS.items())
        return Rows(input_ids, supervised, offsets)


def write_rows(path: Path, rows: Rows, *, metadata: Mapping[str, str]) -> None:
    """Write an Arrow file of one batch, so that it can be mapped, whole or not at all."""
    import pyarrow as pa

    def lists(values: NDArray[Any], kind: Any) -> Any:
        flat = pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
        return pa.LargeListArray.from_arrays(pa.array(rows.offsets, pa.int64()), flat)

    arrays = {"input_ids": lists(rows.input_ids, pa.int32()), "supervised": lists(rows.supervised.view(np.uint8), pa.uint8())}
    schema = pa.schema({name: array.type for name, array in arrays.items()}, metadata=dict(metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                writer.write_batch(pa.record_batch(list(arrays.values()), schema=schema))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def read_rows(path: Path, *, remedy: str) -> Rows:
    """Map an Arrow file; nothing is copied. Raises StudyError with the remedy if it is missing or broken."""
    return read_with_metadata(path, remedy=remedy)[0]


def read_with_metadata(path: Path, *, remedy: str) -> tuple[Rows, dict[str, str]]:
    """As `read_rows`, with what was said about the rows."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        ids, flags = batch.column("input_ids"), batch.column("supervised")
        rows = Rows(
            input_ids=ids.values.to_numpy(),
            supervised=flags.values.to_numpy().view(np.bool_),
            offsets=ids.offsets.to_numpy(),
        )
    except FileNotFoundError:
        raise StudyError(f"{path}: missing; {remedy}") from None
    except (pa.ArrowException, KeyError, IndexError, OSError):
        raise StudyError(f"{path}: not the tokenised rows that were written; {remedy}") from None
    return rows, {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}


_KINDS: dict[str, Any] = {"input_ids": np.int32, "supervised": np.bool_}


def _mapped(path: Path, kind: Any) -> NDArray[Any]:
    return np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.zeros(0, kind)


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _stretches(offsets: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Rows cut into stretches of TOKENS_PER_COPY tokens or, if they are longer than that, single rows."""
    cuts = [0]
    while cuts[-1] < len(offsets) - 1:
        reach = int(np.searchsorted(offsets, offsets[cuts[-1]] + TOKENS_PER_COPY, side="right")) - 1
        cuts.append(max(reach, cuts[-1] + 1))
    return list(pairwise(cuts))
