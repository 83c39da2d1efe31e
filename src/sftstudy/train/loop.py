"""One optimizer step at a time: exact batches, a loss over the supervised tokens of the whole step, one learning rate per step.

The loss is the sum over the supervised tokens of a step divided by their number, whatever the cut into micro-batches and processes.
Each micro-batch therefore contributes its summed loss scaled by the step's total, never a mean of its own.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from sftstudy.config import Training
from sftstudy.errors import StudyError
from sftstudy.train.attention import attention_inputs
from sftstudy.train.batches import Microbatch, Sample, cut_step, lay_out
from sftstudy.train.parallel import World, begin_microbatch, whole

LOSS_NORMALISATION = "sum over supervised tokens of the step / their number"


@dataclass(frozen=True)
class StepResult:
    """What one update measured. `grad_norm` is taken before clipping; `num_tokens` counts real tokens, no padding.

    `learning_rate` is read from the optimizer after the update; `time_s` is the step's in this process, `lengths` are the samples'.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    num_supervised_tokens: int
    lengths: list[int]
    time_s: float

    @property
    def num_tokens(self) -> int:
        """Tokens of the step's samples."""
        return sum(self.lengths)


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


def summed_loss(model: Any, batch: Microbatch) -> torch.Tensor:
    """Cross-entropy summed over the targets, computed in fp32 from the logits."""
    with logits_only_at(model, batch.targets):
        logits = model(input_ids=batch.input_ids, use_cache=False, **attention_inputs(model, batch)).logits
    return functional.cross_entropy(logits.float(), batch.labels, reduction="sum")


def make_optimizer(model: torch.nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW over the weights that learn. Its learning rate is set anew before each update.

    `adamw-8bit` keeps both moments in 8 bits by blocks (torchao), and rounds them at each update.
    """
    settings: dict[str, Any] = {
        "lr": 0.0,
        "betas": (training.beta1, training.beta2),
        "eps": training.epsilon,
        "weight_decay": training.weight_decay,
    }
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(weights, fused=True, **settings)
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise StudyError("recipes.yaml: optimizer: adamw-8bit needs torchao; `pip install -c constraints.txt torchao`") from None
    optimizer: torch.optim.Optimizer = AdamW8bit(weights, **settings)
    return optimizer


def accumulate(model: Any, samples: Sequence[Sample], *, world: World, training: Training, packed: bool) -> tuple[float, int]:
    """Add the gradients of a step's loss to the model; (loss, supervised tokens), both of all processes together.

    Every process is given all samples of the step, and computes its share of them.
    """
    total = sum(int(mask[1:].sum()) for _, mask in samples)
    cuts = cut_step(
        [len(ids) for ids, _ in samples],
        num_processes=world.size,
        max_tokens=training.max_tokens_per_microbatch,
        packed=packed,
    )[world.rank]
    loss = torch.zeros((), device=world.device)
    for number, members in enumerate(cuts, start=1):
        begin_microbatch(model, last=number == len(cuts), sharding=training.sharding)
        batch = lay_out([samples[member] for member in members], packed=packed, device=world.device)
        part = summed_loss(model, batch) / total
        (part * world.size).backward()  # type: ignore[no-untyped-call]  # processes are averaged over, we want their sum
        loss += part.detach()
    return world.total(loss.item())[0], total


def train_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Sample],
    *,
    learning_rate: float,
    training: Training,
    world: World,
    packed: bool,
) -> StepResult:
    """One update on exactly these samples. Raises StudyError, without updating, if loss or gradient norm is not finite."""
    began = time.monotonic()
    optimizer.zero_grad()
    loss, total = accumulate(model, samples, world=world, training=training, packed=packed)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    grad_norm = whole(torch.nn.utils.clip_grad_norm_(weights, training.clip_norm)).item()
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise StudyError(f"loss {loss}, gradient norm {grad_norm}; lower learning_rate, or look at the rows of this step")
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # torchao keeps it as one
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
    optimizer.step()
    return StepResult(
        loss=loss,
        grad_norm=grad_norm,
        learning_rate=float(optimizer.param_groups[0]["lr"]),
        num_supervised_tokens=total,
        lengths=[len(ids) for ids, _ in samples],
        time_s=time.monotonic() - began,
    )


def train(
    model: Any,
    optimizer: torch.optim.Optimizer,
    *,
    first_step: int,
    num_steps: int,
    seed: int,
    training: Training,
    world: World,
    packed: bool,
    samples_of: Callable[[int], Sequence[Sample]],
    rate_of: Callable[[int], float],
    after_step: Callable[[int, StepResult], None],
) -> None:
    """Do the updates with 0-based index `first_step` to `num_steps` - 1. `after_step` gets the number of updates done so far.

    Chance, such as the dropout of adapters, is drawn anew from (seed, step, process) before each step, so that a resumed stage
    draws what an unbroken one does. Raises StudyError that names the step if it cannot be done.
    """
    model.train()
    for step_index in range(first_step, num_steps):
        torch.manual_seed(((seed * 1_000_003 + step_index) * 1_009 + world.rank) % 2**63)
        try:
            result = train_step(
                model,
                optimizer,
                samples_of(step_index),
                learning_rate=rate_of(step_index),
                training=training,
                world=world,
                packed=packed,
            )
        except StudyError as error:
            world.fail(StudyError(f"step {step_index + 1}: {error}"))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise StudyError(
                f"step {step_index + 1}: out of memory with max_tokens_per_microbatch {training.max_tokens_per_microbatch}; "
                "lower it (no number changes), or set activation_checkpointing or sharding in recipes.yaml"
            ) from None
        after_step(step_index + 1, result)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error is the allocator's, of a GPU or of the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
