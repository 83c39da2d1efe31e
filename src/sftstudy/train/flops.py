"""How much of a device's arithmetic training uses: model FLOPs of a step over what the device could do in its time (MFU)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sftstudy.gpus import gpu_named


def peak_flops(device_name: str, *, precision: str) -> float | None:
    """FLOPs per second of a device at its best, None if not known."""
    gpu = gpu_named(device_name)
    return gpu.bf16_flops if gpu and precision == "bf16" else None


def step_flops(model: Any, lengths: Sequence[int], *, num_supervised_tokens: int) -> float:
    """FLOPs that a step needs, forward and backward: 6 per weight of a product and token (4 if frozen), and causal attention.

    After PaLM, appendix B (arXiv 2204.02311), but that the head is counted for supervised tokens only, and attention for the tokens
    that a token sees. What is computed twice to save memory does not count.
    """
    config, head, embedding = model.config, model.get_output_embeddings().weight, model.get_input_embeddings().weight
    inner = sum(_flops_of(weight) for weight in model.parameters() if weight is not head and weight is not embedding)
    seen = sum(length * (length + 1) // 2 for length in lengths)
    attention = 12 * config.num_hidden_layers * config.hidden_size * seen
    return float(inner * sum(lengths) + _flops_of(head) * num_supervised_tokens + attention)


def _flops_of(weight: Any) -> int:
    """Per token: 2 forward, 2 for the gradient of what went in, 2 for the weight's own."""
    return int(weight.numel()) * (6 if weight.requires_grad else 4)
