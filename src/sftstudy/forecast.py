"""What each job of a plan will need on a site's GPUs, before it runs: memory, GPUs, hours. Records that exist replace assumptions.

The rate of a stage that was trained, or came to a rung, stands for all stages of the same model and way of training; a prepared
phase's lengths for its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from statistics import median

from sftstudy import config, needs, spec
from sftstudy.environment import Site
from sftstudy.errors import StudyError
from sftstudy.gpus import gpu_named
from sftstudy.needs import Memory
from sftstudy.paces import seconds_per_checkpoint
from sftstudy.plan import Plan
from sftstudy.race import looks
from sftstudy.records import PhaseRecord, TrainingRecord, read_record
from sftstudy.screen import rung_name
from sftstudy.sizes import ModelSize, size_of
from sftstudy.train.checkpoints import SPARE_S

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


KILLED_S = 600.0
"""Of scoring or judging that a killed job loses: a block of items, or the calls on their way."""


@dataclass(frozen=True)
class Need:
    """What one job needs: GPUs and host memory of each of its nodes, and seconds over all of its `starts`.

    `fits` is false if even all GPUs that a site gives a stage are too small for it.
    """

    num_gpus: int
    memory: Memory
    seconds: float
    fits: bool = True
    num_nodes: int = 1
    starts: int = 1

    @property
    def gpu_hours(self) -> float:
        """GPUs of all nodes, times hours."""
        return self.num_nodes * self.num_gpus * self.seconds / 3600


@dataclass(frozen=True)
class Lengths:
    """Tokens of a mixture's samples: their mean, and the share of them that is trained on."""

    mean: float
    supervised_share: float


@dataclass(frozen=True)
class Pace:
    """What a training record shows: seconds that a token of `flops` took one GPU, with these data, on so many nodes."""

    data: str
    num_nodes: int
    token_s: float
    flops: float


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

    def jobs(self, stage: spec.StageSpec) -> dict[float | None, Need]:
        """The jobs that train a stage one after the other, if nobody stops it: rung, or None for its end -> need."""
        needs_of = {rung: self.training(stage, rung=rung) for rung in self.plan.rungs_of(stage)}
        return {rung: need for rung, need in needs_of.items() if need}

    def training(
        self, stage: spec.StageSpec, *, rung: float | None = None, attempt: int = 1, num_nodes: int | None = None
    ) -> Need | None:
        """The job that trains a stage up to a rung, or from its last rung to its end, on as few GPUs as hold it.

        They are no fewer than the site wants, and on `num_nodes` if that is given. A later attempt counts on a quarter more memory
        each time. Sharded weights make room by more GPUs, whole ones do not.
        """
        training, size = stage.training, self.size(stage.model)
        if training is None or size is None:
            return None
        lengths, longest = self.lengths(stage), self.plan.registry.data[stage.data].max_length
        for nodes, num_gpus in self._places(training, num_nodes):
            memory = needs.training_memory(
                size,
                training,
                num_gpus=num_gpus,
                num_nodes=nodes,
                longest=longest,
                supervised_share=lengths.supervised_share,
            )
            if fits := memory.gpu_gb * HOST_MARGIN ** (attempt - 1) <= self.site.gpu.memory_gb:
                break
        steps = self.plan.steps_of(stage, rung)
        step_s = self.num_tokens(stage) / stage.num_steps * self._token_s(stage, num_gpus, nodes) / (nodes * num_gpus)
        saved_at = [place.step for place in stage.checkpoints if place.step - 1 in steps]
        saving_s = needs.saving_seconds(
            size,
            training,
            num_checkpoints=len(saved_at),
            num_stops=int(steps.stop < stage.num_steps and steps.stop not in saved_at),
            training_s=len(steps) * step_s,
        )
        spare_s = SPARE_S + step_s + 2 * needs.state_seconds(size, training)
        seconds, starts = self._in_starts(len(steps) * step_s + saving_s, num_gpus=num_gpus, lost_s=spare_s, least_s=step_s)
        return Need(num_gpus, memory, seconds, fits, nodes, starts)

    def _places(self, training: config.Training, num_nodes: int | None) -> list[tuple[int, int]]:
        """(nodes, GPUs of each) on which a stage may be trained, from the fewest on; more than the first only if it is sharded."""
        site = self.site
        fewest = num_nodes or max(1, site.gpus_per_stage // site.gpus_per_node)
        places = [(fewest, min(site.gpus_per_stage, site.gpus_per_node))]
        while training.sharding == "full" and places[-1][1] * 2 <= site.gpus_per_node:
            places.append((fewest, places[-1][1] * 2))
        if training.sharding == "full" and not num_nodes:
            places += [(nodes, site.gpus_per_node) for nodes in range(fewest + 1, site.max_nodes + 1)]
        return places

    def _in_starts(
        self, work_s: float, *, num_gpus: int, lost_s: float, least_s: float = 60.0, start_s: float = START_S
    ) -> tuple[float, int]:
        """Seconds that a job of `work_s` takes with all of its starts, and their number, within its partition's limit.

        Of each but the last start `lost_s` at the end do not count; each does `least_s` of work in any case.
        """
        limit = self.site.max_runtime(num_gpus)
        if limit is None or start_s + work_s <= 60 * limit:
            return start_s + work_s, 1
        starts = math.ceil(work_s / max(least_s, 60 * limit - start_s - lost_s))
        return starts * start_s + work_s + (starts - 1) * lost_s, starts

    def is_measured(self, stage: spec.StageSpec) -> bool:
        """Whether the rate of a stage's model and way of training was measured on this kind of GPU."""
        return self._way(stage) in self._measured

    def is_finished(self, stage: spec.StageSpec) -> bool:
        """Whether a stage's weights are trained, so that its job has only to publish."""
        names = (stage.model, stage.data, stage.recipe, stage.seed, stage.stage)
        try:
            record = read_record(self.plan.layout.stage_scratch(*names) / "finished.json", TrainingRecord)
        except StudyError:
            return False
        return record.spec_hash == spec.spec_hash(stage)

    def _token_s(self, stage: spec.StageSpec, num_gpus: int, num_nodes: int) -> float:
        """Seconds that a token takes one GPU of a job: as its own last rung shows, or stages that are alike, else as assumed.

        Stages of the same data count, else those of the model's other data by FLOPs; on as many nodes, else on the nearest fewer of
        them, with what more nodes add.
        """
        training, size, lengths = stage.training, self.size(stage.model), self.lengths(stage)
        assert training is not None, "a base is not trained"
        assert size is not None, "nothing is forecast of a model of unknown size"

        def network_s(nodes: int) -> float:
            return needs.network_seconds(size, training, num_gpus=num_gpus, num_nodes=nodes, mean_length=lengths.mean)

        own = self._paces_at_rungs(stage)[:1]  # read anew: it may have come to a rung since this Snakemake began
        found = own or self._measured.get(self._way(stage), [])
        if not found:
            rate = needs.training_rate(size, training, gpu=self.site.gpu, mean_length=lengths.mean)
            offload_s = needs.offload_seconds(size, training, num_gpus=num_gpus, num_nodes=num_nodes, mean_length=lengths.mean)
            return 1 / rate + offload_s + network_s(num_nodes)
        alike = [pace for pace in found if pace.data == stage.data] or found
        nodes = min((pace.num_nodes for pace in alike), key=lambda number: (number > num_nodes, abs(number - num_nodes)))
        flops = needs.training_flops(size, training, mean_length=lengths.mean, supervised_share=lengths.supervised_share)
        token_s = median(
            pace.token_s * (1 if pace.data == stage.data else flops / pace.flops) for pace in alike if pace.num_nodes == nodes
        )
        return token_s + max(0.0, network_s(num_nodes) - network_s(nodes))

    @cached_property
    def _measured(self) -> dict[tuple[object, ...], list[Pace]]:
        """Way of training -> paces of the plan's stages that were trained so, to their end or to a rung."""
        found: dict[tuple[object, ...], list[Pace]] = {}
        for folder, stage in self.plan.stages.items():
            if stage.training is None:
                continue
            whole = self._read_pace(stage, folder / "training.json")
            for pace in [whole] if whole else self._paces_at_rungs(stage)[:1]:
                found.setdefault(self._way(stage), []).append(pace)
        return found

    def _paces_at_rungs(self, stage: spec.StageSpec) -> list[Pace]:
        """What a stage showed at the rungs that it came to, the last one first."""
        folder = self.plan.records_of(stage)
        rungs = reversed(self.plan.screens.rungs.get(folder, []))
        found = [self._read_pace(stage, self.plan.layout.rung(folder, rung_name(rung)) / "training.json") for rung in rungs]
        return [pace for pace in found if pace]

    def _read_pace(self, stage: spec.StageSpec, path: Path) -> Pace | None:
        """A stage's pace as a record shows it; None if it is not there, of another kind of GPU, or of no steps at all."""
        size = self.size(stage.model)
        if size is None or stage.training is None or not path.exists():
            return None
        try:
            record = read_record(path, TrainingRecord)
        except StudyError:  # whoever needs it will say so
            return None
        device = gpu_named(record.device)
        if device is None or device.bf16_flops != self.site.gpu.bf16_flops or not record.num_steps:
            return None
        lengths = self.lengths(stage)
        flops = needs.training_flops(size, stage.training, mean_length=lengths.mean, supervised_share=lengths.supervised_share)
        return Pace(stage.data, record.num_nodes, record.num_processes / record.tokens_per_s, flops)

    def _way(self, stage: spec.StageSpec) -> tuple[object, ...]:
        """What a pace hangs on besides the GPU and the data."""
        training = stage.training
        assert training is not None, "a base is not trained"
        return (
            stage.model,
            training.precision,
            training.lora.rank if training.lora else None,
            training.activation_checkpointing,
            training.cpu_offload,
        )

    # --- scoring

    def racing(self, stage: spec.StageSpec) -> Need | None:
        """The job that races a stage's checkpoints, as if none were dropped before the end; weights are loaded at every look."""
        selection, size = self.plan.selection_of(stage), self.size(stage.model)
        if selection is None or selection.race is None or size is None:
            return None
        number, (suite,) = len(stage.checkpoints), self.plan.selection_suites(selection)
        scored = self.scoring(stage, suite, num_checkpoints=number, benchmark=selection.benchmark)
        (requests,) = self._requests(suite, selection.benchmark)
        num_loads = number * len(looks(requests.number, first=selection.race.first, growth=selection.race.growth))
        compute = needs.BF16 if self.plan.registry.suites[suite].precision == "bf16" else 4
        loading = num_loads * compute * size.num_parameters / needs.DISK_BYTES_PER_S
        return replace(scored, seconds=scored.seconds + loading) if scored else None

    def scoring(self, stage: spec.StageSpec, suite: str, *, num_checkpoints: int, benchmark: str | None = None) -> Need | None:
        """One job that scores checkpoints of a stage on a suite, or one benchmark of it, on one GPU. Of MT-Bench, the answers.

        A suite takes as long as such jobs took.
        """
        size, definition = self.size(stage.model), self.plan.registry.suites[suite]
        if size is None:
            return None
        compute = needs.BF16 if definition.precision == "bf16" else 4
        requests = self._requests(suite, benchmark)
        longest = max(one.prompt_tokens + one.new_tokens for one in requests)
        memory = needs.scoring_memory(size, compute=compute, batch_size=definition.batch_size, tokens=longest)
        pace = self.scoring_pace(stage.model, suite) if benchmark is None else None
        seconds = pace or sum(
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
        total, starts = self._in_starts(num_checkpoints * seconds, num_gpus=1, lost_s=KILLED_S)
        return Need(1, memory, total, memory.gpu_gb <= self.site.gpu.memory_gb, starts=starts)

    @cache
    def scoring_pace(self, model: str, suite: str) -> float | None:
        """Seconds that scoring a checkpoint of a model on a suite took; None before a job has done it."""
        harness = isinstance(self.plan.registry.suites[suite], config.HarnessSuite)
        rule = "score_harness" if harness else "answer_mt_bench"
        return seconds_per_checkpoint(self.plan, rule, suite, gpu=self.site.gpu, model=model)

    @cache
    def judging_pace(self, suite: str, *, served: bool) -> float | None:
        """Seconds that judging a checkpoint took, by all judges of a suite, on a GPU if one is `served`."""
        return seconds_per_checkpoint(self.plan, "judge_mt_bench", suite, gpu=self.site.gpu if served else None)

    def _requests(self, suite: str, benchmark: str | None = None) -> list[config.Requests]:
        """What a suite, or one benchmark of it, asks for one checkpoint."""
        definition = self.plan.registry.suites[suite]
        if isinstance(definition, config.HarnessSuite):
            return [one.requests or _assumed(one) for name, one in definition.benchmarks.items() if benchmark in (None, name)]
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
        """One job that judges answers: judges one after the other, as long as such jobs took, on a GPU if one of them is served."""
        seconds, memory, num_gpus, num_served = 0.0, Memory(0.0, needs.HOST_GB_PER_PROCESS), 0, 0
        for judge, number in self._calls(suite, num_checkpoints):
            size = self.size(judge.weights) if judge.weights else None
            if judge.base_url:
                pause_s = 60 / judge.requests_per_minute if judge.requests_per_minute else 0.0
                seconds += number * max(JUDGE_CALL_S / judge.concurrency, pause_s)
            elif judge.weights:
                num_gpus, num_served = 1, num_served + 1
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
        if pace := self.judging_pace(suite, served=bool(num_gpus)):
            seconds = num_checkpoints * pace + START_S * num_served
        total, starts = self._in_starts(seconds, num_gpus=num_gpus, lost_s=KILLED_S, start_s=0.0)
        return Need(num_gpus, memory, total, memory.gpu_gb <= self.site.gpu.memory_gb, starts=starts)

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


def stage_name(stage: spec.StageSpec) -> str:
    """A stage as pages and messages call it, whatever its seed."""
    return "/".join(name for name in (stage.model, stage.data, stage.recipe, stage.stage) if name != config.NO_NAME)


def minutes(seconds: float, *, attempt: int = 1, most: int | None = None) -> int:
    """A job's time limit: its forecast with a margin, once more for every attempt that failed, and no more than its partition's."""
    asked = math.ceil(seconds * RUNTIME_MARGIN / 60) * attempt + 5
    return asked if most is None else min(asked, most)


def host_mb(memory: Memory, *, attempt: int = 1) -> int:
    """A job's host memory with a margin, larger for every attempt that failed."""
    return math.ceil(memory.host_gb * HOST_MARGIN**attempt) * 1000
