"""Snakemake run on the test cluster as users run it: the shipped profile, polled more often, with a small study."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from checkouts import SITE, variables

OVERLAY = "tests/slurm/overlay"
PHASED = Path("runs/small-llama/small/small-phased/seed1")
STAGES = ("01-instruct", "02-skills")
STACKED = Path("runs/small-llama/small/small-stacked/seed1/01-stacked")
BASE = Path("runs/small-llama/none/none/seed0/00-base")
"""Folders under `results/` and `scratch/`."""

GROUPS = [f"{rule}=tables" for rule in ("collect_scores", "render_table", "write_numbers", "summarize_study", "audit_screen")]
QUICK = {"latency-wait": 5, "jobs": 6, "groups": GROUPS}
"""What differs from the shipped profile: how long it waits for files, how many jobs two cores can bear, one job for all tables."""
IMPATIENT = "tests/slurm/impatient/snakemake"

_IS_STACKED = "wildcards.recipe == 'small-stacked'"
TRAINING = {
    "nodes": f"1 if {_IS_STACKED} else 2",
    "processes": f"1 if {_IS_STACKED} else 2",
    "gres": f"'gpu:1' if {_IS_STACKED} else 'gpu:2'",
    "slurm_partition": "gpu",  # a stopped stage would be published on the CPU partition, which has one node
    "device": "cpu",
    "runtime": 10,
    "mem_mb": 4000,
}
"""The phased runs train in four processes on two nodes, the stacked one in a single process."""


def make_profile(checkout: Path, rules: dict[str, dict[str, Any]]) -> str:
    """Name of a profile in the checkout: the shipped one, quicker, and with other resources for some rules."""
    settings = yaml.safe_load((checkout / "profiles" / "slurm" / "config.yaml").read_text()) | QUICK
    for rule, resources in {"train_rung": {}, "train_stage": {}, **rules}.items():
        trains = TRAINING if rule in ("train_rung", "train_stage") else {}
        settings.setdefault("set-resources", {}).setdefault(rule, {}).update(trains | resources)
    folder = checkout / "profiles" / "slurm-quick"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return str(folder.relative_to(checkout))


def start(checkout: Path, *arguments: str, **rules: dict[str, Any]) -> subprocess.Popen[str]:
    """Snakemake at work on the cluster; its output goes to `snakemake.out`."""
    command = [sys.executable, IMPATIENT, *arguments, "--profile", make_profile(checkout, rules), "--config"]
    environment = {**variables(checkout), **SITE, "OMP_NUM_THREADS": "1"}
    with (checkout / "snakemake.out").open("w") as out:
        return subprocess.Popen(
            [*command, f"overlay={OVERLAY}"],
            cwd=checkout,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            # where pytest itself runs in the background of a script, Ctrl-C is ignored, and its children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def finish(process: subprocess.Popen[str], checkout: Path, *, patience_s: float = 900) -> str:
    """What Snakemake printed; fails if it ended with an error."""
    try:
        status = process.wait(patience_s)
    finally:
        process.kill()
    out = (checkout / "snakemake.out").read_text()
    assert status == 0, out[-6000:]
    return out
