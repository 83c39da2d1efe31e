"""Which recipe, and which of its checkpoints, a study's own scores advise for a model and data set.

Every checkpoint of every complete recipe is a candidate, in the mean over seeds, on the mean of the normalised benchmarks: one
checkpoint has to serve all of them, unlike the peaks of the tables. The best candidate has the highest mean. A recipe cannot be
told from it if the paired difference of its own best checkpoint is not significant, Holm-corrected over the recipes. Among all
checkpoints of these recipes that lie within one standard error of the best (of the paired difference, as a selection by
`earliest`), the one with the fewest samples spent is advised; of equally many the higher mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sftstudy import stats
from sftstudy.averages import comparable
from sftstudy.claims.arms import Arms
from sftstudy.guide.composite import combine, compare, level
from sftstudy.select import natural
from sftstudy.stats import Difference, ItemScores
from sftstudy.stats.peaks import in_first_half, optimism
from sftstudy.tables.aggregate import ALPHA, Pair, Point, Run

RULE = (
    "Score: the mean of the benchmarks, each normalised so that guessing is 0 and the top of its scale 1, all weighing the same.",
    "Best: of all checkpoints of all complete recipes, each in the mean over its seeds, the one with the highest score."
    " One checkpoint has to serve all benchmarks, where a peak of the tables is chosen for each of them.",
    "Cannot be told from it: recipes whose own best checkpoint shows no significant difference to it (paired by item, seeds as two"
    " samples, Holm-corrected over the recipes, 0.05).",
    "Advised: of all checkpoints of these recipes within one standard error of the best (of the paired difference), the one"
    " with the fewest samples spent, those spent on other candidates for a switch of phases included; of equally many the one with"
    " the higher score.",
)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A checkpoint of a recipe over its complete seeds, on each benchmark (`parts`) and on their mean (`arm`).

    `behind` is the best less this; None before it is known, and of the best.
    """

    recipe: str
    stage: str
    ckpt: str
    samples_seen: float
    samples_spent: float
    last: bool
    parts: dict[str, ItemScores]
    arm: ItemScores
    score: Difference
    behind: Difference | None = None

    @property
    def cost(self) -> tuple[float, float, str, list[tuple[int, str]]]:
        """What decides among those that are good enough."""
        return self.samples_spent, -comparable(self.score.value), self.recipe, natural(self.ckpt)[0]


@dataclass(frozen=True)
class Choice:
    """The candidates of a pair, the best of them, the recipes that cannot be told from it, and the advised one.

    `tops` are the recipes' best checkpoints, the highest first, with `p` of no difference to the best.
    """

    candidates: list[Candidate]
    best: Candidate
    tops: list[Candidate]
    p: dict[str, float]
    advised: Candidate

    @property
    def tied(self) -> list[str]:
        """Recipes that cannot be told from the best one, itself first."""
        return [one.recipe for one in self.tops if self.p.get(one.recipe, 1.0) > ALPHA]


def recipes_of(arms: Arms, pair: Pair) -> list[str]:
    """Recipes of a model and data set, in planned order."""
    return list(dict.fromkeys(s.recipe for s in arms.results.study.stages if (s.model, s.data) == pair))


def left_out(arms: Arms, pair: Pair) -> dict[str, str]:
    """Benchmarks that cannot enter the mean -> why: those of which less is better have no scale, others perhaps no scores yet."""
    found = {}
    for name in arms.results.study.benchmarks:
        runs = [run for recipe in recipes_of(arms, pair) for run in arms.complete(pair, recipe, name)]
        if not runs:
            found[name] = "no recipe has a complete run on it"
        elif not all(point.higher_is_better for run in runs for point in run.points):
            found[name] = "less is better there"
    return found


def complete_seeds(arms: Arms, pair: Pair, recipe: str, benchmarks: Sequence[str]) -> tuple[int, ...]:
    """Seeds of a recipe that lack no score on any of the benchmarks."""
    found = [{run.seed for run in arms.complete(pair, recipe, benchmark)} for benchmark in benchmarks]
    return tuple(sorted(set.intersection(*found))) if found else ()


def candidates_of(arms: Arms, pair: Pair, benchmarks: Sequence[str]) -> list[Candidate]:
    """All checkpoints of all recipes, as far as all complete seeds of a recipe have them, in order of training."""
    names: dict[tuple[str, ...], tuple[str, ...]] = {}
    return [one for recipe in recipes_of(arms, pair) for one in _candidates(arms, pair, recipe, benchmarks, names)]


def _candidates(
    arms: Arms, pair: Pair, recipe: str, benchmarks: Sequence[str], names: dict[tuple[str, ...], tuple[str, ...]]
) -> list[Candidate]:
    """One recipe's checkpoints. `names` of items, which are the same for all, are kept once."""
    seeds = complete_seeds(arms, pair, recipe, benchmarks)
    if not seeds:
        return []
    runs = {name: [run for run in arms.complete(pair, recipe, name) if run.seed in seeds] for name in benchmarks}
    first = runs[benchmarks[0]]
    places = [(point.stage, point.ckpt) for point in first[0].points]
    found = []
    for number, place in enumerate(places):
        points = {name: [_at(run, place) for run in each] for name, each in runs.items()}
        here = {name: [point for point in each if point] for name, each in points.items()}
        if any(len(each) < len(seeds) for each in here.values()):
            continue
        parts = {name: _sharing(arms.join(runs[name], here[name], name), names) for name in benchmarks}
        arm = combine(parts, arms.results.study.benchmarks)
        score = None if arm is None else level(arm)
        if arm is None or score is None:
            continue
        mine = here[benchmarks[0]]
        found.append(
            Candidate(
                recipe=recipe,
                stage=place[0],
                ckpt=place[1],
                samples_seen=float(np.mean([point.samples_seen for point in mine])),
                samples_spent=float(np.mean([point.samples_spent for point in mine])),
                last=number == len(places) - 1,
                parts=parts,
                arm=_sharing(arm, names),
                score=score,
            )
        )
    return found


def choose(candidates: Sequence[Candidate]) -> Choice | None:
    """The choice by the rule of this module; None without candidates. What cannot be compared with the best one is left out."""
    if not candidates:
        return None
    ordered = sorted(candidates, key=lambda one: (-comparable(one.score.value), *one.cost))
    compared = [replace(one, behind=compare(ordered[0].arm, one.arm)) for one in ordered[1:]]
    known = [ordered[0], *(one for one in compared if one.behind)]
    tops = sorted({one.recipe: one for one in reversed(known)}.values(), key=known.index)
    p = stats.holm([one.behind.p for one in tops if one.behind])
    corrected = {one.recipe: value for one, value in zip(tops[1:], p, strict=True)}
    tied = {known[0].recipe} | {recipe for recipe, value in corrected.items() if value > ALPHA}
    near = [one for one in known if one.recipe in tied and (one is known[0] or _within_one_error(one))]
    return Choice(
        candidates=known,
        best=known[0],
        tops=tops,
        p=corrected,
        advised=min(near, key=lambda one: one.cost),
    )


def flattery(candidates: Sequence[Candidate]) -> float | None:
    """What choosing the best of all candidates on the reported items adds to its score, cross-fitted; None with too few items."""
    arms = [one.arm for one in candidates]
    if not arms or any(arm.items != arms[0].items for arm in arms):
        return None
    halves = np.array([in_first_half(cluster) for cluster in arms[0].clusters])
    strata = np.asarray(arms[0].tasks)
    if any(set(strata[part]) != set(arms[0].tasks) for part in (halves, ~halves)):
        return None
    counts = [(~np.isnan(arm.values)).sum(axis=0) for arm in arms]
    sums = [np.nansum(arm.values, axis=0) for arm in arms]
    values = np.array([np.where(n > 0, total / np.maximum(n, 1), np.nan) for total, n in zip(sums, counts, strict=True)])
    return optimism(values, list(halves), arms[0].tasks, average="macro")


def _sharing(arm: ItemScores, names: dict[tuple[str, ...], tuple[str, ...]]) -> ItemScores:
    """The same arm with the names of an earlier one, where they are equal."""
    items, tasks, clusters = (names.setdefault(each, each) for each in (arm.items, arm.tasks, arm.clusters))
    return replace(arm, items=items, tasks=tasks, clusters=clusters)


def _within_one_error(one: Candidate) -> bool:
    return one.behind is not None and one.behind.value <= one.behind.error


def _at(run: Run, place: tuple[str, str]) -> Point | None:
    return next((point for point in run.points if (point.stage, point.ckpt) == place), None)
