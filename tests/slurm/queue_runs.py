"""Snakemake run on the test cluster as users run it: the shipped profile, polled more often, with a small study."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from checkouts import SITE, variables

OVERLAY = "tests/slurm/overlay"
RUN = Path("results/runs/small-llama/small/small-phased/seed1")
STAGES = ("01-instruct", "02-skills")
QUICK = {"slurm-init-seconds-before-status-checks": 1, "latency-wait": 5, "jobs": 6}
"""What differs from the shipped profile: how often it asks, and how many jobs two real cores can bear."""


def make_profile(checkout: Path, rules: dict[str, dict[str, Any]]) -> str:
    """Name of a profile in the checkout: the shipped one, quicker, and with other resources for some rules."""
    settings = yaml.safe_load((checkout / "profiles" / "slurm" / "config.yaml").read_text()) | QUICK
    for rule, resources in rules.items():
        settings.setdefault("set-resources", {}).setdefault(rule, {}).update(resources)
    folder = checkout / "profiles" / "slurm-quick"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return str(folder.relative_to(checkout))


def start(checkout: Path, *targets: str, **rules: dict[str, Any]) -> subprocess.Popen[str]:
    """Snakemake at work on the cluster; its output goes to `snakemake.out`."""
    command = [sys.executable, "-m", "snakemake", *targets, "--profile", make_profile(checkout, rules), "--config"]
    environment = {**variables(checkout), **SITE, "OMP_NUM_THREADS": "1"}
    with (checkout / "snakemake.out").open("w") as out:
        return subprocess.Popen(
            [*command, f"overlay={OVERLAY}"], cwd=checkout, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True
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
