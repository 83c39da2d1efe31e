"""Prints a table: tokens trained per second by our loop, by transformers' Trainer and by TRL's SFTTrainer, on this machine's CPU.

By hand: `python benchmarks/train_throughput.py --model FOLDER --data chats.jsonl ...`; the model folder has a chat template, a line
of data is {"messages": [...]}. Which settings run is said by words of the form

    program:layout:precision:size[:compile]

    program    ours, trainer, sft
    layout     padded   the samples of a step in the order of the file (ours: of like length together)
               grouped  the peers' group_by_length
               packed   ours: samples end to end; sft: TRL's best-fit packing, which implies padding_free
               free     sft: padding_free without packing
    precision  fp32
               bf16     fp32 master weights, bf16 compute: ours by copies of the weights, the peers by autocast
               pure     the peers' weights and optimizer states in bf16: no fp32 masters, small updates are rounded away
    size       ours: tokens per micro-batch; peers: rows per micro-batch, for `packed` rows of --max-length tokens

Every setting runs in a process of its own, on the same samples, with the same number of threads, samples per step and steps; one
step warms up. Time runs from the end of that step to the end of the last one, with batching, clipping and AdamW. Tokenising is
excluded for all. Rounds are interleaved, so that a slow minute of the machine hits every setting.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

SETTINGS = [
    "ours:packed:fp32:4096",
    "ours:packed:fp32:4096:compile",
    "ours:packed:bf16:4096",
    "ours:packed:bf16:4096:compile",
    "trainer:grouped:fp32:2",
    "trainer:grouped:fp32:2:compile",
    "trainer:grouped:bf16:2",
    "trainer:grouped:bf16:2:compile",
    "trainer:grouped:pure:2:compile",
    "sft:grouped:fp32:2",
    "sft:packed:fp32:1",
]
"""Peers: the fastest of those tried in fp32 with SmolLM2-135M on a CPU (1, 2, 4 and 8 rows grouped by length; packing with 1 and 4
rows of 512; padding_free with 4 rows; 2 and 4 grouped rows for SFTTrainer), and the same in the other precisions."""
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")
PEAK_SHAPES = [(2048, 2048, 2048), (2048, 576, 1536), (4096, 1024, 4096), (1024, 4096, 1024)]
LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Setting:
    """What a word on the command line says."""

    program: str
    layout: str
    precision: str
    size: int
    compiled: bool

    @classmethod
    def parse(cls, word: str) -> Setting:
        """Raises SystemExit that names a word of another form."""
        parts = word.split(":")
        layouts = {"ours": {"padded", "packed"}, "trainer": {"padded", "grouped"}, "sft": {"padded", "grouped", "packed", "free"}}
        precisions = {"fp32", "bf16"} if parts[0] == "ours" else {"fp32", "bf16", "pure"}
        good = len(parts) in (4, 5) and parts[1] in layouts.get(parts[0], ()) and parts[2] in precisions and parts[3].isdigit()
        if not good or parts[4:] not in ([], ["compile"]):
            raise SystemExit(f"{word}: not a setting; write program:layout:precision:size[:compile], see --help")
        return cls(parts[0], parts[1], parts[2], int(parts[3]), len(parts) == 5)


@dataclass(frozen=True)
class Timed:
    """What one process measured after its warm-up step; `loss` is the warm-up step's, `cpu_s` counts all threads."""

    num_tokens: int
    time_s: float
    cpu_s: float
    loss: float
    peak_memory_gb: float


Clocks = tuple[float, float]
"""Seconds on the wall and of this process's CPU time."""


def clocks() -> Clocks:
    """Both now."""
    return time.perf_counter(), time.process_time()


def timed(num_tokens: int, ends: list[Clocks], loss: float) -> Timed:
    """From the end of the first step to that of the last."""
    import resource

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return Timed(num_tokens, ends[-1][0] - ends[0][0], ends[-1][1] - ends[0][1], loss, memory)


# --- the samples, the same for everyone ------------------------------------------------------------------------------


def tokenised(model: Path, data: list[Path], *, max_length: int, num_samples: int, seed: int) -> list[tuple[list[int], list[bool]]]:
    """Token ids and loss masks of `num_samples` chats drawn from all files, those above `max_length` tokens left out.

    Fewer chats than wanted are gone through again.
    """
    import numpy as np

    from sftstudy import hashes
    from sftstudy.data.formats import Message
    from sftstudy.data.masks import ChatTokenizer
    from sftstudy.data.tokenise import load_tokenizer

    tokenizer = load_tokenizer(model)
    tokeniser = ChatTokenizer(tokenizer, name="tokenizer", stop_ids=hashes.stop_ids(model) | {tokenizer.eos_token_id})
    chats = [json.loads(line)["messages"] for path in data for line in path.read_text().splitlines()]
    rendered = tokeniser.render([[Message(turn["role"], turn["content"]) for turn in chat] for chat in chats])
    kept = [sample for sample in tokeniser.tokenise(rendered) if len(sample) <= max_length and sample.supervised.any()]
    order = np.random.default_rng(seed).permutation(len(kept))
    return [(kept[index].input_ids.tolist(), kept[index].supervised.tolist()) for index in np.resize(order, num_samples)]


# --- programs --------------------------------------------------------------------------------------------------------


def ours(setting: Setting, model_folder: Path, samples: list[Any], *, batch_size: int, num_steps: int) -> Timed:
    """Our training loop in one process."""
    import numpy as np

    from sftstudy.config import Training
    from sftstudy.train import loop
    from sftstudy.train.attention import attention_of
    from sftstudy.train.models import load_model, prepared
    from sftstudy.train.parallel import joined, spread

    packed = setting.layout == "packed"
    training = Training(
        effective_batch_size=batch_size,
        learning_rate=LEARNING_RATE,
        budget_samples=batch_size * num_steps,
        num_checkpoints=1,
        precision=setting.precision,
        max_tokens_per_microbatch=setting.size,
        compile=setting.compiled,
    )
    rows = [(np.array(ids, dtype=np.int32), np.array(mask)) for ids, mask in samples]
    results: list[loop.StepResult] = []
    ends: list[Clocks] = []

    def after_step(_: int, result: loop.StepResult) -> None:
        results.append(result)
        ends.append(clocks())

    with joined("cpu") as world:
        attention = attention_of(world.device, packed=packed, precision=training.precision)
        model = prepared(load_model(model_folder, attention=attention), training, seed=0)
        spread(model, world, precision=training.precision, sharding="none", cpu_offload=False)
        loop.train(
            model,
            loop.make_optimizer(model, training),
            first_step=0,
            num_steps=num_steps,
            seed=0,
            training=training,
            world=world,
            packed=packed,
            samples_of=lambda step_index: rows[step_index * batch_size : (step_index + 1) * batch_size],
            rate_of=lambda _: LEARNING_RATE,
            after_step=after_step,
        )
    return timed(sum(result.num_tokens for result in results[1:]), ends, results[0].loss)


def peer(setting: Setting, model_folder: Path, samples: list[Any], *, batch_size: int, num_steps: int, max_length: int) -> Timed:
    """transformers' Trainer or TRL's SFTTrainer. A packed step has as many rows as give it the same samples on average."""
    import datasets
    import torch
    import transformers

    sft = setting.program == "sft"
    rows = [
        {"input_ids": ids, "labels": [token if use else -100 for token, use in zip(ids, mask, strict=True)], "length": len(ids)}
        for ids, mask in samples
    ]
    if setting.layout == "packed":
        from trl import pack_dataset

        packed = pack_dataset(datasets.Dataset.from_list(rows).select_columns(["input_ids", "labels"]), max_length, "bfd")
        batch_size = len(packed) // num_steps
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.bfloat16 if setting.precision == "pure" else torch.float32
    )
    settings: dict[str, Any] = {
        "per_device_train_batch_size": setting.size,
        "gradient_accumulation_steps": max(1, batch_size // setting.size),
        "max_steps": num_steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "bf16": setting.precision == "bf16",
        "use_cpu": True,
        "torch_compile": setting.compiled,
        "train_sampling_strategy": "group_by_length" if setting.layout == "grouped" else "sequential",
        "gradient_checkpointing": False,
        "max_grad_norm": 1.0,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": sft,
    }
    ends: list[Clocks] = []
    tokens: list[int] = [0]
    losses: list[float] = []

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(clocks())
            tokens.append(0)

    def watched(kind: Any) -> Any:
        class Watched(kind):
            def training_step(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
                mask = inputs.get("attention_mask")
                tokens[-1] += inputs["input_ids"].numel() if mask is None else int(mask.sum())
                loss = super().training_step(model, inputs, *arguments, **named)
                if not ends:
                    losses.append(loss.item())
                return loss

        return Watched

    with tempfile.TemporaryDirectory() as folder:
        if sft:
            import trl

            config = trl.SFTConfig(
                folder,
                max_length=max_length if setting.layout == "packed" else None,
                packing=setting.layout == "packed",
                padding_free=setting.layout in ("packed", "free"),
                shuffle_dataset=False,
                **settings,
            )
            trainer = watched(trl.SFTTrainer)(
                model, config, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, callbacks=[Watch()]
            )
        else:
            collator = transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
            trainer = watched(transformers.Trainer)(
                model,
                transformers.TrainingArguments(folder, **settings),
                data_collator=lambda batch: collator([{key: row[key] for key in ("input_ids", "labels")} for row in batch]),
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=tokenizer,
                callbacks=[Watch()],
            )
        trainer.train()
    assert len(ends) == num_steps, f"{len(ends)} steps were made, {num_steps} were asked for"
    return timed(sum(tokens[1:num_steps]), ends, sum(losses))


# --- what the machine can do -----------------------------------------------------------------------------------------


def peak(model_folder: Path, samples: list[Any]) -> dict[str, float]:
    """FLOPs per second of torch.mm, best of several shapes and runs, by precision; and FLOPs that a token of the samples needs."""
    import torch

    from sftstudy.train.flops import step_flops
    from sftstudy.train.models import skeleton

    found: dict[str, float] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        best = 0.0
        for rows, inner, columns in PEAK_SHAPES:
            left, right = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
            for _ in range(6):
                began = time.perf_counter()
                torch.mm(left, right.t())
                best = max(best, 2 * rows * inner * columns / (time.perf_counter() - began))
        found[name] = best
    lengths = [len(ids) for ids, _ in samples]
    supervised = sum(sum(mask[1:]) for _, mask in samples)
    found["per_token"] = step_flops(skeleton(model_folder), lengths, num_supervised_tokens=supervised) / sum(lengths)
    return found


# --- the parent ------------------------------------------------------------------------------------------------------


def run(word: str, arguments: argparse.Namespace, samples: Path) -> dict[str, Any] | None:
    """What a process of its own printed for this setting, or `peak`; None if it failed, with the end of its errors on stderr."""
    threads = str(arguments.threads)
    done = subprocess.run(
        [
            *(sys.executable, __file__, "--worker", word, "--samples", str(samples), "--model", str(arguments.model)),
            *("--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps)),
            *("--max-length", str(arguments.max_length), "--threads", threads),
        ],
        env={**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(f"{word}: failed: {done.stderr.strip()[-800:]}", file=sys.stderr)
        return None
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def table(measured: dict[str, list[Timed]], machine: dict[str, float]) -> str:
    """A Markdown table, fastest first, and ratios of our best to the best peer."""
    rates = {word: [one.num_tokens / one.time_s for one in found] for word, found in measured.items() if found}
    speed = {word: statistics.median(found) for word, found in rates.items()}
    lines = [
        "| setting | fp32 masters | tokens/s, median | all rounds | per CPU second | share of peak | loss of step 1 | memory, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for word in sorted(speed, key=lambda word: -speed[word]):
        precision = Setting.parse(word).precision
        cells = [
            word,
            "no" if precision == "pure" else "yes",
            f"{speed[word]:.1f}",
            " ".join(f"{rate:.0f}" for rate in rates[word]),
            f"{statistics.median(one.num_tokens / one.cpu_s for one in measured[word]):.1f}",
            f"{speed[word] * machine['per_token'] / machine['fp32' if precision == 'fp32' else 'bf16']:.0%}",
            f"{measured[word][0].loss:.4f}",
            f"{max(one.peak_memory_gb for one in measured[word]):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    classes = {"bf16, fp32 masters": {"bf16"}, "fp32": {"fp32"}, "any precision": {"bf16", "fp32", "pure"}}
    for name, precisions in classes.items():
        best: dict[bool, str] = {}
        for word in speed:
            setting = Setting.parse(word)
            own = setting.program == "ours"
            if setting.precision in precisions and (own not in best or speed[word] > speed[best[own]]):
                best[own] = word
        if len(best) == 2:
            ratio = speed[best[True]] / speed[best[False]]
            lines.append(f"{name}: ours / best peer = {ratio:.2f} ({best[True]} / {best[False]})")
    return "\n".join(lines)


def main() -> None:
    """The parent interleaves the settings and prints the table; with --worker, measure one setting and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", default=[])
    parser.add_argument("--settings", nargs="+", default=SETTINGS, metavar="WORD")
    parser.add_argument("--batch-size", type=int, default=32, help="samples per optimizer step")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps, the warm-up included")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments)))
        return
    for word in arguments.settings:
        Setting.parse(word)
    num_samples = arguments.batch_size * arguments.steps
    drawn = tokenised(
        arguments.model, arguments.data, max_length=arguments.max_length, num_samples=num_samples, seed=arguments.seed
    )
    measured: dict[str, list[Timed]] = {word: [] for word in arguments.settings}
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.json"
        samples.write_text(json.dumps(drawn))
        machine = run("peak", arguments, samples)
        assert machine is not None, "the peak of the machine was measured"
        for _ in range(arguments.repeats):
            for word in arguments.settings:
                made = run(word, arguments, samples)
                if made is None:
                    continue
                one = Timed(**made)
                measured[word].append(one)
                rate, cpu_rate = one.num_tokens / one.time_s, one.num_tokens / one.cpu_s
                print(
                    f"{word}: {rate:.1f} tokens/s, {cpu_rate:.1f} per CPU second, load {os.getloadavg()[0]:.1f}",
                    file=sys.stderr,
                    flush=True,
                )
    lengths = [len(ids) for ids, _ in drawn]
    print(
        f"{platform.processor() or platform.machine()}, {arguments.threads} threads; "
        f"torch.mm at best {machine['bf16'] / 1e9:.0f} GFLOP/s in bf16, {machine['fp32'] / 1e9:.0f} in fp32. "
        f"{len(lengths)} samples, {statistics.mean(lengths):.0f} tokens on average (median {statistics.median(lengths):.0f}), "
        f"{arguments.batch_size} per step, {arguments.steps - 1} timed steps; {machine['per_token'] / 1e9:.3f} GFLOP per token. "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        + ".\n"
    )
    print(table(measured, machine))


def work(arguments: argparse.Namespace) -> dict[str, Any]:
    """One setting, or the peak of the machine, in this process."""
    import torch

    torch.set_num_threads(arguments.threads)
    samples = json.loads(arguments.samples.read_text())
    if arguments.worker == "peak":
        return dict(peak(arguments.model, samples))
    setting = Setting.parse(arguments.worker)
    sizes = {"batch_size": arguments.batch_size, "num_steps": arguments.steps}
    if setting.program == "ours":
        return asdict(ours(setting, arguments.model, samples, **sizes))
    return asdict(peer(setting, arguments.model, samples, **sizes, max_length=arguments.max_length))


if __name__ == "__main__":
    main()
