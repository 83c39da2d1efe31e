"""Compares a benchmark's back end with `hf` on a sample of its items. Nothing is scored here."""

from __future__ import annotations

from sftstudy.config import CrossCheck, HarnessBenchmark
from sftstudy.errors import StudyError
from sftstudy.evaluate.samples import TakenItem
from sftstudy.evaluate.scores import Taken

Chosen = dict[str, list[int]]
"""Task -> numbers of items."""


def choose_items(taken: Taken, check: CrossCheck) -> Chosen:
    """Those of a benchmark's scored items that have the smallest hashes, whatever was answered."""
    items = [(item.item_hash, task, item.number) for task, blocks in taken.items() for block in blocks for item in block.items]
    chosen: Chosen = {}
    for _, task, number in sorted(items)[: check.num_items]:
        chosen.setdefault(task, []).append(number)
    return chosen


def num_different(benchmark: HarnessBenchmark, taken: Taken, by_hf: Taken, chosen: Chosen) -> int:
    """How many of the chosen items get another score by `hf`."""
    return sum(
        _value(benchmark, taken, task, number) != _value(benchmark, by_hf, task, number)
        for task, numbers in chosen.items()
        for number in numbers
    )


def require_agreement(name: str, benchmark: HarnessBenchmark, check: CrossCheck, *, num_different: int, num_items: int) -> None:
    """Raise StudyError if the back ends differ on more items than allowed."""
    if num_different > check.max_disagreement * num_items:
        found = f"{benchmark.backend} and hf differ on {num_different} of {num_items} items, more than {check.max_disagreement:.0%}"
        raise StudyError(f"benchmarks.yaml: {name}.cross_check: {found}; set backend: hf, or allow for more")


def _value(benchmark: HarnessBenchmark, taken: Taken, task: str, number: int) -> float:
    found: TakenItem = next(item for block in taken[task] for item in block.items if item.number == number)
    return found.replies[benchmark.filter].values[benchmark.metric]
