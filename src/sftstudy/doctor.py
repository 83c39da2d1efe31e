"""What an interrupted run left behind in a checkout or holds one up, where site.env and SLURM differ, and what to type. Only reads.

After Snakemake was killed its cluster jobs run on as orphans, its locks stay, and outputs that were being written are marked
incomplete. A job that was killed with its node leaves a lease until that expires.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sftstudy.errors import StudyError
from sftstudy.paths import Layout
from sftstudy.records import read_metrics
from sftstudy.train.lease import holder_of, is_stale
from sftstudy.train.slurm import parse_time_left

NEVER_STARTS = ("PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints")
"""What SLURM says of a job that asks for more than its partition has."""

JOB_PREFIX = "sftstudy"
"""`slurm-jobname-prefix` of the shipped profile: the name of every job begins with it."""


@dataclass(frozen=True)
class Finding:
    """Something that was left, and the remedy."""

    what: str
    remedy: str


def examine(checkout: Path, layout: Layout) -> list[Finding]:
    """All findings, jobs first: what is said of them decides what may be unlocked."""
    running = snakemakes(checkout)
    return [
        *_jobs(checkout, running),
        *_time_limits(),
        *_locks(checkout, running),
        *_incomplete(checkout, running),
        *_leases(layout),
        *_broken_records(layout),
    ]


def snakemakes(checkout: Path) -> list[int]:
    """Processes of this machine that run Snakemake in the checkout, jobs' own aside."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if os.readlink(entry / "cwd") != str(checkout.absolute()):
                continue
        except OSError:
            continue
        if any(part.endswith(b"snakemake") for part in command[:4]) and b"--mode" not in command:
            found.append(int(entry.name))
    return sorted(found)


def _jobs(checkout: Path, running: list[int]) -> Iterator[Finding]:
    """Jobs of this checkout that never start, and those in the queue though no Snakemake waits for them here."""
    try:
        listed = subprocess.run(
            ["squeue", "--me", "--noheader", "--format", "%i|%j|%T|%M|%r|%Z|%k"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return
    for line in listed.splitlines():
        number, name, state, elapsed, reason, folder, comment = line.split("|", maxsplit=6)
        if not name.startswith(JOB_PREFIX) or os.path.realpath(folder) != os.path.realpath(checkout):
            continue
        work = comment.removeprefix("rule_").replace("_wildcards_", " of ") if comment.startswith("rule_") else name
        if state == "PENDING" and "held" in reason.lower():
            yield Finding(f"job {number} ({work}): is held ({reason}) and never starts", f"`scontrol release {number}`")
        elif state == "PENDING" and reason in NEVER_STARTS:
            yield Finding(
                f"job {number} ({work}): asks for more than its partition has ({reason}) and never starts",
                f"end Snakemake, `scancel {number}`, and ask for less: `--set-resources RULE:nodes=...`, or its runtime or memory",
            )
        elif not running:
            yield Finding(
                f"job {number} ({work}, {state.lower()} for {elapsed}): no Snakemake here waits for it",
                f"wait for its end before you unlock, and its work is used; or `scancel {number}`",
            )


def _time_limits() -> Iterator[Finding]:
    """Partitions of the site that are not there, or whose time limit is another than site.env says."""
    named = {kind: partition for kind in ("GPU", "CPU") if (partition := os.environ.get(f"STUDY_{kind}_PARTITION"))}
    if not named:
        return
    try:
        listed = subprocess.run(["sinfo", "--noheader", "--format", "%P %l"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return
    limits = {name.rstrip("*"): parse_time_left(limit) for name, limit in map(str.split, listed.splitlines())}
    for kind, partition in named.items():
        variable = f"STUDY_{kind}_MAX_RUNTIME"
        told = os.environ.get(variable)
        if partition not in limits:
            yield Finding(
                f"STUDY_{kind}_PARTITION: SLURM has no partition {partition}",
                f"name one of {', '.join(sorted(limits))} in site.env",
            )
        elif (limit := limits[partition]) is not None and (not told or not told.isdecimal() or int(told) > limit // 60):
            yield Finding(
                f"{variable} is {told or 'not set'}, and partition {partition} takes no job of more than {limit // 60:.0f} minutes",
                f"`export {variable}={limit // 60:.0f}` in site.env",
            )


def _locks(checkout: Path, running: list[int]) -> Iterator[Finding]:
    locks = sorted((checkout / ".snakemake" / "locks").glob("*.lock"))
    if locks and not running:
        yield Finding(f"{len(locks)} locks of a Snakemake that has ended", "`snakemake --unlock`, once no job of it runs any more")
    elif locks:
        yield Finding(f"Snakemake is at work here (process {running[0]})", "nothing: its locks are as they should be")


def _incomplete(checkout: Path, running: list[int]) -> Iterator[Finding]:
    if running:
        return
    for mark in sorted(path for path in (checkout / ".snakemake" / "incomplete").rglob("*") if path.is_file()):
        name = _decoded(mark.relative_to(checkout / ".snakemake" / "incomplete"))
        yield Finding(
            f"{name}: was being made when Snakemake ended", "`snakemake --rerun-incomplete`, which the slurm profile says already"
        )


def _decoded(name: Path) -> str:
    """The output that a mark stands for: Snakemake encodes its path, cut into folders where it is long."""
    try:
        return base64.b64decode("".join(part.removeprefix("@") for part in name.parts)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return str(name)


def _leases(layout: Layout) -> Iterator[Finding]:
    for path in sorted(layout.scratch.glob("runs/**/.*.lease")):
        holder = holder_of(path)
        if holder is None:
            continue
        if is_stale(path, holder):
            yield Finding(f"{path}: left by {holder}, which has ended", "nothing: the next process takes it over")
        else:
            yield Finding(f"{path}: held by {holder}", "nothing, if it should be at work; else end it")


def _broken_records(layout: Layout) -> Iterator[Finding]:
    for path in sorted([*layout.results.rglob("*.json"), *layout.results.rglob("metrics.jsonl")]):
        if not _is_whole(path):
            yield Finding(
                f"{path}: cut off or garbled", f"`rm {path}`, then run Snakemake again: it is made anew from what is finished"
            )


def _is_whole(path: Path) -> bool:
    """Whether a file holds what its name says: the steps of a stage, or a JSON object or list."""
    try:
        content = read_metrics(path) if path.suffix == ".jsonl" else json.loads(path.read_bytes())
    except (StudyError, ValueError):
        return False
    return isinstance(content, dict | list)
