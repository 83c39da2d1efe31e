"""Needs of planned jobs: how many GPUs, what an attempt that failed changes, and records in place of assumptions."""

from pathlib import Path
from typing import Any

import pytest

from sftstudy import spec
from sftstudy.environment import Site
from sftstudy.errors import StudyError
from sftstudy.forecast import Forecast, host_mb, minutes
from sftstudy.gpus import GPUS
from sftstudy.paths import Layout
from sftstudy.plan import Plan
from sftstudy.records import TrainingRecord, provenance, write_record

CONFIG = Path(__file__).parents[2] / "config"
SIZE = "{hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32, num_attention_heads: 32, vocab_size: 32000}"
TRAINING = (
    "{effective_batch_size: 64, learning_rate: 1e-5, epochs: 10, num_checkpoints: 2, precision: bf16,"
    " activation_checkpointing: true"
)


def forecast(root: Path, *, site: Site | None = None, size: str = f"size: {SIZE}", **training: str) -> Forecast:
    """Of a study of one stacked run of a 7B model on 3264 samples of 100 tokens, 10 epochs."""
    overlay = root / "overlay"
    (overlay / "studies").mkdir(parents=True, exist_ok=True)
    settings = "".join(f", {key}: {value}" for key, value in training.items())
    phases = "".join(
        f"    {name}: {{sources: [{{from: {{world: tiny, file: {name}.jsonl}}}}], num_samples: {number}, tokens_per_sample: 100}}\n"
        for name, number in (("instruct", 600), ("skills", 2664))
    )
    files = {
        "config.yaml": "studies: [own]",
        "models.yaml": f"big: {{source: hub, id: a/b, revision: main, {size}}}",
        "data.yaml": f"chats:\n  max_length: 2048\n  phases:\n{phases}",
        "recipes.yaml": f"recipes: {{own: {{strategy: stacked, training: {TRAINING}{settings}}}}}}}",
        "studies/own.yaml": (
            "question: q\nruns: [{model: [big], data: [chats], recipe: [own], seed: [1]}]\nbenchmarks: [tiny-mmlu, tiny-mt-bench]\n"
        ),
    }
    for name, text in files.items():
        (overlay / name).write_text(text)
    planned = Plan.from_config(CONFIG, overlay=overlay)
    plan = Plan(planned.registry, planned.studies, planned.folder, Layout(root / "results", root / "scratch"))
    return Forecast(plan, site or Site(GPUS["H100"]))


def trained(made: Forecast) -> spec.StageSpec:
    (stage,) = (stage for stage in made.plan.stages.values() if stage.training)
    return stage


def num_gpus(made: Forecast, *, attempt: int = 1) -> tuple[int, bool]:
    need = made.training(trained(made), attempt=attempt)
    assert need is not None
    return need.num_gpus, need.fits


def test_as_few_gpus_as_hold_a_sharded_stage_and_no_fewer_than_the_site_wants(tmp_path: Path) -> None:
    assert num_gpus(forecast(tmp_path, sharding="full")) == (2, True)
    assert num_gpus(forecast(tmp_path, sharding="full", site=Site(GPUS["H100"], gpus_per_stage=8))) == (8, True)
    assert num_gpus(forecast(tmp_path, sharding="full", site=Site(GPUS["L4"], gpus_per_node=4))) == (4, False)
    assert num_gpus(forecast(tmp_path)) == (1, False)  # whole weights do not get smaller by more GPUs
    assert num_gpus(forecast(tmp_path, lora="{rank: 8, alpha: 8}")) == (1, True)


def test_a_failed_attempt_asks_for_more(tmp_path: Path) -> None:
    made = forecast(tmp_path, sharding="full")
    need = made.training(trained(made))
    assert need is not None
    attempts = [num_gpus(made, attempt=attempt)[0] for attempt in (1, 2, 3)]
    assert attempts == sorted(attempts)
    assert attempts[0] < attempts[2]
    assert host_mb(need.memory, attempt=2) == pytest.approx(1.25 * host_mb(need.memory), rel=0.01)
    assert minutes(3600, attempt=2) == 2 * 90 + 5


def test_hours_are_tokens_over_the_assumed_rate_until_one_was_measured(tmp_path: Path) -> None:
    made = forecast(tmp_path, sharding="full")
    stage = trained(made)
    assert made.num_tokens(stage) == 510 * 64 * 100
    assumed = made.training(stage)
    write_record(made.plan.records_of(stage) / "training.json", record(stage, device="NVIDIA A100", tokens_per_s=1e3))
    assert forecast(tmp_path, sharding="full").training(stage) == assumed  # another kind of GPU says nothing
    write_record(
        made.plan.records_of(stage) / "training.json",
        record(stage, device="NVIDIA H100 80GB HBM3", tokens_per_s=200.0, num_processes=2),
    )
    again = forecast(tmp_path, sharding="full")
    measured = again.training(stage)
    assert measured is not None
    assert again.is_measured(stage)
    assert assumed is not None
    assert measured.seconds == pytest.approx(3_264_000 / 200, rel=0.2)
    assert measured.seconds > 5 * assumed.seconds


def test_a_model_of_unknown_size_has_no_forecast_until_it_is_here(tmp_path: Path) -> None:
    made = forecast(tmp_path, size="chat_template: lab")
    assert made.training(trained(made)) is None
    assert made.scoring(trained(made), "tiny-harness", num_checkpoints=1) is None
    folder = made.plan.layout.model_folder("big")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        '{"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}'
    )
    assert num_gpus(forecast(tmp_path, size="chat_template: lab")) == (1, True)


def test_scores_cost_by_checkpoint_and_judges_by_question_and_turn(tmp_path: Path) -> None:
    made = forecast(tmp_path)
    one, two = (made.scoring(trained(made), "tiny-harness", num_checkpoints=number) for number in (1, 2))
    assert one is not None
    assert two is not None
    assert 180 < one.seconds < two.seconds < 2 * one.seconds  # the model is loaded once
    assert made.judge_calls("tiny-mt-bench", num_checkpoints=3) == 3 * 80 * 2
    assert made.judge_calls("tiny-harness", num_checkpoints=3) == 0
    assert made.judge_calls("mt-bench", num_checkpoints=1) == 80 * 2
    assert made.judge_cost("mt-bench", num_checkpoints=1) == pytest.approx(160 * (1200 * 30 + 250 * 60) / 1e6)
    asked = made.judging("mt-bench", num_checkpoints=1)
    assert (asked.num_gpus, asked.seconds) == (0, 160 * 10 / 8)


def test_a_site_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STUDY_GPU", "STUDY_GPU_PARTITION"):
        monkeypatch.delenv(name, raising=False)
    assert Site.from_environment() is None
    monkeypatch.setenv("STUDY_GPU_PARTITION", "gpu")
    with pytest.raises(StudyError, match="STUDY_GPU is not set"):
        Site.from_environment()
    monkeypatch.setenv("STUDY_GPU", "A100")
    monkeypatch.setenv("STUDY_GPU_MEMORY_GB", "40")
    site = Site.from_environment()
    assert site is not None
    assert (site.gpu.memory_gb, site.gpus_per_node, site.gpu_partition) == (40, 8, "gpu")
    monkeypatch.setenv("STUDY_GPUS_PER_NODE", "many")
    with pytest.raises(StudyError, match="STUDY_GPUS_PER_NODE: 'many'"):
        Site.from_environment()


def record(stage: spec.StageSpec, **changes: Any) -> TrainingRecord:
    """A finished stage's."""
    settings: dict[str, Any] = {
        "num_steps": 1,
        "samples_seen": 1,
        "samples_spent": 1,
        "checkpoints": [],
        "loss_normalisation": "",
        "precision": "bf16",
        "attention": "",
        "packed": True,
        "sharding": "full",
        "optimizer": "adamw",
        "num_processes": 1,
        "num_threads": 1,
        "num_attempts": 1,
        "time_s": 1,
        "peak_memory_gb": 1,
    }
    return TrainingRecord(spec_hash=spec.spec_hash(stage), content_hash="", **provenance(), **settings | changes)
