"""Finds chats that are nearly the same: MinHash signatures of their runs of words, compared through datasketch's LSH."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftstudy.data.formats import Chat

Signatures = NDArray[np.uint32]
"""Shape (chats, NUM_HASHES)."""

NUM_HASHES = 128
NUM_WORDS = 3
"""Words in a run. Short runs, since most turns are short; two chats of 30 words that differ in one share 0.82 of such runs."""

HASH_SEED = 1
"""Which hash functions a signature uses: part of its definition, like their number, and nothing to be varied."""

_WORD = re.compile(r"\w+")


def signatures_of(chats: Sequence[Chat]) -> Signatures:
    """A signature of the words of each chat, case and punctuation aside."""
    from datasketch import MinHash

    made = MinHash.bulk([_runs(chat) for chat in chats], num_perm=NUM_HASHES, seed=HASH_SEED)
    return np.array([signature.hashvalues for signature in made], dtype=np.uint32).reshape(-1, NUM_HASHES)


def first_of_kind(signatures: Signatures, *, threshold: float) -> NDArray[np.bool_]:
    """Whether no earlier chat that is first of its kind has an estimated Jaccard similarity of `threshold` or more.

    LSH misses a few pairs just above the threshold; those that it finds are compared by their signatures.
    """
    from datasketch import MinHash, MinHashLSH

    # candidates are compared anyway: better too many than too few
    index = MinHashLSH(threshold=threshold, num_perm=NUM_HASHES, weights=(0.1, 0.9))
    blank = MinHash(num_perm=NUM_HASHES, seed=HASH_SEED)
    first = np.ones(len(signatures), dtype=np.bool_)
    for number, values in enumerate(signatures):
        signature: Any = blank.copy()
        signature.hashvalues = values
        similar = (np.count_nonzero(signatures[other] == values) / NUM_HASHES for other in index.query(signature))
        if any(share >= threshold for share in similar):
            first[number] = False
        else:
            index.insert(number, signature)
    return first


def _runs(chat: Chat) -> list[bytes]:
    words = _WORD.findall(" ".join(message.content for message in chat.messages).casefold())
    size = min(NUM_WORDS, len(words))
    runs = {" ".join(words[place : place + size]) for place in range(len(words) - size + 1)}
    return [run.encode("utf-8", "surrogatepass") for run in sorted(runs)]
