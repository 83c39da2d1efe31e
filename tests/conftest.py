"""Toys that several tests share: a word-level tokenizer, a random Llama of a few thousand weights, a study of one stage on disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from sftstudy import config, spec
from sftstudy.paths import Layout
from sftstudy.records import write_record

WORDS = [
    "what",
    "is",
    "the",
    "colour",
    "of",
    "grass",
    "green",
    "sky",
    "blue",
    "and",
    "a",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="module")
def world() -> Iterator[Any]:
    """A world of one process; not for tests that let `train_stage` make its own."""
    from sftstudy.train.parallel import joined

    with joined("cpu") as world:
        yield world


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tiny study's kind of tokenizer, with its chat template, on twenty words."""
    from sftstudy.train.pretrain import train_tokenizer

    return train_tokenizer(iter([" ".join(WORDS)]))


@pytest.fixture(scope="session")
def model_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama in Hugging Face layout."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
    folder = tmp_path_factory.mktemp("models") / "toy"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chats(num_rows: int) -> list[dict[str, Any]]:
    """Rows of the messages format with answers of different lengths."""
    rows = []
    for number in range(num_rows):
        question, answer = WORDS[number % 7 :][:4], WORDS[number % 11 :][: 1 + number % 5]
        messages = [{"role": "user", "content": " ".join(question)}, {"role": "assistant", "content": " ".join(answer)}]
        rows.append({"messages": messages, "id": number})
    return rows


@dataclass
class ToyStudy:
    """A model and one phase of data on disk, prepared on demand, and specs of stages over them."""

    layout: Layout
    model: spec.ModelSpec
    phase: spec.PhaseSpec

    def prepare(self) -> None:
        """Bring the model in and prepare the phase."""
        from sftstudy.data.prepare import prepare_phase
        from sftstudy.models import fetch_model

        write_record(self.layout.model_record("toy"), fetch_model(self.model, layout=self.layout))
        write_record(self.layout.phase_record("toy", "facts", "facts"), prepare_phase(self.phase, layout=self.layout))

    def stage(self, *, num_steps: int = 12, places: tuple[int, ...] = (4, 8, 12), **training: Any) -> spec.StageSpec:
        """A stacked stage of `num_steps` steps of 4 samples, its spec and mixture written."""
        from sftstudy.data.mix import mix_stage

        settings = {
            "effective_batch_size": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 3,
            "schedule": "cosine",
            "budget_samples": 4 * num_steps,
        }
        num_samples = self.phase.definition.num_samples
        made = spec.StageSpec(
            model="toy",
            data="facts",
            recipe="short",
            seed=3,
            stage="01-stacked",
            model_hash=spec.spec_hash(self.model),
            mixture=[
                spec.MixPart(phase="facts", spec_hash=spec.spec_hash(self.phase), num_samples=num_samples, available=num_samples)
            ],
            training=config.Training(**{**settings, "num_checkpoints": len(places), **training}),
            num_steps=num_steps,
            checkpoints=[
                spec.Place(ckpt=f"ckpt{number:02d}", step=step, num_samples=4 * step) for number, step in enumerate(places, start=1)
            ],
        )
        spec.write(self.results(made) / "spec.yaml", made)
        write_record(self.results(made) / "data.json", mix_stage(made, layout=self.layout))
        return made

    def results(self, stage: spec.StageSpec) -> Path:
        """Folder of the stage's records."""
        return self.layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)

    def scratch(self, stage: spec.StageSpec) -> Path:
        """Folder of the stage's weights."""
        return self.layout.stage_scratch(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)


@pytest.fixture(scope="session")
def _prepared(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    root = tmp_path_factory.mktemp("study")
    study = make_study(root, model_folder, chats(18))
    study.prepare()
    return study


def make_study(root: Path, model_folder: Path, rows: list[dict[str, Any]], **changes: Any) -> ToyStudy:
    """A study's specs over `rows` in `root`; `changes` replace fields of the phase's spec."""
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = spec.ModelSpec(name="toy", model=config.FolderModel(source="folder", path=str(model_folder)))
    source = config.Source(location=config.LocalFile(path=str(root / "rows.jsonl")))
    settings = {
        "definition": config.Phase(sources=[source], num_samples=len(rows)),
        "max_length": 64,
        "over_length": "fail",
        "empty_replies": "fail",
    }
    phase = spec.PhaseSpec(
        model="toy",
        data="facts",
        phase="facts",
        model_hash=spec.spec_hash(model),
        libraries={},
        **{**settings, **changes},
    )
    return ToyStudy(Layout(root / "results", root / "scratch"), model, phase)


@pytest.fixture
def study(_prepared: ToyStudy, tmp_path: Path) -> ToyStudy:
    """A prepared study of 18 samples, in a folder of its own."""
    for root in ("results", "scratch"):
        shutil.copytree(_prepared.layout.results.parent / root, tmp_path / root)
    return ToyStudy(Layout(tmp_path / "results", tmp_path / "scratch"), _prepared.model, _prepared.phase)


@pytest.fixture
def new_study(model_folder: Path, tmp_path: Path) -> Callable[..., ToyStudy]:
    """Make an unprepared study over given rows."""
    return lambda rows, **changes: make_study(tmp_path, model_folder, rows, **changes)
