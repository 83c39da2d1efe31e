"""Typed JSON records of finished work: atomic write, strict read. The only module that reads or writes them.

Every record carries the spec hash that it answers to, the content hash of the bytes that went in, and the versions that made it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sftstudy import __version__
from sftstudy.errors import StudyError

SCHEMA_VERSION = 1


class Entry(BaseModel):
    """Base of everything that stands in a record: immutable, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True, ser_json_inf_nan="constants")


class Versioned(Entry):
    """Base of every file of ours that is read again: of records, and of what is computed from them."""

    schema_version: int = SCHEMA_VERSION


class Record(Versioned):
    """Base of all records of finished work."""

    spec_hash: str
    content_hash: str = Field(description="hash of the bytes that went in: data, weights, parents' records")
    commit: str = Field(description="git commit of the programs, `+` if the tree was edited, `unknown` outside git")
    versions: dict[str, str] = Field(description="library -> version")


class FileEntry(Entry):
    """A file that a record vouches for."""

    num_rows: int
    sha256: str


class WorldRecord(Record):
    """A generated world: file name -> rows and hash."""

    files: dict[str, FileEntry]


class ModelRecord(Record):
    """A base model as a local Hugging Face folder under scratch."""

    num_parameters: int
    weights_hash: str
    tokenizer_hash: str = Field(description="tokenizer files and chat template")
    chat_template: str
    pretraining: dict[str, float] = Field({}, description="final losses and probes of a scratch model")


class DataRecord(Record):
    """A data set whose rows can all be read (`validation.json`): phase -> chats."""

    num_chats: dict[str, int]


class OverlapExample(Entry):
    """A training row and a benchmark item that share words. Both are named by file and row; items are numbered from 0."""

    row: str
    item: str
    item_number: int
    words: str = Field(description="the longest stretch that both have, normalised and cut off after 40 words")


class BenchmarkOverlap(Entry):
    """What a phase shares with a benchmark. `unread` is why the items could not be had: then nothing is known."""

    num_items: int
    items_hit: int
    rows_hit: int
    examples: list[OverlapExample] = Field(description="the longest, of different items")
    unread: str | None = None


class PhaseOverlap(Entry):
    """What a phase shares with each planned benchmark."""

    num_rows: int
    benchmarks: dict[str, BenchmarkOverlap]


class OverlapRecord(Record):
    """Runs of words that a data set's phases share with the planned benchmarks' items (`overlap.json`)."""

    num_words: int = Field(description="length of a run")
    min_words: int = Field(description="a shorter text of an item counts as one run if it has as many different words as this")
    phases: dict[str, PhaseOverlap]


class LengthHistogram(Entry):
    """Tokens per sample: `counts[i]` samples have at least `edges[i]` and fewer than `edges[i + 1]`."""

    edges: list[int]
    counts: list[int]


class RoleTokens(Entry):
    """What the turns of one role hold, over all samples of a phase."""

    num_turns: int
    num_tokens: int
    num_supervised_tokens: int


class MaskReport(Entry):
    """What became of a phase's chats: num_samples = num_read - dropped + repeated."""

    num_read: int = Field(description="chats read, of which a row may hold several")
    num_samples: int
    dropped: dict[str, int] = Field(description="reason -> chats")
    repeated: int = Field(description="samples that weights above 1 added")
    truncated: int = Field(description="samples that were cut at `max_length`")
    exact_duplicates: int = Field(description="chats equal to an earlier one, dropped or not")
    data_hash: str = Field(description="hash of the tokenised rows")
    num_tokens: int
    num_supervised_tokens: int
    tokens_per_sample: dict[str, float] = Field(description="min, median, mean, p95, max")
    length_histogram: LengthHistogram
    role_tokens: dict[str, RoleTokens] = Field(
        description="role -> its turns with their framing; roles that do not occur are absent"
    )
    supervised_per_turn: float
    eos_supervised_share: float = Field(description="assistant turns whose closing token is trained on")
    bos_per_sample: float


class PhaseRecord(Record, MaskReport):
    """A prepared phase, and its mask report."""

    rows_key: str = Field(description="name under which the tokenised rows are filed")
    chat_template: str


class PhaseCounts(Entry):
    """What of a phase entered a mixture, and what its preparation had dropped."""

    num_read: int
    dropped: dict[str, int]
    truncated: int
    num_taken: int
    num_supervised_tokens: int


class MixtureRecord(Record):
    """A stage's mixture (`data.json`)."""

    num_samples: int
    phases: dict[str, PhaseCounts]
    rows_hash: str = Field(description="hash of the (phase, row) list")
    num_tokens: int
    num_supervised_tokens: int


class CheckpointEntry(Entry):
    """A saved checkpoint. Samples and tokens count from the base model on.

    `samples_spent` adds what was trained beyond the selected checkpoints of earlier stages.
    """

    ckpt: str
    step: int
    samples_seen: int
    samples_spent: int
    supervised_tokens_seen: int
    weights_hash: str


FINISHED = "finished"
STATUS = rf"^({FINISHED}|(stopped )?at rung 0\.\d{{1,3}})$"


class TrainingRecord(Record):
    """A training stage (`training.json`) that is finished, or as it was at a rung. `metrics.jsonl` beside it has a line per step.

    A stage that a screen stopped has the record of its rung, with the status `stopped at rung 0.1`. So have those behind it, with
    no steps and no checkpoints.
    """

    status: str = Field(FINISHED, pattern=STATUS)
    num_steps: int
    samples_seen: int
    samples_spent: int
    checkpoints: list[CheckpointEntry]
    loss_normalisation: str
    precision: str
    attention: str
    packed: bool
    sharding: str
    optimizer: str
    device: str
    num_processes: int
    num_nodes: int = Field(1, description="over which the processes are spread")
    num_threads: int
    num_attempts: int
    time_s: float
    tokens_per_s: float = Field(description="median over steps")
    peak_memory_gb: float


class StepMetrics(Entry):
    """One line of `metrics.jsonl`: an optimizer step, with the learning rate that it used and the gradient norm before clipping."""

    step: int
    samples_seen: int
    loss: float
    grad_norm: float
    learning_rate: float
    num_supervised_tokens: int
    num_tokens: int
    time_s: float
    tokens_per_s: float
    mfu: float | None = Field(None, description="model FLOPs over the peak of the devices, where that is known")
    peak_memory_gb: float = Field(0.0, description="of the first process, since it started")


class Score(Entry):
    """One number: a checkpoint on a task (or on a whole benchmark: task equals the benchmark's name)."""

    ckpt: str
    samples_seen: int
    samples_spent: int
    weights_hash: str
    benchmark: str
    task: str
    task_version: str
    metric: str
    value: float | None = Field(description="None if too many verdicts failed")
    stderr: float | None
    lowest: float | None = Field(default=None, description="value if all that failed had been worst")
    highest: float | None = Field(default=None, description="value if all that failed had been best")
    spread: float | None = Field(default=None, description="standard deviation between judgings, where answers are judged again")
    disagreement: float | None = Field(default=None, description="mean distance of two judges on an item, for a panel")
    num_items: int
    num_fewshot: int
    higher_is_better: bool = True
    harness: str
    harness_version: str
    judge: str | None = None
    failure_share: float = 0.0
    items_hash: str
    protocol_hash: str = Field(description="what was asked and how it was graded, as text without the model's own chat template")
    first_tokens: list[int] = Field(description="first 8 token ids of the task's first prompt")
    dropped_after: int | None = Field(
        default=None,
        exclude_if=lambda number: number is None,
        description="items after which a race dropped the checkpoint, which then has no value",
    )


PROTOCOL = ("items_hash", "protocol_hash", "task_version", "harness", "harness_version", "judge")
"""Fields in which two scores on a task must be equal if they are to be compared."""


class Judging(Entry):
    """What one judge did with the answers of one checkpoint. Tokens and cost are of all its verdicts, by whichever job."""

    ckpt: str
    judge: str
    num_judgings: int
    verdicts: dict[str, int] = Field(description="ok, unparsable, refused, server_error -> how many")
    value: float | None = Field(description="mean of this judge's verdicts")
    spread: float | None = Field(description="standard deviation between its judgings")
    prompt_tokens: int
    completion_tokens: int
    cost: float = Field(description="in the currency of the prices in config")


class TaskEntry(Entry):
    """A task of lm-eval's as it was found. `task_hash` covers its definition and the examples that shots are taken from."""

    version: str
    data_set: str
    num_items: int
    items_hash: str
    chosen: list[int] | None = Field(description="numbers of the items that are scored, ascending; all if None")
    chosen_hash: str = Field(description="hash of the items that are scored")
    num_fewshot: int
    fixed_shots: bool = Field(description="an item's shots do not depend on which items are scored before it")
    task_hash: str


class BenchmarkEntry(Entry):
    """A benchmark's tasks, and number and hash of all their items: what `num_items` and `items_hash` in config pin."""

    num_items: int
    items_hash: str
    tasks: dict[str, TaskEntry]


class SuiteRecord(Record):
    """A suite whose tasks were all loaded and checked (`suite.json`)."""

    benchmarks: dict[str, BenchmarkEntry]


SCORED = "scored"


class ScoreRecord(Record):
    """Scores of one suite on one block of a stage's checkpoints. Items are in the Parquet file of the same name.

    A stage that was stopped has no scores; `status` says where.

    Parquet columns, a row per item and metric: ckpt, benchmark, task, metric, item (id within the task), item_hash, value (0/1, or
    the judge's rating, null if the verdict failed), weight (1, or the number of instructions that the value is a mean of),
    prediction (the chosen option, or the reply as the filter left it), log_likelihoods (of the options).
    """

    model: str
    data: str
    recipe: str
    seed: int
    stage: str
    suite: str
    part: str
    status: str = SCORED
    scores: list[Score]
    judging: list[Judging] = []
    files: dict[str, str] = Field({}, description="what MT-Bench read, such as `references` -> SHA-256")


class Ratings(Entry):
    """Mean of the verdicts that gave a rating, its error over questions, and its bounds if all others had been 1, or 10."""

    mean: float | None = Field(description="None if no verdict gave a rating")
    stderr: float | None
    num_judged: int = Field(description="verdicts, each counted once")
    num_unparsable: int = Field(description="those without a rating")
    lowest: float
    highest: float


class ShownByFastChat(Entry):
    """What FastChat's show_result prints for a file: all lines, repeated ones too, by the stored score, -1 left out."""

    mean: float | None
    turns: dict[str, float | None]


class ModelJudgments(Entry):
    """One model in a file of FastChat's single judgments. Of lines with one question, turn, judge and prompt the first counts."""

    overall: Ratings
    turns: dict[str, Ratings]
    categories: dict[str, Ratings]
    num_lines: int
    num_duplicates: int = Field(description="lines equal to the one that counts")
    num_repeats: int = Field(description="lines that judge the same again, with another verdict")
    num_off_scale: int = Field(description="ratings below 1 or above 10; they enter the means, as in FastChat")
    num_scores_corrected: int = Field(description="lines whose stored score is not what their text says")
    fastchat: ShownByFastChat


class JudgmentsRecord(Record):
    """What a file of FastChat's single judgments says about each model."""

    judges: list[str]
    models: dict[str, ModelJudgments]


class LeaderboardScore(Entry):
    """A task of the Open LLM Leaderboard: raw from 0 to 1, normalised from 0 to 100, as it prints them."""

    raw: float | None = Field(description="None if only its sub-tasks were given")
    lower_bound: float | None = Field(description="score of guessing; None where each sub-task has its own")
    normalised: float
    subtasks: dict[str, LeaderboardScore]


class LeaderboardRecord(Record):
    """Raw scores on the leaderboard's scale. There is an average if all tasks are there."""

    tasks: dict[str, LeaderboardScore]
    average: float | None
    missing: list[str]


class RacedCheckpoint(Entry):
    """A checkpoint in a race. `value`: its score, if it was scored on all items."""

    ckpt: str
    samples_seen: int
    weights_hash: str
    num_items: int = Field(description="items that it was scored on")
    dropped: bool = Field(description="shown to score lower on all items than another one")
    value: float | None
    shards: list[str] = Field(description="names under which its answers are filed")


class RaceRecord(Record):
    """A race of a stage's checkpoints for the best score on one benchmark (`race.json`), in order of samples.

    `race.parquet` has the items that each was scored on, in the columns of a score record. Their order is that of
    `race.random_order` of `{task}<tab>{item}` for all `num_items`, by `seed`.
    """

    status: str = Field("raced", description="or `stopped at rung 0.1`: then there was no race")
    suite: str
    benchmark: str
    metric: str
    higher_is_better: bool = True
    error_rate: float
    seed: int
    looks: list[int] = Field(description="numbers of items after which checkpoints could be dropped")
    num_items: int = Field(description="of the benchmark")
    checkpoints: list[RacedCheckpoint]
    ckpt: str = Field(description="the winner")
    saved: float = Field(description="share of all scorings, a checkpoint on an item, that were not needed")


class SelectionRecord(Record):
    """The checkpoint of a stage that the next stage starts from. Ties go to the fewest samples, then to the name."""

    status: str = Field("selected", description="or `stopped at rung 0.1`: then nothing was chosen, and nothing starts from it")
    ckpt: str
    samples_seen: int
    weights_hash: str
    benchmark: str = Field(description="or the weighted sum of several")
    rule: str
    candidates: dict[str, float] = Field(description="what was chosen by, more is better; under `holdout` on one half of the items")
    race: float | None = Field(
        None,
        exclude_if=lambda rate: rate is None,
        description="error rate of the race that chose; then only those have a value that were scored on all items",
    )
    errors: dict[str, float] = Field({}, description="standard errors of the differences to the best, under `earliest`")
    held_out: dict[str, float] = Field({}, description="as `candidates` on the other half of the items, under `holdout`")
    optimism: float | None = Field(None, description="what choosing on the reported half would have added, cross-fitted")


class Mean(Entry):
    """A mean with its 95 % interval, which a single item or cluster does not have."""

    value: float
    low: float | None
    high: float | None


class CheckpointScores(Entry):
    """A checkpoint's scores from per-item results: over items, over tasks, and of each task."""

    ckpt: str
    samples: float = Field(description="as the file says, else the place in the order of names")
    num_items: int
    micro: Mean
    macro: Mean
    tasks: dict[str, float]


class PairedVerdict(Entry):
    """The best checkpoint against the last one on the same items, in the average that it was chosen by."""

    best: str
    last: str
    difference: float
    low: float | None = Field(description="None if the best is the last, or on a single item or cluster")
    high: float | None
    p: float = Field(description="two-sided: paired t-test, never below the exact test of the items that differ")
    only_best: int = Field(description="items on which the best did better")
    only_last: int
    mcnemar_p: float | None = Field(description="exact, of items that are right or wrong; it knows nothing of clusters and tasks")
    distinguishable: bool = Field(description="p is at most 0.05")
    p_after_choice: float = Field(
        description="p times the number of other checkpoints: the best was chosen among them (Bonferroni)"
    )
    distinguishable_after_choice: bool


class Racing(Entry):
    """What racing would have done on these results: the checkpoint that it chooses, and what it need not score."""

    ckpt: str
    full_choice: str = Field(description="the best on all items")
    same_choice: bool
    error_rate: float = Field(description="bound on the probability that it drops the full choice")
    num_items: dict[str, int] = Field(description="checkpoint -> items scored")
    saved: float = Field(description="share of all scorings that was not needed")


class ItemSelectionRecord(Record):
    """A checkpoint chosen from per-item results that were made elsewhere."""

    file: str
    rule: str
    average: str
    cluster: str | None
    tasks: dict[str, int] = Field(description="task -> items")
    scores: list[CheckpointScores] = Field(description="in order of samples")
    ckpt: str
    best_against_last: PairedVerdict
    errors_to_best: dict[str, float] = Field(description="standard error of the paired difference to the best")
    optimism: float | None = Field(description="what choosing on half the items adds to the best's score on them, cross-fitted")
    racing: Racing


class Ruling(Entry):
    """What a study's rule says of a run at a rung. `place`: among the `num_rivals` of its group, the seeds of a recipe as one."""

    call: Literal["go", "stop", "audit", "out"] = Field(description="`audit`: stopped, and trained on; `out`: stopped before")
    competitor: str
    group: list[str]
    place: int | None = None
    num_rivals: int | None = None
    grad_norm: float | None = None
    loss: float | None = None


class DecisionRecord(Record):
    """A study's decision at a rung (`studies/{study}/screens/{rung}.json`): stage folder of a run, without the root -> ruling."""

    study: str
    rung: str
    rulings: dict[str, Ruling]


GO = "go"


class ScreenRecord(Record):
    """Whether a stage goes on beyond a rung (`screen.json`). It does if anybody keeps it."""

    status: str = Field(description="`go`, or `stopped at rung 0.1`")
    kept_by: list[str] = Field(description="studies that keep it")


class RetentionRecord(Record):
    """Which weights of a scored stage stay (`retention.json`), and which were removed because nobody will ask for them."""

    kept: list[str]
    removed: list[str]
    bytes_freed: int = Field(description="what the removed ones took on this disk; 0 where they never were")


Outcome = Literal["finished", "stopped", "out of time", "failed"]


class AttemptRecord(Entry):
    """One start of a program that may hold GPUs (`attempts/{rule}/.../{attempt}.json`), rewritten by itself while it runs.

    Work is cut into units: steps, blocks of items, questions, replies. A unit counts when it is done, and is safe once a later
    attempt need not do it again. Seconds of the process, not yet times its devices.
    """

    schema_version: int = SCHEMA_VERSION
    rule: str
    job: dict[str, str] = Field(description="the job's wildcards")
    spec_hash: str = Field(description="of what it makes")
    started: float = Field(description="seconds since 1970")
    elapsed_s: float = Field(description="until it ended, or was last seen")
    outcome: Outcome | None = Field(default=None, description="None while it runs, and of one that was killed")
    num_gpus: int = Field(description="given to it, on all nodes")
    device: str = Field(
        "", description="what its first GPU calls itself, as the driver says; empty without one, or if it does not say"
    )
    num_processes: int = Field(description="that compute, on all nodes")
    units_before: int = Field(default=0, description="that earlier attempts had left safe")
    units: int = 0
    work_s: float = Field(default=0.0, description="spent on its units")
    safe_units: int = 0
    safe_work_s: float = Field(default=0.0, description="spent on those that are safe")
    safe_after_s: float = Field(default=0.0, description="from the start until units were last made safe")
    host: str
    process: int
    slurm_job: str | None = None


R = TypeVar("R", bound=Versioned)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary name in the same folder, fsync, rename."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_text`, for bytes. An OSError names the file, and not what it was called meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write_and_rename(path, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_and_rename(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_record(path: Path, record: Entry) -> None:
    """Write a record as indented JSON, atomically."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


DIGITS = 6
"""Significant digits of computed effects in a record: the last ones depend on the machine."""


def rounded(value: Any) -> Any:
    """A record's content with its numbers to as many digits as it is sure of."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record strictly. Raises StudyError that names the file if it is missing, broken or of another schema version."""
    try:
        record = kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise StudyError(f"{path}: missing; build it with `snakemake -c1 {path}`") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise StudyError(f"{path}: {place}: {first['msg']}; delete the file and build it again") from None
    if record.schema_version != SCHEMA_VERSION:
        raise StudyError(f"{path}: schema version {record.schema_version}, this program reads {SCHEMA_VERSION}; build it again")
    return record


def read_content(path: Path) -> dict[str, Any]:
    """A record of any kind as it stands there. Raises StudyError if it is missing or broken."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StudyError(f"{path}: missing; build it with `snakemake -c1 {path}`") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: not a record; delete the file and build it again")
    return content


def stopped_status(path: Path) -> str | None:
    """The status of a record of a stage that was stopped, such as `stopped at rung 0.1`; None of any other record.

    Raises StudyError if it is missing or broken.
    """
    status = str(read_content(path).get("status", ""))
    return status if status.startswith("stopped") else None


def read_metrics(path: Path) -> list[StepMetrics]:
    """All steps of a finished stage in order. Raises StudyError that names file and line if it is missing or broken."""
    steps: list[StepMetrics] = []
    try:
        for line in path.read_bytes().splitlines():
            steps.append(StepMetrics.model_validate(json.loads(line)))
    except FileNotFoundError:
        raise StudyError(f"{path}: missing; build it with `snakemake -c1 {path}`") from None
    except ValueError:  # of JSON, of UTF-8 or of what a step holds
        raise StudyError(f"{path}: line {len(steps) + 1} is no step; delete the file and build it again") from None
    return steps


def provenance(*libraries: str) -> dict[str, Any]:
    """The `commit` and `versions` of a record made now by this process."""
    # the package may come from a checkout, uninstalled, as in Snakemake's own environments
    return {"commit": _commit(), "versions": {"sftstudy": __version__} | {name: _version(name) for name in libraries}}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "missing"


@cache
def _commit() -> str:
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed.stdout.strip() else "")
