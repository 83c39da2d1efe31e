"""Times `snakemake -n` over generated studies whose plans hold 100, 1,000 and 10,000 scores, each beside a plain workflow.

    python benchmarks/plan_scale.py [--scores 100 1000 10000] [--no-peer]

A score is one checkpoint on one benchmark of a run. A run has ten checkpoints on five benchmarks; half of the runs are stacked,
half are phased in three stages. A suite scores a stage's checkpoints in one job, as it does unless its `checkpoints_per_job` says
otherwise; the largest grid is planned once more with a job per checkpoint. Every dry run is a fresh process in an empty folder.
The peer is a Snakefile with as many jobs in like chains, whose rules have an output, inputs and one parameter from a dict: what
Snakemake itself needs. The last lines are `scores seconds` of the first kind, the largest plan last.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCORES_PER_RUN = 50
HARNESS = ("scale-mmlu", "scale-leaderboard", "scale-arc", "scale-gsm8k")

OVERLAY = {
    "config.yaml": "studies: [scale]",
    "models.yaml": "scale: {source: hub, id: a/scale, revision: main}",
    "data.yaml": (
        "scale:\n  phases:\n"
        "    instruct: &phase {sources: [{from: {world: tiny, file: instruct.jsonl}}], num_samples: 100000}\n"
        "    knowledge: *phase\n    skills: *phase"
    ),
    "benchmarks.yaml": (
        "scale-harness:\n  kind: harness\n  checkpoints_per_job: PER_JOB\n  benchmarks:\n"
        + "".join(f"    {name}: {{tasks: [{name}], metric: acc, uses: [{{hub: a/{name}, split: test}}]}}\n" for name in HARNESS)
        + "scale-mt-bench:\n  kind: mt-bench\n  questions: {hub: a/mt-bench, split: question.jsonl}\n"
        "  prompts: {hub: a/mt-bench, split: judge_prompts.jsonl}\n  judges: [{model: j, base_url: http://localhost}]\n"
        "  checkpoints_per_job: PER_JOB"
    ),
    "recipes.yaml": (
        "recipes:\n  stacked:\n    strategy: stacked\n"
        "    training: &t {effective_batch_size: 128, learning_rate: 1e-5, epochs: 1, num_checkpoints: 10}\n"
        "  phased:\n    strategy: phased\n    training: {<<: *t, num_checkpoints: 3}\n"
        "    stages: {instruct: {num_checkpoints: 4}}\n"
        "    select: {instruct: &s {benchmark: scale-mt-bench}, knowledge: *s}\n"
    ),
    "studies/scale.yaml": (
        "question: How long does a plan of SCORES scores take?\n"
        "runs: [{model: [scale], data: [scale], recipe: [stacked, phased], seed: SEEDS}]\n"
        f"benchmarks: [{', '.join(HARNESS)}, scale-mt-bench]"
    ),
}

PEER = """
CHAINS = {str(chain): str(chain) for chain in range(NUM_CHAINS)}
rule all:
    input: expand("out/{chain}/LAST.txt", chain=CHAINS)
rule first:
    output: "out/{chain}/0.txt"
    params: value=lambda wildcards: CHAINS[wildcards.chain]
    shell: "touch {output}"
rule link:
    input: lambda wildcards: f"out/{wildcards.chain}/{int(wildcards.link) - 1}.txt"
    output: "out/{chain}/{link}.txt"
    wildcard_constraints: link="[1-9][0-9]*"
    params: value=lambda wildcards: CHAINS[wildcards.chain]
    shell: "touch {output}"
"""
JOBS_PER_CHAIN = 10


@dataclass(frozen=True)
class Dry:
    """What one dry run took."""

    jobs: int
    seconds: float
    cpu_s: float
    memory_mb: float

    def __str__(self) -> str:
        return f"{self.seconds:9.2f}  {self.cpu_s:6.2f}  {self.memory_mb:4.0f}"


def main() -> None:
    """A row per size, then the lines `scores seconds`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, nargs="+", default=[100, 1_000, 10_000], help="multiples of 100")
    parser.add_argument("--no-peer", action="store_true", help="leave out the plain workflows")
    arguments = parser.parse_args()
    if odd := [size for size in arguments.scores if size <= 0 or size % (2 * SCORES_PER_RUN)]:
        parser.error(f"--scores {odd[0]}: a stacked and a phased run have {2 * SCORES_PER_RUN}; give a multiple")
    sizes = sorted(arguments.scores)
    head = f"{'seconds':>9}  {'CPU s':>6}  {'MB':>4}"
    print("scores  checkpoints per job   jobs" + head + ("" if arguments.no_peer else f"  | plain: {head}"))
    seconds = {}
    for size, per_job in [*((size, None) for size in sizes), (sizes[-1], 1)]:
        with tempfile.TemporaryDirectory() as folder:
            dry = study(Path(folder), num_scores=size, per_job=per_job)
            row = f"{size:6d}  {per_job or 'all of a stage':>19}  {dry.jobs:5d}{dry}"
            if not arguments.no_peer:
                row += f"  |        {plain(Path(folder), num_jobs=dry.jobs)}"
        print(row, flush=True)
        seconds.setdefault(size, dry.seconds)
    print("\n".join(f"{size} {value:.2f}" for size, value in seconds.items()))


def study(folder: Path, *, num_scores: int, per_job: int | None) -> Dry:
    """Dry run of a generated study in an overlay."""
    seeds = list(range(1, num_scores // (2 * SCORES_PER_RUN) + 1))
    overlay = folder / "overlay"
    (overlay / "studies").mkdir(parents=True)
    for name, text in OVERLAY.items():
        filled = text.replace("PER_JOB", str(per_job or "null")).replace("SEEDS", str(seeds)).replace("SCORES", str(num_scores))
        (overlay / name).write_text(filled)
    return dry_run("-s", str(ROOT / "Snakefile"), "-d", str(folder / "study"), "--config", f"overlay={overlay}", log=folder / "log")


def plain(folder: Path, *, num_jobs: int) -> Dry:
    """Dry run of about as many jobs of a plain workflow."""
    text = PEER.replace("NUM_CHAINS", str(max(1, round(num_jobs / JOBS_PER_CHAIN)))).replace("LAST", str(JOBS_PER_CHAIN - 1))
    (folder / "peer.smk").write_text(text)
    return dry_run("-s", str(folder / "peer.smk"), "-d", str(folder / "peer"), log=folder / "log")


def dry_run(*arguments: str, log: Path) -> Dry:
    """Run `snakemake -n` in a fresh process and read the number of its jobs. Raises SystemExit with its output if it failed."""
    begin = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", "-n", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    found = re.search(r"^total +(\d+)$", log.read_text(), flags=re.MULTILINE)
    if status or not found:
        raise SystemExit(log.read_text()[-2000:])
    return Dry(int(found.group(1)), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
