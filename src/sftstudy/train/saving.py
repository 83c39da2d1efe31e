"""What a stage saves while it trains: plain checkpoints for whoever scores or continues them, and state to resume from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from sftstudy.config import Training
from sftstudy.train import checkpoints, models
from sftstudy.train.parallel import World

STORED_DTYPE = {"fp32": "float32", "bf16": "bfloat16"}
"""Checkpoints are stored in the compute precision: scoring sees the weights that the forward pass saw, and the next stage starts
from them. Resume state keeps the fp32 master weights."""

_LEARNING_ONLY = StateDictOptions(ignore_frozen_params=True, strict=False)


def save_checkpoint(
    folder: Path, model: Any, *, training: Training, base: Path, start: Path, step: int, world: World, facts: Mapping[str, str]
) -> None:
    """Write the model's weights as a plain checkpoint, adapters merged into those of the folder `start`.

    Every process calls it, the first one writes. Settings and tokenizer are those of the folder `base`.
    """
    weights = models.gathered(model, keep=world.is_first)

    def write() -> None:
        plain = models.merged(weights, training.lora, start=start) if training.lora else weights
        checkpoints.save_weights(folder, plain, base=base, dtype=STORED_DTYPE[training.precision], step=step, **facts)

    world.first_decides(write)


def save_state(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Each process writes its share of fp32 weights and optimizer state.

    Nothing else is state: the order of samples, the learning rate and chance are functions of the step.
    """
    weights, moments = get_state_dict(model, optimizer, options=_LEARNING_ONLY)
    save({"model": weights, "optimizer": moments}, checkpoint_id=folder)


def load_state(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Read what `save_state` wrote, by as many processes or by others."""
    weights, moments = get_state_dict(model, optimizer, options=_LEARNING_ONLY)
    load({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments, options=_LEARNING_ONLY)
