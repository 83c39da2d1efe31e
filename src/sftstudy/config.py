"""Typed models of `config/`: registries and studies. The only place with defaults; unknown keys are errors.

A registry maps names to definitions. Every class here is frozen and forbids unknown keys. Paths in a registry are relative to the
folder of the file that holds them; `registry` reads the files and makes such a path `FOLDER//PATH`: what the user wrote, the part
behind `//`, is what counts for identity, wherever the folder lies.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}")
"""Names that users invent: they become folder names and Snakemake wildcards."""

PATH_KEYS = frozenset({"path", "include_path", "mirror", "items"})
"""Keys whose values are paths."""

NO_NAME = "none"
"""Stands for data and recipe of an untouched base model; no registry entry may have this name."""


class Strict(BaseModel):
    """Base of every config class: immutable, unknown keys forbidden; numbers are finite, and `true` is none.

    `incidental` names the keys that cannot change a number, such as how many requests run at once: they stay out of spec hashes.
    """

    incidental: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        keys = {field.alias or name: name for name, field in cls.model_fields.items()}
        if isinstance(given, dict) and (unknown := [key for key in given if key not in keys and key not in keys.values()]):
            close = difflib.get_close_matches(str(unknown[0]), keys, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(keys)}"
            raise PydanticCustomError("unknown_key", "unknown key; {remedy}", {"key": unknown[0], "remedy": remedy})
        return given

    @model_validator(mode="wrap")
    @classmethod
    def _no_truth_for_a_number(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        held = handler(given)
        if isinstance(given, dict):
            for key, value in given.items():
                if _is_read_as_number(value, getattr(held, key, None)):
                    raise ValueError(f"{key}: true and false are no numbers; write the number")
        return held


def _is_read_as_number(given: Any, held: Any) -> bool:
    """Whether validation made a number of a boolean, or of one in a list or mapping. A definition inside has looked itself."""
    if isinstance(given, list) and isinstance(held, list):
        return any(map(_is_read_as_number, given, held))
    if isinstance(given, dict) and isinstance(held, dict):
        return any(_is_read_as_number(value, held.get(key)) for key, value in given.items())
    return isinstance(given, bool) and isinstance(held, int | float) and not isinstance(held, bool)


def _repeated(names: Iterable[str]) -> str | None:
    """The first name that stands there more than once."""
    return next((name for name, number in Counter(names).items() if number > 1), None)


Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _as_json(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("only text, finite numbers, true, false and null may stand here") from None
    return value


Plain = Annotated[Any, AfterValidator(_as_json)]
"""What is handed on as it is, lists and mappings included."""


def _on_one_line(text: str) -> str:
    if "\n" in text:
        raise ValueError("a label stands on one line; take out the line break")
    return text


Label = Annotated[str, AfterValidator(_on_one_line)]
"""What stands at the head of a column, or beside a line."""


# --- where values come from ------------------------------------------------------------------------------------------

Origin = Literal["paper", "cited", "code", "assumed"]
"""`paper`: the paper says so; `cited`: a paper that it builds on does; `code`: its authors' training or evaluation code does."""


class Sources(Strict):
    """Which values of a definition rest on what, by the names of their keys. A key that no list has is assumed."""

    paper: list[str] = Field([], description="keys whose values the paper states")
    cited: list[str] = Field([], description="keys whose values a paper states that the paper builds on")
    code: list[str] = Field([], description="keys whose values the code of the paper's authors has")
    assumed: list[str] = Field(
        [], description="of a study: keys of its recipes whose values the paper states for other runs, and not for these"
    )

    @property
    def keys(self) -> list[str]:
        """All keys that are named."""
        return [*self.paper, *self.cited, *self.code, *self.assumed]

    @model_validator(mode="after")
    def _each_key_once(self) -> Sources:
        if twice := _repeated(self.keys):
            raise ValueError(f"{twice} stands there twice; name one source for it")
        return self

    def origin(self, key: str) -> Origin:
        """Where the value of a key comes from."""
        lists: dict[Origin, list[str]] = {"paper": self.paper, "cited": self.cited, "code": self.code}
        return next((origin for origin, keys in lists.items() if key in keys), "assumed")


class Sourced(Strict):
    """A definition that may say where its values come from. That enters no spec of a job and no hash: it changes no number."""

    holds: ClassVar[tuple[type[Strict], ...]] = ()
    sources: Sources | None = Field(
        None,
        exclude=True,
        description="which values rest on what; tables print it. Leave it out for your own",
    )

    @model_validator(mode="after")
    def _sources_name_keys(self) -> Sourced:
        known = {field.alias or name for kind in (type(self), *self.holds) for name, field in kind.model_fields.items()}
        if unknown := sorted(set(self.sources.keys if self.sources else []) - known):
            raise ValueError(f"sources: {unknown[0]} is no key of this definition; correct it, or remove it")
        return self


# --- config.yaml -----------------------------------------------------------------------------------------------------


class Instead(Strict):
    """Your models and data in the place of those that studies name: registry name -> the name of what is used instead."""

    model: dict[str, str] = {}
    data: dict[str, str] = {}


def _hexadecimal(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{7,40}", text):
        raise ValueError("no commit; name one by 7 to 40 of its hexadecimal digits")
    return text


Commit = Annotated[str, AfterValidator(_hexadecimal)]


class Settings(Strict):
    """The active studies, what they run on, and which weights stay once every score that they want exists.

    Under `selected` these stay: the checkpoint that a next stage starts from, and the last one of a run. Base models always stay.
    """

    studies: list[str] = Field(min_length=1)
    keep_weights: Literal["selected", "all"] = Field("selected", description="`all` removes nothing")
    keep: list[str] = Field([], description="recipes or sweeps of whose runs all weights stay")
    pins: dict[str, Commit] = Field({}, description="hub id of a model -> commit, for those that `models.yaml` leaves unpinned")
    instead: Instead = Field(Instead(), description="your models and data in the place of those that the studies name")
    mirror: str | None = Field(None, description="folder mirror of hub data sets for the suites that name none")


# --- where bytes come from -------------------------------------------------------------------------------------------


class WorldFile(Strict):
    """A file of a generated world (`worlds.yaml`)."""

    world: str
    file: str


class LocalFile(Strict):
    """A file on disk: .jsonl, .json, .parquet, .arrow or .yaml, `.gz` allowed for the first two; for a taxonomy also a folder."""

    path: str


class PackageFile(Strict):
    """A data file inside an installed Python package, named by the package's import name."""

    package: str
    file: str


class HubSplit(Strict):
    """One split of a data set on the Hugging Face hub, at a fixed revision."""

    hub: str
    split: str
    revision: str = "main"
    config: str | None = None


def location_tag(value: Any) -> str:
    """Which kind of location a value is, by the key that it has."""
    if isinstance(value, BaseModel):
        return {"WorldFile": "world", "LocalFile": "path", "PackageFile": "package", "HubSplit": "hub"}[type(value).__name__]
    return next((key for key in ("world", "path", "package", "hub") if isinstance(value, dict) and key in value), "path")


Location = Annotated[
    Annotated[WorldFile, Tag("world")]
    | Annotated[LocalFile, Tag("path")]
    | Annotated[PackageFile, Tag("package")]
    | Annotated[HubSplit, Tag("hub")],
    Discriminator(location_tag),
]


# --- worlds.yaml, models.yaml ----------------------------------------------------------------------------------------


class World(Strict):
    """A generated offline world: corpus, training phases and exams. `sizes` are the keyword arguments of `write_world`."""

    seed: int
    sizes: dict[str, int]


class Size(Strict):
    """Shapes of a model, by the keys of its `config.json`: what memory and hours are planned by before it is here."""

    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int | None = Field(None, gt=0, description="as many as attention heads if absent")
    head_dim: int | None = Field(None, gt=0, description="hidden_size / heads if absent")
    vocab_size: int = Field(gt=0)
    tie_word_embeddings: bool = False


class HubModel(Sourced):
    """Weights and tokenizer from the Hugging Face hub, at a fixed revision."""

    source: Literal["hub"]
    id: str
    revision: str | None = Field(None, description="commit; if absent, `pins` in config.yaml must name it before anything runs")
    chat_template: str = Field("tokenizer", description="a shipped template's name, or `tokenizer` for the model's own")
    size: Size | None = Field(None, exclude=True, description="its shapes, to plan by; enters no spec and no hash")


class FolderModel(Sourced):
    """Weights and tokenizer from a local folder in Hugging Face layout."""

    source: Literal["folder"]
    path: str
    chat_template: str = Field("tokenizer", description="a shipped template's name, or `tokenizer` for the model's own")


class GgufModel(Sourced):
    """A GGUF file that an installed Python package ships; it is dequantised once."""

    source: Literal["gguf"]
    package: str
    file: str
    chat_template: str = Field("tokenizer", description="a shipped template's name, or `tokenizer` for the model's own")
    size: Size | None = Field(None, exclude=True, description="its shapes, to plan by; enters no spec and no hash")


class PretrainingStage(Strict):
    """One stretch of pretraining on one file of the world, in fixed steps so that the base is reproducible."""

    file: str
    num_steps: int = Field(gt=0)
    tokens_per_step: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    decay: bool = Field(False, description="linear decay of the learning rate to zero over the stretch")


class ScratchModel(Sourced):
    """A tiny model whose tokenizer and weights are trained inside the workflow on a world's corpus."""

    source: Literal["scratch"]
    world: str
    seed: int
    architecture: dict[str, Plain] = Field(description="keyword arguments of `transformers.LlamaConfig`")
    pretraining: list[PretrainingStage] = Field(min_length=1)
    chat_template: Literal["tokenizer"] = "tokenizer"


Model = Annotated[HubModel | FolderModel | GgufModel | ScratchModel, Field(discriminator="source")]


# --- data.yaml -------------------------------------------------------------------------------------------------------

Format = Literal["messages", "prompt-response", "instruction-input-output", "sharegpt", "sdg", "taxonomy", "oasst"]


class Source(Strict):
    """Rows of one training source, in one of the known formats."""

    location: Location = Field(alias="from", description="where the rows are: `path`, `hub`, `world` or `package`")
    format: Format = "messages"
    columns: dict[str, str] = Field({}, description="format's field name -> column name, where they differ")
    threads: Literal["first", "all"] = Field("first", description="for `oasst`: the best-ranked thread of a tree, or every one")
    weight: float = Field(1.0, gt=0, description="how often a row is taken; the fraction is a share of rows, chosen by their hash")
    max_samples: int | None = Field(None, gt=0, description="at most so many different rows, those with the smallest hashes")

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _threads_of_trees(self) -> Source:
        if self.threads != "first" and self.format != "oasst":
            raise ValueError(f"threads: only format oasst has threads; remove the key, or set the format (it is {self.format})")
        return self


class Phase(Strict):
    """A slice of the data with a purpose, such as knowledge or skills."""

    sources: list[Source] = Field(min_length=1)
    half: Literal["shorter", "longer"] | None = Field(
        None, description="take only the chats with the shorter or the longer replies; the other phase has the other half"
    )
    num_samples: int = Field(gt=0, description="rows after cleaning and mixing; preparation fails with the right number")
    tokens_per_sample: float | None = Field(
        None, gt=0, exclude=True, description="their mean length, to plan hours by before they are prepared"
    )


class Cleaning(Strict):
    """What becomes of a chat on its way to tokens, for all phases of a data set. Everything that is dropped is counted."""

    max_length: int = Field(4096, gt=0, description="longest chat in tokens")
    over_length: Literal["drop", "truncate", "fail"] = Field("fail", description="what happens to longer chats")
    empty_replies: Literal["drop", "fail"] = Field("fail", description="what happens to chats with an empty assistant turn")
    no_supervision: Literal["drop", "fail"] = Field("fail", description="chats without a token to train on, also after truncation")
    special_tokens_in_text: Literal["drop", "fail"] = Field(
        "fail", description="chats whose text holds a special token or a mark of the chat template, such as `<|im_end|>`"
    )
    exact_duplicates: Literal["keep", "drop", "fail"] = Field(
        "keep", description="chats equal to an earlier one of the phase; kept unless told, as sources may repeat rows on purpose"
    )
    near_duplicates: Literal["keep", "drop"] = Field("keep", description="chats similar to an earlier one that was kept (MinHash)")
    near_duplicate_threshold: float = Field(0.8, gt=0, lt=1, description="similarity from which a chat is a near duplicate")
    supervise: Literal["replies", "replies-and-system", "all"] = Field(
        "replies",
        description="what is trained on: replies with their closing token, the system turn too, or all but the first token",
    )
    drop_overlap_with: list[str] = Field(
        [], description="benchmarks; chats that share 13 words in a row, or a whole short text, with one of their items are dropped"
    )


class Data(Cleaning, Sourced):
    """A training set as ordered phases."""

    holds = (Phase, Source)
    phases: dict[str, Phase] = Field(min_length=1)

    @model_validator(mode="after")
    def _two_halves(self) -> Data:
        phases = list(self.phases.values())
        halves = [phase.half for phase in phases]
        if any(halves) and (halves != ["shorter", "longer"] or phases[0].sources != phases[1].sources):
            raise ValueError("half: a data set in halves has two phases with equal sources, first `shorter`, then `longer`")
        return self


# --- recipes.yaml ----------------------------------------------------------------------------------------------------


class Lora(Strict):
    """Low-rank adapters instead of full fine-tuning, through peft; merged into the weights of every checkpoint."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0, description="an adapter's product is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] | None = Field(
        None, min_length=1, description="names of layers; all linear layers but the head if absent"
    )


class Training(Strict):
    """Hyper-parameters of one training stage. Optimizer defaults are those of the paper's training code (config/README.md).

    The incidental keys say how a step is computed and change only its rounding: changing one trains nothing again.
    """

    incidental = frozenset(
        {"max_tokens_per_microbatch", "packing", "sharding", "cpu_offload", "activation_checkpointing", "compile", "liger"}
    )

    effective_batch_size: int = Field(gt=0, description="samples per optimizer step over all devices and accumulation")
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int | None = Field(None, ge=0)
    warmup_ratio: float | None = Field(None, ge=0, lt=1)
    epochs: float | None = Field(None, gt=0, description="budget as passes over the mixture; or `budget_samples`")
    budget_samples: int | None = Field(None, gt=0, description="budget in samples; or `epochs`")
    num_checkpoints: int | None = Field(None, gt=0, description="checkpoints at equal parts of the budget; or `save_every`")
    save_every: int | None = Field(
        None, gt=0, description="a checkpoint whenever this many further samples were seen, rounded down to whole steps"
    )
    replay: float = Field(0.0, ge=0, le=1, description="share of every earlier phase mixed into a phased stage")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0, description="greatest norm of a step's gradient; `1e9` clips none")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="compute precision; master weights are always fp32")
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        "adamw", description="`adamw-8bit` keeps its moments in 8 bits (needs torchao)"
    )
    lora: Lora | None = Field(None, description="train adapters of low rank; all weights if absent")
    max_tokens_per_microbatch: int = Field(4096, gt=0, description="tokens in one forward pass of a process, padding included")
    packing: Literal["auto", "on", "off"] = Field(
        "auto",
        description="samples end to end in one row, kept apart by the attention; `auto`: in families tested for it",
    )
    sharding: Literal["none", "full"] = Field("none", description="whether processes split weights, gradients and optimizer state")
    cpu_offload: bool = Field(False, description="keep them in the host's memory between uses, on a GPU")
    activation_checkpointing: bool = Field(False, description="compute activations twice instead of keeping them")
    compile: bool = Field(False, description="compile the decoder layers with torch.compile")
    liger: bool = Field(False, description="Liger's fused kernels, on a GPU (needs liger-kernel)")

    @field_validator("clip_norm", mode="before")
    @classmethod
    def _clips(cls, norm: Any) -> Any:
        if norm in (None, 0, math.inf):
            raise ValueError("a number that is greater than 0; for no clipping write 1e9")
        return norm

    @model_validator(mode="after")
    def _exclusive(self) -> Training:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("give warmup_steps or warmup_ratio, not both")
        if (self.epochs is None) == (self.budget_samples is None):
            raise ValueError("give either epochs or budget_samples")
        if (self.num_checkpoints is None) == (self.save_every is None):
            raise ValueError("give either num_checkpoints or save_every")
        return self


Rule = Literal["best", "last", "earliest"]


class Race(Strict):
    """Score a stage's checkpoints on growing random subsets of the items, and drop those that cannot win any more."""

    error_rate: float = Field(
        default=0.05, gt=0, lt=0.5, description="bound on the probability that the choice is not the one that all items would make"
    )
    first: int = Field(default=32, gt=0, description="items after which the race is looked at for the first time")
    growth: float = Field(default=1.5, gt=1, description="factor from one look to the next; each look loads all weights again")


class Selection(Strict):
    """How a phased stage's checkpoint is chosen for the next stage. Ties go to the fewest samples, then to the name."""

    benchmark: str | None = Field(None, description="the benchmark to choose by; or `weights`")
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="benchmark -> weight in a mean of scores that are normalised: chance is 0, the top of the scale 1"
    )
    rule: Rule = Field(
        "best",
        description="`earliest`: the fewest samples within one standard error (of the paired difference, over items) of the best",
    )
    holdout: bool = Field(
        False, description="choose on one half of the items, by hash, and record the values on the other beside it"
    )
    race: Race | None = Field(
        None,
        exclude_if=lambda race: race is None,
        description="choose without scoring all checkpoints on all items; all are scored in full if absent",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Selection:
        if (self.benchmark is None) == (not self.weights):
            raise ValueError("give either benchmark or weights")
        return self

    @model_validator(mode="after")
    def _raced_for_the_best(self) -> Selection:
        if self.race and (self.rule != "best" or self.holdout or self.weights):
            raise ValueError("race: finds the best on one benchmark; remove it, or rule, holdout and weights")
        return self

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks that the choice looks at."""
        return list(self.weights) or [str(self.benchmark)]


class StartsFrom(Strict):
    """The checkpoint of another, phased recipe that a recipe continues from: the one that its `select` chooses after a phase."""

    recipe: str
    phase: str = Field(description="this recipe trains the phases after it")


class Recipe(Sourced):
    """Strategy, training and selection under a name. `stages` overrides training by phase, in a phased recipe."""

    holds = (Training,)
    strategy: Literal["stacked", "phased"]
    training: Training
    starts_from: StartsFrom | None = Field(None, description="continue another recipe's stage, which is trained once; or the base")
    stages: dict[str, dict[str, Any]] = Field({}, description="phase -> training keys that differ in its stage")
    select: dict[str, Selection] = Field({}, description="phase -> how its checkpoint is chosen; every phase but the last")

    @model_validator(mode="after")
    def _stacked_has_no_phases(self) -> Recipe:
        if self.strategy == "stacked" and (self.stages or self.select or self.training.replay):
            raise ValueError("a stacked recipe has one stage: remove stages, select and replay, or make it phased")
        return self


class Sweep(Sourced):
    """A grid around one recipe. A cell that equals the base keeps the base's name, so that it is trained once.

    For the same reason sweeps may share cells: equal recipes of one name. `sources` speak of the varied keys.
    """

    holds = (Training,)
    base: str
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    name: str = Field(description="template such as `{base}-bs{effective_batch_size}-lr{learning_rate}`")


# --- benchmarks.yaml -------------------------------------------------------------------------------------------------


class Requests(Strict):
    """What a model is asked for one checkpoint on a benchmark, to plan hours by."""

    number: int = Field(gt=0, description="items, times their choices if each is scored by its likelihood")
    prompt_tokens: int = Field(gt=0, description="mean length of a prompt, shots included")
    new_tokens: int = Field(0, ge=0, description="tokens that are generated; 0 for likelihoods")


Backend = Literal["hf", "hf-prefix", "vllm"]
"""What computes a benchmark's answers. It is part of a benchmark's identity: two back ends never share a score."""


class CrossCheck(Strict):
    """A sample of a benchmark's items that `hf` scores too. If the back ends disagree on more than allowed, scoring fails."""

    num_items: int = Field(32, gt=0, description="items, chosen by their hash")
    max_disagreement: float = Field(0.05, ge=0, lt=1, description="share of them that may get another score")


class Normalised(Strict):
    """A score on the Open LLM Leaderboard's scale: (raw - 1/n) / (1 - 1/n), not below 0, where n is the number of choices.

    With a number per task the tasks are normalised one by one and then averaged; with one number the
    whole benchmark is, over all items. 0 stands for replies that nobody can guess.
    """

    num_choices: int | dict[str, int] = Field(description="of every item, or task -> number of choices")
    metrics: list[str] = Field([], description="metrics whose mean is normalised; the benchmark's own if absent")


class Averages(Strict):
    """What is made of a benchmark's scored items."""

    metric: str = Field(description="lm-eval's metric name, such as `acc` or `exact_match`; the one that tables read")
    metrics: list[str] = Field(default=[], description="further metrics for the record")
    average: Literal["micro", "macro"] = Field(
        default="micro", description="over items, or over tasks; the record has the other one too"
    )
    groups: dict[str, list[str]] = Field(
        default={}, description="name -> tasks that get a score of their own, averaged in the same way"
    )
    families: dict[str, list[str]] = Field(default={}, description="name -> tasks that count as one in a macro average")
    normalised: Normalised | None = Field(default=None, description="give the record the leaderboard's score too")

    def num_choices(self, task: str) -> int:
        """Choices of a task's items by `normalised`; 0 if they cannot be guessed, or if nobody says."""
        if self.normalised is None:
            return 0
        choices = self.normalised.num_choices
        return choices if isinstance(choices, int) else choices.get(task, 0)


class HarnessBenchmark(Averages, Sourced):
    """One benchmark scored through lm-eval. `derived` names the keys that a scored item does not depend on."""

    incidental = frozenset({"chance"})
    derived: ClassVar[frozenset[str]] = frozenset(
        {
            "tasks",
            "uses",
            "filter",
            "items",
            "num_items_per_task",
            "num_items",
            "items_hash",
            "cross_check",
            *Averages.model_fields,
        }
    )

    tasks: list[str] = Field(min_length=1, description="lm-eval task or group names")
    uses: list[Location] = Field(min_length=1, description="the items scored; no training source may be one of them")
    filter: str = Field("none", description="lm-eval's filter name")
    num_fewshot: int | None = Field(None, ge=0, description="shots; the task's own number if absent")
    chat_template: bool = Field(False, description="wrap prompts in the model's chat template, few-shot as turns")
    chance: float = Field(0.0, ge=0, lt=1, description="score of guessing; intervals are compared with it")
    items: str | None = Field(None, description="JSON file task -> list of item numbers; all items if absent")
    requests: Requests | None = Field(
        None, exclude=True, description="to plan hours by; assumed from `num_items` and shots if absent"
    )
    num_items_per_task: int | None = Field(
        None, gt=0, description="only so many items of each task, those with the smallest hashes"
    )
    num_items: int | None = Field(None, gt=0, description="how many items the tasks must have, before any are chosen")
    items_hash: str | None = Field(None, description="hash that those must have; `suite.json` has it")
    backend: Backend = Field("hf", description="`hf-prefix` computes shared prefixes once; `vllm` needs a GPU and envs/vllm.yaml")
    cross_check: CrossCheck | None = Field(None, description="compare another back end than `hf` with it, per checkpoint")

    @model_validator(mode="after")
    def _something_to_compare(self) -> HarnessBenchmark:
        if self.cross_check and self.backend == "hf":
            raise ValueError("cross_check compares another back end with hf; remove it, or set backend")
        return self

    @model_validator(mode="after")
    def _one_choice(self) -> HarnessBenchmark:
        if self.items and self.num_items_per_task:
            raise ValueError("give items or num_items_per_task, not both")
        return self


class HarnessSuite(Strict):
    """Benchmarks scored by one job per block of checkpoints."""

    incidental = frozenset({"checkpoints_per_job", "mirror"})

    kind: Literal["harness"]
    benchmarks: dict[str, HarnessBenchmark] = Field(min_length=1)
    include_path: str | None = Field(None, description="folder of your own lm-eval task files")
    stock_tasks: bool = Field(True, description="lm-eval's own tasks too; finding them costs seconds, once")
    mirror: str | None = Field(None, description="folder mirror of hub data sets, for stock tasks offline")
    checkpoints_per_job: int | None = Field(None, gt=0, description="all of a stage if absent")
    batch_size: int = Field(32, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"


class Judge(Strict):
    """Who grades MT-Bench answers, over the OpenAI chat protocol: an endpoint, or a server that the job starts and stops.

    Keys come from the environment alone. The incidental keys say how the judge is reached and what that may cost.
    """

    incidental = frozenset(
        {"base_url", "api_key_env", "concurrency", "num_retries", "timeout_s", "requests_per_minute", "tokens_per_minute"}
        | {"price_prompt", "price_completion", "max_cost", "max_total_tokens"}
    )

    model: str = Field(description="the name that the endpoint knows and tables print")
    base_url: str | None = Field(
        None, description="an OpenAI-compatible endpoint, such as `https://api.openai.com/v1`; or `server`"
    )
    api_key_env: str | None = Field(None, description="environment variable that holds the key")
    server: Literal["rule", "transformers", "vllm"] | None = Field(
        None, description="start a server in the job: our rule-based stand-in, or one for `weights`; or give `base_url`"
    )
    weights: str | None = Field(None, description="a model of `models.yaml`, for a server of ours")
    server_options: list[str] = Field([], description="further arguments of `vllm serve`, such as `--tensor-parallel-size=4`")
    format: Literal["fastchat", "prometheus"] = Field(
        "fastchat", description="FastChat's prompts and `[[rating]]`, or Prometheus's own and `[RESULT]`, 1-5 stretched to 1-10"
    )
    prompts: Location | None = Field(
        None, description="for format `prometheus`: the file `prompts.py` of package `prometheus_eval`"
    )
    rubric: str = Field("HELPFULNESS_RUBRIC", description="for format `prometheus`: which rubric of that file")
    temperature: float | None = Field(0.0, ge=0, description="null leaves it out, for endpoints that refuse it")
    max_tokens: int = Field(2048, gt=0, description="longest verdict")
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = Field("max_tokens", description="what the endpoint calls it")
    merge_system: bool = Field(False, description="system prompt at the head of the user's, for models without a system role")
    extra: dict[str, Plain] = Field({}, description="further keys of a request, such as `{reasoning_effort: low}`")
    num_judgings: int = Field(
        1, gt=0, description="how often each answer is judged; ratings are averaged, their spread is recorded"
    )
    concurrency: int = Field(8, gt=0, description="requests at a time")
    num_retries: int = Field(8, ge=0, description="on 429, 5xx, time-outs, lost connections and malformed replies, with back-off")
    timeout_s: float = Field(300.0, gt=0, description="for one request in all")
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0, description="prompt, estimated, and `max_tokens`")
    price_prompt: float = Field(0.0, ge=0, description="per million tokens")
    price_completion: float = Field(0.0, ge=0, description="per million tokens")
    max_cost: float | None = Field(None, gt=0, description="budget of the suite under this `scratch/`, in the prices' currency")
    max_total_tokens: int | None = Field(None, gt=0, description="the same in tokens")

    @model_validator(mode="after")
    def _one_endpoint(self) -> Judge:
        if (self.server is None) == (self.base_url is None):
            raise ValueError("give either server or base_url")
        if (self.server in ("transformers", "vllm")) != (self.weights is not None):
            raise ValueError("weights: servers transformers and vllm need a model of models.yaml, others take none")
        if (self.format == "prometheus") != (self.prompts is not None):
            raise ValueError("prompts: format prometheus needs them, such as {package: prometheus_eval, file: prompts.py}")
        if self.base_url and ("@" in self.base_url or "?" in self.base_url):
            raise ValueError("base_url: may hold no key; name its environment variable as api_key_env")
        if self.max_cost is not None and not (self.price_prompt or self.price_completion):
            raise ValueError("max_cost: needs price_prompt and price_completion")
        return self


class MtBenchSuite(Sourced):
    """An MT-Bench-format question set; its one benchmark has the suite's name.

    Answers are rated one by one, or, with `against`, compared with other answers in both orders: the score then is FastChat's
    adjusted win rate, in which a tie counts half and so does a judge that prefers either answer for its place.
    """

    incidental = frozenset({"checkpoints_per_job"})

    kind: Literal["mt-bench"]
    questions: Location
    references: Location | None = Field(None, description="for math, reasoning and coding; FastChat's, or a corrected set")
    prompts: Location
    judges: list[Judge] = Field(min_length=1, description="one, or a panel whose ratings are averaged")
    against: Literal["base"] | Location | None = Field(
        None, description="`base`, the untouched model, or a file of FastChat's answers"
    )
    max_failure_share: float = Field(0.05, ge=0, le=1, description="of verdicts that failed; above it the score stays empty")
    question_ids: list[int] | None = Field(None, description="a fixed subset; all if absent")
    max_new_tokens: int = Field(1024, gt=0)
    checkpoints_per_job: int | None = Field(None, gt=0, description="all of a stage if absent")
    batch_size: int = Field(32, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _judges_agree(self) -> MtBenchSuite:
        names = [judge.model for judge in self.judges]
        if len(set(names)) < len(names):
            raise ValueError("judges: two have one name; ask one more often with num_judgings")
        if self.against and any(judge.format == "prometheus" for judge in self.judges):
            raise ValueError("against: pairs are judged by FastChat's prompts only; drop format prometheus")
        return self

    @property
    def judge(self) -> str:
        """The judges' names, as tables print them."""
        return " + ".join(judge.model for judge in self.judges)


Suite = Annotated[HarnessSuite | MtBenchSuite, Field(discriminator="kind")]


# --- paper/*.yaml ----------------------------------------------------------------------------------------------------

Grade = Literal["A", "B", "C", "D", "M"]
"""How a number of the paper is known.

A: seen in a copy of the paper. B: in a text that says it read the paper. C: in its authors' code or earlier papers. D: derived from
those. M: unverified, not to be reproduced.
"""


class PublishedRow(Strict):
    """What a table of the paper prints for one benchmark: scores, and samples needed to reach them, per arm."""

    label: str = Field(description="the benchmark as the paper writes it")
    base: float | None = Field(None, description="the untouched model's score; absent if it is not printed")
    scores: dict[str, float]
    samples: dict[str, int]
    also: list[str] = Field([], description="further benchmarks of ours that the paper may mean")


class PublishedTable(Strict):
    """A table of the paper, number by number, in the layout of an `arms` table."""

    place: str = Field(description="where the paper prints it, such as `Table 10`")
    caption: str
    model: str
    data: str
    grade: Grade
    arms: list[str] = Field(min_length=2, description="its columns, from left to right")
    rows: dict[str, PublishedRow] = Field(min_length=1, description="our benchmark -> the paper's row")

    @model_validator(mode="after")
    def _rows_have_all_arms(self) -> PublishedTable:
        for name, row in self.rows.items():
            if [*row.scores] != self.arms or [*row.samples] != self.arms:
                raise ValueError(f"rows.{name}: scores and samples are those of {', '.join(self.arms)}, in this order")
        return self


class Quoted(Strict):
    """Numbers that the paper, or a text about it, gives in prose."""

    statement: str
    values: list[float] = Field(min_length=1)
    grade: Grade
    place: str = Field(description="where they were found, and how sure it is what they belong to")


class Advice(Strict):
    """What the paper says of one factor of a recipe, for a study's guide to compare its own findings with."""

    factor: str = Field(description="a training key, `strategy`, `warm-up`, or `computation`: how a step is computed")
    statement: str
    prefers: str = Field(description="`high` or `low` values, or a level such as `stacked`; `either` if it says that none matters")
    says: Literal["better", "no worse"] = Field(description="what it says of the preferred level")
    grade: Grade
    place: str
    quoted: list[str] = Field([], description="quoted numbers of `paper/` that go with it")


# --- studies/*.yaml --------------------------------------------------------------------------------------------------

Share = Annotated[float, Field(gt=0, lt=1)]


class Grid(Strict):
    """Runs as the product of four axes. A recipe may be a sweep's name, which stands for all of its cells."""

    model: list[str] = Field(min_length=1)
    data: list[str] = Field(min_length=1)
    recipe: list[str] = Field(min_length=1)
    seed: list[Seed] = Field(min_length=1)


class ArmsTable(Strict):
    """The layout of the paper's Tables 2 and 10-13: per benchmark the base, a score per arm, samples to peak per arm."""

    kind: Literal["arms"]
    caption: str
    arms: dict[Label, str] = Field(min_length=2, description="column label -> recipe")
    paper: str | None = Field(None, description="a table of `paper/` with these arms, shown beside ours")
    show: list[Literal["samples-interval", "optimism"]] = Field(
        [],
        description="what to print besides; CSV and pedigree have both",
    )


class GridTable(Strict):
    """One block per benchmark: scores of a sweep by two of its factors."""

    kind: Literal["grid"]
    caption: str
    sweep: str
    rows: str = Field(description="a training key that the sweep varies")
    columns: str = Field(description="another one")


class ConfigurationTable(Strict):
    """Every value of every run, and where it comes from."""

    kind: Literal["configuration"]
    caption: str


class PublishedNumbers(Strict):
    """What the paper prints, and nothing of ours: tables and quoted numbers of `paper/`."""

    kind: Literal["published"]
    caption: str
    tables: list[str] = Field([], description="tables of `paper/`")
    quoted: list[str] = Field([], description="quoted numbers of `paper/`")


Table = Annotated[ArmsTable | GridTable | ConfigurationTable | PublishedNumbers, Field(discriminator="kind")]


Measured = Literal["peak", "last"]
"""Which checkpoint of a run a final score is of: the best one of each benchmark, as the paper's tables have it, or the last one."""

_PANELS = "one panel each; all of the study's if absent"
_ARMS = "label -> recipe"
_LINES = "label -> recipe; a sweep's name adds its cells"


class ScoresFigure(Strict):
    """Scores over samples seen, a line per arm with its interval, and the samples to each arm's peak (Figures 3b and 5)."""

    kind: Literal["scores"]
    caption: str
    arms: dict[Label, str] = Field(min_length=1, description=_ARMS)
    benchmarks: list[str] = Field([], description=_PANELS)


class FinalFigure(Strict):
    """Final scores, a dot per arm with its interval (Figures 3a and 4)."""

    kind: Literal["final"]
    caption: str
    arms: dict[Label, str] = Field(min_length=1, description=_ARMS)
    benchmarks: list[str] = Field([], description=_PANELS)
    measure: Measured = Field("peak", description="each run's best checkpoint, or its `last`")


class BenefitFigure(Strict):
    """What the first arm is ahead of the others on each benchmark, paired by items, with intervals (Figure 6)."""

    kind: Literal["benefit"]
    caption: str
    arms: dict[Label, str] = Field(min_length=2, description="label -> recipe; the first one is compared with each of the others")
    benchmarks: list[str] = Field([], description="one row each; all of the study's if absent")
    measure: Measured = Field("peak", description="each run's best checkpoint, or its `last`")


class FactorFigure(Strict):
    """Final scores against a factor, on a log axis if it has numbers, a line per level of another one (Figures 11, 12, 14)."""

    kind: Literal["factor"]
    caption: str
    recipes: dict[Label, str] = Field(min_length=1, description=_LINES)
    factor: str = Field(description="a training key, such as `learning_rate`: the x axis")
    by: str | None = Field(None, description="a training key, such as `effective_batch_size`: a line per level of it")
    benchmarks: list[str] = Field([], description=_PANELS)
    measure: Measured = Field("peak", description="each run's best checkpoint, or its `last`")

    @model_validator(mode="after")
    def _training_keys(self) -> FactorFigure:
        for name in ("factor", "by"):
            if (key := getattr(self, name)) is not None and key not in Training.model_fields:
                raise ValueError(f"{name}: {key} is no training key")
        return self


class DynamicsFigure(Strict):
    """Loss and gradient norm over samples seen, a line per recipe, and final scores below them (Figures 15 and 16)."""

    kind: Literal["dynamics"]
    caption: str
    recipes: dict[Label, str] = Field(min_length=1, description=_LINES)
    benchmarks: list[str] = Field([], description="whose final scores are shown below, one panel each; none if absent")
    measure: Measured = Field("peak", description="final scores of each run's best checkpoint, or of its `last`")


class EarlyFigure(Strict):
    """An early signal against the final score, a point per recipe, with the rank correlation."""

    kind: Literal["early"]
    caption: str
    recipes: dict[Label, str] = Field(min_length=1, description=_LINES)
    signals: list[Literal["grad_norm", "loss"]] = Field(["grad_norm", "loss"], min_length=1, description="a column of panels each")
    until: Share = Field(0.1, description="share of the first stage's samples over which the signal is averaged")
    benchmarks: list[str] = Field([], description="a row of panels each; all of the study's if absent")
    measure: Measured = Field("last", description="final scores of each run's best checkpoint (`peak`), or of its last")


Figure = Annotated[
    ScoresFigure | FinalFigure | BenefitFigure | FactorFigure | DynamicsFigure | EarlyFigure, Field(discriminator="kind")
]


Signal = Literal["grad-norm", "loss"]
Direction = Literal["lowest", "highest"]
Rung = Annotated[float, Field(gt=0, lt=1)]


class PaperRule(Strict):
    """The paper's finding (ii): those with the lowest gradient norm go on; of equal norms, the one with the higher loss."""

    kind: Literal["paper"]
    keep: Share = Field(0.5, description="share that goes on at each rung, rounded up")


class TopRule(Strict):
    """The best by one signal go on. With several rungs this is successive halving, by any factor."""

    kind: Literal["top"]
    signal: Signal
    best: Direction = Field("lowest", description="which end of the signal is the good one")
    keep: Share = Field(0.5, description="share that goes on at each rung, rounded up")


class MarginRule(Strict):
    """All that come near the best by one signal go on."""

    kind: Literal["margin"]
    signal: Signal
    best: Direction = Field("lowest", description="which end of the signal is the good one")
    margin: float = Field(gt=0, description="greatest distance from the best, as a share of the best's signal")


class MedianRule(Strict):
    """Median stopping: what is no worse than the median by one signal goes on."""

    kind: Literal["median"]
    signal: Signal
    best: Direction = Field("lowest", description="which end of the signal is the good one")


class RandomRule(Strict):
    """A random share goes on, whatever they showed: the control that a rule has to beat."""

    kind: Literal["random"]
    keep: Share = Field(0.5, description="share that goes on at each rung, rounded up")
    seed: int = 1


ScreenRule = Annotated[PaperRule | TopRule | MarginRule | MedianRule | RandomRule, Field(discriminator="kind")]


class Looks(Strict):
    """What a screen looks at, and by which final score it is judged. Both are means over the seeds of a recipe, if together."""

    benchmark: str = Field(description="the final score by which the screen is judged; the decisions do not see it")
    rungs: list[Rung] = Field(min_length=1, description="shares of a run's first own stage after which is decided, ascending")
    window: float = Field(0.5, gt=0, le=1, description="signals are means over this last share of the steps up to the rung")
    group_by: list[str] = Field([], description="training keys; only runs with equal values compete, always of one model and data")
    seeds: Literal["together", "apart"] = Field(
        "together", description="`together`: the seeds of a recipe go on or stop as one, so that no mean is over survivors alone"
    )

    @model_validator(mode="after")
    def _ascending(self) -> Looks:
        if self.rungs != sorted(set(self.rungs)):
            raise ValueError("rungs: give them in ascending order, each once")
        if any(round(rung, 3) != rung for rung in self.rungs):
            raise ValueError("rungs: at most three digits after the point")
        if unknown := [key for key in self.group_by if key not in Training.model_fields]:
            raise ValueError(f"group_by: {unknown[0]} is no training key")
        return self


class Audit(Strict):
    """A random share of the stopped is trained to the end all the same, to tell what the screen costs."""

    share: float = Field(gt=0, le=1, description="of what stops at each rung, rounded up")
    seed: int = 1


class Screen(Looks):
    """Early stopping: after each rung a rule says which of the study's runs go on."""

    rule: ScreenRule
    audit: Audit | None = None


class Replay(Looks):
    """What rules of early stopping would have saved and lost in this study, from the logs of its finished runs."""

    num_draws: int = Field(200, gt=0, description="bootstrap draws of the study's recipes")
    seed: int = 1


Currency = Literal["samples_seen", "samples_spent", "supervised_tokens", "steps", "gpu_hours"]
Reading = Literal["last", "peak", "held-out-peak", Currency]
Finding = Literal["i", "ii", "iii", "iv", "v"]
Margin = Annotated[float, Field(gt=0)]


class Statement(Strict):
    """What all claims have."""

    statement: str = Field(description="the claim, in a sentence")
    finding: Finding | None = Field(None, description="which of the paper's findings it checks")


class TwoArms(Statement):
    """What claims about two arms have."""

    first: str | list[str] = Field(description="a recipe; or several, of which each model and data set has one or none")
    second: str | list[str] = Field(description="the same for the other arm; what lacks either arm is left out")

    @property
    def recipes(self) -> list[str]:
        """All that the two arms name."""
        return [recipe for arm in (self.first, self.second) for recipe in ([arm] if isinstance(arm, str) else arm)]

    def arms_among(self, recipes: Collection[str]) -> tuple[str, str] | None:
        """The two arms on a model and data set that has these recipes; None if it lacks one.

        Raises ValueError if it has two recipes of one arm.
        """
        found = []
        for arm in (self.first, self.second):
            here = [recipe for recipe in ([arm] if isinstance(arm, str) else arm) if recipe in recipes]
            if len(here) > 1:
                raise ValueError(f"{here[0]!r} and {here[1]!r} are one arm, and both are run on the same model and data")
            found += here
        return (found[0], found[1]) if len(found) == 2 else None


class ArmsClaim(TwoArms):
    """First arm above the second (`direction`), or neither above the other by more than a margin (`equivalence`)."""

    kind: Literal["direction", "equivalence"]
    margins: dict[str, Margin] = Field(
        min_length=1,
        description="benchmark -> the least difference that matters; the claim is about these",
    )
    at: Reading = Field(
        "samples_seen",
        description="what is compared: each run's `last` checkpoint, its `peak`, its peak chosen on one half of the items and "
        "reported on the other (`held-out-peak`), or the latest within the common budget of a currency",
    )

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks that the claim is about."""
        return list(self.margins)


class EfficiencyClaim(TwoArms):
    """The first arm reaches its peak with fewer samples, those spent on the way to a switch of phases included."""

    kind: Literal["efficiency"]
    benchmarks: list[str] = Field(min_length=1)


class SignalClaim(Statement):
    """Recipes with a low (or high) signal early in training end with higher scores. A recipe is the mean of its seeds."""

    kind: Literal["early-signal"]
    recipes: list[str] = Field(min_length=1, description="recipes and sweeps that are ranked")
    signal: Literal["grad_norm", "loss"]
    promising: Literal["low", "high"] = Field(description="which values are said to promise good final scores")
    until: float = Field(0.1, gt=0, lt=1, description="share of the first stage's samples over which the signal is averaged")
    within: str | None = Field(None, description="training key, such as `effective_batch_size`: ranks are taken within its values")
    keep: float = Field(0.5, gt=0, lt=1, description="share of the recipes that go on, for the regret of stopping the others")
    margin: float = Field(0.3, gt=0, lt=1, description="the least rank correlation that matters")
    benchmarks: list[str] = Field(min_length=1)


class RobustnessClaim(Statement):
    """Other claims of the study hold across its models and data: pooled, and in none of the pairs the opposite."""

    kind: Literal["robustness"]
    claims: list[str] = Field(min_length=1, description="names of claims about arms, efficiency or signals")

    @model_validator(mode="after")
    def _each_claim_once(self) -> RobustnessClaim:
        if twice := _repeated(self.claims):
            raise ValueError(f"claims: {twice!r} stands there twice; a claim is pooled once")
        return self


Claim = Annotated[ArmsClaim | EfficiencyClaim | SignalClaim | RobustnessClaim, Field(discriminator="kind")]


class Study(Sourced):
    """A question, its runs, and what answers it: tables and figures per model and data, and verdicts on claims."""

    holds = (Grid, Recipe, Training)
    question: str
    runs: list[Grid] = Field(min_length=1)
    benchmarks: list[str] = Field(min_length=1)
    tables: dict[str, Table] = {}
    figures: dict[str, Figure] = {}
    claims: dict[str, Claim] = Field({}, description="name -> a statement that is checked, with its verdict in claims.json")
    screen: Screen | None = Field(None, description="stop weak runs early; if absent, all runs are trained to the end")
    replay: Replay | None = Field(None, description="a figure of what other rules of early stopping would have saved and lost")
