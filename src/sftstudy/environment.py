"""What the machine must provide before jobs run: Python, this package, and the facts of a site with GPUs."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sftstudy import devices
from sftstudy.errors import StudyError
from sftstudy.gpus import GPUS, Gpu, gpu_named

CONFIG_VARIABLE = "STUDY_CONFIG"
"""Environment variable that tells a job how the workflow was configured on the command line."""

YES, NO = {"1", "yes", "true", "on"}, {"", "0", "no", "false", "off"}


def share_with_jobs(config: Mapping[str, Any]) -> None:
    """Let jobs run the Python that runs Snakemake, and this checkout's package, and know the `--config` of the command line.

    A conda environment or a container that Snakemake activates for a job puts its own `python` first again; the package still comes
    from the checkout, so environments need to hold libraries only.
    """
    _prepend("PATH", Path(sys.executable).parent)
    _prepend("PYTHONPATH", Path(__file__).parent.parent)
    os.environ[CONFIG_VARIABLE] = shlex.join(f"{key}={value}" for key, value in config.items())


def switch_hub_off(*, in_job: bool) -> None:
    """In a job on a compute node, if the site says STUDY_OFFLINE=1: ask the hub for nothing, `snakemake fetch` has brought it.

    Raises StudyError anywhere for a word that is neither yes nor no.
    """
    text = os.environ.get("STUDY_OFFLINE", "")
    if text.lower() not in YES | NO:
        raise StudyError(f"STUDY_OFFLINE: {text!r} is neither 1 nor 0; correct it in site.env")
    if in_job and text.lower() in YES:
        os.environ["HF_HUB_OFFLINE"] = "1"


def hub_remedy() -> str:
    """What an error about the hub must end in where nothing may be downloaded, or nothing."""
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in {"", "0"}
    return f"; the hub is switched off here: `snakemake -c all fetch{config_flags()}` where it can be reached" if offline else ""


def config_flags() -> str:
    """What a command that a message names must end in, to mean the study at hand: ` --config overlay=...`, or nothing."""
    settings = os.environ.get(CONFIG_VARIABLE, "")
    return f" --config {settings}" if settings else ""


def require_site_facts(default_resources: Any, *, num_gpus: int | None = None) -> None:
    """Raises StudyError if what a profile relies on is not in the environment.

    These are the variables that its default resources name, of which only an account may be empty; on a cluster with a GPU its
    partition; a time limit that is not below the default; and the names of `num_gpus` GPUs, which a workstation's jobs may take.
    """
    settings = " ".join(default_resources.args) if default_resources else ""
    for name in re.findall(r"\$(\w+)", settings):
        if name not in os.environ or (not os.environ[name] and name != "STUDY_ACCOUNT"):
            raise StudyError(f"{name} is not set; copy profiles/slurm/site.env.example to site.env, edit it, `source site.env`")
    if "slurm_partition=" in settings and os.environ.get("STUDY_GPU") and not os.environ.get("STUDY_GPU_PARTITION"):
        raise StudyError(f"STUDY_GPU_PARTITION is not set; name the partition whose GPU is {os.environ['STUDY_GPU']} in site.env")
    if num_gpus and len(names := devices.listed()) < num_gpus:
        raise StudyError(
            f"STUDY_DEVICES: lists {len(names)} GPUs, and jobs may take {num_gpus} (STUDY_GPUS_PER_NODE); list them all in site.env"
        )
    runtime, limit = re.search(r"\bruntime=(\d+)", settings), _count("STUDY_CPU_MAX_RUNTIME", 0)
    if runtime and limit and int(runtime[1]) > limit:
        raise StudyError(
            f"STUDY_CPU_MAX_RUNTIME: {limit} minutes are less than `runtime: {runtime[1]}` in the profile's default-resources; "
            "lower that in profiles/slurm/config.yaml"
        )


def _prepend(variable: str, folder: Path) -> None:
    rest = [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry and entry != str(folder)]
    os.environ[variable] = os.pathsep.join([str(folder), *rest])


@dataclass(frozen=True)
class Site:
    """The GPUs of a cluster or workstation, and where a cluster's jobs go. A laptop has none, and its jobs ask for nothing.

    `gpus_per_stage` are the fewest that train a stage, of whole nodes if they are more than a node has; a stage that needs more
    gets up to `max_nodes` nodes. The longest time that a partition gives a job is in minutes, None if it has no limit.
    """

    gpu: Gpu
    gpus_per_node: int = 8
    gpus_per_stage: int = 1
    cpus_per_gpu: int = 4
    gpu_partition: str | None = None
    cpu_partition: str | None = None
    max_nodes: int = 1
    gpu_max_runtime: int | None = None
    cpu_max_runtime: int | None = None

    def max_runtime(self, num_gpus: int) -> int | None:
        """The longest time of a job with so many GPUs."""
        return self.gpu_max_runtime if num_gpus else self.cpu_max_runtime

    @classmethod
    def from_environment(cls) -> Site | None:
        """What STUDY_GPU and its fellows say (profiles/slurm/site.env.example); None where no GPU is named.

        Raises StudyError for a GPU that is not known, a number that is none, GPUs of no whole nodes, and a GPU partition whose GPUs
        have no name.
        """
        name, partition = os.environ.get("STUDY_GPU", ""), os.environ.get("STUDY_GPU_PARTITION")
        if not name:
            if partition:
                raise StudyError(f"STUDY_GPU is not set; name the GPU of partition {partition} in site.env, such as H100")
            return None
        site = cls(
            gpu=named_gpu(name, where="STUDY_GPU"),
            gpus_per_node=_count("STUDY_GPUS_PER_NODE", 8),
            gpus_per_stage=_count("STUDY_GPUS_PER_STAGE", 1),
            cpus_per_gpu=_count("STUDY_CPUS_PER_GPU", 4),
            gpu_partition=partition,
            cpu_partition=os.environ.get("STUDY_CPU_PARTITION"),
            max_nodes=_count("STUDY_MAX_NODES", 4) if partition else 1,
            gpu_max_runtime=_count("STUDY_GPU_MAX_RUNTIME", 0) or None,
            cpu_max_runtime=_count("STUDY_CPU_MAX_RUNTIME", 0) or None,
        )
        site.check()
        return site

    def check(self) -> None:
        """Raise StudyError unless the fewest GPUs of a stage are of one node, or whole nodes that it may have."""
        num_nodes, rest = divmod(self.gpus_per_stage, self.gpus_per_node)
        if self.gpus_per_stage > self.gpus_per_node and (rest or num_nodes > self.max_nodes):
            raise StudyError(
                f"STUDY_GPUS_PER_STAGE: {self.gpus_per_stage} GPUs of a stage are not whole nodes of {self.gpus_per_node}, or more "
                f"than STUDY_MAX_NODES={self.max_nodes} have; give a multiple, or no more than a node has"
            )


def named_gpu(name: str, *, where: str) -> Gpu:
    """A GPU by its name, with what STUDY_GPU_MEMORY_GB says of its memory. Raises StudyError if it is not known."""
    gpu = gpu_named(name)
    if gpu is None:
        raise StudyError(f"{where}: {name!r} is not known; name one of {', '.join(GPUS)}, the most like it")
    memory_gb = _count("STUDY_GPU_MEMORY_GB", int(gpu.memory_gb))
    return replace(gpu, memory_gb=float(memory_gb))


def _count(variable: str, default: int) -> int:
    text = os.environ.get(variable) or ""
    if not text:
        return default
    if not text.isdecimal() or int(text) == 0:
        raise StudyError(f"{variable}: {text!r} is not a whole number above 0; correct it in site.env")
    return int(text)
