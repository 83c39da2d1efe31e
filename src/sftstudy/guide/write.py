"""Writes a study's guide, `guide.json` and `guide.html`, from results/ alone and without torch."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from sftstudy import records, stats
from sftstudy.claims.arms import Arms
from sftstudy.findings import (
    ClaimRecord,
    ClaimsRecord,
    GuideBenchmark,
    GuideCheckpoint,
    GuideClaim,
    GuideCurve,
    GuideEffect,
    GuidePair,
    GuideRecord,
    GuideStep,
)
from sftstudy.guide import next_steps
from sftstudy.guide.composite import combine, compare
from sftstudy.guide.evidence import beside_paper, effect_of, evidence
from sftstudy.guide.factors import Levels, levels_of, recipe_values, word, written
from sftstudy.guide.next_steps import to_yaml
from sftstudy.guide.recommend import (
    RULE,
    Candidate,
    Choice,
    candidates_of,
    choose,
    complete_seeds,
    flattery,
    left_out,
    recipes_of,
)
from sftstudy.hashes import sha256_of
from sftstudy.paths import BASE_STAGE, Layout
from sftstudy.spec import PlannedBenchmark, StudySpec, spec_hash
from sftstudy.stats import Difference, ItemScores
from sftstudy.tables.aggregate import Pair, Results, judge, load_results
from sftstudy.tables.configuration import Assumptions
from sftstudy.tables.guide_page import to_html

SEED = 0
"""Of bootstrap draws, as in the claims."""

WATCHED = ("learning_rate", "effective_batch_size", "warm-up", "schedule", "strategy")
"""Factors that the paper speaks of: a guide says which of them its study did not vary."""


def write_guide(study: StudySpec, *, layout: Layout) -> None:
    """Write both files of a study. Raises StudyError if its scores were not collected, or its claims not checked."""
    folder = layout.study_folder(study.name)
    claims = records.read_record(folder / "claims.json", ClaimsRecord).claims if study.claims else []
    record = make_guide(load_results(study, layout=layout), claims, layout=layout)
    record = GuideRecord.model_validate(records.rounded(record.model_dump()))
    records.write_record(folder / "guide.json", record)
    records.write_text(folder / "guide.html", to_html(study, record))


def make_guide(results: Results, claims: Sequence[ClaimRecord], *, layout: Layout) -> GuideRecord:
    """The guide of a study for each model and data set, as far as there are scores."""
    study, arms = results.study, Arms(results, layout=layout, seed=SEED)
    missing = _missing(study, layout=layout)
    pairs = {pair: _pair(arms, pair, claims, missing) for pair in results.pairs}
    tried = {pair: (made.advised.recipe, made.steps) for pair, made in pairs.items() if made.advised}
    next_recipes, next_study = next_steps.next_study(study, tried, _seeds(study))
    return GuideRecord(
        study=study.name,
        spec_hash=spec_hash(study),
        scores_hash=sha256_of(layout.scores_csv()) if layout.scores_csv().exists() else "",
        rule=list(RULE),
        pairs=list(pairs.values()),
        claims=[GuideClaim(name=claim.name, statement=claim.statement, verdict=claim.verdict) for claim in claims],
        next_recipes=next_recipes,
        next_study=next_study,
        missing=dict(sorted(Counter(reason for _, reason in missing).items())),
    )


def _pair(arms: Arms, pair: Pair, claims: Sequence[ClaimRecord], missing: Sequence[tuple[str, str]]) -> GuidePair:
    study, recipes, excluded = arms.results.study, recipes_of(arms, pair), left_out(arms, pair)
    benchmarks = [name for name in study.benchmarks if name not in excluded]
    candidates = candidates_of(arms, pair, benchmarks)
    choice = choose(candidates)
    known = {one.recipe for one in choice.tops} if choice else set()
    absent = {recipe: _why_absent(pair, recipe, missing, layout=arms.layout) for recipe in recipes if recipe not in known}
    levels = {recipe: levels_of(study, recipe) for recipe in recipes}
    steps = _missing_step(study, absent)
    if choice is None:
        scored = any(complete_seeds(arms, pair, recipe, benchmarks) for recipe in recipes)
        why = "no interval can be had for any checkpoint" if scored else "no recipe has a complete run"
        return GuidePair(
            model=pair[0], data=pair[1], best=None, advised=None, why=why, name="", overlay="", optimism=None, gain=None,
            benchmarks=[], recipes=[], curves=[], absent=absent, settings=[],
            factors=evidence(arms, pair, levels), steps=steps, unknown=[],
        )  # fmt: skip
    tried = {one.recipe: levels[one.recipe] for one in choice.tops}
    steps += next_steps.grid_steps(study, pair, choice, tried)
    steps += [step] if (step := next_steps.longer_step(study, pair, choice, tried)) else []
    steps += [step] if (step := next_steps.power_step(study, choice, benchmarks, _seeds(study))) else []
    steps += next_steps.signal_steps(study, claims, pair)
    name = re.sub(r"[^a-z0-9.-]+", "-", f"advised-{study.name}{next_steps.suffix(study, pair)}".lower())
    optimism = flattery(candidates)
    return GuidePair(
        model=pair[0],
        data=pair[1],
        best=_checkpoint(arms, pair, choice.best, choice),
        advised=_checkpoint(arms, pair, choice.advised, choice),
        why="",
        name=name,
        overlay=_overlay(study, pair, choice.advised, name),
        optimism=optimism,
        gain=_gain_of_mean(arms, pair, choice.advised),
        benchmarks=[_benchmark(arms, pair, choice.advised, benchmark) for benchmark in study.benchmarks],
        recipes=[_checkpoint(arms, pair, one, choice) for one in choice.tops],
        curves=[_curve(choice, one.recipe) for one in choice.tops],
        absent=absent,
        settings=beside_paper(study, levels, choice.advised.recipe),
        factors=evidence(arms, pair, levels),
        steps=steps,
        unknown=_unknown(study, choice, levels, optimism=optimism, absent=absent, excluded=excluded),
    )


# --- the advised checkpoint ------------------------------------------------------------------------------------------


def _checkpoint(arms: Arms, pair: Pair, one: Candidate, choice: Choice) -> GuideCheckpoint:
    planned = {s.seed for s in arms.results.study.stages if (s.model, s.data, s.recipe) == (*pair, one.recipe)}
    return GuideCheckpoint(
        recipe=one.recipe,
        stage=one.stage,
        ckpt=one.ckpt,
        samples_seen=one.samples_seen,
        samples_spent=one.samples_spent,
        device_hours=_hours(arms, pair, one),
        num_seeds=len(one.arm.seeds),
        num_planned_seeds=len(planned),
        last=one.last,
        score=effect_of(one.score),
        behind=effect_of(one.behind) if one.behind else None,
        error=one.behind.error if one.behind else None,
        p=choice.p.get(one.recipe),
        tied=one.recipe in choice.tied,
    )


def _curve(choice: Choice, recipe: str) -> GuideCurve:
    places = sorted(_places(choice, recipe), key=lambda one: (one.samples_spent, one.stage, one.ckpt))
    return GuideCurve(
        recipe=recipe,
        samples_spent=[one.samples_spent for one in places],
        scores=[effect_of(one.score) for one in places],
    )


def _hours(arms: Arms, pair: Pair, one: Candidate) -> float | None:
    """Hours of all devices until a checkpoint, in the mean over seeds."""
    found = []
    for seed in one.arm.seeds:
        costs = [cost for cost in arms.ledger(pair, one.recipe, seed) or [] if (cost.stage, cost.ckpt) == (one.stage, one.ckpt)]
        if not costs:
            return None
        found.append(costs[0].costs["gpu_hours"])
    return sum(found) / len(found)


def _benchmark(arms: Arms, pair: Pair, one: Candidate, name: str) -> GuideBenchmark:
    """The advised checkpoint on one benchmark, and the recipe with the highest peak on it alone."""
    results, planned = arms.results, arms.results.study.benchmarks[name]
    cells = {recipe: results.cell(pair, recipe, name, "peak") for recipe in recipes_of(arms, pair)}
    known = {recipe: cell for recipe, cell in cells.items() if cell.estimate is not None}
    verdicts = dict(zip(known, judge(list(known.values()), planned), strict=True))
    best = next((recipe for recipe, verdict in verdicts.items() if verdict.best), next(iter(known), None))
    mine, base = one.parts.get(name), results.base(pair[0], name).scores
    return GuideBenchmark(
        benchmark=name,
        score=_estimated(mine, planned) if mine else None,
        gain=_effect(stats.paired_difference(mine, base, unit=planned.unit, average=planned.average)) if mine and base else None,
        best_alone=best,
        counted=mine is not None,
    )


def _estimated(scores: ItemScores, planned: PlannedBenchmark) -> GuideEffect | None:
    found = stats.estimate(scores, planned.unit, average=planned.average)
    if found is None or found.low is None or found.high is None:
        return None
    return GuideEffect(value=found.value, low=found.low, high=found.high)


def _gain_of_mean(arms: Arms, pair: Pair, one: Candidate) -> GuideEffect | None:
    bases = {name: scores for name in one.parts if (scores := arms.results.base(pair[0], name).scores)}
    base = combine(bases, arms.results.study.benchmarks) if len(bases) == len(one.parts) else None
    return _effect(compare(one.arm, base)) if base else None


def _effect(found: Difference | None) -> GuideEffect | None:
    return effect_of(found) if found else None


# --- what is not there, and what cannot be known ---------------------------------------------------------------------


def _missing(study: StudySpec, *, layout: Layout) -> list[tuple[str, str]]:
    """(path, reason) of the study's records that are not there."""
    with layout.missing_csv().open(newline="") as file:
        return [(row["path"], row["reason"]) for row in csv.DictReader(file) if row["study"] == study.name]


def _why_absent(pair: Pair, recipe: str, missing: Sequence[tuple[str, str]], *, layout: Layout) -> str:
    """The reasons for which a recipe has no complete run, with their number of records."""
    folder = f"{(layout.results / layout.run(*pair, recipe, 0)).parent.as_posix()}/"
    reasons = Counter(reason for path, reason in missing if path.startswith(folder))
    told = [f"{number} record{'' if number == 1 else 's'} {reason}" for reason, number in sorted(reasons.items())]
    return ", ".join(told) or "a score of some benchmark has no value"


def _missing_step(study: StudySpec, absent: Mapping[str, str]) -> list[GuideStep]:
    """What a run of the study would make; not what its screen stopped, which is as it should be."""
    lacking = [recipe for recipe, why in absent.items() if "stopped" not in why]
    if not lacking:
        return []
    text = f"Without a complete run, and no candidates, are {len(lacking)} of the study's recipes: {', '.join(lacking)}."
    command = f"snakemake -c all --config studies={study.name}\n"
    return [GuideStep(kind="missing", sentence=f"{text} Make what is missing.", snippet=command, file="a shell")]


def _unknown(
    study: StudySpec,
    choice: Choice,
    levels: Mapping[str, Levels],
    *,
    optimism: float | None,
    absent: Mapping[str, str],
    excluded: Mapping[str, str],
) -> list[str]:
    """What the study cannot tell, as sentences."""
    seeds = sorted({len(one.arm.seeds) for one in choice.tops})
    few = [one.recipe for one in choice.tops if len(one.arm.seeds) == 1]
    lines = []
    if seeds[0] == 1:
        whose = "" if seeds[-1] == 1 else f" of {', '.join(few)}"
        lines.append(f"One seed{whose}: its intervals are over items only, and say nothing about other seeds.")
    elif seeds[-1] < 5:
        lines.append(f"{seeds[-1]} seeds a recipe: how much seeds differ is known roughly, which is why intervals are wide.")
    more = "" if optimism is None else f" Over halves of the items that adds {optimism:.3f} to the mean of the best (cross-fitted)."
    lines.append(
        f"The best of {len(choice.candidates)} checkpoints was chosen on the very items that are reported, so its score is"
        f" optimistic.{more} Peaks, in the comparisons of factors, are optimistic too."
    )
    lines.append("That all benchmarks weigh the same is a choice. The table of benchmarks says which recipe is best by one alone.")
    lines += [f"{name} is not in the mean: {why}." for name, why in excluded.items()]
    if rising := [one.recipe for one in choice.tops if one.last and len(_places(choice, one.recipe)) > 1]:
        lines.append(
            f"{len(rising)} of {len(choice.tops)} recipes are best at their last checkpoint and may have their peak ahead. At equal"
            " samples a large batch has taken fewer steps, so what is seen of batch sizes may turn with a larger budget."
        )
    if fixed := [word(key) for key in WATCHED if len({each[key].key for each in levels.values()}) == 1]:
        lines.append(f"Not varied in this study, and taken as they are: {', '.join(fixed)}.")
    if absent:
        lines.append("No candidates, without a complete run: " + "; ".join(f"{name} ({why})" for name, why in absent.items()) + ".")
    recipe = choice.advised.recipe
    lines += Assumptions(study).notes({recipe: recipe}, list(study.benchmarks))
    if judges := sorted({one.judge for one in study.benchmarks.values() if one.judge}):
        lines.append(f"Ratings are those of one judge or panel: {', '.join(judges)}.")
    return lines


def _places(choice: Choice, recipe: str) -> list[Candidate]:
    return [one for one in choice.candidates if one.recipe == recipe]


# --- pieces ----------------------------------------------------------------------------------------------------------


def _seeds(study: StudySpec) -> list[int]:
    return sorted({stage.seed for stage in study.stages if stage.stage != BASE_STAGE})


def _overlay(study: StudySpec, pair: Pair, one: Candidate, name: str) -> str:
    """The advised recipe for an overlay's `recipes.yaml`."""
    last = ", the last" if one.last else ""
    take = f"take {one.ckpt}{last} of {one.stage}, {one.samples_seen:,.0f} samples seen"
    recipe = written(recipe_values(study, one.recipe))
    return f"# advised by study {study.name} for {pair[0]} on {pair[1]}: {take}\n" + to_yaml({"recipes": {name: recipe}})
