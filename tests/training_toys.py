"""Samples and tiny random models of several families, wide enough in their weights that a leak between samples would show."""

from typing import Any

import numpy as np
import torch

from sftstudy.config import Training
from sftstudy.train.batches import Sample

VOCABULARY = 32
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {"num_key_value_heads": 2, "initializer_range": 0.3}
SCALED = {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": GROUPED | {"tie_word_embeddings": True},
    "Mistral": GROUPED | {"sliding_window": 6},
    "Granite": GROUPED | SCALED,
    "Qwen2": GROUPED,
    "Qwen3": GROUPED | {"head_dim": 8},
    "GPTNeoX": {"initializer_range": 0.3},
}
LENGTHS = [5, 17, 3, 9, 9, 2, 12]


def random_model(family: str = "Llama", *, attention: str = "sdpa") -> Any:
    """A model of a family with random weights, the same every time."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | FAMILIES[family], max_position_embeddings=64)
    return getattr(transformers, f"{family}ForCausalLM")._from_config(config, attn_implementation=attention)


def random_samples(lengths: list[int] = LENGTHS, *, seed: int = 0) -> list[Sample]:
    """Samples of given lengths, about half of their tokens supervised, the last one always."""
    rng = np.random.default_rng(seed)
    made = []
    for length in lengths:
        supervised = rng.random(length) < 0.5
        supervised[0], supervised[-1] = False, True
        made.append((rng.integers(1, VOCABULARY, size=length).astype(np.int32), supervised))
    return made


def training(**settings: Any) -> Training:
    """Hyper-parameters of a step of seven samples."""
    defaults = {"effective_batch_size": 7, "learning_rate": 0.01, "budget_samples": 7, "num_checkpoints": 1}
    return Training(**{**defaults, **settings})
