"""The resolved inputs of a job: what `spec.yaml` holds, its canonical form and its hash.

A spec is complete: a program that has it needs nothing of `config/`. Specs are built by `plan` and written by the rule
`write_spec`; paths inside are absolute or relative to the working directory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from sftstudy import config
from sftstudy.config import PATH_KEYS, Strict
from sftstudy.errors import StudyError
from sftstudy.semantics import SEMANTICS


class WorldSpec(Strict):
    """Input of `generate_world`."""

    kind: Literal["world"] = "world"
    name: str
    world: config.World


class ModelSpec(Strict):
    """Input of `fetch_model` or `pretrain_model`. `world_hash` is the world's spec hash, for a scratch model."""

    kind: Literal["model"] = "model"
    name: str
    model: config.Model
    world_hash: str | None = None


class DataSpec(Strict):
    """Input of `validate_data`: all phases of a data set."""

    kind: Literal["data"] = "data"
    name: str
    phases: dict[str, config.Phase]
    world_hashes: dict[str, str] = {}


class ItemPlaces(Strict):
    """Where a benchmark's items lie, and a folder that mirrors the hub. Lists of item numbers are by task: all items count here."""

    incidental = frozenset({"mirror"})

    uses: list[config.Location]
    mirror: str | None = None
    question_ids: list[int] | None = None


class OverlapSpec(Strict):
    """Input of `check_overlap`: all phases of a data set, and the benchmarks that score what is trained on it."""

    kind: Literal["overlap"] = "overlap"
    data: str
    phases: dict[str, config.Phase]
    benchmarks: dict[str, ItemPlaces]
    world_hashes: dict[str, str] = {}


class PhaseSpec(config.Cleaning):
    """Input of `prepare_phase`: one phase of the data, cleaned and tokenised for one model."""

    kind: Literal["phase"] = "phase"
    model: str
    data: str
    phase: str
    definition: config.Phase
    overlap: dict[str, ItemPlaces] = Field({}, description="benchmark -> its items, for those in `drop_overlap_with`")
    model_hash: str
    world_hashes: dict[str, str] = {}
    libraries: dict[str, str] = Field(description="major versions of the libraries that tokenise")


class MixPart(Strict):
    """How many rows of a prepared phase enter a stage's mixture: all `available` of them, or a replayed sample."""

    phase: str
    spec_hash: str
    num_samples: int
    available: int


class Place(Strict):
    """A checkpoint's place in its stage: the first step at which the stage has seen `threshold` samples."""

    ckpt: str
    step: int
    num_samples: int


class Parent(Strict):
    """The stage, perhaps another recipe's, that a stage continues from; its `selection.json` names the checkpoint.

    A first stage has no parent. `recipe` says where the parent lies; which one it is stands in `spec_hash`.
    """

    incidental = frozenset({"recipe"})

    recipe: str
    stage: str
    spec_hash: str
    selection: config.Selection
    selection_hash: str


class StageSpec(Strict):
    """Input of `mix_stage`, `train_stage` and of everything that scores or selects the stage's checkpoints.

    `steps` and `checkpoints` are known when the DAG is built: step k takes samples [kB, (k+1)B) of the endless shuffled stream of
    the mixture; a remainder smaller than a batch is dropped. An untouched base has no mixture, no training and one place, ckpt00.
    """

    kind: Literal["stage"] = "stage"
    model: str
    data: str
    recipe: str
    seed: int
    stage: str
    model_hash: str
    mixture: list[MixPart] = []
    parent: Parent | None = None
    training: config.Training | None = None
    num_steps: int = 0
    checkpoints: list[Place]

    @property
    def num_samples(self) -> int:
        """Rows of the mixture, that is samples in one epoch."""
        return sum(part.num_samples for part in self.mixture)


class SuiteSpec(Strict):
    """Input of the scoring rules: one suite of benchmarks, with the spec hashes of the worlds and judges' models that it reads.

    `definitions` has the SHA-256 of files that define the suite beside the config: own lm-eval task files, item lists, and what it
    reads from the shipped config folder. An edited one makes another suite.
    """

    kind: Literal["suite"] = "suite"
    name: str
    suite: config.Suite
    world_hashes: dict[str, str] = {}
    model_hashes: dict[str, str] = {}
    definitions: dict[str, str] = {}

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks that the suite scores."""
        return list(self.suite.benchmarks) if isinstance(self.suite, config.HarnessSuite) else [self.name]


class ScreenedStage(Strict):
    """A run's first own stage, as a screen sees it."""

    model: str
    data: str
    recipe: str
    seed: int
    stage: str
    spec_hash: str
    num_steps: int
    group: list[str] = Field(description="only those with equal groups compete")


class ScreenSpec(Strict):
    """Input of `decide_screen`: a study's screen and the stages that it looks at."""

    kind: Literal["screen"] = "screen"
    study: str
    screen: config.Screen
    stages: list[ScreenedStage]


class PlannedStage(Strict):
    """A stage as a study's tables see it: where its records lie and which spec they must answer to."""

    model: str
    data: str
    recipe: str
    seed: int
    stage: str
    spec_hash: str
    last: bool
    num_steps: int = 0
    factors: dict[str, Any] = Field(description="the recipe's training keys, for tables by factor")
    scores: dict[str, dict[str, str]] = Field(description="suite -> part -> expected spec hash of the score record")


class PlannedBenchmark(config.Averages):
    """A benchmark as a table sees it. Intervals follow its average."""

    suite: str
    chance: float
    unit: Literal["fraction", "rating"] = Field(description="fractions print as 0.57, ratings on the judge's 1-10 scale")
    judge: str | None = None
    clustered: bool = Field(default=False, description="items named alike up to the last dot, turns of a question, hang together")
    metric: str = Field(default="rating")


class PlannedScreen(config.Screen):
    """A study's screen as its audit sees it: with the spec hashes that its decisions must answer to."""

    decisions: dict[str, str] = Field(description="rung -> expected spec hash of the decision record")


class Setting(Strict):
    """A value that a study's numbers rest on. `part` is a phase of the data or of a recipe; `origin` is absent for users' own."""

    subject: Literal["study", "model", "data", "recipe", "benchmark"]
    name: str
    part: str = ""
    key: str
    value: Any
    origin: config.Origin | None = None


class PaperAdvice(config.Advice):
    """What the paper says of a factor, with the numbers that go with it."""

    numbers: list[config.Quoted] = []


class StudySpec(Strict):
    """Input of the tables: everything that a study's tables and figures need besides the records."""

    incidental = frozenset({"advice"})

    kind: Literal["study"] = "study"
    name: str
    question: str
    stages: list[PlannedStage]
    benchmarks: dict[str, PlannedBenchmark]
    sweeps: dict[str, list[str]]
    tables: dict[str, config.Table]
    figures: dict[str, config.Figure]
    screen: PlannedScreen | None = None
    replay: config.Replay | None = None
    settings: list[Setting] = Field([], description="every value of every run")
    published: dict[str, config.PublishedTable] = Field({}, description="tables of the paper that the study's tables show")
    quoted: dict[str, config.Quoted] = {}
    claims: dict[str, config.Claim] = {}
    advice: dict[str, PaperAdvice] = Field({}, description="what the paper says, for the guide")


Spec = Annotated[
    WorldSpec | ModelSpec | DataSpec | OverlapSpec | PhaseSpec | StageSpec | SuiteSpec | ScreenSpec | StudySpec,
    Field(discriminator="kind"),
]
_ADAPTER: TypeAdapter[Spec] = TypeAdapter(Spec)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values have equal text. Order of phases matters, so mixtures are lists."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def programs(spec: Spec) -> tuple[str, ...]:
    """The programs that work on a spec, in the order in which their outputs hang on each other."""
    if isinstance(spec, ModelSpec):
        return ("pretrain_model",) if isinstance(spec.model, config.ScratchModel) else ("fetch_model",)
    if isinstance(spec, SuiteSpec):
        return (
            ("fetch_suite", "score_harness")
            if isinstance(spec.suite, config.HarnessSuite)
            else ("answer_mt_bench", "judge_mt_bench")
        )
    return {
        "world": ("generate_world",),
        "data": ("validate_data",),
        "overlap": ("check_overlap",),
        "phase": ("prepare_phase",),
        "stage": ("mix_stage", "train_stage") if isinstance(spec, StageSpec) and spec.training else (),
        "screen": ("decide_screen",),
        "study": (),
    }[spec.kind]


def spec_hash(spec: Spec, program: str | None = None) -> str:
    """Identity, known when the DAG is built, of what `program` makes from a spec; by default the last program that works on it.

    The semantics numbers of the spec's programs up to this one enter the hash; they stand in the code, not in `spec.yaml`.
    """
    chain = programs(spec)
    chain = chain[: chain.index(program) + 1] if program else chain
    return digest({"spec": identity(spec), "semantics": {name: SEMANTICS[name] for name in chain}})


def identity(value: Any) -> Any:
    """What of a spec can change a number: incidental keys left out, and paths as the user wrote them, relative to their folder."""
    if isinstance(value, Strict):
        fields = {name: (field, getattr(value, name)) for name, field in type(value).model_fields.items()}
        kept = {
            name: found
            for name, (field, found) in fields.items()
            if name not in value.incidental and not field.exclude and not (field.exclude_if and field.exclude_if(found))
        }
        return {name: _written(found) if name in PATH_KEYS else identity(found) for name, found in kept.items()}
    if isinstance(value, dict):
        return {key: identity(item) for key, item in value.items()}
    if isinstance(value, list):
        return [identity(item) for item in value]
    return value


def _written(path: str | None) -> str | None:
    return path and path.rpartition("//")[2]


def benchmark_hash(suite: SuiteSpec, benchmark: str) -> str:
    """Identity of what determines one benchmark's numbers: its own definition and what the suite's benchmarks share."""
    whole = identity(suite)
    if isinstance(suite.suite, config.HarnessSuite):
        whole["suite"]["benchmarks"] = {benchmark: identity(suite.suite.benchmarks[benchmark])}
    return digest({"suite": whole, "semantics": {name: SEMANTICS[name] for name in programs(suite)}})


def planned_benchmark(name: str, suite: config.Suite, benchmark: str) -> PlannedBenchmark:
    """A benchmark of the suite `name` as tables and selections see it."""
    if isinstance(suite, config.HarnessSuite):
        harness = suite.benchmarks[benchmark]
        shared = {key: getattr(harness, key) for key in config.Averages.model_fields} | {"chance": harness.chance}
        return PlannedBenchmark.model_validate(shared | {"suite": name, "unit": "fraction"})
    chance, unit = (0.5, "fraction") if suite.against else (1.0, "rating")
    judged = {"suite": name, "chance": chance, "unit": unit, "judge": suite.judge, "clustered": True, "metric": "rating"}
    return PlannedBenchmark.model_validate(judged)


def selection_hash(stage_hash: str, suites: Sequence[SuiteSpec], selection: config.Selection) -> str:
    """Spec hash of a selection record: the rule, and the benchmarks that it reads; their chance level if it normalises by it."""
    found = {benchmark: suite for suite in suites for benchmark in suite.benchmarks if benchmark in selection.benchmarks}
    parts = {
        "stage": stage_hash,
        "benchmarks": {benchmark: benchmark_hash(suite, benchmark) for benchmark, suite in found.items()},
        "chance": {
            name: planned_benchmark(suite.name, suite.suite, name).chance for name, suite in found.items() if selection.weights
        },
        "selection": identity(selection),
    }
    if selection.race:
        parts["race"] = race_hash(stage_hash, found[str(selection.benchmark)], selection)
    return digest(parts | {"semantics": SEMANTICS["select_checkpoint"]})


def stage_names(stage: StageSpec) -> dict[str, str]:
    """The names that identify a stage, in the order in which Snakemake has them as wildcards."""
    return {"model": stage.model, "data": stage.data, "recipe": stage.recipe, "seed": str(stage.seed), "stage": stage.stage}


def race_hash(stage_hash: str, suite: SuiteSpec, selection: config.Selection) -> str:
    """Spec hash of a race's record: its rules, and the benchmark that it is about."""
    parts = {"stage": stage_hash, "benchmark": benchmark_hash(suite, str(selection.benchmark)), "selection": identity(selection)}
    return digest(parts | {"semantics": SEMANTICS["race_checkpoints"]})


def score_hash(stage_hash: str, suite_hash: str, checkpoints: list[str], *, race: str | None = None) -> str:
    """Spec hash of a score record: one suite on one block of a stage's checkpoints, and the race that dropped some of them."""
    parts = {"stage": stage_hash, "suite": suite_hash, "checkpoints": checkpoints}
    return digest(parts | ({"race": race} if race else {}))


def decision_hash(screen: ScreenSpec, rung: str) -> str:
    """Spec hash of a study's decision at a rung."""
    return digest({"screen": spec_hash(screen), "rung": rung})


def screen_hash(stage_hash: str, rung: str, decisions: Mapping[str, str], always: Sequence[str]) -> str:
    """Spec hash of a stage's `screen.json`: `decisions` are study -> spec hash of its decision, `always` who keeps it anyway."""
    parts = {"stage": stage_hash, "rung": rung, "decisions": dict(decisions), "always": list(always)}
    return digest(parts | {"semantics": SEMANTICS["write_screen"]})


def to_text(spec: Spec) -> str:
    """One-line text of a spec, as it stands in a rule's `params`; keeps the order of keys, such as the columns of a table."""
    return json.dumps(spec.model_dump(mode="json", by_alias=True), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parse(text: str) -> Spec:
    """Spec from what `to_text` made. Raises pydantic's ValidationError on anything unknown."""
    return _ADAPTER.validate_json(text)


def write(path: Path, spec: Spec) -> None:
    """Write a spec as readable YAML, whole or not at all."""
    from sftstudy.records import write_text

    write_text(path, yaml.safe_dump(spec.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True, width=110))


def read(path: Path) -> Spec:
    """Read a `spec.yaml`. Raises StudyError if it is missing, garbled or was written by another version of the program."""
    try:
        return _ADAPTER.validate_python(yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except FileNotFoundError:
        raise StudyError(f"{path}: missing; build it with `snakemake -c1 {path}`") from None
    except ValidationError as error:
        raise StudyError(
            f"{path}: not a spec of this version ({error.error_count()} problems); `snakemake -c1 --force {path}`"
        ) from None
    except (yaml.YAMLError, ValueError):
        raise StudyError(f"{path}: cut off or garbled; `snakemake -c1 --force {path}`") from None


def parts(checkpoints: list[str], per_job: int | None) -> dict[str, list[str]]:
    """Fixed blocks of a stage's checkpoints, `part01` on: each is scored by one job. One block holds all if `per_job` is None."""
    size = per_job or len(checkpoints)
    blocks = [checkpoints[i : i + size] for i in range(0, len(checkpoints), size)]
    return {f"part{number:02d}": block for number, block in enumerate(blocks, start=1)}
