"""Puts raw scores on the scale of the Open LLM Leaderboard v2, by the numbers of choices that its suite in config names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sftstudy.averages import normalise
from sftstudy.config import HarnessBenchmark, HarnessSuite
from sftstudy.errors import StudyError
from sftstudy.hashes import sha256_of
from sftstudy.records import LeaderboardRecord, LeaderboardScore, provenance
from sftstudy.semantics import SEMANTICS
from sftstudy.spec import digest, identity

_SPELLINGS = {"math": "math_hard", "math_lvl_5": "math_hard", "math_level_5": "math_hard", "math_lighteval": "math_hard"}
"""How the leaderboard's own tables call a task -> lm-eval's name for it."""

_PREFIX = "leaderboard_"


def normalise_scores(path: Path, suite: HarnessSuite) -> LeaderboardRecord:
    """The record of a JSON file of raw scores, from 0 to 1: task -> score, or what lm-eval writes.

    Tasks may be called as in lm-eval, with or without `leaderboard_`, or as in the leaderboard's columns; sub-tasks of a task may
    stand beside it or in a mapping of their own. IFEval is the mean of its two strict accuracies, or one number that already is.
    Raises StudyError for what is missing, unknown or no fraction.
    """
    names = [benchmark.tasks[0].removeprefix(_PREFIX) for benchmark in suite.benchmarks.values()]
    raw = _read(path, names)
    tasks: dict[str, LeaderboardScore] = {}
    used: set[str] = set()
    for benchmark in suite.benchmarks.values():
        name = benchmark.tasks[0].removeprefix(_PREFIX)
        mine = {
            key: value for key, value in raw.items() if key == name or key.startswith(f"{name}_") or key in _short(benchmark, name)
        }
        used |= mine.keys()
        if mine:
            tasks[name] = _score(path, name, benchmark, mine)
    if strange := sorted(raw.keys() - used):
        raise StudyError(f"{path}: {strange[0]}: no task of the leaderboard; remove it, or correct the name")
    if not tasks:
        raise StudyError(f'{path}: no scores; give task -> raw score, such as {{"leaderboard_gpqa": 0.31}}')
    missing = [name for name in names if name not in tasks]
    return LeaderboardRecord(
        spec_hash=digest({"suite": identity(suite), "semantics": SEMANTICS["normalize_leaderboard"]}),
        content_hash=sha256_of(path),
        tasks=tasks,
        average=None if missing else math.fsum(score.normalised for score in tasks.values()) / len(tasks),
        missing=missing,
        **provenance(),
    )


def _score(path: Path, name: str, benchmark: HarnessBenchmark, raw: dict[str, float]) -> LeaderboardScore:
    assert benchmark.normalised is not None, "every benchmark of the leaderboard's suite is normalised"
    choices, metrics = benchmark.normalised.num_choices, benchmark.normalised.metrics
    if isinstance(choices, dict):
        subtasks = {}
        for task, number in choices.items():
            key = task.removeprefix(_PREFIX)
            value = raw.get(key, raw.get(key.removeprefix(f"{name}_")))
            if value is None:
                raise StudyError(
                    f"{path}: {name}: no raw score of its sub-task {key}; the leaderboard normalises each of {len(choices)}"
                )
            subtasks[key] = _one(value, number)
        mean = math.fsum(score.normalised for score in subtasks.values()) / len(subtasks)
        return LeaderboardScore(raw=raw.get(name), lower_bound=None, normalised=mean, subtasks=subtasks)
    if name in raw:
        return _one(raw[name], choices)
    parts = [raw.get(f"{name}_{metric}") for metric in metrics]
    values = [part for part in parts if part is not None]
    if not metrics or len(values) < len(metrics):
        wanted = f"its {' and '.join(metrics)}" if metrics else "the whole of its sub-tasks, over all items"
        raise StudyError(f"{path}: {name}: no raw score; the leaderboard takes {wanted}")
    return _one(math.fsum(values) / len(values), choices)


def _one(raw: float, num_choices: int) -> LeaderboardScore:
    bound = 1 / num_choices if num_choices else 0.0
    return LeaderboardScore(raw=raw, lower_bound=bound, normalised=100 * normalise(raw, num_choices), subtasks={})


def _short(benchmark: HarnessBenchmark, name: str) -> set[str]:
    """Sub-tasks' names without the task's, such as `sports_understanding`; no two tasks share one."""
    choices = benchmark.normalised.num_choices if benchmark.normalised else 0
    return {task.removeprefix(f"{_PREFIX}{name}_") for task in choices} if isinstance(choices, dict) else set()


def _read(path: Path, names: Sequence[str]) -> dict[str, float]:
    """Task -> raw score: names in lm-eval's spelling without `leaderboard_`, sub-tasks and further metrics as `task_part`."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: {' '.join(str(error).split())}; give a JSON file task -> raw score") from None
    if isinstance(content, dict) and isinstance(content.get("results"), dict):
        content = content["results"]
    if isinstance(content, dict) and any(
        "," in metric for entry in content.values() if isinstance(entry, dict) for metric in entry
    ):
        return _of_lm_eval(path, content, names)  # it names a metric with its filter, `acc_norm,none`
    if not isinstance(content, dict):
        raise StudyError(f"{path}: a JSON {type(content).__name__}; give a mapping task -> raw score")
    found: dict[str, float] = {}
    for key, value in content.items():
        name = _name(key)
        entries = (
            {f"{name}_{_name(part).removeprefix(f'{name}_')}": entry for part, entry in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
        for entry, score in entries.items():
            if _is_average(entry):
                continue
            if entry in found:
                raise StudyError(f"{path}: {entry}: given twice; remove one")
            found[entry] = _fraction(path, entry, score)
    return found


def _of_lm_eval(path: Path, results: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    """The leaderboard's metric of each of its tasks in a results file of lm-eval's, which may have others; IFEval has two."""
    found: dict[str, float] = {}
    for key, metrics in results.items():
        name = _name(key)
        known = any(name == task or name.startswith(f"{task}_") for task in names)
        if not key.startswith(_PREFIX) or not known or not isinstance(metrics, dict):
            continue
        values = {metric.partition(",")[0]: value for metric, value in metrics.items()}
        for metric in ("acc_norm", "acc", "exact_match"):
            if metric in values:
                found[name] = _fraction(path, key, values[metric])
                break
        for metric in ("inst_level_strict_acc", "prompt_level_strict_acc"):
            if metric in values and name == "ifeval":
                found[f"{name}_{metric}"] = _fraction(path, key, values[metric])
    return found


def _name(key: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", key.partition(",")[0].lower()).strip("_").removeprefix(_PREFIX).removesuffix("_raw")
    name = re.sub(r"^math_(\w+)_hard$", r"math_hard_\1", name)  # lm-eval's names of its sub-tasks
    return _SPELLINGS.get(name, name)


def _is_average(name: str) -> bool:
    return name.startswith("average") or name == "leaderboard"


def _fraction(path: Path, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise StudyError(f"{path}: {name}: {value!r} is no fraction from 0 to 1; give raw scores, not percent")
    return float(value)
