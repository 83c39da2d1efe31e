"""What the cells of a table rest on, and the numbers that prose quotes from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sftstudy.errors import StudyError
from sftstudy.records import Entry, Versioned, read_content


class MadeBy(Entry):
    """What a record answers to, what went into it, and the programs that made it."""

    spec_hash: str
    content_hash: str
    commit: str
    versions: dict[str, str]


class AskedTask(Entry):
    """How one of a benchmark's tasks was asked and graded."""

    version: str
    items_hash: str
    protocol_hash: str


class AskedBenchmark(Entry):
    """How a benchmark was asked and graded, the same for all cells of a table; empty where no score is known."""

    suite: str
    metric: str
    average: str
    unit: str
    chance: float
    num_fewshot: int | None = None
    items_hash: str = ""
    protocol_hash: str = ""
    task_version: str = ""
    harness: str = ""
    harness_version: str = ""
    judge: str = ""
    tasks: dict[str, AskedTask] = Field({}, description="and groups of them; a benchmark of one task has none")


class SourceCheckpoint(Entry):
    """A checkpoint behind a cell. Paths are below `results/`: its training record, or the base model's; its scores; its items."""

    seed: int
    stage: str
    ckpt: str
    value: float | None = Field(description="of this checkpoint by the benchmark's metric")
    samples_seen: int
    samples_spent: int
    weights_hash: str
    training: str
    scores: str
    items: str
    judged: list[str] = Field(default=[], description="MT-Bench's answers and judgments")


class ScoreCell(Entry):
    """A score of a recipe on a benchmark and what it rests on: the mean over seeds of the checkpoints' values.

    A checkpoint's value is the benchmark's average of its items of that `metric`. Normalised ones are those of the benchmark's own
    metric on the leaderboard's scale and have no interval.
    """

    kind: Literal["score"] = "score"
    model: str
    data: str
    recipe: str
    arm: str
    benchmark: str
    measure: str = Field(description="`peak`, `last`, either `normalised`, or `base`")
    metric: str
    value: float | None
    low: float | None
    high: float | None
    num_items: int | None
    seeds: list[int]
    planned_seeds: list[int]
    samples_seen: float | None
    samples_low: float | None = Field(None, description="of an interval over items and seeds")
    samples_high: float | None = None
    samples_spent: float | None
    optimism: float | None = Field(None, description="what choosing the peak on the reported items adds to it, cross-fitted")
    optimism_low: float | None = None
    optimism_high: float | None = None
    best: bool = False
    p_against_best: float | None = None
    status: str = Field("", description="why seeds are absent, such as `stopped at rung 0.1`; `raced`")
    checkpoints: list[SourceCheckpoint]
    missing: dict[str, str] = Field({}, description="record below `results/` -> what is wrong with it")
    assumed: dict[str, list[str]] = Field({}, description="model, data, ... -> values that the paper does not state")


class DifferenceCell(Entry):
    """First less second, paired by items; `cells` are their keys."""

    kind: Literal["difference"] = "difference"
    cells: tuple[str, str]
    value: float
    low: float
    high: float
    p: float
    num_items: int


class PrintedCell(Entry):
    """A number that the paper prints."""

    kind: Literal["printed"] = "printed"
    place: str
    grade: Literal["A", "B", "C", "D", "M"]
    row: str
    numbers: dict[str, float] = Field(description="quantity -> value")


class ValueOfRun(Entry):
    """A value that runs have; `source` is where it comes from, empty for users' own."""

    subject: str
    name: str
    part: str
    key: str
    value: Any
    source: str


class SettingCell(Entry):
    """Values that runs have, one for each name that has it."""

    kind: Literal["setting"] = "setting"
    values: list[ValueOfRun]


PedigreeCell = Annotated[ScoreCell | DifferenceCell | PrintedCell | SettingCell, Field(discriminator="kind")]


class PedigreeRecord(Versioned):
    """What a table's cells rest on (`tables/{table}.pedigree.json`), from its records alone; the keys are those of its CSV."""

    study: str
    table: str
    cells: dict[str, PedigreeCell]
    benchmarks: dict[str, AskedBenchmark] = {}
    records: dict[str, MadeBy] = Field(description="record below `results/` that a cell rests on -> what made it")


class Number(Entry):
    """A number for prose, as tables print it in `text`, and whole."""

    pedigree: str = Field(description="file, `#`, key of the cell")
    text: dict[str, str] = Field(description="quantity -> as printed: value, interval, samples, ...")
    value: float | None
    low: float | None
    high: float | None


class NumbersRecord(Versioned):
    """All numbers of a study's tables by `table/cell` (`numbers/numbers.json`)."""

    study: str
    numbers: dict[str, Number]


def made_by(path: Path) -> MadeBy:
    """What a record of any kind answers to, and the programs that made it. Raises StudyError if it is missing or broken."""
    try:
        content = read_content(path)
        return MadeBy(**{name: content[name] for name in MadeBy.model_fields})
    except (StudyError, KeyError, ValueError):
        raise StudyError(
            f"{path}: missing or broken since the scores were collected; collect them again, and missing.csv says so: "
            "`python workflow/scripts/collect_scores.py STUDY_SPEC...`"
        ) from None
