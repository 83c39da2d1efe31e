"""Toys that several tests share: a word-level tokenizer, a random Llama of a few thousand weights, a study of one stage on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from sftstudy.paths import Layout
from study_toys import ToyStudy, make_study

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


@pytest.fixture(scope="session")
def _prepared(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    root = tmp_path_factory.mktemp("study")
    study = make_study(root, model_folder, chats(18))
    study.prepare()
    return study


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
