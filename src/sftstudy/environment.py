"""What the machine must provide before jobs run: Python, this package, and the facts of a cluster site."""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sftstudy.errors import StudyError

CONFIG_VARIABLE = "STUDY_CONFIG"
"""Environment variable that tells a job how the workflow was configured on the command line."""


def share_with_jobs(config: Mapping[str, Any]) -> None:
    """Let jobs run the Python that runs Snakemake, and this checkout's package, and know the `--config` of the command line.

    A conda environment or a container that Snakemake activates for a job puts its own `python` first again; the package still comes
    from the checkout, so environments need to hold libraries only.
    """
    _prepend("PATH", Path(sys.executable).parent)
    _prepend("PYTHONPATH", Path(__file__).parent.parent)
    os.environ[CONFIG_VARIABLE] = shlex.join(f"{key}={value}" for key, value in config.items())


def config_flags() -> str:
    """What a command that a message names must end in, to mean the study at hand: ` --config overlay=...`, or nothing."""
    settings = os.environ.get(CONFIG_VARIABLE, "")
    return f" --config {settings}" if settings else ""


def require_site_facts(default_resources: Any) -> None:
    """Raises StudyError if a profile's default resources name an environment variable that is not set."""
    settings = " ".join(default_resources.args) if default_resources else ""
    for name in re.findall(r"\$(\w+)", settings):
        if name not in os.environ:
            raise StudyError(f"{name} is not set; copy profiles/slurm/site.env.example to site.env, edit it, `source site.env`")


def _prepend(variable: str, folder: Path) -> None:
    rest = [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry and entry != str(folder)]
    os.environ[variable] = os.pathsep.join([str(folder), *rest])
