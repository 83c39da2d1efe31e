"""How much of a device's arithmetic training uses: model FLOPs of a step over what the device could do in its time (MFU)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PEAK_BF16_TFLOPS = {
    "A100": 312.0,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "H200": 989.4,
    "GH200": 989.4,
    "B200": 2250.0,
    "L40S": 362.05,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Dense bf16 matrix products with fp32 sums, without sparsity, per second, by NVIDIA's data sheets; the longest name that fits."""


def peak_flops(device_name: str, *, precision: str) -> float | None:
    """FLOPs per second of a device at its best, None if not known."""
    found = [name for name in PEAK_BF16_TFLOPS if name in device_name.replace("-", " ")]
    return PEAK_BF16_TFLOPS[max(found, key=len)] * 1e12 if found and precision == "bf16" else None


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
