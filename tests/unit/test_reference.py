"""Generated files and pins agree with their sources; `python -m sftstudy.reference` rewrites the former."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml

from sftstudy import records, reference, semantics

ROOT = Path(__file__).parents[2]


VLLMS_OWN = {"vllm", "transformers", "numpy"}
"""What the environment of the vLLM back end has in versions of its own, beside torch."""


def pins() -> dict[str, str]:
    lines = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {name.lower().replace("_", "-"): version for name, version in lines}


def test_schemas_and_config_reference_are_current() -> None:
    generated = reference.files(ROOT / "config")
    assert len(generated) == 1 + len(reference.FILES)
    stale = [path.name for path, text in generated.items() if path.read_text() != text]
    assert not stale, f"run `python -m sftstudy.reference`: {stale}"


def test_environments_have_the_pins_of_the_constraints() -> None:
    environments = sorted((ROOT / "envs").glob("*.yaml"))
    assert [path.stem for path in environments] == ["evaluate", "tables", "train", "vllm"]
    known = pins()
    for path in environments:
        libraries = yaml.safe_load(path.read_text())["dependencies"][-1]["pip"]
        assert libraries
        for line in libraries:
            name, version = line.split("==")
            if name not in {"torch"} | (VLLMS_OWN if path.stem == "vllm" else set()):
                assert known[name.lower().replace("_", "-")] == version, f"{path.name}: {line}"


def test_torch_is_pinned_alike_everywhere() -> None:
    files = ["Makefile", "envs/train.yaml", "envs/evaluate.yaml", "README.md"]
    found = {file: set(re.findall(r"torch==([\d.]+)", (ROOT / file).read_text())) for file in files}
    assert set(map(frozenset, found.values())) == {frozenset({"2.13.0"})}, found


def test_a_package_that_is_not_installed_knows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores carry it, and two versions are not compared: an environment without the package must write the same."""
    installed = version("sftstudy")

    def missing(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(records, "version", missing)
    assert records.provenance("torch")["versions"] == {"sftstudy": installed, "torch": "missing"}


def test_majors_in_the_spec_hash_are_those_of_the_pins() -> None:
    known = pins()
    assert {name: known[name].split(".")[0] for name in semantics.PINNED_MAJORS} == semantics.PINNED_MAJORS


def test_rules_programs_and_paragraphs_have_the_same_names() -> None:
    targets = {"all", "plan", "hours", "fetch", "data", "passports", "training", "scores", "tables", "retained"}
    by_hand = {"normalize_leaderboard", "replay_race", "summarize_mt_bench"}
    files = [ROOT / "Snakefile", ROOT / "workflow" / "tables.smk", *(ROOT / "workflow" / "rules").glob("*.smk")]
    rules = {name for path in files for name in re.findall(r"^rule (\w+):", path.read_text(), flags=re.MULTILINE)} - targets
    assert len(rules) > 10
    about_the_checkout = {"adopt_results", "count_hours", "doctor", "plan_study"}
    assert {path.stem for path in (ROOT / "workflow" / "scripts").glob("*.py")} - about_the_checkout == rules | by_hand
    assert set(re.findall(r"\*\*(\w+_\w+)\*\*", (ROOT / "docs" / "pipeline.md").read_text())) == rules | by_hand
    assert (rules | by_hand) - {"write_spec"} == set(semantics.SEMANTICS)


def test_light_modules_load_no_heavy_library() -> None:
    light = [
        "plan",
        "study",
        "registry",
        "spec",
        "records",
        "select",
        "stats",
        "forecast",
        "resources",
        "tables.collect",
        "tables.render",
        "tables.figures",
        "tables.passport",
    ]
    code = f"import sys; import {', '.join(f'sftstudy.{name}' for name in light)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "sftstudy.plan" in loaded
    assert {"torch", "transformers", "lm_eval", "datasets"} & set(loaded) == set()
