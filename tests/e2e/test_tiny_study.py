"""What the README promises of the tiny study, on one real run of it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from checkouts import copy_checkout, planned_jobs, snakemake, variables
from sftstudy.plan import Plan

REBUILD = ("-c1", "-F", "--nolock", "-s", "workflow/tables.smk", "tables")
STAGE = "runs/tiny-llama/tiny/tiny-lab-stacked/seed1/01-stacked"
HARNESS = f"results/{STAGE}/scores/tiny-harness/part01.json"


def scores(checkout: Path) -> pd.DataFrame:
    """Rows of whole benchmarks: one per run, stage and checkpoint."""
    table = pd.read_csv(checkout / "results" / "scores.csv")
    return table[(table["task"] == table["benchmark"]) & ~table["metric"].str.endswith(("_micro", "_macro"))]


def products(checkout: Path) -> dict[str, bytes]:
    """Path -> bytes of everything that is rebuilt from the records."""
    made = [checkout / "results" / "scores.csv", checkout / "results" / "missing.csv"]
    made += sorted((checkout / "results" / "studies").rglob("*.*"))
    return {str(path.relative_to(checkout)): path.read_bytes() for path in made if path.is_file()}


def running(checkout: Path, *targets: str) -> subprocess.Popen[bytes]:
    """Snakemake at work in the background."""
    command = [sys.executable, "-m", "snakemake", "-c1", *targets]
    return subprocess.Popen(command, cwd=checkout, env=variables(checkout), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def programs_at_work(checkout: Path, name: str) -> list[psutil.Process]:
    """Processes of a program of the workflow that run in a checkout."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        if process.info["cwd"] == str(checkout) and len(command) > 1 and Path(command[1]).name == name:
            found.append(process)
    return found


def adopt(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Take over copied results, as the README says."""
    command = [sys.executable, "workflow/scripts/adopt_results.py"]
    return subprocess.run(command, cwd=checkout, env=variables(checkout), capture_output=True, text=True, check=False)


def without_torch(folder: Path, checkout: Path) -> dict[str, str]:
    """Environment in which importing a heavy library fails."""
    for library in ("torch", "transformers", "lm_eval", "datasets"):
        (folder / library).mkdir(parents=True)
        (folder / library / "__init__.py").write_text(f"raise ImportError('{library} is not to be loaded here')\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(checkout / "src")])}


def test_every_table_and_figure_is_there_and_nothing_is_missing(study: Path) -> None:
    names = {Path(name).name for name in products(study)}
    for table in ("batch-size-by-learning-rate", "lab-against-tulu", "stacked-against-phased", "warm-up", "schedule"):
        assert {f"{table}.{end}" for end in ("csv", "md", "tex", "html", "pedigree.json")} <= names
    assert {"numbers.json", "numbers.tex"} <= names
    for figure in ("dynamics", "scores"):
        assert {f"{figure}.png", f"{figure}.pdf"} <= names
    assert len((study / "results/studies/tiny/summary.txt").read_text().splitlines()) == 5
    assert len(pd.read_csv(study / "results" / "missing.csv")) == 0


def test_the_guide_advises_the_recipe_with_the_highest_mean_and_says_who_may_be_as_good(study: Path) -> None:
    (pair,) = json.loads((study / "results/studies/tiny/guide.json").read_text())["pairs"]
    means = [recipe["score"]["value"] for recipe in pair["recipes"]]
    assert len(means) == 8
    assert means == sorted(means, reverse=True)
    tied = [recipe["recipe"] for recipe in pair["recipes"] if recipe["tied"]]
    assert pair["best"]["recipe"] == tied[0]
    assert pair["advised"]["recipe"] in tied
    assert pair["gain"]["low"] > 0
    assert pair["advised"]["recipe"] in (study / "results/studies/tiny/report.html").read_text()


def test_what_the_guide_would_try_next_plans_as_it_stands_there(study: Path, tmp_path: Path) -> None:
    record = json.loads((study / "results/studies/tiny/guide.json").read_text())
    files = {
        "config.yaml": "studies: [tiny-next]",
        "recipes.yaml": record["next_recipes"],
        "recipes/advised.yaml": record["pairs"][0]["overlay"],
        "studies/tiny-next.yaml": record["next_study"],
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    plan = Plan.from_config(study / "config", overlay=tmp_path)
    advised = record["pairs"][0]["advised"]["recipe"]
    tried = {run.recipe for run in plan.runs["tiny-next"]}
    assert advised in tried
    assert len(tried) > 1
    assert plan.registry.recipes["advised-tiny"].training.model_dump() == plan.registry.recipes[advised].training.model_dump()


def test_training_lifts_every_benchmark_far_above_base_and_chance_without_saturating(study: Path) -> None:
    table = scores(study)
    base = table[table["stage"] == "00-base"].set_index("benchmark")
    lab = table[(table["recipe"] == "tiny-lab-stacked") & (table["ckpt"] == "ckpt03") & (table["seed"] == 1)].set_index("benchmark")
    ceiling = {"tiny-mmlu": 0.9, "tiny-leaderboard": 0.9, "tiny-mt-bench": 9.0}
    chance = {"tiny-mmlu": 0.25, "tiny-leaderboard": 0.0, "tiny-mt-bench": 1.0}
    assert set(lab.index) == set(base.index) == set(ceiling)
    for benchmark in ceiling:
        low = lab.loc[benchmark, "value"] - 3 * lab.loc[benchmark, "stderr"]
        assert low > base.loc[benchmark, "value"] + 3 * base.loc[benchmark, "stderr"], benchmark
        assert low > chance[benchmark], benchmark
        assert lab.loc[benchmark, "value"] < ceiling[benchmark], benchmark


def test_the_judge_is_named(study: Path) -> None:
    assert set(scores(study).query("benchmark == 'tiny-mt-bench'")["judge"]) == {"lcs-rule"}
    assert "lcs-rule" in (study / "results/studies/tiny/tables/lab-against-tulu.md").read_text()


def test_weights_that_nobody_will_ask_for_are_gone(study: Path) -> None:
    """What the next stage starts from stays, and the last checkpoint of a run."""
    records = sorted((study / "results" / "runs").rglob("retention.json"))
    assert len(records) == 20
    num_checkpoints = 0
    for path in records:
        kept, folder = json.loads(path.read_text())["kept"], path.parent.relative_to(study / "results")
        selection = path.with_name("selection.json")
        places = [entry["ckpt"] for entry in json.loads(path.with_name("training.json").read_text())["checkpoints"]]
        assert kept == [json.loads(selection.read_text())["ckpt"] if selection.exists() else places[-1]]
        assert [found.name for found in sorted((study / "scratch" / folder).glob("ckpt*"))] == kept
        num_checkpoints += len(places)
    assert num_checkpoints == 54
    assert not list((study / "scratch" / "runs").rglob("resume"))


def test_a_second_run_has_nothing_to_do(study: Path) -> None:
    assert "Nothing to be done" in snakemake(study, "-c", "all").stdout


def test_tables_are_rebuilt_byte_for_byte_from_results_alone(study: Path, tmp_path: Path) -> None:
    elsewhere = copy_checkout(tmp_path / "elsewhere")
    shutil.copytree(study / "results", elsewhere / "results")
    before = products(elsewhere)
    (elsewhere / "results" / "scores.csv").unlink()
    shutil.rmtree(elsewhere / "results" / "studies")
    result = snakemake(elsewhere, *REBUILD, environment=without_torch(tmp_path / "blocked", elsewhere))
    assert result.returncode == 0, result.stdout[-3000:]
    after = products(elsewhere)
    assert len(before) >= 20
    assert [name for name in before if before[name] != after.get(name)] == []

    (elsewhere / HARNESS).unlink()
    assert snakemake(elsewhere, *REBUILD).returncode == 0
    missing = pd.read_csv(elsewhere / "results" / "missing.csv")
    assert list(missing["path"]) == [HARNESS]
    assert products(elsewhere)["results/studies/tiny/tables/warm-up.csv"] != before["results/studies/tiny/tables/warm-up.csv"]


def test_a_stale_record_is_refused_by_name(study: Path, tmp_path: Path) -> None:
    elsewhere = copy_checkout(tmp_path / "elsewhere")
    shutil.copytree(study / "results", elsewhere / "results")
    record = json.loads((elsewhere / HARNESS).read_text()) | {"spec_hash": "0" * 16}
    (elsewhere / HARNESS).write_text(json.dumps(record))
    assert snakemake(elsewhere, *REBUILD).returncode == 0
    missing = pd.read_csv(elsewhere / "results" / "missing.csv")
    assert list(missing["path"]) == [HARNESS]
    assert "spec" in missing["reason"][0]
    adopted = adopt(elsewhere)
    assert adopted.returncode == 1
    assert HARNESS in adopted.stderr


def test_copied_results_are_adopted(study: Path, tmp_path: Path) -> None:
    elsewhere = copy_checkout(tmp_path / "elsewhere")
    shutil.copytree(study / "results", elsewhere / "results", copy_function=shutil.copyfile)
    adopted = adopt(elsewhere)
    assert adopted.returncode == 0, adopted.stderr
    assert "Nothing to be done" in snakemake(elsewhere, "-n").stdout


def test_a_changed_learning_rate_replans_that_recipe_and_no_other(restored: Path) -> None:
    recipes = restored / "config" / "recipes.yaml"
    changed, count = re.subn(r"(tiny-tulu-stacked:\n.*\n.*learning_rate: )[\d.e-]+", r"\g<1>7e-4", recipes.read_text())
    assert count == 1
    recipes.write_text(changed)
    jobs = planned_jobs(snakemake(restored, "-n").stdout)
    trained = {wildcards for rule, wildcards in jobs if rule == "train_stage"}
    assert len(trained) == 2
    assert all("recipe=tiny-tulu-stacked" in wildcards for wildcards in trained)
    of_runs = {wildcards for _, wildcards in jobs if "recipe=" in wildcards}
    assert all("recipe=tiny-tulu-stacked" in wildcards for wildcards in of_runs)
    assert {rule for rule, wildcards in jobs if "recipe=" not in wildcards} <= {
        "write_spec", "collect_scores", "render_table", "write_numbers", "render_figure", "check_claims", "write_guide",
        "replay_screen", "summarize_study", "write_report", "write_index", "all",
    }  # fmt: skip


def test_touched_sources_replan_nothing(restored: Path) -> None:
    sources = [path for folder in ("config", "src", "workflow") for path in (restored / folder).rglob("*") if path.is_file()]
    assert len(sources) > 50
    for path in sources:
        os.utime(path)
    recipes = restored / "config" / "recipes.yaml"
    recipes.write_text("# a comment changes nothing\n" + recipes.read_text())
    assert "Nothing to be done" in snakemake(restored, "-n").stdout


def test_a_raised_semantics_number_replans_what_that_program_made(restored: Path) -> None:
    def replanned(program: str) -> set[tuple[str, str]]:
        numbers = restored / "src" / "sftstudy" / "semantics.py"
        before = numbers.read_text()
        raised, count = re.subn(rf'("{program}": )(\d+)', lambda found: f"{found[1]}{int(found[2]) + 1}", before)
        assert count == 1
        numbers.write_text(raised)
        found = planned_jobs(snakemake(restored, "-n").stdout)
        numbers.write_text(before)
        return found

    assert {rule for rule, _ in replanned("render_figure")} == {"all", "render_figure", "write_report", "write_index"}
    judged = replanned("judge_mt_bench")
    # what was answered, trained or scored elsewhere stays, but for what continues from a checkpoint chosen by these ratings
    untouched = {(rule, wildcards) for rule, wildcards in judged if "recipe=" in wildcards and "phased" not in wildcards}
    assert {rule for rule, _ in untouched} == {"judge_mt_bench", "retain_weights"}
    assert not {wildcards for rule, wildcards in judged if rule == "train_stage" and "stage=01-" in wildcards}


def test_queued_jobs_run_what_was_planned(restored: Path) -> None:
    runs = [f"tiny-lab-{name}/seed{seed}" for name in ("warmup", "cosine") for seed in (1, 2)]
    specs = [f"results/runs/tiny-llama/tiny/{run}/01-stacked/spec.yaml" for run in runs]
    before = {name: (restored / name).read_bytes() for name in specs}
    for name in specs:
        (restored / name).unlink()
    with running(restored, *specs) as job:
        while not any((restored / name).exists() for name in specs):
            assert job.poll() is None
            time.sleep(0.01)
        recipes = restored / "config" / "recipes.yaml"
        planned = recipes.read_text()
        recipes.write_text(planned.replace("warmup_steps: 20", "warmup_steps: 21").replace("cosine}", "linear}"))
    assert job.returncode == 0
    assert {name: (restored / name).read_bytes() for name in specs} == before
    recipes.write_text(planned)
    assert snakemake(restored, "--touch", "-c1", "all").returncode == 0


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_stage_continues_to_the_same_weights(study: Path, kill: signal.Signals) -> None:
    target = f"results/{STAGE}/training.json"
    record = study / target
    undisturbed = [ckpt["weights_hash"] for ckpt in json.loads(record.read_text())["checkpoints"]]
    shutil.rmtree(study / "scratch" / STAGE)
    record.unlink()
    with running(study, target) as job:
        while not list((study / "scratch" / STAGE / "resume").glob("step*")):
            assert job.poll() is None
            time.sleep(0.05)
        (trainer,) = programs_at_work(study, "train_stage.py")
        trainer.send_signal(kill)
    assert job.returncode != 0
    result = snakemake(study, "-c1", target)
    assert result.returncode == 0, result.stdout[-3000:]
    resumed = json.loads(record.read_text())
    assert resumed["num_attempts"] == 2
    assert [ckpt["weights_hash"] for ckpt in resumed["checkpoints"]] == undisturbed
    assert [rule for rule, _ in planned_jobs(result.stdout)] == ["train_stage"]


ROWS = [json.dumps({"prompt": f"say {word}", "response": word}) for word in ("yes", "no") * 16]


def write_overlay(folder: Path, name: str, *, rows: list[str], num_checkpoints: int, benchmark: str) -> Path:
    """An overlay with data, a recipe and a study of one name."""
    (folder / "studies").mkdir(parents=True)
    training = f"{{effective_batch_size: 8, learning_rate: 1e-3, epochs: 1, num_checkpoints: {num_checkpoints}}}"
    source = "{from: {path: chats.jsonl}, format: prompt-response}"
    files = {
        "config.yaml": f"studies: [{name}]",
        "data.yaml": f"{name}: {{phases: {{all: {{num_samples: 32, sources: [{source}]}}}}}}",
        "recipes.yaml": f"recipes: {{{name}: {{strategy: stacked, training: {training}}}}}",
        f"studies/{name}.yaml": (
            "question: Does my data change anything?\n"
            f"runs: [{{model: [tiny-llama], data: [{name}], recipe: [{name}], seed: [1]}}]\nbenchmarks: [{benchmark}]\n"
        ),
        "chats.jsonl": "\n".join(rows),
    }
    for file, text in files.items():
        (folder / file).write_text(text)
    return folder


def test_an_overlay_brings_its_own_data_and_a_malformed_row_ends_before_training(study: Path, tmp_path: Path) -> None:
    rows = [*ROWS[:-1], '{"prompt": "no reply"}']
    overlay = write_overlay(tmp_path / "overlay", "own", rows=rows, num_checkpoints=1, benchmark="tiny-mmlu")
    failed = snakemake(study, "-c", "all", "--config", f"overlay={overlay}")
    assert failed.returncode == 1
    log = "logs/validate_data/own.log"
    assert log in failed.stdout
    assert f"{overlay}/chats.jsonl:32: expected a string in 'response'" in (study / log).read_text()
    assert not (study / "scratch/runs/tiny-llama/own").exists()

    (overlay / "chats.jsonl").write_text("\n".join(ROWS))
    result = snakemake(study, "-c", "all", "--config", f"overlay={overlay}")
    assert result.returncode == 0, result.stdout[-3000:]
    assert json.loads((study / "results/runs/tiny-llama/own/own/seed1/01-stacked/training.json").read_text())["samples_seen"] == 32
    assert "Study own: 1 run" in (study / "results/studies/own/summary.txt").read_text()


def test_a_benchmark_that_changes_late_names_the_command_that_trains_the_weights_again(study: Path, tmp_path: Path) -> None:
    overlay = write_overlay(tmp_path / "late comer", "late", rows=ROWS, num_checkpoints=2, benchmark="late-exam")
    suite = "late: {kind: harness, stock_tasks: false, batch_size: 32, include_path: %s, benchmarks: {late-exam: %s}}"
    exam = "{tasks: [tiny_mmlu_music], metric: acc, uses: [{world: tiny, file: mmlu_music.jsonl}]}"
    (overlay / "benchmarks.yaml").write_text(suite % (study / "config" / "tasks" / "tiny", exam))
    settings = ("--config", f"overlay={overlay}")
    assert snakemake(study, "-c", "all", *settings).returncode == 0
    run = "runs/tiny-llama/late/late/seed1/01-stacked"
    assert [path.name for path in (study / "scratch" / run).glob("ckpt*")] == ["ckpt02"]

    (overlay / "benchmarks.yaml").write_text((suite % (study / "config" / "tasks" / "tiny", exam)).replace("32", "16"))
    failed = snakemake(study, "-c", "all", *settings)
    assert failed.returncode == 1
    assert "train_stage" not in {rule for rule, _ in planned_jobs(failed.stdout)}
    log = study / "logs" / "score_harness" / run.removeprefix("runs/") / "late" / "part01.log"
    error = log.read_text().splitlines()[-1]
    what, command = error.split(" again: ")
    assert what == f"error: scratch/{run}/ckpt01: weights are gone; to make them"
    typed = command.replace("snakemake", f"{sys.executable} -m snakemake")
    subprocess.run(typed, shell=True, cwd=study, env=variables(study), check=True, capture_output=True)
    assert "Nothing to be done" in snakemake(study, "-n", *settings).stdout
    assert [path.name for path in (study / "scratch" / run).glob("ckpt*")] == ["ckpt02"]
