"""Races a stage's checkpoints on one benchmark: scores them on growing random subsets of its items and drops who cannot win.

The answers to the items of one look lie in one file of `scratch/scores/` per checkpoint, named by all that they depend on. So a
killed race loses one checkpoint's look at most, and the winner's answers are not asked for again when it is scored in full.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sftstudy import timesheet
from sftstudy.averages import strata
from sftstudy.config import HarnessSuite, Selection
from sftstudy.errors import StudyError
from sftstudy.evaluate.fetch import read_suite
from sftstudy.evaluate.harness import LIBRARIES, Bench, asked, plan_blocks
from sftstudy.evaluate.memory import TakenSome
from sftstudy.evaluate.samples import TakenBlock, only
from sftstudy.evaluate.scores import items_of, main_value
from sftstudy.evaluate.shards import Item as ShardItem
from sftstudy.evaluate.shards import write_items
from sftstudy.evaluate.weights import Weights, find_weights, read_model
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout, race_stem
from sftstudy.race import Result, item_weights, looks, race, random_order
from sftstudy.records import RacedCheckpoint, RaceRecord, SuiteRecord, provenance, write_record, write_text
from sftstudy.select import Candidate, choose, natural
from sftstudy.spec import StageSpec, SuiteSpec, digest, race_hash, spec_hash
from sftstudy.stats import Array

Item = tuple[str, int]
"""Task and number."""


def race_checkpoints(stage: StageSpec, suite: SuiteSpec, *, selection: Selection, layout: Layout) -> RaceRecord:
    """Race all checkpoints of a stage as a selection says, and write the record and the items that were scored.

    Raises StudyError if the benchmark's values are no fractions, weights are missing, or tasks are not those of the suite's record.
    """
    check_worlds(suite.world_hashes, layout)
    fetched = read_suite(suite, layout=layout)
    tokenizer_hash = read_model(stage, layout).tokenizer_hash
    all_weights = find_weights(stage, [place.ckpt for place in stage.checkpoints], layout)
    course = _Course(stage, suite, selection, fetched, tokenizer_hash, layout=layout)
    entrants = [_Entrant(weights, course) for weights in sorted(all_weights, key=lambda one: (one.samples_seen, natural(one.ckpt)))]
    result = race(
        lambda place, num_items: entrants[place].values(num_items),
        course.weights,
        num_candidates=len(entrants),
        at=course.looks,
        error_rate=course.rules.error_rate,
    )
    content = [tokenizer_hash, fetched.content_hash, *(hash_of for one in all_weights for hash_of in (one.ckpt, one.weights_hash))]
    record = _record(
        course, entrants, result, spec_hash=race_hash(spec_hash(stage), suite, selection), content_hash=digest(content)
    )
    _write(stage, record, {one.weights.ckpt: one.items for one in entrants}, layout=layout)
    return record


def publish_no_race(stage: StageSpec, suite: SuiteSpec, *, selection: Selection, status: str, layout: Layout) -> RaceRecord:
    """Write the record of a stage that was stopped: no race, and why."""
    assert selection.race, "only a raced stage has a record"
    record = RaceRecord(
        spec_hash=race_hash(spec_hash(stage), suite, selection),
        content_hash=digest(status),
        status=status,
        suite=suite.name,
        benchmark=str(selection.benchmark),
        metric="",
        error_rate=selection.race.error_rate,
        seed=stage.seed,
        looks=[],
        num_items=0,
        checkpoints=[],
        ckpt="",
        saved=0.0,
        **provenance(),
    )
    _write(stage, record, {}, layout=layout)
    return record


class _Course:
    """What is the same for all who race: the benchmark's items in their random order, and when is looked."""

    def __init__(
        self, stage: StageSpec, suite: SuiteSpec, selection: Selection, fetched: SuiteRecord, tokenizer_hash: str, *, layout: Layout
    ) -> None:
        assert isinstance(suite.suite, HarnessSuite), "the plan races on suites of lm-eval tasks"
        assert selection.race, "the plan races where a selection says so"
        self.suite, self.suite_name, self.rules, self.layout = suite.suite, suite.name, selection.race, layout
        self.name, self.seed = str(selection.benchmark), stage.seed
        self.benchmark = suite.suite.benchmarks[self.name]
        self.entries = fetched.benchmarks[self.name].tasks
        self.fetched, self.tokenizer_hash = fetched, tokenizer_hash
        items = [(task, number) for task, entry in self.entries.items() for number in entry.chosen or range(entry.num_items)]
        order = random_order([f"{task}\t{number}" for task, number in items], seed=stage.seed)
        self.items: list[Item] = [items[place] for place in order]
        self.looks = looks(len(items), first=self.rules.first, growth=self.rules.growth)
        family = strata(self.benchmark.families)
        self.weights: Array = item_weights([family.get(task, task) for task, _ in self.items], self.benchmark.average)
        self.bench = Bench(suite.suite, {self.name: self.entries}, stage=stage, layout=layout)

    def after(self, num_items: int) -> dict[str, list[int]]:
        """Task -> numbers, ascending, of the items that a look adds to the one before it."""
        before = [0, *self.looks][self.looks.index(num_items)]
        numbers: dict[str, list[int]] = {}
        for task, number in sorted(self.items[before:num_items]):
            numbers.setdefault(task, []).append(number)
        return numbers


class _Entrant:
    """One checkpoint and what it answered so far."""

    def __init__(self, weights: Weights, course: _Course) -> None:
        self.weights, self._course = weights, course
        self.taken: dict[str, list[TakenBlock]] = {}
        self._found: dict[Item, float] = {}
        self._hashes = [weights.weights_hash, course.tokenizer_hash]
        planned = plan_blocks(course.suite, course.fetched, answers_of=self._hashes, layout=course.layout)
        self._blocks = [block for block in planned if block.benchmark == course.name]

    def values(self, num_items: int) -> Array:
        """Values of the first items of the course, more being better; those since the last look are scored now."""
        course = self._course
        for task, block in self._take(num_items).items():
            self.taken.setdefault(task, []).append(block)
            for item in block.items:
                self._found[task, item.number] = self._value(task, block, item.replies[course.benchmark.filter].values)
        return np.array([self._found[item] for item in course.items[:num_items]])

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric, as far as is known."""
        return all(block.better_high[self._course.benchmark.metric] for blocks in self.taken.values() for block in blocks)

    @property
    def items(self) -> list[ShardItem]:
        """Rows of the items that it was scored on, by task."""
        return items_of(self._course.name, self._course.benchmark, {task: self.taken[task] for task in sorted(self.taken)})

    @property
    def score(self) -> float:
        """The score of one who was scored on all items, as a score record has it."""
        return main_value(self._course.name, self._course.benchmark, self.taken)

    def shard(self, num_items: int) -> Path:
        """Where the answers are filed that a look adds."""
        course = self._course
        numbers = course.after(num_items)
        tasks = [[task, course.entries[task].task_hash, course.entries[task].items_hash, numbers[task]] for task in numbers]
        key = digest([*asked(course.suite, course.name, answers_of=self._hashes), "race", tasks])
        return course.layout.score_shard(key)

    def _take(self, num_items: int) -> dict[str, TakenBlock]:
        """Answers to the items that a look adds: from a score of the whole benchmark, from a race that was killed, or new ones."""
        course, path = self._course, self.shard(num_items)
        numbers = course.after(num_items)
        if all(block.path.is_file() for block in self._blocks):
            timesheet.known(1)
            return {task: self._of_whole(task, set(wanted)) for task, wanted in numbers.items()}
        if path.is_file():
            timesheet.known(1)
        else:
            print(f"{self.weights.ckpt}: up to item {num_items} of {len(course.items)}", file=sys.stderr, flush=True)
            with timesheet.working():
                taken = course.bench.take_some(self.weights, course.name, numbers)
            write_text(path, taken.model_dump_json())
            timesheet.safe()
        return TakenSome.model_validate_json(path.read_bytes()).taken

    def _of_whole(self, task: str, numbers: set[int]) -> TakenBlock:
        blocks = [
            TakenBlock.model_validate_json(block.path.read_bytes())
            for block in self._blocks
            if block.task == task and (block.items is None or not numbers.isdisjoint(block.items))
        ]
        found = only(blocks[0], numbers)
        return found.model_copy(update={"items": [item for block in blocks for item in only(block, numbers).items]})

    def _value(self, task: str, block: TakenBlock, values: dict[str, float]) -> float:
        name, metric = self._course.name, self._course.benchmark.metric
        value = values.get(metric)
        if value is None or not 0 <= value <= 1:
            raise StudyError(f"{name}: {task} gives no {metric} between 0 and 1 for each item; select by it without race")
        return value if block.better_high[metric] else 1 - value


def _record(course: _Course, entrants: Sequence[_Entrant], result: Result, *, spec_hash: str, content_hash: str) -> RaceRecord:
    """How a race went, and who won: of several that were never dropped, which all have a score, the one that selection takes."""
    raced = [
        RacedCheckpoint(
            ckpt=one.weights.ckpt,
            samples_seen=one.weights.samples_seen,
            weights_hash=one.weights.weights_hash,
            num_items=num_items,
            dropped=place not in result.survivors,
            value=one.score if num_items == result.num_items_each else None,
            shards=[one.shard(look).stem for look in course.looks if look <= num_items],
        )
        for place, (one, num_items) in enumerate(zip(entrants, result.num_items, strict=True))
    ]
    higher_is_better = all(one.higher_is_better for one in entrants)
    sign = 1.0 if higher_is_better else -1.0
    left = [raced[place] for place in result.survivors]
    candidates = [Candidate(one.ckpt, one.samples_seen, None if one.value is None else sign * one.value) for one in left]
    return RaceRecord(
        spec_hash=spec_hash,
        content_hash=content_hash,
        suite=course.suite_name,
        benchmark=course.name,
        metric=course.benchmark.metric,
        higher_is_better=higher_is_better,
        error_rate=course.rules.error_rate,
        seed=course.seed,
        looks=course.looks,
        num_items=result.num_items_each,
        checkpoints=raced,
        ckpt=left[0].ckpt if len(left) == 1 else choose(candidates, rule="best").ckpt,
        saved=result.saved,
        **provenance(*LIBRARIES),
    )


def _write(stage: StageSpec, record: RaceRecord, items: dict[str, list[ShardItem]], *, layout: Layout) -> None:
    stem = race_stem(layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage))
    write_items(stem.with_suffix(".parquet"), items)
    write_record(stem.with_suffix(".json"), record)
