"""What each job of a plan will need on a site's GPUs, before it runs: memory, GPUs, hours. Records that exist replace assumptions.

A finished stage's rate stands for all stages of the same model and kind of training; a prepared phase's lengths for its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import median

from sftstudy import config, needs, spec
from sftstudy.environment import Site
from sftstudy.errors import StudyError
from sftstudy.gpus import gpu_named
from sftstudy.needs import Memory
from sftstudy.plan import Plan
from sftstudy.records import PhaseRecord, TrainingRecord, read_record
from sftstudy.sizes import ModelSize, size_of

TOKENS_PER_SAMPLE = 400.0
"""Assumed of a phase that declares no `tokens_per_sample` and is not prepared yet."""
NUM_ITEMS, ITEM_TOKENS, REPLY_TOKENS = 1000, 150, 128
"""Of a benchmark that does not say: its items, the length of each of them and of its shots, and of a reply where one is scored."""
NUM_QUESTIONS, QUESTION_TOKENS, ANSWER_TOKENS, TURNS = 80, 300, 350, 2
"""MT-Bench's."""
PROMPT_TOKENS, VERDICT_TOKENS = 1200, 250
"""Of a judge's call."""
JUDGE_CALL_S = 10.0
"""Of a call to an endpoint."""
START_S = 180.0
"""Of a job, until its model is loaded."""
RUNTIME_MARGIN = 1.5
"""Of a job's time limit over its forecast."""
HOST_MARGIN = 1.25
"""Of a job's host memory over its forecast, and the step by which a failed attempt asks for more."""


@dataclass(frozen=True)
class Need:
    """What one job needs. `fits` is false if even all GPUs of a node are too small for it."""

    num_gpus: int
    memory: Memory
    seconds: float
    fits: bool = True

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours."""
        return self.num_gpus * self.seconds / 3600


@dataclass(frozen=True)
class Lengths:
    """Tokens of a mixture's samples: their mean, and the share of them that is trained on."""

    mean: float
    supervised_share: float


class Forecast:
    """Needs of a plan's jobs on a site. A model of unknown size has none: its functions return None."""

    def __init__(self, plan: Plan, site: Site) -> None:
        self.plan, self.site = plan, site

    @cache
    def size(self, model: str) -> ModelSize | None:
        """Shapes of a base model, if they are known."""
        return size_of(self.plan.model_spec(model), self.plan.layout)

    def lengths(self, stage: spec.StageSpec) -> Lengths:
        """Of a stage's mixture: as its prepared phases count them, else as declared, else assumed."""
        parts = [(part.num_samples, self._phase_lengths(stage.model, stage.data, part.phase)) for part in stage.mixture]
        num_samples = sum(number for number, _ in parts)
        tokens = sum(number * lengths.mean for number, lengths in parts)
        supervised = sum(number * lengths.mean * lengths.supervised_share for number, lengths in parts)
        return Lengths(tokens / num_samples, supervised / tokens)

    @cache
    def _phase_lengths(self, model: str, data: str, phase: str) -> Lengths:
        definition = self.plan.registry.data[data]
        try:
            record = read_record(self.plan.layout.phase_record(model, data, phase), PhaseRecord)
            return Lengths(record.num_tokens / record.num_samples, record.num_supervised_tokens / record.num_tokens)
        except StudyError:  # not prepared yet
            mean = definition.phases[phase].tokens_per_sample or min(TOKENS_PER_SAMPLE, definition.max_length / 2)
            return Lengths(min(mean, definition.max_length), needs.SUPERVISED_SHARE)

    # --- training

    def num_tokens(self, stage: spec.StageSpec) -> float:
        """Tokens that a stage trains on, over all of its epochs."""
        batch_size = stage.training.effective_batch_size if stage.training else 0
        return stage.num_steps * batch_size * self.lengths(stage).mean

    def training(self, stage: spec.StageSpec, *, attempt: int = 1) -> Need | None:
        """A stage's training on as few GPUs of one node as hold it, and no fewer than the site wants.

        A later attempt counts on a quarter more memory each time. Sharded weights make room by more GPUs, whole ones do not.
        """
        training, size = stage.training, self.size(stage.model)
        if training is None or size is None:
            return None
        lengths, longest = self.lengths(stage), self.plan.registry.data[stage.data].max_length
        degrees = [self.site.gpus_per_stage]
        while training.sharding == "full" and degrees[-1] * 2 <= self.site.gpus_per_node:
            degrees.append(degrees[-1] * 2)
        for num_gpus in degrees:
            memory = needs.training_memory(
                size, training, num_gpus=num_gpus, longest=longest, supervised_share=lengths.supervised_share
            )
            if fits := memory.gpu_gb * HOST_MARGIN ** (attempt - 1) <= self.site.gpu.memory_gb:
                break
        rate = self._measured_rates.get(self._kind(stage)) or needs.training_rate(
            size, training, gpu=self.site.gpu, mean_length=lengths.mean
        )
        seconds = self.num_tokens(stage) / (rate * num_gpus)
        saving = needs.saving_seconds(size, training, num_checkpoints=len(stage.checkpoints), training_s=seconds)
        return Need(num_gpus, memory, START_S + seconds + saving, fits)

    def is_measured(self, stage: spec.StageSpec) -> bool:
        """Whether a stage's rate was measured, on this kind of GPU, by one that is finished."""
        return self._kind(stage) in self._measured_rates

    def is_finished(self, stage: spec.StageSpec) -> bool:
        """Whether a stage's weights are trained, so that its job has only to publish."""
        names = (stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
        try:
            record = read_record(self.plan.layout.stage_scratch(*names) / "finished.json", TrainingRecord)
        except StudyError:
            return False
        return record.spec_hash == spec.spec_hash(stage)

    @cached_property
    def _measured_rates(self) -> dict[tuple[object, ...], float]:
        """Kind of training -> tokens per second of one GPU, the median of the finished stages of the plan."""
        found: dict[tuple[object, ...], list[float]] = {}
        for folder, stage in self.plan.stages.items():
            if stage.training is None or not (folder / "training.json").exists():
                continue
            try:
                record = read_record(folder / "training.json", TrainingRecord)
            except StudyError:  # whoever needs it will say so
                continue
            device = gpu_named(record.device)
            if device and device.bf16_flops == self.site.gpu.bf16_flops:
                found.setdefault(self._kind(stage), []).append(record.tokens_per_s / record.num_processes)
        return {kind: median(rates) for kind, rates in found.items()}

    def _kind(self, stage: spec.StageSpec) -> tuple[object, ...]:
        """What a rate hangs on besides the GPU."""
        training = stage.training
        assert training is not None, "a base is not trained"
        return (
            stage.model,
            stage.data,
            training.precision,
            training.lora.rank if training.lora else None,
            training.activation_checkpointing,
            training.cpu_offload,
        )

    # --- scoring

    def scoring(self, stage: spec.StageSpec, suite: str, *, num_checkpoints: int) -> Need | None:
        """One job that scores checkpoints of a stage on a suite, on one GPU. Of MT-Bench, the answers."""
        size, definition = self.size(stage.model), self.plan.registry.suites[suite]
        if size is None:
            return None
        compute = needs.BF16 if definition.precision == "bf16" else 4
        requests = self._requests(suite)
        longest = max(one.prompt_tokens + one.new_tokens for one in requests)
        memory = needs.scoring_memory(size, compute=compute, batch_size=definition.batch_size, tokens=longest)
        seconds = sum(
            needs.scoring_seconds(
                size,
                gpu=self.site.gpu,
                compute=compute,
                num_requests=one.number,
                prompt_tokens=one.prompt_tokens,
                new_tokens=one.new_tokens,
                batch_size=definition.batch_size,
            )
            for one in requests
        )
        return Need(1, memory, START_S + num_checkpoints * seconds, memory.gpu_gb <= self.site.gpu.memory_gb)

    def _requests(self, suite: str) -> list[config.Requests]:
        """What a suite asks for one checkpoint."""
        definition = self.plan.registry.suites[suite]
        if isinstance(definition, config.HarnessSuite):
            return [benchmark.requests or _assumed(benchmark) for benchmark in definition.benchmarks.values()]
        new_tokens = min(ANSWER_TOKENS, definition.max_new_tokens)
        return [config.Requests(number=self._num_answers(definition), prompt_tokens=QUESTION_TOKENS, new_tokens=new_tokens)]

    def _num_answers(self, suite: config.MtBenchSuite) -> int:
        return TURNS * (len(suite.question_ids) if suite.question_ids else NUM_QUESTIONS)

    # --- judging

    def judge_calls(self, suite: str, *, num_checkpoints: int) -> int:
        """Calls of all judges for so many checkpoints; none of a harness's suite."""
        return sum(number for _, number in self._calls(suite, num_checkpoints))

    def judge_cost(self, suite: str, *, num_checkpoints: int) -> float:
        """What the calls cost, in the currency of the judges' prices."""
        prices = [
            number * (PROMPT_TOKENS * judge.price_prompt + VERDICT_TOKENS * judge.price_completion)
            for judge, number in self._calls(suite, num_checkpoints)
        ]
        return sum(prices) / 1e6

    def judging(self, suite: str, *, num_checkpoints: int) -> Need:
        """One job that judges answers: judges one after the other, on a GPU if one of them is served in the job."""
        seconds, memory, num_gpus = 0.0, Memory(0.0, needs.HOST_GB_PER_PROCESS), 0
        for judge, number in self._calls(suite, num_checkpoints):
            size = self.size(judge.weights) if judge.weights else None
            if judge.base_url:
                pause_s = 60 / judge.requests_per_minute if judge.requests_per_minute else 0.0
                seconds += number * max(JUDGE_CALL_S / judge.concurrency, pause_s)
            elif judge.weights:
                num_gpus = 1
            if size:
                tokens = PROMPT_TOKENS + VERDICT_TOKENS
                held = needs.scoring_memory(size, compute=needs.BF16, batch_size=judge.concurrency, tokens=tokens)
                memory = max(memory, held, key=lambda one: one.gpu_gb)
                seconds += START_S + needs.scoring_seconds(
                    size,
                    gpu=self.site.gpu,
                    compute=needs.BF16,
                    num_requests=number,
                    prompt_tokens=PROMPT_TOKENS,
                    new_tokens=VERDICT_TOKENS,
                    batch_size=judge.concurrency,
                )
        return Need(num_gpus, memory, seconds, memory.gpu_gb <= self.site.gpu.memory_gb)

    def _calls(self, suite: str, num_checkpoints: int) -> list[tuple[config.Judge, int]]:
        """Each judge of a suite, and its calls: by question and turn, as often as it judges, and in both orders of a pair."""
        definition = self.plan.registry.suites[suite]
        if not isinstance(definition, config.MtBenchSuite):
            return []
        asked = num_checkpoints * self._num_answers(definition) * (2 if definition.against else 1)
        return [(judge, asked * judge.num_judgings) for judge in definition.judges]


def _assumed(benchmark: config.HarnessBenchmark) -> config.Requests:
    """What a benchmark asks that does not say so: options of an item share its prompt, and metrics of replies want one."""
    generated = benchmark.metric.startswith(("exact_match", "prompt_level", "inst_level"))
    return config.Requests(
        number=benchmark.num_items or NUM_ITEMS,
        prompt_tokens=ITEM_TOKENS * (1 + (benchmark.num_fewshot or 0)),
        new_tokens=REPLY_TOKENS if generated else 0,
    )


def minutes(seconds: float, *, attempt: int = 1) -> int:
    """A job's time limit: its forecast with a margin, once more for every attempt that failed."""
    return math.ceil(seconds * RUNTIME_MARGIN / 60) * attempt + 5


def host_mb(memory: Memory, *, attempt: int = 1) -> int:
    """A job's host memory with a margin, larger for every attempt that failed."""
    return math.ceil(memory.host_gb * HOST_MARGIN**attempt) * 1000
