"""Runs one `score_harness` job and prints where its seconds go: imports, tasks, model, scoring, the rest.

    python benchmarks/startup_share.py results/runs/.../STAGE/spec.yaml results/suites/SUITE/spec.yaml [--part part01] [--repeats 3]

The job runs as in the workflow, from the folder that Snakemake runs in, but for its end: it scores what was scored before too, and
writes nothing. Every repeat is a process of its own. Imports are counted wherever they happen, and not in the phase that asked for
them. Seconds are by the clock, then of CPU, which tells more on a busy machine.
"""

from __future__ import annotations

import argparse
import builtins
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHASES = ("imports", "tasks", "model", "scoring", "rest")
REPORT = "SFTSTUDY_PHASES"


class Phases:
    """Seconds by the clock and of CPU per phase. A phase inside another one counts for itself alone."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {phase: [0.0, 0.0] for phase in PHASES}
        self._now, self._since = ["rest"], (time.perf_counter(), time.process_time())

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted for a phase."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._now.append(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._now.pop()

        return call

    def _switch(self) -> None:
        now = (time.perf_counter(), time.process_time())
        for i in range(2):
            self.spent[self._now[-1]][i] += now[i] - self._since[i]
        self._since = now

    def all(self) -> dict[str, list[float]]:
        """What was spent up to now."""
        self._switch()
        return self.spent


def main() -> None:
    """Run the job `--repeats` times, and print the medians."""
    if REPORT in os.environ:
        job(Path(os.environ[REPORT]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", help="the stage's spec.yaml")
    parser.add_argument("suite", help="the suite's spec.yaml")
    parser.add_argument("--part", default="part01")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    report = Path(f".phases-{os.getpid()}.json")
    runs = []
    for _ in range(arguments.repeats):
        command = [sys.executable, __file__, arguments.stage, arguments.suite, "--part", arguments.part]
        began = time.perf_counter()
        done = subprocess.run(command, env=os.environ | {REPORT: str(report)}, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        spent = json.loads(report.read_text())
        spent["rest"][0] += time.perf_counter() - began - sum(seconds for seconds, _ in spent.values())
        runs.append(spent)
        report.unlink()
    totals = [sum(statistics.median(run[phase][i] for run in runs) for phase in PHASES) for i in range(2)]
    for phase in PHASES:
        clock, cpu = (statistics.median(run[phase][i] for run in runs) for i in range(2))
        print(f"{phase:8} {clock:6.1f} s ({clock / totals[0]:4.0%})   of CPU {cpu:6.1f} s ({cpu / totals[1]:4.0%})")
    print(f"{'total':8} {totals[0]:6.1f} s          of CPU {totals[1]:6.1f} s")


def job(report: Path) -> None:
    """The job itself, with a clock in each phase."""
    phases = Phases()
    builtins.__import__ = phases.timed("imports", builtins.__import__)
    from sftstudy.evaluate import harness, lm
    from sftstudy.paths import Layout
    from sftstudy.program import run, score_block

    harness.load_suite = phases.timed("tasks", harness.load_suite)
    harness.take_exam = phases.timed("scoring", harness.take_exam)
    lm.load_lm = phases.timed("model", lm.load_lm)
    harness.publish = lambda *_, **__: None  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        Layout.score_shard = lambda _, key: Path(folder) / f"{key}.json"  # type: ignore[method-assign]
        run(lambda: score_block(harness.score_harness, __doc__))
    report.write_text(json.dumps(phases.all()))


if __name__ == "__main__":
    main()
