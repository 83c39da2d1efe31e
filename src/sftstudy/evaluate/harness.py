"""Scores checkpoints on a suite of lm-eval benchmarks, and keeps the value of every item.

Work is cut into blocks of a task's items. A finished block lies in `scratch/scores/`, under a name made of all that it depends on
and of nothing else: neither run nor checkpoint nor benchmark. So a killed job loses one block at most, equal weights are scored
once whoever asks, and what is only made of scored items (metrics, averages, groups) changes without scoring anything again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sftstudy import timesheet
from sftstudy.config import Backend, HarnessBenchmark, HarnessSuite
from sftstudy.errors import StudyError
from sftstudy.evaluate.crosscheck import choose_items, num_different, require_agreement
from sftstudy.evaluate.fetch import read_suite
from sftstudy.evaluate.memory import Answered, Remembering, TakenSome, read_answers
from sftstudy.evaluate.samples import TakenBlock, only, read_samples
from sftstudy.evaluate.scores import Taken, dropped_score, items_of, scores_of
from sftstudy.evaluate.shards import publish
from sftstudy.evaluate.tasks import Exam, load_suite, seed_like_lm_eval
from sftstudy.evaluate.weights import Weights, find_weights, load_tokenizer, read_model, require_chat_template
from sftstudy.locate import check_worlds
from sftstudy.paths import Layout
from sftstudy.records import RacedCheckpoint, RaceRecord, ScoreRecord, SuiteRecord, TaskEntry, write_text
from sftstudy.semantics import SEMANTICS
from sftstudy.spec import StageSpec, SuiteSpec, digest, identity

ITEMS_PER_BLOCK = 1000
"""How many items of a task are scored before they are filed: at worst some minutes on a GPU, and half an hour on a CPU."""


LIBRARIES = ("lm-eval", "torch", "transformers", "datasets")
"""What a score hangs on."""


@dataclass(frozen=True)
class Block:
    """Some items of a task, and where they are filed once one checkpoint has answered them. `items` are their numbers."""

    benchmark: str
    task: str
    items: list[int] | None
    path: Path


def score_harness(
    stage: StageSpec, suite: SuiteSpec, *, part: str, checkpoints: list[str], layout: Layout, race: RaceRecord | None = None
) -> ScoreRecord:
    """Score a block of a stage's checkpoints on all benchmarks of a fetched suite, and write the record and its items.

    Whom a `race` dropped is not scored on its benchmark; what the others answered in it is not asked again. Raises StudyError if
    weights are missing or not those that raced, or tasks are not those of the suite's record.
    """
    if not isinstance(suite.suite, HarnessSuite):
        raise StudyError(f"suite {suite.name}: its kind is {suite.suite.kind}; score it with answer_mt_bench and judge_mt_bench")
    check_worlds(suite.world_hashes, layout)
    fetched = read_suite(suite, layout=layout)
    tokenizer_hash = read_model(stage, layout).tokenizer_hash
    all_weights = find_weights(stage, checkpoints, layout)
    raced = _raced(race, all_weights)
    blocks: dict[str, list[Block]] = {}
    checks: dict[str, dict[str, Path]] = {}
    for weights in all_weights:
        planned = plan_blocks(suite.suite, fetched, answers_of=[weights.weights_hash, tokenizer_hash], layout=layout)
        dropped_from = race.benchmark if race and raced[weights.ckpt].dropped else None
        blocks[weights.ckpt] = [block for block in planned if block.benchmark != dropped_from]
        checks[weights.ckpt] = plan_checks(suite.suite, blocks[weights.ckpt], layout=layout)
        if not all(path.is_file() for path in [*(block.path for block in blocks[weights.ckpt]), *checks[weights.ckpt].values()]):
            weights.check_there()  # of all checkpoints, before hours go into the first
    timesheet.known(sum(block.path.is_file() for of_weights in blocks.values() for block in of_weights))
    wanted = {block.benchmark for of_weights in blocks.values() for block in of_weights if not block.path.is_file()}
    wanted |= {name for of_weights in checks.values() for name, path in of_weights.items() if not path.is_file()}
    entries = {name: fetched.benchmarks[name].tasks for name in suite.suite.benchmarks}
    bench = Bench(suite.suite, {name: entries[name] for name in entries if name in wanted}, stage=stage, layout=layout)
    scores, items = [], {}
    for weights in all_weights:
        taken: dict[str, Taken] = {}
        left = {block.benchmark for block in blocks[weights.ckpt] if not block.path.is_file()}
        known = {}
        if race and race.benchmark in left:
            known[race.benchmark] = read_answers(layout.score_shard(name) for name in raced[weights.ckpt].shards)
        for number, block in enumerate(blocks[weights.ckpt], start=1):
            if not block.path.is_file():
                print(f"{weights.ckpt}: {block.task}, block {number} of {len(blocks[weights.ckpt])}", file=sys.stderr, flush=True)
                write_text(block.path, bench.take(weights, block, known=known.get(block.benchmark, {})).model_dump_json())
                timesheet.safe()
            answered = TakenBlock.model_validate_json(block.path.read_bytes())
            taken.setdefault(block.benchmark, {}).setdefault(block.task, []).append(answered)
        for name, benchmark in suite.suite.benchmarks.items():
            if race and name not in taken:
                scores.append(dropped_score(race, benchmark, entries=entries[name], weights=weights))
                continue
            if benchmark.cross_check:
                bench.cross_check(weights, name, taken[name], file=checks[weights.ckpt][name])
            scores += scores_of(name, benchmark, taken[name], entries=entries[name], weights=weights)
        scored = [(name, benchmark) for name, benchmark in suite.suite.benchmarks.items() if name in taken]
        items[weights.ckpt] = [item for name, benchmark in scored for item in items_of(name, benchmark, taken[name])]
    return publish(
        stage,
        suite,
        part=part,
        checkpoints=checkpoints,
        content_hash=digest([tokenizer_hash, *([score.weights_hash, score.items_hash, score.protocol_hash] for score in scores)]),
        scores=scores,
        items=items,
        libraries=LIBRARIES,
        layout=layout,
        race=race,
    )


def _raced(race: RaceRecord | None, all_weights: list[Weights]) -> dict[str, RacedCheckpoint]:
    """Checkpoint -> how it fared in a race. Raises StudyError if other weights raced."""
    if race is None:
        return {}
    entries = {entry.ckpt: entry for entry in race.checkpoints}
    for weights in all_weights:
        if weights.ckpt not in entries or entries[weights.ckpt].weights_hash != weights.weights_hash:
            raise StudyError(f"--raced: {weights.ckpt} was trained again since it raced; race_checkpoints has to run again")
    return entries


def plan_blocks(suite: HarnessSuite, fetched: SuiteRecord, *, answers_of: list[str], layout: Layout) -> list[Block]:
    """All blocks of a suite in order, for the weights and the tokenizer with these hashes."""
    found = []
    for name, benchmark in fetched.benchmarks.items():
        shared = asked(suite, name, answers_of=answers_of)
        for task, entry in benchmark.tasks.items():
            for items in cut(entry):
                key = digest([*shared, task, entry.task_hash, entry.items_hash, items])
                found.append(Block(name, task, items, layout.score_shard(key)))
    return found


def plan_checks(suite: HarnessSuite, blocks: list[Block], *, layout: Layout) -> dict[str, Path]:
    """Benchmark -> where it is filed how often its back end and `hf` differ on these answers, for those with a cross-check."""
    found = {}
    for name in dict.fromkeys(block.benchmark for block in blocks):
        benchmark = suite.benchmarks[name]
        if check := benchmark.cross_check:
            answers = [block.path.name for block in blocks if block.benchmark == name]
            key = digest(["cross_check", check.num_items, benchmark.metric, benchmark.filter, answers])
            found[name] = layout.score_shard(key)
    return found


def asked(suite: HarnessSuite, name: str, *, answers_of: list[str]) -> list[Any]:
    """What answers to a benchmark's items depend on, whichever items they are."""
    return [*answers_of, version("lm-eval"), SEMANTICS["score_harness"], settings(suite, name)]


def settings(suite: HarnessSuite, name: str) -> dict[str, Any]:
    """What of a benchmark's definition an answer to an item depends on: everything but what is made of answers later."""
    benchmark = {key: value for key, value in identity(suite.benchmarks[name]).items() if key not in HarnessBenchmark.derived}
    return {"benchmark": benchmark, "precision": suite.precision, "batch_size": suite.batch_size}


def cut(entry: TaskEntry) -> Iterator[list[int] | None]:
    """A task's scored items in blocks. Where shots are drawn anew for each item the task is one block: draws hang together."""
    chosen = list(range(entry.num_items)) if entry.chosen is None else entry.chosen
    if not entry.fixed_shots or len(chosen) <= ITEMS_PER_BLOCK:
        yield entry.chosen
        return
    for start in range(0, len(chosen), ITEMS_PER_BLOCK):
        yield chosen[start : start + ITEMS_PER_BLOCK]


class Bench:
    """Some of a suite's exams and the run's tokenizer, loaded when first needed and then kept; and one checkpoint at a time."""

    def __init__(self, suite: HarnessSuite, entries: dict[str, dict[str, TaskEntry]], *, stage: StageSpec, layout: Layout) -> None:
        self._suite, self._entries, self._stage, self._layout = suite, entries, stage, layout
        self._exams: dict[str, dict[str, Exam]] = {}
        self._tokenizer: Any = None
        self._checked: set[Weights] = set()
        self._loaded: tuple[Weights, Backend] | None = None
        self._lm: Any = None

    def take(self, weights: Weights, block: Block, *, known: Mapping[str, Answered]) -> TakenBlock:
        """One checkpoint's answers to one block, by the benchmark's back end; those that are known are not asked for."""
        benchmark = self._suite.benchmarks[block.benchmark]
        self._load(weights, benchmark.backend)
        lm = Remembering(self._lm, known)
        with timesheet.working():
            taken = take_exam(lm, benchmark, block.task, self._exams[block.benchmark][block.task], block.items)
        if taken.num_truncated:
            where = f"{weights.ckpt}, {block.benchmark}, {block.task}"
            print(f"{where}: {taken.num_truncated} prompts were longer than the context and lost their beginning", file=sys.stderr)
        return taken

    def take_some(self, weights: Weights, name: str, numbers: Mapping[str, list[int]]) -> TakenSome:
        """One checkpoint's answers to some items of a benchmark: task -> their numbers, ascending."""
        benchmark = self._suite.benchmarks[name]
        self._load(weights, benchmark.backend)
        lm, taken = Remembering(self._lm, {}), {}
        for task, wanted in numbers.items():
            exam = self._exams[name][task]
            if exam.entry.fixed_shots:
                taken[task] = take_exam(lm, benchmark, task, exam, wanted)
            else:
                taken[task] = only(_take_only(lm, benchmark, task, exam, wanted), wanted)
        return TakenSome(taken=taken, answers=lm.asked)

    def cross_check(self, weights: Weights, name: str, taken: Taken, *, file: Path) -> None:
        """Compare a benchmark's answers with those of `hf` on a sample, or read from `file` what was found before.

        Raises StudyError if they differ on more items than allowed.
        """
        benchmark = self._suite.benchmarks[name]
        check = benchmark.cross_check
        assert check, "called for a benchmark with a cross-check"
        chosen = choose_items(taken, check)
        if not file.is_file():
            self._load(weights, "hf")
            with timesheet.working(units=0):
                by_hf = {task: [_take_only(self._lm, benchmark, task, self._exams[name][task], chosen[task])] for task in chosen}
            write_text(file, str(num_different(benchmark, taken, by_hf, chosen)))
            timesheet.safe()
        found, of = int(file.read_text()), sum(map(len, chosen.values()))
        print(f"{weights.ckpt}, {name}: {benchmark.backend} and hf differ on {found} of {of} items", file=sys.stderr)
        require_agreement(name, benchmark, check, num_different=found, num_items=of)

    def _load(self, weights: Weights, backend: Backend) -> None:
        if not self._exams:
            self._exams = load_suite(self._suite, self._layout, benchmarks=list(self._entries), offline=True)
            self._require_same()
            self._tokenizer = load_tokenizer(self._stage, self._layout)
            if any(self._suite.benchmarks[name].chat_template for name in self._entries):
                require_chat_template(self._tokenizer, model=self._stage.model)
        if weights not in self._checked:
            weights.check()
            self._checked.add(weights)
        from sftstudy.evaluate.lm import free_memory, load_lm

        if self._loaded != (weights, backend):
            self._lm = self._loaded = None  # the last one makes room for the next
            free_memory()
            suite = self._suite
            sizes: dict[str, Any] = {"precision": suite.precision, "batch_size": suite.batch_size}
            self._lm = load_lm(backend, weights, tokenizer=self._tokenizer, **sizes)
            self._loaded = (weights, backend)
        self._lm.forget_prompts()

    def _require_same(self) -> None:
        """Raise StudyError if a task has other items, shots or another definition than when the suite was fetched."""
        for name, entries in self._entries.items():
            for task, entry in entries.items():
                found = self._exams[name][task].entry
                if found != entry:
                    what = f"{found.num_items} items with hash {found.items_hash}"
                    then = f"suite.json has {entry.num_items} with {entry.items_hash}"
                    differs = f"{what}, {then}" if found.items_hash != entry.items_hash else "other shots or another definition"
                    raise StudyError(
                        f"{name}: {task} has changed since the suite was fetched: {differs}; fetch_suite has to run again"
                    )


def _take_only(lm: Any, benchmark: HarnessBenchmark, task: str, exam: Exam, numbers: list[int]) -> TakenBlock:
    """Answers to some items of a task, asked as if to all: where shots are drawn, they hang on the items before."""
    from sftstudy.evaluate.lm import AnsweringOnly

    scored = exam.entry.chosen
    places = {(task, scored.index(number) if scored else number) for number in numbers}
    return take_exam(AnsweringOnly(lm, places), benchmark, task, exam, scored)


def take_exam(lm: Any, benchmark: HarnessBenchmark, task: str, exam: Exam, items: list[int] | None) -> TakenBlock:
    """Put some items of one task to one model through lm-eval, in this one process: checkpoints and suites are spread over jobs.

    Raises StudyError if the model is spread over several processes, whose exchanges are known to hang.
    """
    from lm_eval.evaluator import evaluate

    if lm.world_size != 1:
        raise StudyError(f"scoring started as {lm.world_size} processes; start it as one, and spread checkpoints over jobs instead")
    seed_like_lm_eval()
    exam.task.set_fewshot_seed(seed=_default_seed())
    result = evaluate(
        lm,
        {"tasks": {task: exam.task}},
        samples=None if items is None else {task: items},
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=benchmark.chat_template,
        fewshot_as_multiturn=benchmark.chat_template,
    )
    return read_samples(lm, exam, result, task=task)


def _default_seed() -> int:
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    return int(DEFAULT_OTHER_SEED)
