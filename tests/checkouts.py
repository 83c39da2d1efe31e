"""A checkout of the working tree in a folder of its own, and Snakemake run in it as a user would."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SITE = {"STUDY_ACCOUNT": "lab", "STUDY_CPU_PARTITION": "cpu", "STUDY_GPU_PARTITION": "gpu"}


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


def snakemake(checkout: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a checkout; stdout of the result has stderr too."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(checkout)} | (environment or {})
    return subprocess.run(
        command, cwd=checkout, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
