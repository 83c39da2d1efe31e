"""The worked example in docs/planning.md is what the code computes: every number in its tables."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sftstudy import forecast, needs
from sftstudy.config import Training
from sftstudy.environment import Site
from sftstudy.forecast import HOST_MARGIN, START_S, Forecast, host_mb, minutes
from sftstudy.gpus import GPUS
from sftstudy.outlook import outlook
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.sizes import ModelSize
from sftstudy.survival import shares
from sftstudy.tables.plan_page import rows_of

CONFIG = Path(__file__).parents[2] / "config"
DOC = Path(__file__).parents[2] / "docs" / "planning.md"
ARCHITECTURE = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
NUM_SAMPLES, MEAN_LENGTH, LONGEST, NUM_GPUS, NUM_CHECKPOINTS = 825_487, 400, 4096, 8, 10


def computed() -> dict[str, str]:
    """Label of a row of the document -> what the code says."""
    size = ModelSize.of(ARCHITECTURE)
    assert size is not None
    training = Training(
        effective_batch_size=3840,
        learning_rate=2e-5,
        epochs=3,
        num_checkpoints=NUM_CHECKPOINTS,
        precision="bf16",
        sharding="full",
        activation_checkpointing=True,
        max_tokens_per_microbatch=16384,
    )
    gpu = GPUS["H100"]
    memory = needs.training_memory(size, training, num_gpus=NUM_GPUS, longest=LONGEST)
    flops = needs.training_flops(size, training, mean_length=MEAN_LENGTH)
    rate = needs.training_rate(size, training, gpu=gpu, mean_length=MEAN_LENGTH)
    tokens = 3 * NUM_SAMPLES // 3840 * 3840 * MEAN_LENGTH
    seconds = tokens / (rate * NUM_GPUS)
    saving = needs.saving_seconds(size, training, num_checkpoints=NUM_CHECKPOINTS, training_s=seconds)
    total = START_S + seconds + saving
    mmlu = needs.scoring_seconds(size, gpu=gpu, compute=2, num_requests=14_042, prompt_tokens=750, new_tokens=0, batch_size=32)
    answers = needs.scoring_seconds(size, gpu=gpu, compute=2, num_requests=160, prompt_tokens=300, new_tokens=350, batch_size=32)
    return {
        "a layer": f"{size.layer_parameters:,}",
        "embeddings, or head": f"{size.head_parameters:,}",
        "the model": f"{size.num_parameters:,}",
        "states": f"{16 * size.num_parameters / 8 / 1e9:.1f} GB",
        "copies": f"{2 * (2 * size.layer_parameters + 2 * size.head_parameters + 4096) / 1e9:.1f} GB",
        "in flight": f"{6 * (2 * size.head_parameters + 4096) / 1e9:.1f} GB",
        "activations": f"{16384 * needs.activation_bytes(size, compute=2, recomputed=True) / 1e9:.1f} GB",
        "logits": f"{16384 * 0.6 * needs.logit_bytes(size, compute=2) / 1e9:.1f} GB",
        "a GPU holds": f"{memory.gpu_gb:.1f} GB",
        "the host holds": f"{memory.host_gb:.0f} GB",
        "asked of the scheduler": f"{host_mb(memory) // 1000} GB",
        "a token": f"{flops / 1e9:.1f} GFLOP",
        "a GPU trains": f"{rate:,.0f} tokens/s",
        "tokens": f"{tokens / 1e9:.3f} billion",
        "training": f"{seconds / 3600:.1f} h",
        "saving": f"{saving / 3600:.2f} h",
        "GPU-hours": f"{NUM_GPUS * total / 3600:.0f}",
        "time limit": f"{minutes(total)} min",
        "MMLU": f"{mmlu / 60:.1f} min",
        "MT-Bench": f"{answers / 60:.1f} min",
    }


def six_recipes(root: Path) -> Plan:
    """A screened study of six recipes that differ in nothing that costs, of the stage of the worked example."""
    shapes = ", ".join(f"{key}: {value}" for key, value in ARCHITECTURE.items())
    training = (
        f"effective_batch_size: 3840, learning_rate: 2e-5, epochs: 3, num_checkpoints: {NUM_CHECKPOINTS}, precision: bf16,"
        " sharding: full, activation_checkpointing: true, max_tokens_per_microbatch: 16384"
    )
    names = [f"r{number}" for number in range(1, 7)]
    recipes = "".join(f"  {name}: {{strategy: stacked, training: {{{training}, weight_decay: 0.{name[1:]}}}}}\n" for name in names)
    source = "{from: {world: tiny, file: instruct.jsonl}}"
    files = {
        "config.yaml": "studies: [own]",
        "models.yaml": f"big: {{source: hub, id: a/b, revision: main, size: {{{shapes}}}}}",
        "data.yaml": (
            f"chats: {{max_length: {LONGEST}, phases: {{all: {{sources: [{source}], num_samples: {NUM_SAMPLES},"
            f" tokens_per_sample: {MEAN_LENGTH}}}}}}}"
        ),
        "recipes.yaml": f"recipes:\n{recipes}",
        "studies/own.yaml": (
            f"question: q\nruns: [{{model: [big], data: [chats], recipe: [{', '.join(names)}], seed: [1]}}]\n"
            "benchmarks: [tiny-mmlu]\n"
            "screen: {benchmark: tiny-mmlu, rungs: [0.1, 0.25], rule: {kind: paper, keep: 0.5}, audit: {share: 0.25}}\n"
        ),
    }
    (root / "studies").mkdir()
    for name, text in files.items():
        (root / name).write_text(text)
    planned = Plan.from_config(CONFIG, overlay=root)
    return Plan(planned.registry, planned.studies, planned.folder, Layout(root / "results", root / "scratch"))


def computed_with_rungs_nodes_and_a_limit(root: Path) -> dict[str, str]:
    """The same of the second table, through a plan as a whole."""
    plan, site = six_recipes(root), Site(GPUS["H100"], gpus_per_stage=NUM_GPUS)
    found = outlook(plan, site)
    stage = next(stage for stage in plan.stages.values() if stage.training)
    jobs = found.forecast.jobs(stage)
    left = shares(plan)[plan.records_of(stage)]
    most, expected = found.shared.training_hours, found.screened.training_hours
    size = found.forecast.size("big")
    assert size is not None
    assert stage.training is not None
    network = needs.network_seconds(size, stage.training, num_gpus=NUM_GPUS, num_nodes=2, mean_length=MEAN_LENGTH)
    # without rungs, as the first table has it
    study = plan.registry.studies["own"].model_copy(update={"screen": None})
    whole = replace(plan, registry=plan.registry.model_copy(update={"studies": {"own": study}}))
    one, two = (Forecast(whole, site).training(stage, num_nodes=number) for number in (1, 2))
    within = Forecast(whole, replace(site, gpu_max_runtime=120)).training(stage)
    assert one is not None
    assert two is not None
    assert within is not None
    assert f"{one.gpu_hours:.0f}" == computed()["GPU-hours"]
    return {
        "to the first rung": f"{jobs[0.1].seconds / 3600:.2f} h",
        "to the second": f"{jobs[0.25].seconds / 3600:.2f} h",
        "to the end": f"{jobs[None].seconds / 3600:.2f} h",
        "beyond the first": f"{6 * left[0.25]:.0f} of 6",
        "beyond the second": f"{6 * left[None]:.0f} of 6",
        "if nothing is stopped": f"{most:.0f}",
        "expected": f"{expected:.0f}",
        "saved": f"{1 - expected / most:.0%}",
        "network": f"{16384 * network:.2f} s",
        "a GPU of 16 holds": f"{two.memory.gpu_gb:.1f} GB",
        "on two nodes": f"{two.seconds / 3600:.1f} h",
        "GPU-hours of 16": f"{two.gpu_hours:.0f}",
        "starts": f"{within.starts}",
        "with all starts": f"{within.seconds / 3600:.1f} h",
        "limit asked": f"{minutes(within.seconds, most=120)} min",
    }


def test_the_worked_example_is_what_the_code_computes(tmp_path: Path) -> None:
    written = dict(re.findall(r"^\| ([^|]+?) \|.*\| \*\*([^*]+)\*\* \|$", DOC.read_text(), flags=re.MULTILINE))
    assert written == computed() | computed_with_rungs_nodes_and_a_limit(tmp_path)


def test_assumptions_are_written_down() -> None:
    text = " ".join(DOC.read_text().split())
    assert HOST_MARGIN == 1.25, "a quarter more"
    assert f"{100 * needs.MFU:.0f} % of the peak, 989 TFLOP/s" in text
    assert f"at {100 * needs.MFU_PREFILL:.0f} % of the peak" in text
    assert f"{100 * needs.SUPERVISED_SHARE:.0f} % of the tokens" in text
    assert f"{forecast.NUM_QUESTIONS} questions" in text
    assert f"answers of {forecast.ANSWER_TOKENS} tokens" in text


def test_the_papers_whole_study_takes_what_is_written() -> None:
    studies = sorted(path.stem for path in (CONFIG / "studies").glob("paper-e*.yaml"))
    assert len(studies) == 20
    found = outlook(Plan.from_config(CONFIG, studies=studies), Site(GPUS["H100"], gpus_per_stage=8))
    rows = re.findall(r"^\| ([a-z ,]+) \| (\d*) ?\| (\d*) ?\| ([\d,]+) \|$", DOC.read_text(), flags=re.MULTILINE)
    written = {label: (int(runs or 0), int(stages or 0), float(hours.replace(",", ""))) for label, runs, stages, hours in rows}
    assert len(written) == 4
    for label, (runs, stages, hours) in written.items():
        work = rows_of(found)[label]
        assert (work.runs, work.stages) == (runs, stages), label
        assert work.gpu_hours == pytest.approx(hours, rel=0.1), label
    assert found.shared.unknown == frozenset()
    assert found.too_large == []
