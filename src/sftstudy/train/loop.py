"""One optimizer step at a time: exact batches, a loss over the supervised tokens of the whole step, one learning rate per step.

The loss is the sum over the supervised tokens of a step divided by their number, whatever the cut into micro-batches. Each
micro-batch therefore contributes its summed loss scaled by the step's total, never a mean of its own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sftstudy.config import Training
from sftstudy.errors import StudyError

LOSS_NORMALISATION = "sum over supervised tokens of the step / their number"

Sample = tuple[NDArray[np.int32], NDArray[np.bool_]]
"""Token ids and which of them are supervised; the first never is."""


@dataclass(frozen=True)
class Microbatch:
    """Samples padded right to the longest. Shapes (rows, tokens); `targets` marks the positions whose next token is supervised."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    targets: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class StepResult:
    """What one update measured. `grad_norm` is taken before clipping; `num_tokens` counts real tokens, no padding.

    `learning_rate` is read from the optimizer after the update.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    num_supervised_tokens: int
    num_tokens: int


def cut(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Samples of a step, longest first, cut so that rows x longest stays within `max_tokens`; a longer sample goes alone."""
    microbatches: list[list[int]] = []
    longest = 0
    for sample in sorted(range(len(lengths)), key=lambda sample: -lengths[sample]):
        if microbatches and longest * (len(microbatches[-1]) + 1) <= max_tokens:
            microbatches[-1].append(sample)
        else:
            microbatches.append([sample])
            longest = lengths[sample]
    return microbatches


def collate(samples: Sequence[Sample], *, device: torch.device) -> Microbatch:
    """Pad samples right. The padding id is 0 and is never seen: attention is masked there, and no target lies there."""
    size = (len(samples), max(len(ids) for ids, _ in samples))
    input_ids, attention_mask = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
    supervised = torch.zeros(size, dtype=torch.bool)
    for row, (ids, mask) in enumerate(samples):
        input_ids[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        supervised[row, : len(ids)] = torch.from_numpy(mask.copy())
        attention_mask[row, : len(ids)] = 1
    targets = torch.zeros(size, dtype=torch.bool)
    targets[:, :-1] = supervised[:, 1:]
    labels = input_ids[:, 1:][supervised[:, 1:]]
    return Microbatch(input_ids.to(device), attention_mask.to(device), targets.to(device), labels.to(device))


@contextlib.contextmanager
def logits_only_at(model: Any, targets: torch.Tensor) -> Iterator[None]:
    """Within it, the model's head sees only the hidden states of `targets`, so logits have shape (num_targets, vocabulary).

    The model's own forward pass does the rest, scaling or capping of logits included, which a call of the bare head would lose.
    """

    def select(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0][targets],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def summed_loss(model: Any, batch: Microbatch, *, precision: Literal["fp32", "bf16"]) -> torch.Tensor:
    """Cross-entropy summed over the targets, computed in fp32 from the logits."""
    with (
        torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
        logits_only_at(model, batch.targets),
    ):
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    return functional.cross_entropy(logits.float(), batch.labels, reduction="sum")


def make_optimizer(model: torch.nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW over all weights. Its learning rate is set anew before each update."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=0.0,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        weight_decay=training.weight_decay,
        fused=True,
    )


def accumulate(model: Any, samples: Sequence[Sample], *, max_tokens: int, precision: Literal["fp32", "bf16"]) -> tuple[float, int]:
    """Add the gradients of a step's loss to the model; (loss, supervised tokens)."""
    device = next(model.parameters()).device
    total = sum(int(mask[1:].sum()) for _, mask in samples)
    loss = 0.0
    for members in cut([len(ids) for ids, _ in samples], max_tokens=max_tokens):
        part = summed_loss(model, collate([samples[member] for member in members], device=device), precision=precision) / total
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.item()
    return loss, total


def train_step(
    model: Any, optimizer: torch.optim.Optimizer, samples: Sequence[Sample], *, learning_rate: float, training: Training
) -> StepResult:
    """One update on exactly these samples. Raises StudyError, without updating, if loss or gradient norm is not finite."""
    optimizer.zero_grad()
    loss, total = accumulate(model, samples, max_tokens=training.max_tokens_per_microbatch, precision=training.precision)
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm).item()
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise StudyError(f"loss {loss}, gradient norm {grad_norm}")
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    num_tokens = sum(len(ids) for ids, _ in samples)
    return StepResult(loss, grad_norm, float(optimizer.param_groups[0]["lr"]), total, num_tokens)


def train(
    model: Any,
    optimizer: torch.optim.Optimizer,
    *,
    first_step: int,
    num_steps: int,
    training: Training,
    samples_of: Callable[[int], Sequence[Sample]],
    rate_of: Callable[[int], float],
    after_step: Callable[[int, StepResult], None],
) -> None:
    """Do the updates with 0-based index `first_step` to `num_steps` - 1. `after_step` gets the number of updates done so far."""
    model.train()
    for step_index in range(first_step, num_steps):
        try:
            result = train_step(model, optimizer, samples_of(step_index), learning_rate=rate_of(step_index), training=training)
        except StudyError as error:
            raise StudyError(f"step {step_index + 1}: {error}; lower learning_rate, or look at the rows of this step") from None
        after_step(step_index + 1, result)
