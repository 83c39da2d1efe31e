"""Loads the lm-eval tasks of a suite, and says which of their items are scored. All that is wrong with a suite is said at once."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sftstudy.config import HarnessBenchmark, HarnessSuite, HubSplit
from sftstudy.errors import StudyError
from sftstudy.evaluate.task_index import make_task_manager
from sftstudy.hashes import sha256_of
from sftstudy.locate import locate
from sftstudy.paths import Layout
from sftstudy.records import BenchmarkEntry, TaskEntry
from sftstudy.spec import digest

GATED = frozenset({"Idavidrein/gpqa"})
"""Data sets that the hub hands out on request only; without the hub nothing else says so."""


@dataclass(frozen=True)
class Exam:
    """A task of a benchmark, loaded and ready to be put to any number of models. `hashes` are those of all its items."""

    task: Any
    entry: TaskEntry
    hashes: list[str]


def load_suite(suite: HarnessSuite, layout: Layout, *, benchmarks: Sequence[str], offline: bool) -> dict[str, dict[str, Exam]]:
    """Benchmark -> task -> exam, for some of a suite's benchmarks. `offline`: nothing is asked of the hub.

    Raises one StudyError for everything that is missing, gated, unknown or other than its pins say.
    """
    faults: list[str] = []
    for place in dict.fromkeys(place for name in benchmarks for place in suite.benchmarks[name].uses):
        if not isinstance(place, HubSplit):
            _note(faults, locate, place, layout, registry="benchmarks.yaml")
    for key, folder in {"include_path": suite.include_path, "mirror": suite.mirror}.items():
        if folder and not Path(folder).is_dir():
            faults.append(f"{folder}: no such folder; correct {key} in benchmarks.yaml")
    _raise(faults)
    if suite.mirror:  # the working directory changes in between
        suite = suite.model_copy(update={"mirror": str(Path(suite.mirror).absolute())})
    _prepare_environment(suite, layout, offline=offline)
    from lm_eval import utils

    # lm-eval compiles a task's template anew for every item, which takes longer than a tiny model's answers
    utils.env.from_string = cache(utils.env.from_string)
    include_path = Path(suite.include_path) if suite.include_path else None
    manager = make_task_manager(include_path=include_path, stock_tasks=suite.stock_tasks, layout=layout)
    own_files = _hash_own_files(suite)
    lists = {
        name: _read_list(Path(benchmark.items), f"benchmarks.yaml: {name}.items", faults)
        for name, benchmark in suite.benchmarks.items()
        if benchmark.items and name in benchmarks
    }
    _raise(faults)
    found: dict[str, dict[str, Exam]] = {}
    with _inside(Path(suite.mirror) if suite.mirror else layout.scratch.absolute().parent):
        for name in benchmarks:
            found[name] = _load_benchmark(manager, name, suite, faults, listed=lists.get(name, {}), own_files=own_files)
    _raise(faults)
    return found


def item_hash(item: Any) -> str:
    """Identity of an item: all of its fields as the task has them."""
    text = json.dumps(item, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def whole(tasks: dict[str, TaskEntry]) -> BenchmarkEntry:
    """A benchmark from its tasks. The hash does not depend on their order."""
    return BenchmarkEntry(
        num_items=sum(entry.num_items for entry in tasks.values()),
        items_hash=digest([[name, tasks[name].items_hash] for name in sorted(tasks)]),
        tasks=tasks,
    )


def seed_like_lm_eval() -> None:
    """Set the global generators to lm-eval's own defaults: some tasks shuffle options with them when loaded."""
    import numpy
    import torch
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    random.seed(DEFAULT_RANDOM_SEED)
    numpy.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)


def _load_benchmark(
    manager: Any, name: str, suite: HarnessSuite, faults: list[str], *, listed: dict[str, list[int]], own_files: str
) -> dict[str, Exam]:
    """Task -> exam, groups resolved. What is wrong is added to `faults`."""
    benchmark, where, before = suite.benchmarks[name], f"benchmarks.yaml: {name}", len(faults)
    tasks: dict[str, Any] = {}
    seed_like_lm_eval()
    for task in benchmark.tasks:
        if task not in manager.task_index:
            faults.append(f"{where}.tasks: lm-eval knows no {task}; correct the name, include_path or stock_tasks")
            continue
        try:
            tasks |= manager.load([task])["tasks"]
        except Exception as error:  # data sets and task files raise dozens of kinds, and all faults of a suite are told at once
            faults.append(f"{where}.tasks: {task}: {_reason(error, benchmark, suite)}")
    if len(faults) > before:
        return {}
    for loaded in tasks.values():
        own = loaded.config.num_fewshot or 0
        loaded.set_config("num_fewshot", own if benchmark.num_fewshot is None else benchmark.num_fewshot)
    faults += _lacking(where, tasks)
    faults += [f"{where}: {fault}" for fault in _misfits(name, benchmark, tasks)]
    hashes = {task: [item_hash(item) for item in loaded.eval_docs] for task, loaded in tasks.items()}
    chosen = _choose(benchmark, hashes, listed, where, faults)
    exams = {
        task: Exam(loaded, _entry(loaded, hashes[task], chosen[task], own_files=own_files), hashes[task])
        for task, loaded in tasks.items()
    }
    found = whole({task: exam.entry for task, exam in exams.items()})
    if benchmark.num_items not in (None, found.num_items):
        faults.append(f"{where}.num_items: the tasks have {found.num_items} items, pinned are {benchmark.num_items}; {_AGAIN}")
    elif benchmark.items_hash not in (None, found.items_hash):
        counted = f"the {found.num_items} items have hash {found.items_hash}"
        faults.append(f"{where}.items_hash: {counted}, pinned is {benchmark.items_hash}; {_AGAIN}")
    return exams


_AGAIN = "fetch the data set again, or unpin it in a benchmark of your own"


def _misfits(name: str, benchmark: HarnessBenchmark, tasks: dict[str, Any]) -> list[str]:
    """What of a benchmark's definition its tasks can't give."""
    if name in tasks and len(tasks) > 1:
        return [f"one of its {len(tasks)} tasks has the benchmark's own name; rename it"]
    found = []
    shots = {task.config.num_fewshot for task in tasks.values()}
    if len(shots) > 1:
        found.append(f"its tasks use {sorted(shots)} shots; split the benchmark, or give num_fewshot")
    wanted = {
        "groups": {task for group in benchmark.groups.values() for task in group},
        "families": {task for family in benchmark.families.values() for task in family},
    }
    if benchmark.normalised and isinstance(benchmark.normalised.num_choices, dict):
        wanted["normalised.num_choices"] = set(benchmark.normalised.num_choices)
        if absent := sorted(tasks.keys() - wanted["normalised.num_choices"]):
            found.append(f"normalised.num_choices: lacks {absent[0]}")
    for key, members in wanted.items():
        if strange := sorted(members - tasks.keys()):
            found.append(f"{key}: no task {strange[0]}; the benchmark's tasks are {', '.join(sorted(tasks)[:9])}")
    if clash := sorted((benchmark.groups.keys() | benchmark.families.keys()) & {name, *tasks}):
        found.append(f"groups: {clash[0]} is a task's or the benchmark's name; choose another")
    further = benchmark.normalised.metrics if benchmark.normalised else []
    if strange := sorted({*further} - {benchmark.metric, *benchmark.metrics}):
        found.append(f"normalised.metrics: {strange[0]} is not among metric and metrics; add it there")
    for task_name, task in tasks.items():
        filters = [ensemble.name for ensemble in getattr(task, "_filters", [])]
        if filters and benchmark.filter not in filters:
            found.append(f"filter: {task_name} has no {benchmark.filter}; it has {', '.join(sorted(filters))}")
            break
    return found


def _hash_own_files(suite: HarnessSuite) -> str:
    """Hash of the user's task files and of the code beside them."""
    paths = sorted(path for path in Path(suite.include_path).rglob("*") if path.suffix != ".pyc") if suite.include_path else []
    return digest([[path.name, sha256_of(path)] for path in paths if path.is_file()])


def _lacking(where: str, tasks: dict[str, Any]) -> list[str]:
    """What tasks need beside their items, and would miss only hours later."""
    if any("ifeval" in name for name in tasks) and find_spec("nltk"):
        import nltk  # type: ignore[import-untyped]

        try:
            nltk.data.find("tokenizers/punkt_tab")
        except LookupError:
            return [f"{where}: NLTK's punkt_tab is missing; `python -m nltk.downloader punkt_tab`, or name its folder in NLTK_DATA"]
    return []


def _read_list(path: Path, where: str, faults: list[str]) -> dict[str, list[int]]:
    """Task -> item numbers, from a benchmark's list."""
    try:
        content: dict[str, list[int]] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        faults.append(f"{where}: {path}: {error}; give a JSON file task -> list of item numbers")
        return {}
    return content


def _choose(
    benchmark: HarnessBenchmark, hashes: dict[str, list[str]], listed: dict[str, list[int]], where: str, faults: list[str]
) -> dict[str, list[int] | None]:
    """Task -> item numbers in ascending order, as lm-eval needs them to number its samples right; None for all."""
    chosen: dict[str, list[int] | None] = {}
    for task, block in hashes.items():
        if (count := benchmark.num_items_per_task) and count < len(block):
            chosen[task] = sorted(sorted(range(len(block)), key=lambda number: (block[number], number))[:count])
        else:
            chosen[task] = listed.get(task)
        numbers = chosen[task]
        if numbers is None and not benchmark.items:
            continue
        if not numbers or numbers != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < len(block):
            faults.append(f"{where}.items: {benchmark.items}: {task}: give ascending item numbers between 0 and {len(block) - 1}")
            chosen[task] = None
    return chosen


def _entry(task: Any, hashes: list[str], chosen: list[int] | None, *, own_files: str) -> TaskEntry:
    from lm_eval.api.samplers import FirstNSampler

    shots = int(task.config.num_fewshot)
    pool = [item_hash(example) for example in task.fewshot_docs() or []] if shots else []
    return TaskEntry(
        version=str(task.VERSION),
        data_set="/".join(filter(None, [task.DATASET_PATH, task.DATASET_NAME])),
        num_items=len(hashes),
        items_hash=digest(hashes),
        chosen=chosen,
        chosen_hash=digest(hashes if chosen is None else [hashes[number] for number in chosen]),
        num_fewshot=shots,
        fixed_shots=shots == 0 or isinstance(getattr(task, "sampler", None), FirstNSampler),
        task_hash=digest([_definition(_wherever(asdict(task.config))), pool, own_files]),
    )


def _wherever(config: dict[str, Any]) -> dict[str, Any]:
    """A task's configuration without the absolute path that lm-eval adds: a checkout may move, and scores go with it."""
    metadata = config.get("metadata")
    if not isinstance(metadata, dict):
        return config
    return config | {"metadata": {key: value for key, value in metadata.items() if key != "config_source"}}


def _definition(value: Any) -> Any:
    """A task's configuration as plain values, the same in every process: functions by their source, objects without addresses."""
    if isinstance(value, dict):
        return {str(key): _definition(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_definition(entry) for entry in (sorted(value, key=repr) if isinstance(value, set | frozenset) else value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, partial):
        return [_definition(value.func), _definition(value.args), _definition(value.keywords)]
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _reason(error: Exception, benchmark: HarnessBenchmark, suite: HarnessSuite) -> str:
    """Why a task can't be loaded, and what to do about it."""
    if isinstance(error, ModuleNotFoundError):
        return f"{str(error).splitlines()[0].strip()}; `pip install 'lm-eval[ifeval,math]'`"
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    hubs = [place.hub for place in benchmark.uses if isinstance(place, HubSplit)]
    lacks = [hub for hub in dict.fromkeys(hubs) if suite.mirror and not (Path(suite.mirror) / hub).is_dir()]
    gated = [hub for hub in dict.fromkeys(hubs) if hub in GATED or "gated dataset" in str(error)]
    asks = [f"ask for access at https://huggingface.co/datasets/{hub}, then set HF_TOKEN" for hub in gated]
    if lacks:
        first = f"the mirror {suite.mirror} has no folder {lacks[0]}"
        asks.append(f"`hf download --repo-type dataset {lacks[0]} --local-dir {Path(suite.mirror or '') / lacks[0]}`")
    return f"{first}; {', '.join(asks) or 'fetch the data set, or correct mirror or data_files'}"


def _note(faults: list[str], check: Any, *args: Any, **kwargs: Any) -> None:
    try:
        check(*args, **kwargs)
    except StudyError as error:
        faults.append(str(error))


def _raise(faults: list[str]) -> None:
    if faults:
        count = f"{len(faults)} faults: " if len(faults) > 1 else ""
        raise StudyError(count + " | ".join(faults))


def _prepare_environment(suite: HarnessSuite, layout: Layout, *, offline: bool) -> None:
    """Settings that the libraries read when first imported: caches under scratch, no hub with a mirror, few progress lines."""
    os.environ.setdefault("HF_DATASETS_CACHE", str((layout.scratch / "datasets").absolute()))
    os.environ.setdefault("TQDM_MININTERVAL", "30")
    os.environ.setdefault("LMEVAL_LOG_LEVEL", "WARNING")
    if suite.mirror or offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


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
