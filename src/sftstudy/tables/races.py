"""What racing would have saved in a study, and how often it would have chosen another checkpoint: replayed on its full scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from sftstudy.config import Race
from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.race import item_weights, looks, race, random_order
from sftstudy.select import Candidate, choose
from sftstudy.spec import StudySpec
from sftstudy.tables.aggregate import Point, Results, load_results


@dataclass(frozen=True)
class Line:
    """A stage over all orders of the items: share of scorings saved, and share of orders in which another checkpoint is chosen."""

    model: str
    data: str
    recipe: str
    seed: int
    stage: str
    num_checkpoints: int
    num_items: int
    ckpt: str
    saved: float
    other_choice: float


def replay_races(study: StudySpec, benchmark: str, *, rules: Race, num_orders: int, layout: Layout) -> list[Line]:
    """A line for each stage of the study that has a full score of two checkpoints or more, in planned order.

    Raises StudyError if the study does not score the benchmark by lm-eval, or no stage has such scores.
    """
    planned = study.benchmarks.get(benchmark)
    if planned is None or planned.judge:
        known = ", ".join(name for name, definition in study.benchmarks.items() if not definition.judge)
        raise StudyError(f"--benchmark {benchmark}: nothing to race on in study {study.name}; name one of {known}")
    results = load_results(study, layout=layout)
    lines = [
        _replay(results, benchmark, points, identity, rules=rules, num_orders=num_orders)
        for identity, points in _stages(results, benchmark)
        if len(points) > 1
    ]
    if not lines:
        raise StudyError(f"--benchmark {benchmark}: no stage of study {study.name} has scores of two checkpoints; finish it first")
    return lines


def to_csv(lines: Sequence[Line]) -> str:
    """The lines with their heads."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(Line)])
    writer.writerows([f"{value:.4f}" if isinstance(value, float) else value for value in astuple(line)] for line in lines)
    return out.getvalue()


def describe(lines: Sequence[Line], *, rules: Race) -> str:
    """All lines as one sentence."""
    scorings = np.array([line.num_checkpoints * line.num_items for line in lines])
    saved = np.average([line.saved for line in lines], weights=scorings)
    other = np.mean([line.other_choice for line in lines])
    return (
        f"{len(lines)} stages: racing saves {saved:.0%} of the scorings and chooses another checkpoint in {other:.1%} of the races "
        f"(stated: at most {rules.error_rate:.0%})"
    )


def _stages(results: Results, benchmark: str) -> Iterator[tuple[tuple[str, str, str, int, str], list[Point]]]:
    """Each stage of a complete run with its points, but for those that were raced."""
    recipes = list(dict.fromkeys((stage.model, stage.data, stage.recipe) for stage in results.study.stages))
    for model, data, recipe in recipes:
        for run in results.runs((model, data), recipe, benchmark):
            if run.complete and not run.raced:
                for stage in dict.fromkeys(point.stage for point in run.points):
                    yield (model, data, recipe, run.seed, stage), [point for point in run.points if point.stage == stage]


def _replay(
    results: Results,
    benchmark: str,
    points: Sequence[Point],
    identity: tuple[str, str, str, int, str],
    *,
    rules: Race,
    num_orders: int,
) -> Line:
    planned = results.study.benchmarks[benchmark]
    found = results.join(range(len(points)), points, benchmark)
    better_high = points[0].higher_is_better
    values = found.values if better_high else 1 - found.values
    weights = item_weights(found.tasks, planned.average)
    sign = 1.0 if better_high else -1.0
    candidates = [Candidate(point.ckpt, point.samples_seen, sign * float(str(point.value))) for point in points]
    best = choose(candidates, rule="best").ckpt
    at = looks(len(weights), first=rules.first, growth=rules.growth)
    saved, others = [], 0
    for seed in range(num_orders):
        order = random_order(found.items, seed=seed)
        shuffled = values[:, order]

        def read(place: int, num_items: int, shuffled: np.ndarray = shuffled) -> np.ndarray:
            return shuffled[place, :num_items]

        result = race(read, weights[order], num_candidates=len(points), at=at, error_rate=rules.error_rate)
        saved.append(result.saved)
        others += choose([candidates[place] for place in result.survivors], rule="best").ckpt != best
    return Line(*identity, len(points), len(weights), best, float(np.mean(saved)), others / num_orders)
