"""Makes the report on what a data set shares with the planned benchmarks. It informs: nothing that is trained hangs on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sftstudy.data.formats import SourceChats, read_phase
from sftstudy.data.items import Item, read_items
from sftstudy.data.overlap import MIN_WORDS, NUM_WORDS, OverlapIndex
from sftstudy.errors import StudyError
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout
from sftstudy.records import BenchmarkOverlap, OverlapExample, OverlapRecord, PhaseOverlap, provenance
from sftstudy.spec import ItemPlaces, OverlapSpec, digest, spec_hash

MAX_EXAMPLES, MAX_SHOWN_WORDS = 5, 40


@dataclass(frozen=True)
class Items:
    """A benchmark's items, or why they cannot be had."""

    items: list[Item]
    unread: str | None


def check_overlap(spec: OverlapSpec, *, layout: Layout) -> OverlapRecord:
    """Per phase and benchmark, how many rows share a run of words with how many items, and the plainest cases.

    Items that cannot be had, say without a network, are reported as such. Raises StudyError for training rows that cannot be read.
    """
    check_worlds(spec.world_hashes, layout)
    benchmarks = {name: _items(places, layout) for name, places in spec.benchmarks.items()}
    index = OverlapIndex({name: [item.texts for item in benchmark.items] for name, benchmark in benchmarks.items()})
    phases, hashes = {}, {name: digest([item.texts for item in benchmark.items]) for name, benchmark in benchmarks.items()}
    for phase, definition in spec.phases.items():
        sources = read_phase(definition, data=spec.data, phase=phase, layout=layout)
        phases[phase], hashes[f"phase {phase}"] = _compare(sources, index, benchmarks)
    return OverlapRecord(
        spec_hash=spec_hash(spec),
        content_hash=digest(hashes),
        **provenance("numpy"),
        num_words=NUM_WORDS,
        min_words=MIN_WORDS,
        phases=phases,
    )


def _items(places: ItemPlaces, layout: Layout) -> Items:
    try:
        return Items(read_items(places, layout=layout), None)
    except StudyError as error:
        return Items([], str(error))


def _compare(sources: Iterable[SourceChats], index: OverlapIndex, benchmarks: Mapping[str, Items]) -> tuple[PhaseOverlap, str]:
    """A phase's overlap with each benchmark, and a hash of its texts."""
    rows_hit = dict.fromkeys(benchmarks, 0)
    # benchmark -> item -> origin and words of the row that has the longest stretch of it; the first of equals
    best: dict[str, dict[int, tuple[str, list[str]]]] = {name: {} for name in benchmarks}
    num_rows, seen = 0, hashlib.sha256()
    for source in sources:
        for chat in source.chats:
            text = "\n".join(message.content for message in chat.messages)
            seen.update(text.encode("utf-8", "surrogatepass") + b"\0")
            num_rows += 1
            for name, shared in index.shared(text).items():
                rows_hit[name] += 1
                for number, stretch in shared.items():
                    words = stretch.split()
                    if number not in best[name] or len(words) > len(best[name][number][1]):
                        best[name][number] = chat.origin, words
    overlaps = {
        name: BenchmarkOverlap(
            num_items=len(benchmark.items),
            items_hit=len(best[name]),
            rows_hit=rows_hit[name],
            examples=_examples(best[name], benchmark.items),
            unread=benchmark.unread,
        )
        for name, benchmark in benchmarks.items()
    }
    return PhaseOverlap(num_rows=num_rows, benchmarks=overlaps), seen.hexdigest()[:16]


def _examples(best: Mapping[int, tuple[str, list[str]]], items: Sequence[Item]) -> list[OverlapExample]:
    plainest = sorted(best, key=lambda number: (-len(best[number][1]), number))[:MAX_EXAMPLES]
    return [
        OverlapExample(row=best[number][0], item=items[number].origin, item_number=number, words=_cut(best[number][1]))
        for number in plainest
    ]


def _cut(words: Sequence[str]) -> str:
    return " ".join(words) if len(words) <= MAX_SHOWN_WORDS else " ".join(words[:MAX_SHOWN_WORDS]) + " …"
