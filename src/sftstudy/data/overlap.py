"""Finds training texts that share runs of words with benchmark items.

A run is 13 words long, as in the GPT-3 paper (arXiv 2005.14165, appendix C): case and punctuation do not count. That paper shortens
the run for benchmarks with short items; here a short text of an item, such as a one-line prompt, counts as one whole run.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_WORDS = 13
"""Words in a run."""

MIN_WORDS = 5
"""A text with fewer different words is not looked for: "all of the above" stands in any long document by chance. With 5, 5 of 8,194
rows of other data share something with MMLU's 14,042 items, and none of it is a leak."""

MAX_ITEMS = 10
"""A run in more items of one benchmark than this is the benchmark's own wording, such as its instructions or a list of options. The
limit is that high because items do share a passage: a text with that passage in it has been seen."""

_MARKS = "".join(chr(code) for code in range(0x300, 0x1200) if unicodedata.category(chr(code)).startswith("M"))
_ONE_BY_ONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Han are written without blanks
_WORD = re.compile(rf"[{_ONE_BY_ONE}]|[^\W_{_ONE_BY_ONE}]+(?:[{_MARKS}]+[^\W_{_ONE_BY_ONE}]*)*")

_BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that a word's place in a run counts in the run's hash."""


def words_of(text: str) -> list[str]:
    """Words of a text, in order: runs of letters and digits of any script, case folded; each Han or kana character is a word."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@dataclass(frozen=True)
class Runs:
    """Hashes of runs of words, all of one length, and the number of the item that each stands in."""

    hashes: NDArray[np.uint64]
    items: NDArray[np.int32]


class OverlapIndex:
    """The runs of words of all benchmarks' items, as sorted 64-bit hashes: 12 bytes per run.

    `items` is benchmark -> items -> the texts of an item, such as question and options. A text of `MIN_WORDS` different words that
    is shorter than `num_words` is one whole run; runs in more than `MAX_ITEMS` items of a benchmark are left out. Two different
    runs are taken for one with a chance of about 2^-64 per pair.
    """

    def __init__(self, items: Mapping[str, Sequence[Sequence[str]]], *, num_words: int = NUM_WORDS) -> None:
        self._benchmarks = list(items)
        # items of all benchmarks are numbered through; these are the numbers at which each benchmark starts
        self._starts = np.cumsum([0] + [len(rows) for rows in items.values()])
        self._hash_of: dict[str, int] = {}
        parts: dict[int, list[Runs]] = {}
        for rows, first in zip(items.values(), self._starts, strict=False):
            for length, runs in self._runs_of(rows, int(first), num_words):
                parts.setdefault(length, []).append(_rare(runs))
        self._runs: dict[int, Runs] = {}
        for length, of_benchmarks in parts.items():
            hashes = np.concatenate([runs.hashes for runs in of_benchmarks])
            order = np.argsort(hashes, kind="stable")
            self._runs[length] = Runs(hashes[order], np.concatenate([runs.items for runs in of_benchmarks])[order])

    def hits(self, text: str) -> dict[str, set[int]]:
        """Benchmark -> numbers, from 0, of its items that share a run with the text. Benchmarks without any are left out."""
        return {benchmark: set(shared) for benchmark, shared in self.shared(text).items()}

    def shared(self, text: str) -> dict[str, dict[int, str]]:
        """As `hits`, with the longest stretch of words that the text shares with each item."""
        words = words_of(text)
        # a word of no benchmark is in no run: 0 stands for all of them
        hashes = np.fromiter((self._hash_of.get(word, 0) for word in words), np.uint64, len(words))
        spans: dict[int, list[tuple[int, int]]] = {}
        for length, windows in _windows(hashes, self._runs):
            runs = self._runs[length]
            first = np.minimum(np.searchsorted(runs.hashes, windows), len(runs.hashes) - 1)
            for place in np.flatnonzero(runs.hashes[first] == windows).tolist():
                last = np.searchsorted(runs.hashes, windows[place], side="right")
                for item in runs.items[first[place] : last].tolist():
                    spans.setdefault(item, []).append((place, place + length))
        found: dict[str, dict[int, str]] = {}
        for item in sorted(spans):
            which = int(np.searchsorted(self._starts, item, side="right")) - 1
            start, end = _longest(spans[item])
            found.setdefault(self._benchmarks[which], {})[item - int(self._starts[which])] = " ".join(words[start:end])
        return found

    def _runs_of(self, rows: Sequence[Sequence[str]], first: int, num_words: int) -> Iterator[tuple[int, Runs]]:
        """(length, runs) of one benchmark, whose items are numbered from `first`."""
        flat: list[int] = []
        left: list[int] = []  # words from here to the end of the text
        size: list[int] = []  # words of the whole text
        item: list[int] = []
        for number, texts in enumerate(rows, start=first):
            for text in texts:
                words = words_of(text)
                if len(set(words)) < min(MIN_WORDS, num_words):
                    continue
                flat += [self._hash(word) for word in words]
                left += range(len(words), 0, -1)
                size += [len(words)] * len(words)
                item += [number] * len(words)
        lefts, sizes, items = np.array(left, int), np.array(size, int), np.array(item, np.int32)
        for length, windows in _windows(np.array(flat, np.uint64), range(min(MIN_WORDS, num_words), num_words + 1)):
            starts = np.flatnonzero((lefts >= length) & ((sizes == length) | (length == num_words)))
            if len(starts):
                yield length, Runs(windows[starts], items[starts])

    def _hash(self, word: str) -> int:
        if word not in self._hash_of:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            self._hash_of[word] = int.from_bytes(digest, "little")
        return self._hash_of[word]


def _windows(hashes: NDArray[np.uint64], lengths: Iterable[int]) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """(length, hash of the run of that length from each word on), for each of the lengths in ascending order."""
    wanted = set(lengths)
    sums, factor = np.zeros_like(hashes), np.uint64(1)
    for length in range(1, max(wanted, default=0) + 1):
        if length > len(hashes):
            return
        with np.errstate(over="ignore"):  # sums are modulo 2^64
            sums = sums[: len(hashes) - length + 1] + hashes[length - 1 :] * factor
            factor = factor * _BASE
        if length in wanted:
            yield length, sums


def _rare(runs: Runs) -> Runs:
    """Each (run, item) once, without the runs that stand in more than `MAX_ITEMS` items."""
    order = np.lexsort((runs.items, runs.hashes))
    hashes, items = runs.hashes[order], runs.items[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (items[1:] != items[:-1])
    hashes, items = hashes[new], items[new]
    _, which, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    rare = counts[which] <= MAX_ITEMS
    return Runs(hashes[rare], items[rare])


def _longest(spans: list[tuple[int, int]]) -> tuple[int, int]:
    """The longest stretch that overlapping spans cover; the first of equals."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return max(merged, key=lambda span: span[1] - span[0])
