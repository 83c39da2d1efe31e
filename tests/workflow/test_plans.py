"""What is planned, before anything runs: golden job counts, profiles, mistakes, and what an edit replans."""

import base64
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from checkouts import SITE, job_counts, planned_jobs, snakemake, variables
from sftstudy import hours
from sftstudy.environment import Site
from sftstudy.forecast import minutes
from sftstudy.gpus import GPUS
from sftstudy.plan import Plan
from sftstudy.records import TrainingRecord, provenance, write_record
from sftstudy.resources import JobResources
from sftstudy.spec import spec_hash

PROFILES: dict[str, list[str]] = {
    "default": [],
    "slurm": ["--profile", "slurm"],
    "workstation": ["--profile", "workstation"],
}
WORKSTATION = {"STUDY_GPU": "RTX 4090", "STUDY_GPUS_PER_NODE": "2", "STUDY_DEVICES": "0,1"}
HOLD = """
rule all:
    input: expand("{job}.txt", job=range(5))
rule hold:
    output: "{job}.txt"
    resources: gpu=1
    shell: "python hold.py > {output}"
"""
HOLDER = """
import os, time
from sftstudy.devices import claim
claim(1, patience_s=0)
begin = time.time()
time.sleep(0.5)
print(os.environ["CUDA_VISIBLE_DEVICES"], begin, time.time())
"""
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
    with ThreadPoolExecutor(2) as pool:
        plans = pool.map(
            lambda study: snakemake(checkout, "-n", "--quiet", "rules", "--config", f"studies={study}").stdout, studies
        )
        found = {study: job_counts(output) for study, output in zip(studies, plans, strict=True)}
    if pytestconfig.getoption("--fix"):
        GOLDEN.write_text(yaml.safe_dump(found))
    assert found == yaml.safe_load(GOLDEN.read_text())


def test_an_unpinned_model_plans_and_does_not_run(checkout: Path) -> None:
    study = ("--config", "studies=paper-e17-llama-recipe")
    wanted = (
        "config/models/paper.yaml: llama-3b.revision: not stated; choose a commit on the hub, and put "
        "`pins: {meta-llama/Llama-3.2-3B: "
    )
    planned = snakemake(checkout, "-n", *study)
    assert planned.returncode == 0
    assert f"to be supplied before it runs: {wanted}" in planned.stdout
    run = snakemake(checkout, "-c1", *study)
    assert run.returncode == 1
    assert f"error: {wanted}" in run.stdout
    assert not (checkout / "results").exists()


def test_the_papers_table_is_made_from_nothing(checkout: Path) -> None:
    target = "results/studies/paper-e17-llama-recipe/tables/published.md"
    arguments = ("-c1", "-F", "--nolock", "-s", "workflow/tables.smk", target, "--config", "studies=paper-e17-llama-recipe")
    made = snakemake(checkout, *arguments)
    assert made.returncode == 0, made.stdout
    row = next(line for line in (checkout / target).read_text().splitlines() if line.startswith("| MTBench"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["-", "**5.00**", "4.97", "9,232,227", "*2,473,477*"]


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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "studeis=w"], "--config: no setting 'studeis'; did you mean 'studies'?"),
        (["--config", "studies=tiny", "keep_weights=all"], "--config: no setting 'keep_weights'; known: overlay, studies"),
        (["--config", "overlay="], "--config overlay=: is empty; name a folder, or leave it out"),
        (["--config", "studies="], "--config studies=: is empty; name studies with commas between, or leave it out"),
    ],
)
def test_settings_that_mean_nothing_are_refused(arguments: list[str], expected: str, checkout: Path) -> None:
    programs = [("-m", "snakemake", "-n"), ("workflow/scripts/count_hours.py",)]
    for program in programs:
        command = [sys.executable, *program, *arguments]
        failed = subprocess.run(command, cwd=checkout, env=variables(checkout), capture_output=True, text=True, check=False)
        assert failed.returncode == 1
        assert failed.stderr.splitlines()[-1] == f"error: {expected}"


@pytest.mark.parametrize(
    ("target", "folder", "near"),
    [
        ("runs/tiny-llama/tiny/tiny-lab-stakked/seed1/01-stacked/training.json", 6, "tiny-lab-stacked/seed1/01-stacked is; "),
        ("runs/tiny-llama/tiny/tiny-lab-stacked/seed1/01-skills/scores/tiny-harness/part01.json", 6, "01-stacked is; "),
        ("runs/tiny-llama/tiny/tiny-lab-stacked/seed7/01-stacked/spec.yaml", 6, "01-stacked is; "),
        ("data/tiny-llama/tiny/skils/phase.json", 4, "results/data/tiny-llama/tiny/skills is; "),
        ("studies/paper-e17-llama-recipe/report.html", 2, ""),
        ("studies/tiny/screens/0.1.json", 3, ""),
    ],
)
def test_a_target_that_is_not_planned_is_one_line(target: str, folder: int, near: str, checkout: Path) -> None:
    result = snakemake(checkout, "-n", f"results/{target}")
    last = result.stdout.splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith(f"error: results/{'/'.join(target.split('/')[:folder])}: is not in the plan; "), result.stdout
    assert f"{near}what other studies plan needs `--config studies=NAME`, and `overlay=FOLDER`" in last


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
    assert command[3:] == ["--verdict", "--nodes", "1", "--processes", expected[0], "--device", expected[1]]


def test_slurm_profile_plans_from_a_checkout_and_names_an_unset_site_fact(checkout: Path) -> None:
    missing = snakemake(checkout, "--profile", "slurm", "-n")
    assert missing.returncode == 1
    assert "error: STUDY_ACCOUNT is not set; copy profiles/slurm/site.env.example" in missing.stdout
    planned = snakemake(checkout, "--profile", "slurm", "-n", environment=SITE)
    assert planned.returncode == 0, planned.stdout
    rules = ("train_stage", "score_harness", "judge_mt_bench", "prepare_phase")
    asked = {rule: resources_of(planned.stdout, rule) for rule in rules}
    assert (
        asked["train_stage"].items()
        >= {"slurm_account": "lab", "slurm_partition": "gpu", "gres": "gpu:1", "device": "cuda"}.items()
    )
    assert asked["score_harness"].items() >= {"slurm_partition": "gpu", "gres": "gpu:1"}.items()
    for rule in ("judge_mt_bench", "prepare_phase"):
        assert asked[rule]["slurm_partition"] == "cpu", rule
        assert "gres" not in asked[rule], rule


@pytest.mark.parametrize(
    ("profile", "changes", "expected"),
    [
        ("slurm", {"STUDY_GPU_PARTITION": ""}, "STUDY_GPU_PARTITION is not set; name the partition whose GPU is H100 in site.env"),
        ("slurm", {"STUDY_CPU_PARTITION": ""}, "STUDY_CPU_PARTITION is not set; copy profiles/slurm/site.env.example"),
        ("slurm", {"STUDY_ACCOUNT": ""}, ""),
        ("slurm", {"STUDY_OFFLINE": "maybe"}, "STUDY_OFFLINE: 'maybe' is neither 1 nor 0"),
        ("workstation", {"STUDY_DEVICES": ""}, "STUDY_DEVICES: lists 0 GPUs, and jobs may take 2 (STUDY_GPUS_PER_NODE)"),
        ("workstation", {"STUDY_DEVICES": "0"}, "STUDY_DEVICES: lists 1 GPUs, and jobs may take 2 (STUDY_GPUS_PER_NODE)"),
        ("workstation", {"STUDY_DEVICES": "0,0"}, "STUDY_DEVICES: 0,0 lists a GPU twice"),
        ("workstation", {"STUDY_DEVICES": "0,1,2"}, ""),
    ],
)
def test_site_facts_that_cannot_be_are_refused(profile: str, changes: dict[str, str], expected: str, checkout: Path) -> None:
    site = SITE if profile == "slurm" else WORKSTATION
    result = snakemake(checkout, "fetch", "--profile", profile, "-n", environment=site | changes)
    assert (result.returncode == 1) == bool(expected), result.stdout
    assert not expected or result.stdout.splitlines()[-1].startswith(f"error: {expected}")


def test_needs_follow_from_the_recipe_and_a_finished_stage_asks_for_no_gpu(checkout: Path) -> None:
    recipes = checkout / "config" / "recipes.yaml"
    recipes.write_text(recipes.read_text().replace("training: &lab {", "training: &lab {sharding: full, "))
    models = checkout / "config" / "models.yaml"
    models.write_text(models.read_text().replace("hidden_size: 128", "hidden_size: 4096").replace("_layers: 3", "_layers: 96"))
    folder = "runs/tiny-llama/tiny/tiny-lab-stacked/seed1/01-stacked"
    arguments = (f"results/{folder}/training.json", "--profile", "slurm", "-n")
    first = resources_of(snakemake(checkout, *arguments, environment=SITE).stdout, "train_stage")
    assert first["gres"] == f"gpu:{first['processes']}" != "gpu:1"
    wider = resources_of(snakemake(checkout, *arguments, environment=SITE | {"STUDY_GPUS_PER_STAGE": "8"}).stdout, "train_stage")
    assert (wider["gres"], wider["processes"]) == ("gpu:8", "8")
    finish(checkout, folder)
    done = resources_of(snakemake(checkout, *arguments, environment=SITE).stdout, "train_stage")
    assert "gres" not in done
    assert (done["slurm_partition"], done["processes"], done["device"]) == ("cpu", "1", "cuda")


def test_limits_nodes_and_rungs_are_in_what_jobs_ask_for(checkout: Path) -> None:
    recipes, models = checkout / "config" / "recipes.yaml", checkout / "config" / "models.yaml"
    recipes.write_text(recipes.read_text().replace("training: &lab {", "training: &lab {sharding: full, "))
    models.write_text(models.read_text().replace("hidden_size: 128", "hidden_size: 4096").replace("_layers: 3", "_layers: 96"))
    folder = "results/runs/tiny-llama/tiny/tiny-lab-stacked/seed1/01-stacked"

    def asked(rule: str, *targets: str, **site: str) -> dict[str, str]:
        planned = snakemake(checkout, *targets, "--profile", "slurm", "-n", environment=SITE | site).stdout
        assert f"rule {rule}:" in planned, planned
        return resources_of(planned, rule)

    stage = f"{folder}/training.json"
    whole = asked("train_stage", stage)
    assert (whole["nodes"], int(whole["runtime"]) > 20) == ("1", True), whole
    nodes = asked("train_stage", stage, STUDY_GPUS_PER_NODE="2", STUDY_MAX_NODES="8")
    assert (nodes["gres"], nodes["processes"]) == ("gpu:2", "2")
    assert int(nodes["nodes"]) * 2 >= int(whole["processes"]) > 2
    # half the GPUs on each of twice as many nodes hold as much
    two = asked("train_stage", stage, "--set-resources", "train_stage:nodes=2")
    assert (two["nodes"], 2 * int(two["processes"])) == ("2", int(whole["processes"]))
    # a rung is a share of the stage, and only the stage's job has the nodes that were asked for it
    config = ["--config", "studies=tiny-screen"]
    rung = asked("train_rung", f"{folder}/rungs/0.1/training.json", "--set-resources", "train_stage:nodes=2", *config)
    assert (rung["nodes"], rung["processes"]) == ("1", whole["processes"])
    assert int(rung["runtime"]) < 0.6 * int(whole["runtime"])
    warned = snakemake(checkout, stage, "--profile", "slurm", "-n", environment=SITE | {"STUDY_GPU_MAX_RUNTIME": "10"}).stdout
    assert resources_of(warned, "train_stage")["runtime"] == "10"
    (line,) = (line for line in warned.splitlines() if line.startswith("STUDY_GPU_MAX_RUNTIME: a job ends after 10 min"))
    assert "tiny-lab-stacked/01-stacked" in line
    refused = snakemake(checkout, stage, "--profile", "slurm", "-n", environment=SITE | {"STUDY_CPU_MAX_RUNTIME": "20"}).stdout
    assert "error: STUDY_CPU_MAX_RUNTIME: 20 minutes are less than `runtime: 60`" in refused


def test_the_last_leg_asks_for_what_is_left_after_the_rungs(checkout: Path) -> None:
    plan = Plan.from_config(checkout / "config", studies=["tiny-screen"])
    stage = next(stage for stage in plan.stages.values() if stage.stage == "01-stacked")
    needs = JobResources(plan, Site(GPUS["A100"], gpu_partition="gpu", cpu_partition="cpu"))
    wildcards = {key: str(value) for key, value in stage.model_dump(include={"model", "data", "recipe", "seed", "stage"}).items()}
    assert needs.forecast is not None
    jobs = needs.forecast.jobs(stage)
    go = checkout / "screen.json"
    go.write_text(json.dumps({"status": "go"}))
    for rung, rule in {0.1: "train_rung", 0.25: "train_rung", None: "train_stage"}.items():
        named = wildcards | ({"rung": str(rung)} if rung else {})
        found = needs.of(rule)["runtime"](named, {"verdict": [str(go)]}, 1)
        assert found == minutes(jobs[rung].seconds)


def resources_of(output: str, rule: str) -> dict[str, str]:
    """Resources of a rule's first job in a dry run."""
    line = output.split(f"rule {rule}:")[1].split("resources: ")[1].splitlines()[0]
    return dict(entry.split("=", 1) for entry in line.split(", "))


def finish(checkout: Path, folder: str) -> None:
    """Leave the mark of a finished stage where today's plan expects it."""
    plan = Plan.from_config(checkout / "config")
    stage = plan.stages[Path("results") / folder]
    record = TrainingRecord(
        spec_hash=spec_hash(stage),
        content_hash="",
        **provenance(),
        num_steps=1,
        samples_seen=1,
        samples_spent=1,
        checkpoints=[],
        loss_normalisation="",
        precision="fp32",
        attention="",
        packed=False,
        sharding="none",
        optimizer="adamw",
        device="cpu",
        num_processes=1,
        num_threads=1,
        num_attempts=1,
        time_s=1,
        tokens_per_s=1,
        peak_memory_gb=1,
    )
    write_record(checkout / "scratch" / folder / "finished.json", record)


def test_the_plan_counts_the_jobs_of_a_dry_run_and_leaves_a_page(checkout: Path) -> None:
    printed = snakemake(checkout, "-c1", "plan", "--config", "studies=tiny").stdout
    jobs = job_counts(snakemake(checkout, "-n", "--config", "studies=tiny").stdout)
    (line,) = re.findall(r"^jobs left: (.*)$", printed, flags=re.MULTILINE)
    total, _, counts = line.partition(": ")
    assert {rule: int(count) for rule, count in (entry.split() for entry in counts.split(", "))} == jobs
    assert int(total) == sum(jobs.values())
    assert re.search(r"^as planned +16 +20 +54 ", printed, flags=re.MULTILINE)
    assert (checkout / "results" / "plan.html").read_text().startswith("<!DOCTYPE html>")


def test_a_plan_for_no_gpu_is_refused(checkout: Path) -> None:
    program = [sys.executable, "workflow/scripts/plan_study.py", "--gpu", ""]
    failed = subprocess.run(program, cwd=checkout, env=variables(checkout), capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: --gpu: '' is not ")


def test_a_plan_counts_what_is_being_made_and_tells_why_a_dry_run_fails(checkout: Path) -> None:
    record = checkout / "results" / "models" / "tiny-llama" / "model.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    mark = checkout / ".snakemake" / "incomplete" / base64.b64encode(str(record.relative_to(checkout)).encode()).decode()
    mark.parent.mkdir(parents=True)
    mark.touch()
    printed = snakemake(checkout, "-c1", "plan").stdout
    assert re.search(r"^jobs left: .* pretrain_model 1,", printed, re.MULTILINE), printed
    (checkout / "workflow" / "rules" / "models.smk").write_text("")
    program = [sys.executable, "workflow/scripts/plan_study.py"]
    failed = subprocess.run(program, cwd=checkout, env=variables(checkout), capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: MissingInputException in rule validate_data")
    assert line.endswith("affected files: results/worlds/tiny/world.json")


def test_hours_are_asked_for_like_a_plan_and_know_all_jobs_by_their_wildcards(checkout: Path) -> None:
    printed = snakemake(checkout, "-c1", "hours", "--config", "studies=tiny").stdout
    assert "no attempt is on file" in printed
    assert (checkout / "results" / "hours.html").read_text().startswith("<!DOCTYPE html>")
    studies = ["tiny", "tiny-screen"]
    listed = planned_jobs(snakemake(checkout, "-n", "--config", f"studies={','.join(studies)}").stdout)
    # in the order in which Snakemake puts them into a cluster job's comment
    known = hours.planned_jobs(Plan.from_config(checkout / "config", studies=studies))
    named = {(rule, ", ".join(f"{name}={value}" for name, value in job.items())) for rule, job in known}
    assert len(named) > 100
    assert {(rule, names) for rule, names in listed if rule in hours.RULES} == named


def test_effective_settings_under_each_profile(checkout: Path) -> None:
    probe = checkout / "probe.smk"
    probe.write_text(PROBE)
    found = {
        name: snakemake(checkout, "-n", "-s", "probe.smk", *arguments, environment=SITE | WORKSTATION).stdout
        for name, arguments in PROFILES.items()
    }
    assert len(found) == 3
    for name, output in found.items():
        assert set(re.findall(r"RerunTrigger\.(\w+)", output)) == {"MTIME", "INPUT", "PARAMS"}, name


def test_on_a_workstation_gpus_are_counted_and_no_two_jobs_have_the_same_one(checkout: Path) -> None:
    planned = snakemake(checkout, "--profile", "workstation", "-n", environment=WORKSTATION).stdout
    assert resources_of(planned, "train_stage").items() >= {"gpu": "1", "device": "cuda", "processes": "1"}.items()
    assert "gpu" not in resources_of(planned, "prepare_phase")
    (checkout / "hold.smk").write_text(HOLD)
    (checkout / "hold.py").write_text(HOLDER)
    environment = WORKSTATION | {"TMPDIR": str(checkout), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    ran = snakemake(checkout, "-s", "hold.smk", "--profile", "workstation", "-c5", environment=environment)
    assert ran.returncode == 0, ran.stdout  # a job that found both taken would have failed at once
    held: dict[str, list[tuple[float, float]]] = {}
    for job in range(5):
        device, begin, end = (checkout / f"{job}.txt").read_text().split()
        held.setdefault(device, []).append((float(begin), float(end)))
    assert set(held) == {"0", "1"}
    for spans in held.values():
        assert all(end <= begin for (_, end), (begin, _) in pairwise(sorted(spans)))


def test_fetch_brings_models_and_data_of_others_and_jobs_on_other_machines_ask_no_hub(checkout: Path) -> None:
    files = {
        "config.yaml": "studies: [own]",
        "models.yaml": "big: {source: hub, id: a/b, revision: main}",
        "data.yaml": "chats: {phases: {all: {sources: [{from: {hub: a/chats, split: train}}], num_samples: 640}}}",
        "studies/own.yaml": (
            "question: q\nruns: [{model: [big, tiny-llama], data: [chats, tiny], recipe: [tiny-lab-stacked], seed: [1]}]\n"
            "benchmarks: [tiny-mmlu, own-mmlu]"
        ),
        "benchmarks.yaml": (
            "own:\n  kind: harness\n  benchmarks: {own-mmlu: {tasks: [mmlu], metric: acc, uses: [{hub: a/mmlu, split: test}]}}"
        ),
    }
    for name, text in files.items():
        (checkout / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / "own" / name).write_text(text)
    jobs = job_counts(snakemake(checkout, "fetch", "-n", "--config", "overlay=own").stdout)
    assert jobs == {"fetch": 1, "fetch_model": 1, "fetch_suite": 1, "validate_data": 1, "write_spec": 3}
    assert job_counts(snakemake(checkout, "fetch", "-n").stdout) == {"fetch": 1}  # the tiny study makes all it needs
    (checkout / "probe.smk").write_text('include: "workflow/rules/common.smk"\nprint("hub:", os.environ.get("HF_HUB_OFFLINE"))\n')
    said = {
        (mode, offline): snakemake(checkout, "-s", "probe.smk", "-n", *mode, environment={"STUDY_OFFLINE": offline}).stdout
        for mode in ((), ("--mode", "remote"), ("--mode", "subprocess"))
        for offline in ("0", "1", "no", "Yes")
    }
    assert all("hub: " in found for found in said.values())
    assert {key for key, found in said.items() if "hub: 1" in found} == {
        (("--mode", "remote"), offline) for offline in ("1", "Yes")
    }


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


def test_no_rule_hides_the_plan_until_something_ran() -> None:
    """A checkpoint rule would: its jobs' successors are not known before, and rerun for ever."""
    root = Path(__file__).parents[2]
    rules = [root / "Snakefile", *sorted((root / "workflow").rglob("*.smk"))]
    assert len(rules) > 10
    asks = re.compile(r"^\s*checkpoint |\bcheckpoints\.\w+\.get\(", re.MULTILINE)
    assert [path.name for path in rules if asks.search(path.read_text())] == []


def test_a_screened_study_shows_all_jobs_on_day_one_whatever_will_be_decided(checkout: Path) -> None:
    counts = job_counts(snakemake(checkout, "-n", "--config", "studies=tiny-screen").stdout)
    assert [counts[rule] for rule in ("train_rung", "decide_screen", "write_screen", "train_stage")] == [24, 2, 24, 16]
    beside = job_counts(snakemake(checkout, "-n", "--config", "studies=tiny,tiny-screen").stdout)
    assert [beside.get(rule, 0) for rule in ("train_rung", "decide_screen", "write_screen", "train_stage")] == [24, 2, 0, 20]


def test_a_raced_phase_hangs_its_choice_on_the_race_and_its_scores_behind_it(checkout: Path) -> None:
    recipes = checkout / "config" / "recipes.yaml"
    recipes.write_text(
        recipes.read_text().replace("knowledge: {benchmark: tiny-mmlu}", "knowledge: {benchmark: tiny-mmlu, race: {}}")
    )
    before = yaml.safe_load(GOLDEN.read_text())["tiny"]
    folder = "results/runs/tiny-llama/tiny/tiny-lab-phased/seed1/02-knowledge"
    planned = snakemake(checkout, "-n", "-p").stdout
    assert job_counts(planned) == before | {"race_checkpoints": 2}
    inputs = {
        (rule, path): re.search(rf"^rule {rule}:\n(?:    .*\n)*?    input: (.*)\n    output: {path}", planned, re.M)
        for rule, path in (
            ("race_checkpoints", f"{folder}/race.json"),
            ("select_checkpoint", f"{folder}/selection.json"),
            ("score_harness", f"{folder}/scores/tiny-harness/part01.json"),
        )
    }
    race, choice, scores = (found and found[1].split(", ") for found in inputs.values())
    assert f"{folder}/training.json" in race
    assert f"{folder}/race.json" in choice
    assert not any("/scores/" in path for path in choice)
    assert f"{folder}/race.json" in scores
