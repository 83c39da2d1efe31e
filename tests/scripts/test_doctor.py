"""What the doctor finds in a checkout whose Snakemake was really killed, and that it changes nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from checkouts import ROOT, variables
from sftstudy.doctor import JOB_PREFIX, examine
from sftstudy.paths import Layout
from sftstudy.train.lease import held

PROGRAM = Path(__file__).parents[2] / "workflow" / "scripts" / "doctor.py"
SNAKEFILE = """
rule slow:
    output: "results/slow.json"
    shell: "echo '{{' > {output}; sleep 60"
"""


def ask(folder: Path) -> str:
    return subprocess.run(
        [sys.executable, str(PROGRAM)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2] / "src")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_after_a_kill_it_says_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    assert ask(tmp_path).startswith("nothing was left behind")
    command = [sys.executable, "-m", "snakemake", "-c1", "results/slow.json"]
    process = subprocess.Popen(command, cwd=tmp_path, env=variables(ROOT) | {"HOME": str(tmp_path)}, start_new_session=True)
    while not (tmp_path / "results/slow.json").is_file():
        assert process.poll() is None
        time.sleep(0.1)
    assert f"Snakemake is at work here (process {process.pid})" in ask(tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = sorted(tmp_path.rglob("*"))
    said = ask(tmp_path)
    assert "locks of a Snakemake that has ended\n  -> `snakemake --unlock`" in said
    assert "- results/slow.json: was being made when Snakemake ended" in said
    assert "- results/slow.json: cut off or garbled\n  -> `rm results/slow.json`" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_jobs_are_known_by_the_profiles_prefix() -> None:
    assert yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["slurm-jobname-prefix"] == JOB_PREFIX


def test_leases_are_told_from_those_that_were_left(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "results", tmp_path / "scratch")
    stage = layout.stage_scratch("m", "d", "r", 1, "01-stacked")
    hold = (
        f"from pathlib import Path; from sftstudy.train.lease import held; import os\nwith held(Path({str(stage)!r})): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", hold], env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, check=True)
    assert [finding.remedy for finding in examine(tmp_path, layout)] == ["nothing: the next process takes it over"]
    with held(stage):
        (found,) = examine(tmp_path, layout)
        assert found.what.endswith(f"held by process {os.getpid()} on {os.uname().nodename}")
