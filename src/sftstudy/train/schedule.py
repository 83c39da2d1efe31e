"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from sftstudy.config import Training


def learning_rate(step_index: int, *, num_steps: int, training: Training) -> float:
    """Learning rate that the update with this 0-based index uses.

    Warm-up over W steps is (k+1)/W of the peak, so that it is never zero and reaches the peak at its last step. After it, `linear`
    and `cosine` fall from the peak at k=W to zero at k=num_steps, one past the last update; `constant` stays.
    """
    warmup_steps = num_warmup_steps(num_steps=num_steps, training=training)
    if step_index < warmup_steps:
        return training.learning_rate * (step_index + 1) / warmup_steps
    progress = (step_index - warmup_steps) / (num_steps - warmup_steps)
    match training.schedule:
        case "constant":
            return training.learning_rate
        case "linear":
            return training.learning_rate * (1 - progress)
        case "cosine":
            return training.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def num_warmup_steps(*, num_steps: int, training: Training) -> int:
    """Steps of warm-up; a ratio of all steps is rounded up."""
    if training.warmup_ratio is not None:
        return math.ceil(round(training.warmup_ratio * num_steps, 6))
    return training.warmup_steps or 0
