"""Loads models to train, gives them adapters and options, and takes their weights out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from sftstudy.config import Lora, Training
from sftstudy.errors import StudyError
from sftstudy.train.parallel import layers_of, whole

transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # log files have no use for one


def load_model(folder: Path, *, attention: str = "sdpa") -> Any:
    """A causal model on the CPU with fp32 weights, whatever its folder stores. Only its own architecture is imported."""
    return _class_of(folder).from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)


def skeleton(folder: Path) -> Any:
    """The model of a folder without memory for its weights: knows how they are named and stored."""
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return _class_of(folder)(config)


def model_type(folder: Path) -> str:
    """The family of a model folder, such as `llama`."""
    return str(json.loads((folder / "config.json").read_text())["model_type"])


def _class_of(folder: Path) -> Any:
    return getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])


def prepared(model: Any, training: Training, *, seed: int) -> Any:
    """The model with what the recipe asks for: adapters drawn from `seed`, recomputed activations, fused or compiled layers."""
    if training.liger:
        _fuse(model)
    if training.lora:
        model = with_adapters(model, training.lora, seed=seed)
    if training.activation_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        if training.lora:
            model.enable_input_require_grads()
    if training.compile:
        for layer in layers_of(model):
            layer.compile(dynamic=True)
    return model


def with_adapters(model: Any, lora: Lora, *, seed: int) -> Any:
    """The model, frozen, with adapters of low rank that learn. They begin as zero change."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides by it, whole or not
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        raise StudyError(
            f"recipes.yaml: lora: {' '.join(str(error).split())}; name layers of this model in target_modules"
        ) from None


def gathered(model: Any, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Whole copies of the weights that learn, by name, on the CPU; a tied one is the same tensor under two names.

    A collective call, of which a process may not `keep` the outcome. Weights come one at a time, so that a GPU holds no more than
    one of them whole.
    """
    copies: dict[int, torch.Tensor] = {}
    weights = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not tensor.requires_grad:
            continue
        if id(tensor) not in copies:
            full = whole(tensor)
            copies[id(tensor)] = full.to("cpu") if keep else full[:0]
        weights[name] = copies[id(tensor)]
    return weights


def merged(weights: dict[str, torch.Tensor], lora: Lora, *, start: Path) -> dict[str, torch.Tensor]:
    """Weights of a plain model: those of the folder `start` with gathered adapters merged in, in fp32."""
    model = with_adapters(load_model(start), lora, seed=0)
    unexpected = model.load_state_dict(weights, strict=False).unexpected_keys
    assert not unexpected, f"adapters have the names that they had in training, not {unexpected[:3]}"
    plain: dict[str, torch.Tensor] = model.merge_and_unload().state_dict(keep_vars=True)
    return plain


def _fuse(model: Any) -> None:
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError:
        raise StudyError(
            "recipes.yaml: liger: needs the package liger-kernel, and a GPU; install it or leave `liger` out"
        ) from None
    # our loss computes logits for supervised tokens only, which Liger's fused one would not
    _apply_liger_kernel_to_instance(model=model, fused_linear_cross_entropy=False, cross_entropy=False)
