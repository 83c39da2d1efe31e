"""A checkout of the working tree in a folder of its own, and Snakemake run in it as a user would."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SITE = {"STUDY_ACCOUNT": "lab", "STUDY_CPU_PARTITION": "cpu", "STUDY_GPU_PARTITION": "gpu"} | {
    "STUDY_GPU": "H100",
    "STUDY_CPUS_PER_GPU": "1",
}


def copy_checkout(folder: Path) -> Path:
    """Copy what a clone would hold, uncommitted edits included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def variables(checkout: Path) -> dict[str, str]:
    """A bare environment in which the checkout's own package comes first."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(checkout), "PYTHONPATH": str(checkout / "src")}


def snakemake(checkout: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a checkout; stdout of the result has stderr too."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(checkout), "PYTHONPATH": str(checkout / "src")} | (environment or {})
    return subprocess.run(
        command, cwd=checkout, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def job_counts(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from a dry run's table; empty if there is nothing to do."""
    if "Nothing to be done" in output:
        return {}
    table = output.split("Job stats:")[1].split("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}


def planned_jobs(output: str) -> set[tuple[str, str]]:
    """(rule, wildcards) of every job that a dry run lists."""
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", output, flags=re.MULTILINE)
    return {(rule, "".join(re.findall(r"wildcards: (.*)", block))) for rule, block in blocks}
