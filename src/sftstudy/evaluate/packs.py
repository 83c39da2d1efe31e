"""Plans how token rows that share prefixes are computed with every shared token once, or nearly so. Knows no model and no task.

Rows are seen as a tree of tokens. A *stem* is a path from its root that is computed once and kept. A *pack* is a set of rows that
share a stem; what they have beyond it is one forward pass, in which tokens that several of its rows share stand once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SHORTEST_EXTENSION = 16
"""Tokens from which a longer stem is worth a forward pass of its own."""

Row = tuple[int, ...]


@dataclass
class Pack:
    """Numbers of rows, in the order of their tokens, and how many first tokens of each of them belong to the stem."""

    stem: int
    rows: list[int] = field(default_factory=list)


@dataclass
class Tree:
    """The tokens of a pack beyond its stem, each once: `parents` are places in the same list, -1 for the stem's end.

    A token's parent stands before it. `paths` has for each row of the pack the places of its tokens.
    """

    tokens: list[int]
    parents: list[int]
    paths: list[list[int]]


def num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # slices compare in C, so halving beats a loop over tokens
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def plan_packs(rows: list[Row], wanted_from: list[int], *, num_tokens: int) -> list[Pack]:
    """Packs of at most `num_tokens` tokens beyond their stem, or of a single longer row; every row is in one.

    `rows` are sorted and different. The logits of row i are wanted from place `wanted_from[i]` on, so that no stem reaches it. A
    pack's stem continues an earlier pack's, or parts from it: going through them in order, few stem tokens are computed twice.
    """
    shared = [0] + [num_shared(one, other) for one, other in pairwise(rows)]  # with the row before
    packs: list[Pack] = []
    stems = [(0, len(rows), 0)] if rows else []
    while stems:
        first, last, stem = stems.pop()
        pack, room = Pack(stem), num_tokens
        packs.append(pack)
        ranges = [(first, last)]
        while ranges:
            low, high = ranges.pop()
            fork = min(shared[low + 1 : high], default=len(rows[low]))
            longer_stem = min(fork, *wanted_from[low:high])
            worth_it = longer_stem - stem >= SHORTEST_EXTENSION
            alone = len(rows[low]) - stem + sum(len(rows[i]) - shared[i] for i in range(low + 1, high))
            size = alone - (num_shared(rows[pack.rows[-1]], rows[low]) - stem if pack.rows else 0)
            if size > room and pack.rows and (high - low == 1 or (worth_it and alone <= num_tokens)):
                pack, room, size = Pack(stem), num_tokens, alone
                packs.append(pack)
            if size <= room or high - low == 1:
                pack.rows += range(low, high)
                room -= size
            elif worth_it:
                stems.append((low, high, longer_stem))
            else:
                borders = [low, *(i for i in range(low + 1, high) if shared[i] == fork), high]
                ranges += reversed(list(pairwise(borders)))
    return [pack for pack in packs if pack.rows]


def grow_tree(rows: Sequence[Row], stem: int) -> Tree:
    """The tree of some sorted rows beyond their stem."""
    tree = Tree([], [], [])
    before: Row = ()
    for row in rows:
        known = max(num_shared(before, row) - stem, 0)
        path = tree.paths[-1][:known] if tree.paths else []
        for token in row[stem + known :]:
            tree.parents.append(path[-1] if path else -1)
            path.append(len(tree.tokens))
            tree.tokens.append(token)
        tree.paths.append(path)
        before = row
    return tree
