"""What the doctor finds in a checkout whose Snakemake was really killed, and that it changes nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from checkouts import ROOT, variables
from sftstudy.doctor import JOB_PREFIX, examine
from sftstudy.paths import Layout
from sftstudy.records import write_text
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


def test_broken_records_are_named(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "results", tmp_path / "scratch")
    good = {"audit.json": "[]", "training.json": "{}", "metrics.jsonl": ""}
    broken = {"a.json": "null", "b.json": '{"a": ', "c.json": "", "runs/metrics.jsonl": '{"step": 1}'}
    for name, text in (good | broken).items():
        write_text(layout.results / name, text)
    assert [finding.what for finding in examine(tmp_path, layout)] == [
        f"{layout.results / name}: cut off or garbled" for name in broken
    ]


def test_jobs_are_known_by_the_profiles_prefix() -> None:
    assert yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["slurm-jobname-prefix"] == JOB_PREFIX


def test_limits_that_differ_from_the_sites_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo = tmp_path / "bin" / "sinfo"
    sinfo.parent.mkdir()
    sinfo.write_text(
        "#!/bin/sh\n[ \"$*\" = '--noheader --format %P %l' ] && printf 'cpu* 2:00:00\\ngpu 1-00:00:00\\nlong infinite\\n'\n"
    )
    (sinfo.parent / "squeue").write_text("#!/bin/sh\n")
    for program in sinfo.parent.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sinfo.parent}:{os.environ['PATH']}")
    layout = Layout(tmp_path / "results", tmp_path / "scratch")

    def said(**site: str) -> list[str]:
        with monkeypatch.context() as changed:
            for name in ("GPU_PARTITION", "CPU_PARTITION", "GPU_MAX_RUNTIME", "CPU_MAX_RUNTIME"):
                changed.delenv(f"STUDY_{name}", raising=False)
            for name, value in site.items():
                changed.setenv(f"STUDY_{name}", value)
            return [f"{finding.what}; {finding.remedy}" for finding in examine(tmp_path, layout)]

    assert said() == []
    assert said(CPU_PARTITION="cpu", CPU_MAX_RUNTIME="120", GPU_PARTITION="gpu", GPU_MAX_RUNTIME="600") == []
    assert said(CPU_PARTITION="long", GPU_PARTITION="gpu") == [
        "STUDY_GPU_MAX_RUNTIME is not set, and partition gpu takes no job of more than 1440 minutes; "
        "`export STUDY_GPU_MAX_RUNTIME=1440` in site.env"
    ]
    (found,) = said(CPU_PARTITION="cpu", CPU_MAX_RUNTIME="240")
    assert found.startswith("STUDY_CPU_MAX_RUNTIME is 240, and partition cpu takes no job of more than 120 minutes")
    (found,) = said(CPU_PARTITION="cpu", CPU_MAX_RUNTIME="2h")
    assert found.startswith("STUDY_CPU_MAX_RUNTIME is 2h, and partition cpu takes no job of more than 120 minutes")
    assert said(GPU_PARTITION="gone") == [
        "STUDY_GPU_PARTITION: SLURM has no partition gone; name one of cpu, gpu, long in site.env"
    ]


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
