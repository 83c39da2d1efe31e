"""Decides which of a phase's chats become samples, and how often: duplicates, caps, halves and weights. Pure functions of facts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftstudy.config import Source
from sftstudy.data.signatures import Signatures, first_of_kind

REASONS = (
    "kept",
    "no_reply",
    "empty_reply",
    "special_tokens_in_text",
    "benchmark_overlap",
    "over_length",
    "no_supervision",
    "exact_duplicate",
    "near_duplicate",
    "not_kept_by_weight",
    "over_max_samples",
    "other_half",
)
"""What can become of a chat; facts hold the number."""

FACTS = np.dtype(
    [
        ("reason", "i1"),
        ("cap_hash", "u8"),  # the two halves of the chat's hash: one decides what a cap and a half take, the other a weight
        ("weight_hash", "u8"),
        ("reply_chars", "i8"),
        ("length", "i4"),
        ("truncated", "?"),
        ("num_bos", "i4"),
        ("num_replies", "i4"),
        ("num_closed", "i4"),
        ("roles", "i4", (3, 3)),
    ]
)
"""What is known of a chat once it is tokenised; `roles` is turns, tokens and supervised tokens by role."""

Facts = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Choice:
    """`order` has the numbers of the chats that become samples, ascending, repeats side by side. All else is counted."""

    order: NDArray[np.int64]
    dropped: dict[str, int]
    repeated: int
    exact_duplicates: int


def choose(
    facts: Facts,
    *,
    sources: Sequence[tuple[Source, int]],
    half: str | None,
    drop_exact: bool,
    signatures: Signatures | None = None,
    near_threshold: float = 1.0,
) -> Choice:
    """Samples of a phase, from the facts of all its chats in order; `sources` has each source with its number of chats.

    Of equal or similar chats the first stays, whichever source it is from. Then per source a weight below 1 takes a share of the
    chats and `max_samples` caps their number; then the phase may be halved; then weights above 1 repeat what is left.
    """
    reasons = facts["reason"].astype(np.int64)
    equal = equal_to_earlier(facts)
    if drop_exact:
        reasons[equal] = REASONS.index("exact_duplicate")
    if signatures is not None:
        usable = np.flatnonzero(reasons == 0)
        similar = ~first_of_kind(signatures[usable], threshold=near_threshold)
        reasons[usable[similar]] = REASONS.index("near_duplicate")
    times = np.ones(len(facts), dtype=np.int64)
    start = 0
    for source, num_chats in sources:
        here = np.arange(start, start + num_chats)
        start += num_chats
        whole, part = divmod(source.weight, 1.0)
        chance = facts["weight_hash"][here].astype(np.float64) / 2**64 < part
        times[here] = int(whole) + chance
        thinned = here[(times[here] == 0) & (reasons[here] == 0)]
        reasons[thinned] = REASONS.index("not_kept_by_weight")
        if source.max_samples is not None:
            left = here[reasons[here] == 0]
            ranked = left[np.lexsort((left, facts["weight_hash"][left], facts["cap_hash"][left]))]
            reasons[ranked[source.max_samples :]] = REASONS.index("over_max_samples")
    if half:
        left = np.flatnonzero(reasons == 0)
        keys = (left, facts["weight_hash"][left], facts["cap_hash"][left], facts["reply_chars"][left])
        ranked, middle = left[np.lexsort(keys)], math.ceil(len(left) / 2)
        reasons[ranked[middle:] if half == "shorter" else ranked[:middle]] = REASONS.index("other_half")
    kept = np.flatnonzero(reasons == 0)
    order = np.repeat(kept, times[kept])
    counts = Counter(reasons[reasons > 0].tolist())
    return Choice(
        order=order,
        dropped={REASONS[number]: counts[number] for number in sorted(counts)},
        repeated=len(order) - len(kept),
        exact_duplicates=len(equal),
    )


def equal_to_earlier(facts: Facts) -> NDArray[np.int64]:
    """Numbers of the usable chats that are equal to an earlier usable one, ascending."""
    usable = np.flatnonzero(facts["reason"] == 0)
    order = np.lexsort((usable, facts["weight_hash"][usable], facts["cap_hash"][usable]))
    ranked = facts[usable[order]]
    same = (ranked["cap_hash"][1:] == ranked["cap_hash"][:-1]) & (ranked["weight_hash"][1:] == ranked["weight_hash"][:-1])
    return np.sort(usable[order[1:][same]])


def most_samples(sources: Sequence[tuple[Source, int]], *, half: str | None) -> int:
    """More samples than these cannot come of sources with so many chats, whatever cleaning drops."""
    capped = [(min(num_chats, source.max_samples or num_chats), math.ceil(source.weight)) for source, num_chats in sources]
    total = sum(num_chats * times for num_chats, times in capped)
    if half is None:
        return total
    num_chats = sum(num_chats for num_chats, _ in capped)
    part = math.ceil(num_chats / 2) if half == "shorter" else num_chats // 2
    return min(total, part * max(times for _, times in capped))
