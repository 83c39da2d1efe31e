"""Prints what the active studies will take, and writes it as a page: GPU-hours, jobs, disk, judge, longest chain, what fits where.

By hand: `python workflow/scripts/plan_study.py [--config overlay=FOLDER studies=a,b] [--gpu H100]`; `snakemake -c1 plan` does it.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from sftstudy.disk import planned_disk
from sftstudy.environment import Site, named_gpu
from sftstudy.errors import StudyError
from sftstudy.outlook import outlook
from sftstudy.plan import Plan
from sftstudy.program import config_settings, count, run
from sftstudy.records import write_text
from sftstudy.tables.plan_page import to_html, to_text


def main() -> None:
    """Add up the plan, count the jobs of a dry run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="*", default=[], metavar="KEY=VALUE", help="as for snakemake: overlay=, studies=")
    parser.add_argument("--gpu", help="GPU to plan for; what STUDY_GPU names, or H100")
    parser.add_argument("--gpus-per-stage", type=count, help="fewest GPUs that train a stage; what the site says, or 1")
    parser.add_argument("--html", type=Path, default=Path("results/plan.html"), help="where the page goes")
    arguments = parser.parse_args()
    plan = Plan.from_settings(config_settings(arguments))
    site = Site.from_environment() or Site(named_gpu("H100", where="--gpu"))
    if arguments.gpu is not None:
        site = replace(site, gpu=named_gpu(arguments.gpu, where="--gpu"))
    if arguments.gpus_per_stage is not None:
        num_nodes = arguments.gpus_per_stage // site.gpus_per_node
        site = replace(site, gpus_per_stage=arguments.gpus_per_stage, max_nodes=max(site.max_nodes, num_nodes))
        site.check()
    found, jobs, disk = outlook(plan, site), jobs_left(arguments.config), planned_disk(plan)
    write_text(arguments.html, to_html(found, jobs=jobs, disk=disk))
    print(to_text(found, jobs=jobs, disk=disk) + f"page: {arguments.html}")


def jobs_left(settings: list[str]) -> dict[str, int]:
    """Rule -> jobs that `snakemake -n` counts now, those at work included. Raises StudyError with what it says if it fails."""
    command = [sys.executable, "-m", "snakemake", "-n", "--rerun-incomplete", "--quiet", "rules"]
    command += ["--config", *settings] if settings else []
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise StudyError(re.split(r"^error: |^Building DAG of jobs\.\.\.$", done.stdout, flags=re.MULTILINE)[-1].strip())
    if "Job stats:" not in done.stdout:
        return {}
    table = done.stdout.split("Job stats:")[1].split("\ntotal")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}


if __name__ == "__main__":
    run(main)
