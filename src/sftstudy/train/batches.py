"""Cuts the samples of a step into micro-batches, evenly over processes, and lays a micro-batch out as tensors.

A micro-batch is either padded (rows as long as the longest of samples of like length) or packed (one row of samples end to end,
each with positions from 0, kept apart by the attention). The cut changes speed and rounding, and nothing else: which samples a
step takes, and how they weigh, is decided before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Sample = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Token ids and which of them are supervised; the first never is."""

Cut = list[list[int]]
"""Micro-batches as indices into the samples of a step."""


@dataclass(frozen=True)
class Microbatch:
    """Samples as tensors of shape (rows, tokens). `targets` marks positions whose next token, in `labels`, is supervised.

    A padded micro-batch has an attention mask, a packed one has one row, position ids and the samples' lengths. A process with
    nothing to do in a round gets one token and no target, so that it still takes part in the collective work.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    sample_lengths: list[int] | None


def cut_step(lengths: Sequence[int], *, num_processes: int, max_tokens: int, packed: bool) -> list[Cut]:
    """Micro-batches of each process: as many for every process, the largest first, each within `max_tokens` where it can be.

    A micro-batch costs rows x longest if padded, the sum of its lengths if packed. A sample longer than `max_tokens` goes alone.
    There are as few rounds as the budget allows; within them the cost is spread evenly, over micro-batches and processes.
    """
    bins = _even_bins if packed else _even_rows
    cuts = bins(lengths, max_tokens, num_processes)
    costs = [_cost([lengths[sample] for sample in members], packed=packed) for members in cuts]
    order = sorted(range(len(cuts)), key=lambda index: (-costs[index], index))
    processes: list[Cut] = [[] for _ in range(num_processes)]
    loads = [0] * num_processes
    for first in range(0, len(order), num_processes):
        # the largest of a round goes to the process that has had the least so far
        idle = sorted(range(num_processes), key=lambda process: (loads[process], process))
        for process, index in zip(idle, order[first : first + num_processes], strict=True):
            processes[process].append(cuts[index])
            loads[process] += costs[index]
    return processes


def _cost(lengths: Sequence[int], *, packed: bool) -> int:
    return sum(lengths) if packed else max(lengths, default=0) * len(lengths)


def _even_rows(lengths: Sequence[int], max_tokens: int, num_processes: int) -> Cut:
    """Runs of samples of like length. The smallest budget that needs no more rounds than `max_tokens` does is the evenest."""
    rounds = -(-len(_runs(lengths, max_tokens)) // num_processes)
    low, high = 1, max_tokens
    while low < high:
        middle = (low + high) // 2
        if len(_runs(lengths, middle)) <= rounds * num_processes:
            high = middle
        else:
            low = middle + 1
    cuts = _runs(lengths, low)
    return cuts + [[] for _ in range(rounds * num_processes - len(cuts))]


def _runs(lengths: Sequence[int], max_tokens: int) -> Cut:
    runs: Cut = []
    longest = 0
    for sample in sorted(range(len(lengths)), key=lambda sample: -lengths[sample]):
        if runs and longest * (len(runs[-1]) + 1) <= max_tokens:
            runs[-1].append(sample)
        else:
            runs.append([sample])
            longest = lengths[sample]
    return runs


def _even_bins(lengths: Sequence[int], max_tokens: int, num_processes: int) -> Cut:
    """Bins filled longest first, each sample into the emptiest; a round more whenever that overfills a bin of several samples."""
    order = sorted(range(len(lengths)), key=lambda sample: -lengths[sample])
    rounds = max(1, -(-sum(lengths) // (num_processes * max_tokens)))
    while True:
        bins: Cut = [[] for _ in range(rounds * num_processes)]
        filled = np.zeros(len(bins), dtype=np.int64)
        for sample in order:
            emptiest = int(filled.argmin())
            bins[emptiest].append(sample)
            filled[emptiest] += lengths[sample]
        if all(tokens <= max_tokens or len(members) == 1 for tokens, members in zip(filled, bins, strict=True)):
            return bins
        rounds += 1


def lay_out(samples: Sequence[Sample], *, packed: bool, device: torch.device) -> Microbatch:
    """The tensors of a micro-batch. The padding id is 0 and is never seen: attention is masked there, and no target lies there."""
    if not samples:
        nothing = torch.zeros((1, 1), dtype=torch.int64, device=device)
        return Microbatch(nothing, nothing.bool(), nothing[0, :0], None, nothing if packed else None, [1] if packed else None)
    lengths = [len(ids) for ids, _ in samples]
    size = (1, sum(lengths)) if packed else (len(samples), max(lengths))
    input_ids, positions = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    supervised, seen = np.zeros(size, dtype=np.bool_), np.zeros(size, dtype=np.int64)
    row = place = 0
    for (ids, mask), length in zip(samples, lengths, strict=True):
        span = (row, slice(place, place + length))
        input_ids[span], supervised[span], seen[span] = ids, mask, 1
        supervised[row, place] = False  # what comes before it in a packed row is another sample
        positions[span] = np.arange(length)
        row, place = (row, place + length) if packed else (row + 1, 0)
    targets = np.zeros(size, dtype=np.bool_)
    targets[:, :-1] = supervised[:, 1:]
    labels = input_ids[:, 1:][supervised[:, 1:]]

    def tensor(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    return Microbatch(
        tensor(input_ids),
        tensor(targets),
        tensor(labels),
        attention_mask=None if packed else tensor(seen),
        position_ids=tensor(positions) if packed else None,
        sample_lengths=lengths if packed else None,
    )
