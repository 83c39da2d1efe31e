"""What a study found: the verdicts of its claims, and the advice of its guide. Both are files that other pages read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sftstudy.records import Entry, Versioned

Verdict = Literal["holds", "does not hold", "not enough power"]


class ClaimEffect(Entry):
    """An effect with its 95 % interval; everything is None where it cannot be had, and `note` says why."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


class ClaimCell(Entry):
    """A claim on one benchmark, model and data set, or pooled over all of these (then `model` and `data` are empty)."""

    model: str
    data: str
    benchmark: str
    verdict: Verdict
    effect: ClaimEffect
    margin: float | None = Field(default=None, description="the least effect that matters")
    p_holds: float | None = Field(
        default=None, description="of the test that shows the claim; a claim holds if all of its cells do"
    )
    p_fails: float | None = Field(default=None, description="of the test that refutes it, Holm-corrected: any cell can")
    arms: tuple[str, str] | None = Field(default=None, description="the two recipes that are compared here")
    spent: dict[str, tuple[float, float]] = Field(
        default={}, description="what the runs of either arm had cost at their last checkpoint, mean over seeds"
    )
    num_items: int | None = None
    num_runs: int | None = Field(default=None, description="runs of both arms, recipes that are ranked, or pairs that are pooled")
    needed_seeds: int | None = Field(
        default=None, description="seeds per arm that would settle it with 80 % power, today's items given"
    )
    needed_items: int | None = Field(default=None, description="items that would, today's seeds given")
    needed_both: tuple[int, int] | None = Field(default=None, description="seeds and items that would together")
    needed_recipes: int | None = Field(default=None, description="recipes that would, of a rank correlation")
    needed_pairs: int | None = Field(default=None, description="pairs of model and data that would, of a pooled effect")
    details: dict[str, ClaimEffect] = Field(default={}, description="the same at other budgets, or what goes with it")


class ClaimRecord(Entry):
    """A claim of a study with its verdict: what its cells say together."""

    name: str
    kind: str
    finding: str | None
    statement: str
    verdict: Verdict
    cells: list[ClaimCell]
    pooled: list[ClaimCell] = Field(default=[], description="per benchmark, over two pairs of model and data or more")


class ClaimsRecord(Versioned):
    """All claims of a study (`claims.json`), from its records alone: the same bytes from the same results."""

    study: str
    spec_hash: str
    scores_hash: str = Field(description="SHA-256 of the scores.csv that was read")
    level: float
    claims: list[ClaimRecord]


class GuideEffect(Entry):
    """A number with its 95 % interval. No advice rests on one without."""

    value: float
    low: float
    high: float


class GuideCheckpoint(Entry):
    """A recipe at one of its checkpoints, in the mean over its complete seeds, on the mean of the normalised benchmarks."""

    recipe: str
    stage: str
    ckpt: str
    samples_seen: float
    samples_spent: float
    device_hours: float | None = Field(description="None if a record of the training is missing")
    num_seeds: int
    num_planned_seeds: int
    last: bool = Field(description="the last checkpoint of its runs")
    score: GuideEffect
    behind: GuideEffect | None = Field(description="best checkpoint of all less this one, paired by item; None for the best itself")
    error: float | None = Field(description="standard error of that difference")
    p: float | None = Field(default=None, description="of no difference, Holm-corrected over the recipes")
    tied: bool = Field(description="no difference to the best can be shown; the best itself too")


class GuideCurve(Entry):
    """A recipe's checkpoints in order of samples spent, on the mean of the normalised benchmarks."""

    recipe: str
    samples_spent: list[float]
    scores: list[GuideEffect]


class GuideBenchmark(Entry):
    """The advised checkpoint on one benchmark, as scores are printed, and who does best if only this benchmark counts."""

    benchmark: str
    score: GuideEffect | None
    gain: GuideEffect | None = Field(description="over the untouched model, paired by item; signed so that more is better")
    best_alone: str | None
    counted: bool = Field(description="enters the mean; a benchmark of which less is better has no scale for it")


class GuideComparison(Entry):
    """Two recipes that differ in one factor, or a table's arms that differ in several, on one benchmark."""

    first: str
    second: str
    first_level: str
    second_level: str
    benchmark: str
    effect: GuideEffect = Field(description="first less second at their peaks, paired by item; signed so that more is better")
    p: float = Field(description="Holm-corrected over all comparisons of this factor")
    margin: float | None = Field(description="the least difference that matters, where a claim of the study states one")
    beside: dict[str, GuideEffect] = Field(description="the same at other checkpoints")
    sentence: str


class GuidePaper(Entry):
    """What the paper says on a factor, how that is known, and whether the study agrees."""

    statement: str
    grade: str
    place: str
    numbers: list[str]
    agreement: str


class GuideFactor(Entry):
    """What the study shows of one factor that it varied."""

    factor: str
    comparisons: list[GuideComparison]
    paper: GuidePaper | None


class GuideSetting(Entry):
    """A factor that the paper speaks of in the advised recipe, among the levels that the study tried."""

    factor: str
    advised: str
    tried: list[str]
    preferred: str = Field(description="the one of them that the paper prefers; empty if it has no word for them")
    grade: str


StepKind = Literal["missing", "edge", "search", "longer", "power", "signals"]


class GuideStep(Entry):
    """Something to try next, and what to write into an overlay for it."""

    kind: StepKind
    sentence: str
    snippet: str = Field(description="what to write or to type for it; empty if there is nothing")
    file: str = Field(description="where")
    sweeps: dict[str, dict[str, Any]] = Field(default={}, description="sweeps that the snippet defines")


class GuidePair(Entry):
    """The guide for one base model and data set. Without advice, `why` says what is lacking."""

    model: str
    data: str
    best: GuideCheckpoint | None
    advised: GuideCheckpoint | None
    why: str
    name: str = Field(description="what the overlay calls the recipe")
    overlay: str = Field(description="the advised recipe as YAML for an overlay's recipes.yaml")
    optimism: float | None = Field(description="what choosing the best on the reported items adds to it (cross-fitted)")
    gain: GuideEffect | None = Field(description="of the advised checkpoint over the untouched model, on the mean")
    benchmarks: list[GuideBenchmark]
    recipes: list[GuideCheckpoint] = Field(description="every recipe at its best checkpoint, the highest mean first")
    curves: list[GuideCurve] = Field(description="in the order of `recipes`")
    absent: dict[str, str] = Field(description="recipe without a complete run -> why")
    settings: list[GuideSetting]
    factors: list[GuideFactor]
    steps: list[GuideStep]
    unknown: list[str] = Field(description="what the study cannot tell")


class GuideClaim(Entry):
    """A claim of the study with its verdict."""

    name: str
    statement: str
    verdict: Verdict


class GuideRecord(Versioned):
    """A study's guide (`guide.json`), from its records alone: the same bytes from the same results."""

    study: str
    spec_hash: str
    scores_hash: str = Field(description="SHA-256 of the scores.csv that was read")
    rule: list[str] = Field(description="how the advice is found")
    pairs: list[GuidePair]
    claims: list[GuideClaim]
    next_recipes: str = Field(description="YAML of all sweeps that the steps define, for an overlay's recipes.yaml; perhaps empty")
    next_study: str = Field(description="YAML of a study that runs them beside what is advised; perhaps empty")
    missing: dict[str, int] = Field(description="reason -> records of the study that are not there")
