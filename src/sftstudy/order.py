"""Which rows a stage trains on, and in which order: pure functions of seeds, alike on every machine and in every numpy version.

All of them shuffle by sorting the raw 64-bit words of PCG64, which numpy promises to keep; the sort is stable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sftstudy.errors import StudyError
from sftstudy.spec import digest

Indices = NDArray[np.int64]


class Part(Protocol):
    """How many of a phase's rows are taken; `spec.MixPart` is one."""

    @property
    def phase(self) -> str: ...  # noqa: D102

    @property
    def num_samples(self) -> int: ...  # noqa: D102

    @property
    def available(self) -> int: ...  # noqa: D102


def permutation(size: int, *, seed: str) -> Indices:
    """A permutation of range(size)."""
    key = int.from_bytes(hashlib.sha256(seed.encode()).digest(), "little")
    words = np.random.PCG64(key).random_raw(size)
    return np.argsort(words, kind="stable").astype(np.int64)


def mixture_rows(parts: Sequence[Part], *, seed: int) -> tuple[Indices, Indices]:
    """(index of the part, row in its phase) of every sample of a mixture, part by part, rows ascending.

    A part that wants fewer rows than there are gets a seeded sample without replacement. Raises StudyError if it wants more.
    """
    phases: list[Indices] = []
    rows: list[Indices] = []
    for number, part in enumerate(parts):
        if part.num_samples > part.available:
            raise StudyError(f"phase {part.phase}: {part.num_samples} rows wanted, {part.available} available")
        if part.num_samples == part.available:
            taken = np.arange(part.available, dtype=np.int64)
        else:
            taken = np.sort(permutation(part.available, seed=f"replay/{seed}/{part.phase}")[: part.num_samples])
        phases.append(np.full(len(taken), number, dtype=np.int64))
        rows.append(taken)
    return np.concatenate(phases), np.concatenate(rows)


def rows_hash(parts: Sequence[Part], phases: Indices, rows: Indices) -> str:
    """First 16 hex digits of the SHA-256 of the (phase, row) list."""
    names = "".join(f"{part.phase}\n" for part in parts).encode()
    return hashlib.sha256(names + phases.astype("<i8").tobytes() + rows.astype("<i8").tobytes()).hexdigest()[:16]


def content_hash(data_hashes: dict[str, str], *, hash_of_rows: str) -> str:
    """Content hash of a mixture: the prepared phases by name, and which of their rows are taken."""
    return digest({"data": data_hashes, "rows": hash_of_rows})


@lru_cache(maxsize=2)
def epoch_order(num_samples: int, *, seed: int, epoch: int) -> Indices:
    """The order in which one pass takes the samples. Read-only: it is cached."""
    order = permutation(num_samples, seed=f"epoch/{seed}/{epoch}")
    order.setflags(write=False)
    return order


def samples_of_step(step_index: int, *, batch_size: int, num_samples: int, seed: int) -> Indices:
    """Samples that the 0-based step takes: [kB, (k+1)B) of the endless stream of per-epoch permutations."""
    taken: list[Indices] = []
    place, end = step_index * batch_size, (step_index + 1) * batch_size
    while place < end:
        epoch, offset = divmod(place, num_samples)
        piece = epoch_order(num_samples, seed=seed, epoch=epoch)[offset : offset + end - place]
        taken.append(piece)
        place += len(piece)
    return np.concatenate(taken)
