"""Scores checkpoints on a suite of lm-eval benchmarks, and keeps the value of every item."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sftstudy.config import Backend, HarnessBenchmark, HarnessSuite, HubSplit
from sftstudy.errors import StudyError
from sftstudy.evaluate.shards import Item, Shard, finished, macro_average, mean_and_stderr, publish
from sftstudy.evaluate.weights import Weights, find_weights, load_tokenizer, read_model, require_chat_template
from sftstudy.hashes import sha256_of
from sftstudy.locate import check_worlds, locate
from sftstudy.paths import Layout, score_stem
from sftstudy.records import Score, ScoreRecord
from sftstudy.spec import StageSpec, SuiteSpec, benchmark_hash, digest

Numbers = set[tuple[str, str]]
"""Items by their task and number."""


@dataclass(frozen=True)
class Exam:
    """A benchmark with its loaded lm-eval tasks, ready to be put to any number of models."""

    name: str
    benchmark: HarnessBenchmark
    tasks: dict[str, Any]
    num_fewshot: int
    items: dict[str, list[int]] | None


@dataclass(frozen=True)
class Asked:
    """What a task's score says of its prompts."""

    protocol_hash: str
    first_tokens: list[int]


def score_harness(stage: StageSpec, suite: SuiteSpec, *, part: str, checkpoints: list[str], layout: Layout) -> ScoreRecord:
    """Score a block of a stage's checkpoints on all benchmarks of a suite, and write the record and its items.

    A benchmark that was finished before, with the same weights, tokenizer, definition, files and harness, is not scored again: its
    shard lies under scratch. Raises StudyError if weights, a task or a file is missing.
    """
    if not isinstance(suite.suite, HarnessSuite):
        raise StudyError(f"suite {suite.name}: its kind is {suite.suite.kind}; score it with answer_mt_bench and judge_mt_bench")
    names = (stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
    check_worlds(suite.world_hashes, layout)
    tokenizer_hash = read_model(stage, layout).tokenizer_hash
    of_benchmark = {name: [benchmark_hash(suite, name), _hash_inputs(suite.suite, name, layout)] for name in suite.suite.benchmarks}
    paths: dict[str, dict[str, Path]] = {}
    all_weights = find_weights(stage, checkpoints, layout)
    for weights in all_weights:
        of_weights = [weights.weights_hash, weights.samples_seen, weights.samples_spent, tokenizer_hash, version("lm-eval")]
        keys = {name: digest(of_weights + identity) for name, identity in of_benchmark.items()}
        files = {name: f"{weights.ckpt}-{name}-{key}.json" for name, key in keys.items()}
        paths[weights.ckpt] = {name: score_stem(layout.stage_scratch(*names), suite.name, file) for name, file in files.items()}
        if not all(path.is_file() for path in paths[weights.ckpt].values()):
            weights.check_there()  # of all checkpoints, before hours go into the first
    unfinished = [name for name in suite.suite.benchmarks if not all(block[name].is_file() for block in paths.values())]
    bench = _Bench(suite.suite, unfinished, stage=stage, layout=layout)
    shards = {
        weights.ckpt: [finished(path, partial(bench.score, weights, name)) for name, path in paths[weights.ckpt].items()]
        for weights in all_weights
    }

    scores = [score for block in shards.values() for shard in block for score in shard.scores]
    return publish(
        stage,
        suite,
        part=part,
        checkpoints=checkpoints,
        content_hash=digest([tokenizer_hash, *([score.weights_hash, score.items_hash, score.protocol_hash] for score in scores)]),
        scores=scores,
        items={ckpt: [item for shard in block for item in shard.items] for ckpt, block in shards.items()},
        libraries=("lm-eval", "torch", "transformers", "datasets"),
        layout=layout,
    )


class _Bench:
    """Some of a suite's exams and the run's tokenizer, loaded when first needed and then kept; and one checkpoint at a time."""

    def __init__(self, suite: HarnessSuite, benchmarks: list[str], *, stage: StageSpec, layout: Layout) -> None:
        chosen = {name: suite.benchmarks[name] for name in benchmarks}
        self._suite, self._stage, self._layout = suite.model_copy(update={"benchmarks": chosen}), stage, layout
        self._exams: dict[str, Exam] = {}
        self._tokenizer: Any = None
        self._checked: Weights | None = None
        self._loaded: tuple[Weights, Backend] | None = None
        self._lm: Any = None

    def score(self, weights: Weights, benchmark: str) -> Shard:
        """One checkpoint on one benchmark, by the benchmark's back end."""
        if weights != self._checked:
            weights.check()
            self._checked = weights
        if not self._exams:
            self._load_exams()
        exam = self._exams[benchmark]
        shard = self._take(exam, weights, exam.benchmark.backend)
        if truncated := self._lm.num_truncated:
            where = f"{weights.ckpt}, {benchmark}"
            print(f"{where}: {truncated} prompts were longer than the context and lost their beginning", file=sys.stderr)
        if exam.benchmark.cross_check:
            chosen = choose_items(shard.items, exam.benchmark.cross_check.num_items)
            compare_backends(exam, shard.items, self._take(exam, weights, "hf", only=chosen).items, chosen)
        return shard

    def _load_exams(self) -> None:
        self._exams = {exam.name: exam for exam in load_exams(self._suite, self._layout)}
        self._tokenizer = load_tokenizer(self._stage, self._layout)
        if any(exam.benchmark.chat_template for exam in self._exams.values()):
            require_chat_template(self._tokenizer, model=self._stage.model)

    def _take(self, exam: Exam, weights: Weights, backend: Backend, *, only: Numbers | None = None) -> Shard:
        from sftstudy.evaluate.lm import AnsweringOnly, free_memory, load_lm

        if self._loaded != (weights, backend):
            self._lm = self._loaded = None  # the last one makes room for the next
            free_memory()
            suite = self._suite
            sizes: dict[str, Any] = {"precision": suite.precision, "batch_size": suite.batch_size}
            self._lm = load_lm(backend, weights, tokenizer=self._tokenizer, **sizes)
            self._loaded = (weights, backend)
        self._lm.forget_prompts()
        return take_exam(AnsweringOnly(self._lm, places_of(exam, only)) if only else self._lm, exam, weights)


def choose_items(items: list[Item], number: int) -> Numbers:
    """Those of a benchmark's items that have the smallest hashes."""
    return {(item.task, item.item) for item in sorted(items, key=lambda item: (item.item_hash, item.task, item.item))[:number]}


def places_of(exam: Exam, numbers: Numbers) -> set[tuple[str, int]]:
    """Where items stand among those that are scored, which is what lm-eval's requests name."""
    return {(task, exam.items[task].index(int(item)) if exam.items else int(item)) for task, item in numbers}


def compare_backends(exam: Exam, items: list[Item], by_hf: list[Item], chosen: Numbers) -> None:
    """Raise StudyError if a benchmark's back end and `hf` score more of the chosen items differently than `cross_check` allows."""
    check, backend = exam.benchmark.cross_check, exam.benchmark.backend
    assert check, "called for a benchmark with a cross-check"
    ours, theirs = ({(item.task, item.item): item.value for item in block} for block in (items, by_hf))
    num_different = sum(ours[item] != theirs[item] for item in chosen)
    told = f"{backend} and hf differ on {num_different} of {len(chosen)} items"
    print(f"{exam.name}: {told}", file=sys.stderr)
    if num_different > check.max_disagreement * len(chosen):
        where = f"benchmarks.yaml: {exam.name}.cross_check"
        raise StudyError(f"{where}: {told}, more than {check.max_disagreement:.0%}; set backend: hf, or allow for more")


def load_exams(suite: HarnessSuite, layout: Layout) -> list[Exam]:
    """Load the tasks of all benchmarks of a suite once.

    Raises StudyError for an unknown task, an absent data set or bad item numbers.
    """
    for benchmark in suite.benchmarks.values():
        for place in benchmark.uses:
            if not isinstance(place, HubSplit):
                locate(place, layout, registry="benchmarks.yaml")
    if suite.include_path and not Path(suite.include_path).is_dir():
        raise StudyError(f"{suite.include_path}: no such folder; correct include_path in benchmarks.yaml")
    _prepare_environment(suite, layout)
    from lm_eval import utils
    from lm_eval.tasks import TaskManager

    # lm-eval compiles a task's template anew for every item, which takes longer than a tiny model's answers
    utils.env.from_string = cache(utils.env.from_string)
    own = str(Path(suite.include_path).absolute()) if suite.include_path else None
    manager = TaskManager(include_defaults=suite.stock_tasks, include_path=own)
    with _inside(Path(suite.mirror) if suite.mirror else layout.scratch.absolute().parent):
        tasks = {name: _load_tasks(manager, name, benchmark) for name, benchmark in suite.benchmarks.items()}
    return [_make_exam(name, benchmark, tasks[name]) for name, benchmark in suite.benchmarks.items()]


def _load_tasks(manager: Any, name: str, benchmark: HarnessBenchmark) -> dict[str, Any]:
    """Task name -> lm-eval's task, groups resolved."""
    where = f"benchmarks.yaml: {name}.tasks"
    if unknown := [task for task in benchmark.tasks if task not in manager.task_index]:
        raise StudyError(f"{where}: lm-eval knows no {', '.join(unknown)}; correct the name, include_path or stock_tasks")
    seed_like_lm_eval()
    try:
        tasks: dict[str, Any] = manager.load(benchmark.tasks)["tasks"]
    except (OSError, ValueError) as error:  # ConnectionError and DatasetNotFoundError are OSErrors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StudyError(f"{where}: {reason}; fetch the data set, or correct mirror or data_files") from None
    return tasks


def _make_exam(name: str, benchmark: HarnessBenchmark, tasks: dict[str, Any]) -> Exam:
    if name in tasks and len(tasks) > 1:
        raise StudyError(f"benchmarks.yaml: {name}: one of its {len(tasks)} tasks has the benchmark's own name; rename it")
    for task in tasks.values():
        own = task.config.num_fewshot or 0
        task.set_config("num_fewshot", own if benchmark.num_fewshot is None else benchmark.num_fewshot)
    shots = {task.config.num_fewshot for task in tasks.values()}
    if len(shots) > 1:
        raise StudyError(f"benchmarks.yaml: {name}: its tasks use {sorted(shots)} shots; split the benchmark, or give num_fewshot")
    items = _read_items(Path(benchmark.items), tasks) if benchmark.items else None
    return Exam(name, benchmark, tasks, shots.pop(), items)


def _read_items(path: Path, tasks: dict[str, Any]) -> dict[str, list[int]]:
    """Task -> item numbers in ascending order, as lm-eval needs them to number its samples right."""
    try:
        items: dict[str, list[int]] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: {error}; give a JSON file task -> list of item numbers") from None
    for name, task in tasks.items():
        numbers, available = items.get(name), len(task.eval_docs)
        if not numbers or numbers != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < available:
            raise StudyError(f"{path}: {name}: give ascending item numbers between 0 and {available - 1}")
    return {name: items[name] for name in tasks}


def take_exam(lm: Any, exam: Exam, weights: Weights) -> Shard:
    """Put one benchmark to one model through lm-eval. Scores are means of its per-item values."""
    from lm_eval.evaluator import evaluate

    benchmark = exam.benchmark
    seed_like_lm_eval()
    for task in exam.tasks.values():
        task.set_fewshot_seed(seed=_default_seed())
    result = evaluate(
        lm,
        {"tasks": exam.tasks},
        samples=exam.items,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=benchmark.chat_template,
        fewshot_as_multiturn=benchmark.chat_template,
    )
    samples = {name: _choose_samples(exam, name, result["samples"][name]) for name in exam.tasks}
    items = {name: _items_of(exam, name, samples[name]) for name in exam.tasks}
    for name, block in items.items():
        theirs = result["results"][name][f"{benchmark.metric},{benchmark.filter}"]
        if not abs(mean_and_stderr(_values(block))[0] - theirs) <= 1e-9:  # so that NaN fails too
            where = f"benchmarks.yaml: {exam.name}.metric"
            raise StudyError(f"{where}: {benchmark.metric} of {name} is no mean over items; choose another")
    directions = {bool(result["higher_is_better"][name].get(benchmark.metric, True)) for name in exam.tasks}
    if len(directions) > 1:
        raise StudyError(f"benchmarks.yaml: {exam.name}: {benchmark.metric} is better high in one task, low in another; split it")
    versions = {name: str(result["versions"][name]) for name in exam.tasks}
    asked = {name: _asked(lm, exam, samples[name]) for name in exam.tasks}
    scores = _scores_of(exam, items, asked, versions=versions, weights=weights, higher_is_better=directions.pop())
    return Shard(scores=scores, items=[item for block in items.values() for item in block])


def _asked(lm: Any, exam: Exam, samples: list[dict[str, Any]]) -> Asked:
    """Hash of all that a task's requests and its grading consist of, and how its first prompt starts.

    A chat enters as its messages and not as the text that the model's template makes of them, so that models can be compared.
    """
    benchmark = exam.benchmark
    requests = [
        [[[lm.chats.get(text, text), *rest] for text, *rest in sample["arguments"]], sample["target_hash"]] for sample in samples
    ]
    first: str = samples[0]["arguments"][0][0]
    protocol_hash = digest([benchmark.metric, benchmark.filter, benchmark.chat_template, benchmark.backend, requests])
    return Asked(protocol_hash, lm.first_tokens.get(first, []))


def _scores_of(
    exam: Exam,
    items: dict[str, list[Item]],
    asked: dict[str, Asked],
    *,
    versions: dict[str, str],
    weights: Weights,
    higher_is_better: bool,
) -> list[Score]:
    """The benchmark's score, then its tasks', from their items. A task with the benchmark's own name is the benchmark."""
    benchmark = exam.benchmark
    values = {name: _values(block) for name, block in items.items()}
    items_hashes = {name: digest([item.item_hash for item in block]) for name, block in items.items()}
    pooled = [value for block in values.values() for value in block]

    def score(
        task: str, mean_stderr: tuple[float, float | None], *, task_version: str, num_items: int, items_hash: str, asked: Asked
    ) -> Score:
        return Score(
            ckpt=weights.ckpt,
            samples_seen=weights.samples_seen,
            samples_spent=weights.samples_spent,
            weights_hash=weights.weights_hash,
            benchmark=exam.name,
            task=task,
            task_version=task_version,
            metric=benchmark.metric,
            value=mean_stderr[0],
            stderr=mean_stderr[1],
            num_items=num_items,
            num_fewshot=exam.num_fewshot,
            higher_is_better=higher_is_better,
            harness="lm-eval",
            harness_version=version("lm-eval"),
            items_hash=items_hash,
            protocol_hash=asked.protocol_hash,
            first_tokens=asked.first_tokens,
        )

    whole = score(
        exam.name,
        mean_and_stderr(pooled) if benchmark.average == "micro" else macro_average(list(values.values())),
        task_version=", ".join(sorted(set(versions.values()))),
        num_items=len(pooled),
        items_hash=digest([[name, items_hashes[name]] for name in items]),
        asked=Asked(
            digest([benchmark.average, *([name, task.protocol_hash] for name, task in asked.items())]),
            next(iter(asked.values())).first_tokens,
        ),
    )
    return [whole] + [
        score(
            name,
            mean_and_stderr(values[name]),
            task_version=versions[name],
            num_items=len(values[name]),
            items_hash=items_hashes[name],
            asked=asked[name],
        )
        for name in items
        if name != exam.name
    ]


def _values(items: list[Item]) -> list[float]:
    return [item.value for item in items if item.value is not None]


def _choose_samples(exam: Exam, task: str, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """lm-eval's samples after the benchmark's filter, in item order."""
    chosen = [sample for sample in samples if sample["filter"] == exam.benchmark.filter]
    if not chosen:
        known = sorted({sample["filter"] for sample in samples})
        raise StudyError(f"benchmarks.yaml: {exam.name}.filter: {task} has no {exam.benchmark.filter}; it has {', '.join(known)}")
    return sorted(chosen, key=lambda sample: int(sample["doc_id"]))


def _items_of(exam: Exam, task: str, samples: list[dict[str, Any]]) -> list[Item]:
    """The metric of each item from lm-eval's samples."""
    metric, items = exam.benchmark.metric, []
    for sample in samples:
        try:
            value = float(sample[metric])
        except (KeyError, TypeError):
            known = sorted(sample["metrics"])
            where = f"benchmarks.yaml: {exam.name}.metric"
            raise StudyError(f"{where}: {task} gives no number per item for {metric}; it has {', '.join(known)}") from None
        items.append(
            Item(benchmark=exam.name, task=task, item=str(sample["doc_id"]), item_hash=sample["doc_hash"][:16], value=value)
        )
    return items


def seed_like_lm_eval() -> None:
    """Set the global generators to lm-eval's own defaults: some tasks shuffle options with them when loaded."""
    import numpy
    import torch
    from lm_eval.defaults import DEFAULT_RANDOM_SEED

    random.seed(DEFAULT_RANDOM_SEED)
    numpy.random.seed(_default_seed())
    torch.manual_seed(_default_seed())


def _default_seed() -> int:
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    return int(DEFAULT_OTHER_SEED)


def _hash_inputs(suite: HarnessSuite, name: str, layout: Layout) -> str:
    """Hash of the files behind a benchmark that a user can edit: task files, item list, and the items themselves."""
    benchmark = suite.benchmarks[name]
    paths = [Path(benchmark.items)] if benchmark.items else []
    if suite.include_path:
        paths += sorted(path for path in Path(suite.include_path).rglob("*") if path.suffix != ".pyc")
    for place in benchmark.uses:
        if not isinstance(place, HubSplit):
            paths.append(locate(place, layout, registry="benchmarks.yaml"))
        elif suite.mirror:
            paths += sorted((Path(suite.mirror) / place.hub).rglob("*.parquet"))
    return digest([[path.name, sha256_of(path)] for path in dict.fromkeys(paths) if path.is_file()])


def _prepare_environment(suite: HarnessSuite, layout: Layout) -> None:
    """Settings that the libraries read when first imported: caches under scratch, no hub with a mirror, few progress lines."""
    os.environ.setdefault("HF_DATASETS_CACHE", str((layout.scratch / "datasets").absolute()))
    os.environ.setdefault("TQDM_MININTERVAL", "30")
    os.environ.setdefault("LMEVAL_LOG_LEVEL", "WARNING")
    if suite.mirror:
        os.environ["HF_HUB_OFFLINE"] = "1"
        if not Path(suite.mirror).is_dir():
            raise StudyError(f"{suite.mirror}: no such folder; correct mirror in benchmarks.yaml")


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder for a while.

    Task files name `scratch/worlds/...` from scratch's parent. With a mirror it is the mirror's folder: `datasets` takes a relative
    folder `cais/mmlu` before it asks the hub.
    """
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
