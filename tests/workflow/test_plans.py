"""What is planned, before anything runs: golden job counts, profiles, mistakes, and what an edit replans."""

import re
from pathlib import Path

import pytest
import yaml

from checkouts import SITE, job_counts, snakemake

PROFILES: dict[str, list[str]] = {"default": [], "slurm": ["--profile", "slurm"]}
PROBE = """
rule probe:
    output: "probe.txt"
    params: triggers=lambda wildcards: print(workflow.rerun_triggers)
    shell: "touch {output}"
"""
GOLDEN = Path(__file__).parents[1] / "golden" / "plans.yaml"


def test_every_shipped_study_plans_as_before(checkout: Path, pytestconfig: pytest.Config) -> None:
    studies = sorted(path.stem for path in (checkout / "config" / "studies").glob("*.yaml"))
    assert studies
    found = {study: job_counts(snakemake(checkout, "-n", "--config", f"studies={study}").stdout) for study in studies}
    if pytestconfig.getoption("--fix"):
        GOLDEN.write_text(yaml.safe_dump(found))
    assert found == yaml.safe_load(GOLDEN.read_text())


def test_dry_run_loads_no_torch(checkout: Path) -> None:
    output = snakemake(checkout, "-n", environment={"PYTHONPROFILEIMPORTTIME": "1"}).stdout
    imported = set(re.findall(r"import time:.*\|\s+(\S+)$", output, flags=re.MULTILINE))
    assert "sftstudy.plan" in imported
    assert imported & {"torch", "transformers", "datasets", "lm_eval"} == set()


def test_a_mistake_is_one_line_and_nothing_runs(checkout: Path) -> None:
    recipes = checkout / "config" / "recipes.yaml"
    recipes.write_text(recipes.read_text().replace("schedule: linear", "schedul: linear"))
    result = snakemake(checkout, "-c1")
    lines = [line for line in result.stdout.splitlines() if not line.startswith("Using workflow specific profile")]
    assert result.returncode == 1
    assert len(lines) == 1
    assert lines[0].endswith("unknown key; did you mean 'schedule'?")
    assert not (checkout / "results").exists()


def test_planned_disk_is_said_once_and_not_again_by_jobs_or_where_nothing_is_trained(checkout: Path) -> None:
    cheap = "results/worlds/tiny/spec.yaml"
    expected = {
        ("-n",): 1,
        (cheap, "-c1"): 1,
        (cheap, "-c1", "--forceall", "--quiet", "all"): 0,
        ("-n", "--mode", "remote"): 0,
        ("-n", "--mode", "subprocess"): 0,
        ("-n", "-s", "workflow/tables.smk"): 0,
    }
    lines = {arguments: snakemake(checkout, *arguments).stdout.splitlines() for arguments in expected}
    assert {arguments: sum(line.startswith("disk: ") for line in found) for arguments, found in lines.items()} == expected
    assert re.search(
        r"^disk: 20 stages, 54 checkpoints: peak 0\.\d\d GB of weights \+ .* stay; not counted: ", "\n".join(lines[("-n",)]), re.M
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), ["1", "auto"]),
        (("--set-resources", "train_stage:processes=4", "train_stage:device=cuda"), ["4", "cuda"]),
    ],
)
def test_processes_and_device_are_resources(flags: tuple[str, ...], expected: list[str], checkout: Path) -> None:
    target = "results/runs/tiny-llama/tiny/tiny-lab-stacked/seed1/01-stacked/training.json"
    planned = snakemake(checkout, target, "-n", "-p", *flags).stdout
    command = planned.split("rule train_stage:")[1].split("Shell command: ")[1].split("2> logs/train_stage")[0].split()
    assert [command[0], Path(command[1]).name, Path(command[2]).name] == ["python", "train_stage.py", "spec.yaml"]
    assert command[3:] == ["--verdict", "--processes", expected[0], "--device", expected[1]]


def test_slurm_profile_plans_from_a_checkout_and_names_an_unset_site_fact(checkout: Path) -> None:
    missing = snakemake(checkout, "--profile", "slurm", "-n")
    assert missing.returncode == 1
    assert "error: STUDY_ACCOUNT is not set; copy profiles/slurm/site.env.example" in missing.stdout
    planned = snakemake(checkout, "--profile", "slurm", "-n", environment=SITE)
    assert planned.returncode == 0, planned.stdout
    training = planned.stdout.split("rule train_stage:")[1].split("\n\n")[0]
    assert "slurm_partition=gpu" in training
    assert "slurm_account=lab" in training
    decision = planned.stdout.split("rule prepare_phase:")[1].split("resources:")[1].splitlines()[0]
    assert "slurm_partition=cpu" in decision


def test_effective_settings_under_each_profile(checkout: Path) -> None:
    probe = checkout / "probe.smk"
    probe.write_text(PROBE)
    found = {
        name: snakemake(checkout, "-n", "-s", "probe.smk", *arguments, environment=SITE).stdout
        for name, arguments in PROFILES.items()
    }
    assert len(found) == 2
    for name, output in found.items():
        assert set(re.findall(r"RerunTrigger\.(\w+)", output)) == {"MTIME", "INPUT", "PARAMS"}, name


def test_rule_graph_in_the_readme_is_current(checkout: Path, pytestconfig: pytest.Config) -> None:
    drawn = snakemake(checkout, "--rulegraph", "mermaid-js").stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", drawn))
    hidden = {"all", "write_spec"}  # every job reads a spec; the arrows would hide the others
    edges = sorted({(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", drawn)} - {("train_stage", "train_stage")})
    lines = [f"    {a} --> {b}" for a, b in edges if not {a, b} & hidden]
    assert len(lines) > 15
    block = "\n".join(["```mermaid", "flowchart TB", *lines, "```"])
    readme = Path(__file__).parents[2] / "README.md"
    text = readme.read_text()
    if pytestconfig.getoption("--fix"):
        readme.write_text(re.sub(r"```mermaid\n.*?```", block, text, flags=re.DOTALL))
        text = readme.read_text()
    assert block in text
