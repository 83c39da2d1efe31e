"""How large a base model is, from the keys of its `config.json`: of the folder that is here, or as declared in `models.yaml`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftstudy.config import FolderModel, GgufModel, HubModel, ScratchModel
from sftstudy.paths import Layout
from sftstudy.spec import ModelSpec


@dataclass(frozen=True)
class ModelSize:
    """Shapes of a Llama-like model: gated MLP, grouped keys and values, no biases. `vocab_size` is 0 where it is not made yet."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    query_width: int
    key_width: int
    vocab_size: int
    tied: bool

    @classmethod
    def of(cls, architecture: Mapping[str, Any]) -> ModelSize | None:
        """From the keys of a `config.json`, or keyword arguments of `transformers.LlamaConfig`; None if one is absent."""
        try:
            hidden, inner, layers, heads = (
                int(architecture[key]) for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
            )
        except (KeyError, TypeError):
            return None
        width = int(architecture.get("head_dim") or hidden // heads)
        pairs = int(architecture.get("num_key_value_heads") or heads)
        return cls(
            hidden_size=hidden,
            intermediate_size=inner,
            num_layers=layers,
            query_width=heads * width,
            key_width=pairs * width,
            vocab_size=int(architecture.get("vocab_size", 0)),
            tied=bool(architecture.get("tie_word_embeddings", False)),
        )

    @property
    def layer_parameters(self) -> int:
        """Of one decoder layer: four attention products, three of the MLP, two norms."""
        attention = self.hidden_size * (2 * self.query_width + 2 * self.key_width)
        return attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    @property
    def body_parameters(self) -> int:
        """Of all layers and the last norm, without embeddings and head."""
        return self.num_layers * self.layer_parameters + self.hidden_size

    @property
    def head_parameters(self) -> int:
        """Of the product with the vocabulary; the embeddings have as many."""
        return self.hidden_size * self.vocab_size

    @property
    def num_parameters(self) -> int:
        """All of them; a tied head counts once."""
        return self.body_parameters + self.head_parameters * (1 if self.tied else 2)

    def adapter_parameters(self, rank: int) -> int:
        """Of LoRA adapters on all linear layers but the head."""
        hidden, inner, query, key = self.hidden_size, self.intermediate_size, self.query_width, self.key_width
        return self.num_layers * rank * (2 * (hidden + query) + 2 * (hidden + key) + 3 * (hidden + inner))


def size_of(model: ModelSpec, layout: Layout) -> ModelSize | None:
    """Of a planned base model: as its folder says if it is here, else as config says, else None."""
    definition = model.model
    folders = [layout.model_folder(model.name), *([Path(definition.path)] if isinstance(definition, FolderModel) else [])]
    for folder in folders:
        try:
            architecture = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError):  # not here yet, or broken: the job that makes it, or reads it, will say so
            continue
        if size := ModelSize.of(architecture):
            return size
    if isinstance(definition, ScratchModel):
        return ModelSize.of(definition.architecture)
    if isinstance(definition, HubModel | GgufModel) and definition.size:
        return ModelSize.of(definition.size.model_dump())
    return None
