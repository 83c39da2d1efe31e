"""What the rows of the fault drill share: a finished study of which something is removed, made again, and broken meanwhile."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

import queue_runs
from checkouts import snakemake, variables
from cluster import CPU_NODE, GPU_NODES, Cluster
from daemons import run
from queue_runs import OVERLAY, STACKED
from results_trees import differences
from sftstudy.records import TrainingRecord, read_record

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a fault came to: jobs that SLURM started again, jobs that Snakemake submitted again, starts of the stage, steps lost."""

    fault: str
    restarts: int
    retries: int
    attempts: int | None
    steps_again: int
    seconds: float


def outcome_table(outcomes: list[Outcome]) -> str:
    """A line per fault."""
    lines = [f"{'fault':66} restarts retries attempts  lost{'':18}  seconds"]
    for row in outcomes:
        lost = f"{row.steps_again} steps trained again" if row.steps_again else "nothing"
        attempts = row.attempts or "-"
        lines.append(f"{row.fault:66} {row.restarts:8} {row.retries:7} {attempts:>8}  {lost:22}  {row.seconds:7.0f}")
    return "\n".join(lines)


class Drill:
    """A checkout with a finished study, and a cluster on which a part of it is made again.

    Every wait fails with what Snakemake has printed.
    """

    def __init__(self, checkout: Path, undisturbed: Path, cluster: Cluster) -> None:
        self.checkout, self.undisturbed, self.cluster = checkout, undisturbed, cluster
        self.said: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._trained: Path | None = None
        self._mounted: list[Path] = []

    # what is to be made again

    def forget_stage(self, stage: Path = STACKED) -> None:
        """Remove a stage's records, and its weights with all that was made on the way."""
        self._trained = stage
        self.forget(f"results/{stage}/training.json", f"results/{stage}/metrics.jsonl")
        shutil.rmtree(self.checkout / "scratch" / stage)

    def forget(self, *patterns: str) -> None:
        """Remove files by their names in the checkout; and the tables, or Snakemake would see no need of them."""
        for pattern in (*patterns, "results/scores.csv", "results/studies/*/tables/*", "results/studies/*/summary.txt"):
            found = [path for path in self.checkout.glob(pattern) if path.is_file()]
            assert found, f"{pattern}: not there"
            for path in found:
                path.unlink()

    # Snakemake

    def start(self, *arguments: str, **rules: dict[str, Any]) -> subprocess.Popen[str]:
        """Snakemake at work: on the stage that was forgotten, if arguments do not say otherwise, else on the whole study."""
        stage = [f"results/{self._trained}/training.json"] if self._trained else []
        self._process = queue_runs.start(self.checkout, *(arguments or stage), **rules)
        return self._process

    def end(self, *, status: int = 0, patience_s: float = 1800) -> str:
        """What Snakemake printed until it ended as it should."""
        assert self._process is not None
        found = self._process.wait(patience_s)
        said = self.printed()
        self.said.append(said)
        assert found == status, said[-6000:]
        return said

    @staticmethod
    def rules(said: str) -> list[str]:
        """Rules that Snakemake ran, in alphabetical order, by what it printed."""
        return sorted(set(re.findall(r"\(Rule: (\w+)\)", said)) - {"all"})

    def kill(self) -> None:
        """End Snakemake by SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.said.append(self.printed())

    def printed(self) -> str:
        """What Snakemake has printed since it was started last."""
        return (self.checkout / "snakemake.out").read_text()

    def doctor(self) -> str:
        """What `make doctor` prints."""
        command = [sys.executable, "workflow/scripts/doctor.py"]
        environment = variables(self.checkout)
        return subprocess.run(command, cwd=self.checkout, env=environment, capture_output=True, text=True, check=True).stdout

    def unlock(self) -> None:
        """`snakemake --unlock`, as the doctor says."""
        done = snakemake(self.checkout, "--unlock")
        assert done.returncode == 0, done.stdout

    # the disk

    def small_disk(self, folder: str) -> None:
        """Move a folder of the checkout to a file system with room for a little more than what lies there."""
        place, aside = self.checkout / folder, self.checkout.parent / "aside"
        shutil.move(place, aside)
        place.mkdir()
        size = sum(path.stat().st_size // 4096 + 1 for path in aside.rglob("*")) * 4 + 16 * 1024
        run("mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(place))
        self._mounted.append(place)
        shutil.copytree(aside, place, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(aside)

    def fill_disk(self, folder: str) -> Path:
        """Write a ballast until a folder's disk is full; deleting it makes room."""
        ballast = self.checkout / folder / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        return ballast

    # the cluster

    def job(self, rule: str, *, state: str = "RUNNING") -> str:
        """Number of a rule's job, once there is one in this state."""
        return self.wait_for(lambda: self._find_job(rule, state), f"no {state.lower()} job of {rule}")

    def _find_job(self, rule: str, state: str) -> str | None:
        listed = run("squeue", "--noheader", "--states", state, "--format", "%i|%k|%Z").splitlines()
        for number, comment, folder in (line.split("|") for line in listed):
            if comment.startswith(f"rule_{rule}") and folder == str(self.checkout):
                return number
        return None

    def node_of(self, rule: str) -> str:
        """The first node of a rule's running job."""
        found = re.search(r"BatchHost=(\w+)", run("scontrol", "show", "job", self.job(rule)))
        assert found
        return found[1]

    def end_node_of(self, rule: str) -> None:
        """Have the node of a rule's running job die: its daemon and all processes of the job are gone at once.

        They are stopped before any is killed, or the last ones would report to SLURM how the first ones ended.
        """
        job, node = self.job(rule), self.node_of(rule)
        self.cluster.stop(node, number=signal.SIGKILL)
        dying = [process for process in psutil.process_iter(["cmdline"]) if _is_of(process, job)]
        for end in (psutil.Process.suspend, psutil.Process.kill):
            for process in dying:
                with contextlib.suppress(psutil.NoSuchProcess):
                    end(process)

    def program(self, name: str) -> psutil.Process:
        """The process of a rule's program, once there is one."""
        return self.wait_for(lambda: self._find_program(name), f"no process of {name}")

    def _find_program(self, name: str) -> psutil.Process | None:
        program = str(self.checkout / "workflow" / "scripts" / f"{name}.py")
        for process in psutil.process_iter(["cmdline"]):
            interpreter, *arguments = process.info["cmdline"] or [""]
            if "python" in interpreter and arguments[:1] == [program]:
                return process
        return None

    def steps(self, number: int, stage: Path = STACKED) -> None:
        """Wait until so many steps of a stage have been made."""
        folder = self.checkout / "scratch" / stage / "attempts"
        self.wait_for(lambda: _lines(folder) >= number, f"step {number} was not reached")

    def wait_for(self, condition: Callable[[], T | None], otherwise: str, *, patience_s: float = 300) -> T:
        """What `condition` gives once it gives something."""
        end = time.monotonic() + patience_s
        while not (found := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"{otherwise}\n{self.printed()[-6000:]}")
            time.sleep(0.1)
        return found

    def log(self, rule: str, work: Path) -> str:
        """What a rule's program has printed so far; a new attempt begins anew."""
        path = (self.checkout / "logs" / rule / work.relative_to("runs")).with_suffix(".log")
        return path.read_text() if path.is_file() else ""

    # the end

    def check(self) -> None:
        """Finish the study here, as far as the row did not, and find its results to be those of the undisturbed one."""
        finished = snakemake(self.checkout, "-c2", "--config", f"overlay={OVERLAY}")
        assert finished.returncode == 0, finished.stdout[-6000:]
        assert differences(self.checkout / "results", self.undisturbed / "results") == []

    @property
    def restarts(self) -> int:
        """How often SLURM started a job of this checkout again."""
        listed = (line.split() for line in run("squeue", "-h", "--states=all", "-o", "%i %Z").splitlines())
        shown = [run("scontrol", "show", "job", number) for number, folder in listed if folder == str(self.checkout)]
        return sum(int(number) for said in shown for number in re.findall(r"Restarts=(\d+)", said))

    @property
    def retries(self) -> int:
        """How often Snakemake submitted a job again."""
        return sum(said.count("Trying to restart job") for said in self.said)

    @property
    def attempts(self) -> int | None:
        """How often the stage was begun that was to be trained again, if there was one."""
        if self._trained is None:
            return None
        return read_record(self.checkout / "results" / self._trained / "training.json", TrainingRecord).num_attempts

    def outcome(self, fault: str, *, seconds: float) -> Outcome:
        """What the fault came to."""
        return Outcome(
            fault=fault.rstrip("."),
            restarts=self.restarts,
            retries=self.retries,
            attempts=self.attempts,
            steps_again=self._steps_again(),
            seconds=seconds,
        )

    def _steps_again(self) -> int:
        if self._trained is None:
            return 0
        made = _lines(self.checkout / "scratch" / self._trained / "attempts")
        return made - _lines(self.checkout / "scratch" / self._trained)

    def clear_up(self) -> None:
        """End what still runs, and have the whole cluster back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.cluster.start()
        run("scancel", "--user=root", check=False)
        for process in psutil.process_iter(["cwd"]):
            if process.info["cwd"] == str(self.checkout):
                process.kill()
        for place in self._mounted:
            run("umount", "--lazy", str(place))
        for node in (*GPU_NODES, CPU_NODE):
            run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        self.cluster.up()


def _is_of(process: psutil.Process, job: str) -> bool:
    """Whether SLURM has it for a job: a process of the job, or SLURM's own beside it."""
    if " ".join(process.info["cmdline"] or []).startswith(f"slurmstepd: [{job}."):
        return True
    try:
        return process.environ().get("SLURM_JOB_ID") == job
    except psutil.Error:
        return False


def _lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("metrics*.jsonl"))
