"""Prepares the same chats with sftstudy and with a plain `datasets.map`, in fresh processes; prints rows/s, memory and their ratio.

    python benchmarks/prepare_throughput.py --tokenizer FOLDER [--files CHATS.jsonl ...] [--num-rows 100000] [--repeats 3]

The peer calls `apply_chat_template(tokenize=True, return_assistant_tokens_mask=True)` on each row, with the same template. Without
`--files`, chats are generated from a seed: one to three turns whose lengths follow those of self-instruct and Open Assistant. Rates
count the whole process, imports and reading included, until the rows are on disk; on a busy machine CPU time tells more. Memory is
the highest sum over the process and its children of what is resident, pages that several share counted once (PSS); pages of
mapped files are part of it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from sftstudy import hashes, spec
from sftstudy.config import Data, FolderModel, LocalFile, Phase, Source
from sftstudy.data.prepare import prepare_phase
from sftstudy.data.templates import set_template
from sftstudy.data.tokenise import load_tokenizer
from sftstudy.paths import Layout
from sftstudy.records import ModelRecord, write_record

TEMPLATE = "tulu"
MAX_LENGTH = 8192


def main() -> None:
    """Measure both sides in turn, `--repeats` times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a fast tokenizer")
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="JSON lines of chat messages, repeated up to --num-rows")
    parser.add_argument("--num-rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="processes on either side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for what is written; a temporary one if absent")
    parser.add_argument("--one", choices=SIDES, help="run one side in --work, which has been set up")
    arguments = parser.parse_args()
    if arguments.one:
        SIDES[arguments.one](arguments.work, arguments.threads)
        return
    work = Path(tempfile.mkdtemp(dir=arguments.work))
    try:
        set_up(work, arguments)
        measure_both(work, arguments)
    finally:
        shutil.rmtree(work)


def set_up(work: Path, arguments: argparse.Namespace) -> None:
    """The chats, and a tokenizer with the template."""
    lines = (line for path in arguments.files for line in path.read_text().split("\n") if line.strip())
    rows = [json.loads(line)["messages"] for line in lines] or generated(arguments.num_rows, seed=arguments.seed)
    with (work / "chats.jsonl").open("w") as file:
        for number in range(arguments.num_rows):
            file.write(json.dumps({"messages": rows[number % len(rows)]}) + "\n")
    tokenizer = load_tokenizer(arguments.tokenizer)
    set_template(tokenizer, TEMPLATE)
    tokenizer.save_pretrained(work / "scratch" / "models" / "toy")


def generated(num_rows: int, *, seed: int) -> list[list[dict[str, str]]]:
    """Chats of English words: requests of about 20, replies of about 90, log-normal both."""
    from pydoc_data.topics import topics

    rng, words = random.Random(seed), " ".join(topics.values()).split()

    def text(median: float) -> str:
        length = max(1, min(600, round(rng.lognormvariate(0, 0.8) * median)))
        start = rng.randrange(len(words) - length)
        return " ".join(words[start : start + length])

    def chat() -> list[dict[str, str]]:
        turns = rng.choices([1, 2, 3], weights=[6, 3, 1])[0]
        pairs = [({"role": "user", "content": text(20)}, {"role": "assistant", "content": text(90)}) for _ in range(turns)]
        return [message for pair in pairs for message in pair]

    return [chat() for _ in range(num_rows)]


def measure_both(work: Path, arguments: argparse.Namespace) -> None:
    """Print a line per run, then the medians and their ratio."""
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    peaks: dict[str, list[float]] = {side: [] for side in SIDES}
    cpus: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(arguments.repeats):
        for side in SIDES:
            time_s, cpu_s, peak_gb = measured([sys.executable, __file__, *sys.argv[1:], "--one", side, "--work", str(work)])
            rates[side].append(arguments.num_rows / time_s)
            peaks[side].append(peak_gb)
            cpus[side].append(cpu_s)
            print(f"{side}: {rates[side][-1]:.0f} rows/s, {time_s:.1f} s, of CPU {cpu_s:.1f} s, peak {peak_gb:.2f} GB", flush=True)
            for name in ("scratch/tokenised", "peer"):
                shutil.rmtree(work / name, ignore_errors=True)
    for side in SIDES:
        print(f"{side}: median {statistics.median(rates[side]):.0f} rows/s, peak {max(peaks[side]):.2f} GB")
    ratio = statistics.median(rates["sftstudy"]) / statistics.median(rates["datasets.map"])
    cpu_ratio = statistics.median(cpus["datasets.map"]) / statistics.median(cpus["sftstudy"])
    print(f"ratio {ratio:.2f} by the clock, {cpu_ratio:.2f} by CPU time: {arguments.threads} processes, {arguments.num_rows} rows")


def measured(command: list[str]) -> tuple[float, float, float]:
    """Seconds of a process by the clock, of CPU with its children, and the peak of their memory in GB."""
    began, peak, used = time.perf_counter(), 0, resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for member in [tree, *tree.children(recursive=True)]:
                total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
        peak = max(peak, total)
        time.sleep(0.05)
    time_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(process.stderr.read().decode() if process.stderr else "failed")
    return time_s, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime, peak / 1e9


def ours(work: Path, threads: int) -> None:
    """`prepare_phase` as the workflow calls it, but for a plan and weights."""
    layout = Layout(work / "results", work / "scratch")
    folder = layout.model_folder("toy")
    model = spec.ModelSpec(name="toy", model=FolderModel(source="folder", path=str(folder)))
    record = ModelRecord(
        spec_hash=spec.spec_hash(model), content_hash="", commit="", versions={}, num_parameters=0, weights_hash="",
        tokenizer_hash=hashes.tokenizer_hash(folder), chat_template=TEMPLATE,
    )  # fmt: skip
    write_record(layout.model_record("toy"), record)
    path = work / "chats.jsonl"
    num_rows = sum(1 for _ in path.open())
    phase = Phase(sources=[Source(location=LocalFile(path=str(path)))], num_samples=num_rows)
    data = Data(phases={"chats": phase}, max_length=MAX_LENGTH, over_length="truncate")
    rules: dict[str, Any] = data.model_dump(exclude={"phases"})
    phase_spec = spec.PhaseSpec(
        model="toy", data="toy", phase="chats", definition=phase, model_hash=spec.spec_hash(model), libraries={}, **rules
    )
    prepare_phase(phase_spec, layout=layout, num_processes=threads)


def theirs(work: Path, threads: int) -> None:
    """What many a script does: a call per row inside `datasets.map`."""
    from datasets import Dataset

    tokenizer = load_tokenizer(work / "scratch" / "models" / "toy")

    def tokenise(row: dict[str, Any]) -> dict[str, Any]:
        made = tokenizer.apply_chat_template(
            row["messages"],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            truncation=True,
            max_length=MAX_LENGTH,
        )
        return {"input_ids": made["input_ids"], "supervised": made["assistant_masks"]}

    rows = Dataset.from_json(str(work / "chats.jsonl"), cache_dir=str(work / "peer" / "cache"))
    rows = rows.map(tokenise, remove_columns=rows.column_names, num_proc=threads if threads > 1 else None)
    rows.save_to_disk(str(work / "peer" / "rows"))


SIDES = {"sftstudy": ours, "datasets.map": theirs}

if __name__ == "__main__":
    main()
