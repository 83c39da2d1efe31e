"""What the hub has is fetched once; scoring then needs no hub. A stand-in on this machine speaks for the hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sftstudy import spec
from sftstudy.config import HarnessBenchmark, HubSplit
from sftstudy.paths import Layout

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests/unit"))

from evaluation_toys import COLOURS, make_harness_suite, make_toy  # noqa: E402
from hub_stand_in import serve  # noqa: E402

FUNCTIONS = """
doc_to_text: !function own_code.text
num_fewshot: 1
fewshot_split: test
fewshot_config: {sampler: first_n, doc_to_text: !function own_code.text}
"""
"""Functions, at the top and nested, must have one identity in every process."""

CODE = """
from functools import partial

def ask(doc, end):
    return doc["question"] + end

text = partial(ask, end="")
"""


def make_suite(folder: Path, *names: str) -> spec.SuiteSpec:
    """A benchmark per data set of the hub."""
    make_harness_suite(folder)
    for name in names:
        task = json.loads((folder / "tasks/toys.yaml").read_text()) | {"task": f"task_{name}", "dataset_path": f"toys/{name}"}
        del task["dataset_kwargs"]
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in task.items() if key != "doc_to_text")
        (folder / f"tasks/task_{name}.yaml").write_text(text + FUNCTIONS)
    (folder / "tasks/own_code.py").write_text(CODE)
    benchmarks = {
        name: HarnessBenchmark(tasks=[f"task_{name}"], metric="acc", uses=[HubSplit(hub=f"toys/{name}", split="test")])
        for name in names
    }
    return make_harness_suite(folder, edit=False, benchmarks=benchmarks)


def publish(folder: Path, name: str, num_items: int) -> None:
    """Put a data set on the hub."""
    file = folder / "toys" / name / "data/test-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    rows = [
        {"question": f"what colour is {'a ' * item} ball ?", "choices": COLOURS, "answer": item % 4} for item in range(num_items)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)
    files = "[{split: test, path: data/test-00000-of-00001.parquet}]"
    (folder / "toys" / name / "README.md").write_text(f"---\nconfigs:\n- {{config_name: default, data_files: {files}}}\n---\n")


def program(name: str, *arguments: str, layout: Layout, **environment: str) -> subprocess.CompletedProcess[str]:
    roots = ["--results", str(layout.results), "--scratch", str(layout.scratch)]
    # another machine's home for each program, and none of these tests' own caches
    home = {"HF_HOME": str(layout.scratch / name), "HF_DATASETS_CACHE": str(layout.scratch / "datasets"), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, str(ROOT / f"workflow/scripts/{name}.py"), *arguments, *roots],
        env=os.environ | home | environment,
        capture_output=True,
        text=True,
    )


def test_a_fetched_suite_is_scored_without_the_hub(tmp_path: Path) -> None:
    toy, suite, hub = make_toy(tmp_path), make_suite(tmp_path, "open", "closed", "absent"), tmp_path / "hub"
    publish(hub, "open", 9)
    publish(hub, "closed", 3)
    file = toy.layout.suite_spec(suite.name)
    spec.write(file, suite)
    spec.write(toy.results / "spec.yaml", toy.stage)
    with serve(hub, gated=frozenset({"toys/closed"})) as (address, asked):
        refused = program("fetch_suite", str(file), layout=toy.layout, HF_ENDPOINT=address)
        assert refused.returncode == 1
        message = refused.stderr.splitlines()[-1]
        assert message.startswith("error: 2 faults: benchmarks.yaml: closed.tasks: task_closed: ")
        assert "ask for access at https://huggingface.co/datasets/toys/closed, then set HF_TOKEN" in message
        assert "| benchmarks.yaml: absent.tasks: task_absent: Dataset 'toys/absent' doesn't exist on the Hub" in message
        suite = make_suite(tmp_path, "open")
        spec.write(file, suite)
        fetched = program("fetch_suite", str(file), layout=toy.layout, HF_ENDPOINT=address)
        assert fetched.returncode == 0, fetched.stderr
        assert any(path.endswith(".parquet") for path in asked)
        del asked[:]
        run = [str(toy.results / "spec.yaml"), str(file), "--part", "part01"]
        scored = program("score_harness", *run, layout=toy.layout, HF_ENDPOINT=address)
        assert scored.returncode == 0, scored.stderr
        assert asked == []
    record = json.loads((toy.results / "scores" / suite.name / "part01.json").read_text())
    assert [(score["ckpt"], score["num_items"]) for score in record["scores"]] == [
        ("ckpt01", 9),
        ("ckpt01", 9),
        ("ckpt02", 9),
        ("ckpt02", 9),
    ]
