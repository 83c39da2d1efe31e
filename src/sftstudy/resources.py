"""What a scheduler is told of a rule's jobs: the resources of Snakemake's names, from the forecast of a site. Empty on a laptop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sftstudy import limits
from sftstudy.environment import Site
from sftstudy.forecast import Forecast, Need, host_mb, minutes
from sftstudy.needs import Memory
from sftstudy.plan import Plan
from sftstudy.records import RaceRecord, read_record, stopped_status
from sftstudy.spec import StageSpec

PUBLISHING = Need(0, Memory(0.0, 4.0), 0.0)
"""Of a job that only writes its records again: no GPU."""
PRETRAINING = Need(1, Memory(0.0, 6.0), 2200.0)
"""Of the small models that a study makes itself."""
UNKNOWN = {"train_stage": Need(1, Memory(0.0, 50.0), 8 * 3600), "score": Need(1, Memory(0.0, 25.0), 2 * 3600)}
"""Of models whose size is not known before they are here."""

KEYS = {
    "train_stage": ("mem_mb", "runtime", "nodes", "processes", "device"),
    "train_rung": ("mem_mb", "runtime", "nodes", "processes", "device"),
    "pretrain_model": ("mem_mb", "runtime"),
    "score_harness": ("mem_mb", "runtime"),
    "race_checkpoints": ("mem_mb", "runtime"),
    "answer_mt_bench": ("mem_mb", "runtime"),
    "judge_mt_bench": ("mem_mb", "runtime"),
}
"""Rules that need more than a site's defaults, and what of; all of them may need a GPU besides."""
ON_CLUSTER, ON_WORKSTATION = ("gres", "slurm_partition", "cpus_per_gpu"), ("gpu",)
"""How a GPU is asked for: a cluster's executor wants one way only, a workstation counts."""


class JobResources:
    """Resources of the rules in KEYS. A resource whose value is None is not asked for.

    `overrides` are those of `--set-resources`, rule -> resource -> Snakemake's value: what each of the nodes needs follows from
    their number, unless that is an expression.
    """

    def __init__(self, plan: Plan, site: Site | None, *, overrides: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.forecast = Forecast(plan, site) if site else None
        asked = {rule: resources["nodes"] for rule, resources in overrides.items() if "nodes" in resources}
        self.nodes = {rule: number.value for rule, number in asked.items() if not number.is_evaluable()}

    @property
    def warnings(self) -> list[str]:
        """What cannot go well within the site's time limits."""
        return limits.warnings(self.forecast) if self.forecast else []

    def of(self, rule: str) -> dict[str, Callable[[Any, Any, int], Any]]:
        """Resource -> function of a job's wildcards, input and attempt, for the `resources:` of a rule."""
        if self.forecast is None:
            return {}
        place = ON_CLUSTER if self.forecast.site.gpu_partition else ON_WORKSTATION

        def function(key: str) -> Callable[[Any, Any, int], Any]:
            # Snakemake knows its arguments by name
            def value(wildcards: Any, input: Any, attempt: int) -> Any:
                names = tuple(sorted(dict(wildcards).items()))
                return self._values(rule, names, attempt, idle=self._is_idle(rule, dict(wildcards), input))[key]

            return value

        return {key: function(key) for key in (*KEYS[rule], *place)}

    @cache
    def _values(self, rule: str, names: tuple[tuple[str, str], ...], attempt: int, *, idle: bool) -> dict[str, Any]:
        assert self.forecast is not None, "`of` gave no functions"
        site, wildcards = self.forecast.site, dict(names)
        need = PUBLISHING if idle else self._need(rule, wildcards, attempt)
        return {
            "mem_mb": host_mb(need.memory, attempt=attempt),
            "runtime": minutes(need.seconds, attempt=attempt, most=site.max_runtime(need.num_gpus)),
            "nodes": need.num_nodes,
            "gres": f"gpu:{need.num_gpus}" if need.num_gpus else None,
            "gpu": need.num_gpus or None,
            "slurm_partition": site.gpu_partition if need.num_gpus else site.cpu_partition,
            "cpus_per_gpu": site.cpus_per_gpu if need.num_gpus else None,
            "processes": max(1, need.num_gpus),
            # never by chance on a CPU: what was not finished after all fails at once, and asks for its GPUs at the next attempt
            "device": "cuda",
        }

    def _stage(self, wildcards: Mapping[str, str]) -> StageSpec:
        assert self.forecast is not None, "`of` gave no functions"
        plan = self.forecast.plan
        folder = plan.layout.stage_results(*(wildcards[name] for name in ("model", "data", "recipe", "seed", "stage")))  # type: ignore[arg-type]
        return plan.stages[folder]

    def _is_idle(self, rule: str, wildcards: Mapping[str, str], input: Any) -> bool:
        """Whether a job has nothing to do: its stage was stopped, or a race dropped all of its checkpoints.

        Raises FileNotFoundError as long as the record that says so is not there: a plan then says <TBD>.
        """
        if rule == "pretrain_model":
            return False
        return self._is_stopped(self._stage(wildcards), input) or (rule == "score_harness" and self._is_dropped(wildcards))

    def _is_dropped(self, wildcards: Mapping[str, str]) -> bool:
        """Whether a race dropped all of a job's checkpoints, on the only benchmark of its suite."""
        assert self.forecast is not None, "`of` gave no functions"
        plan, stage, suite = self.forecast.plan, self._stage(wildcards), wildcards["suite"]
        path = plan.race_of(stage, suite)
        if path is None or len(plan.suite_spec(suite).benchmarks) > 1:
            return False
        path.stat()
        dropped = {entry.ckpt for entry in read_record(path, RaceRecord).checkpoints if entry.dropped}
        return dropped >= set(plan.parts(stage, suite)[wildcards["part"]])

    def _is_stopped(self, stage: StageSpec, input: Any) -> bool:
        """Whether a stage was stopped, or continues from one that was. Reads the verdict only where there can be one."""
        assert self.forecast is not None, "`of` gave no functions"
        plan = self.forecast.plan
        if not plan.may_stop(stage):
            return False
        found: list[str] = []
        for name in ["verdict", "weights", *(["start"] if plan.parent_of(stage) else [])]:
            files = input.get(name, [])
            found += [files] if isinstance(files, str) else files
        for path in found:
            Path(path).stat()
        return any(stopped_status(Path(path)) for path in found)

    def _need(self, rule: str, wildcards: Mapping[str, str], attempt: int) -> Need:
        assert self.forecast is not None, "`of` gave no functions"
        forecast, plan = self.forecast, self.forecast.plan
        if rule == "pretrain_model":
            return PRETRAINING
        stage = self._stage(wildcards)
        if rule in ("train_rung", "train_stage"):
            rung = float(wildcards["rung"]) if rule == "train_rung" else None
            if attempt == 1 and (forecast.is_finished(stage) or not plan.steps_of(stage, rung)):
                return PUBLISHING
            return forecast.training(stage, rung=rung, attempt=attempt, num_nodes=self.nodes.get(rule)) or UNKNOWN["train_stage"]
        if rule == "race_checkpoints":
            return forecast.racing(stage) or UNKNOWN["score"]
        suite = wildcards["suite"]
        num_checkpoints = len(plan.parts(stage, suite)[wildcards["part"]])
        if rule == "judge_mt_bench":
            return forecast.judging(suite, num_checkpoints=num_checkpoints)
        return forecast.scoring(stage, suite, num_checkpoints=num_checkpoints) or UNKNOWN["score"]
