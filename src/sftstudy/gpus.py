"""What is known of GPUs by NVIDIA's data sheets: arithmetic, memory and its bandwidth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """`bf16_flops`: dense products with fp32 sums, without sparsity, per second. Memory in decimal GB, bandwidth in bytes/s."""

    name: str
    bf16_flops: float
    memory_gb: float
    bandwidth: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100", 312.0e12, 80, 2.0e12),
        Gpu("H100 PCIe", 756.0e12, 80, 2.0e12),
        Gpu("H100", 989.4e12, 80, 3.35e12),
        Gpu("H200", 989.4e12, 141, 4.8e12),
        Gpu("GH200", 989.4e12, 96, 4.0e12),
        Gpu("B200", 2250.0e12, 180, 7.7e12),
        Gpu("L40S", 362.05e12, 48, 0.864e12),
        Gpu("L4", 121.0e12, 24, 0.3e12),
        Gpu("A10G", 70.0e12, 24, 0.6e12),
        Gpu("A10", 125.0e12, 24, 0.6e12),
        Gpu("RTX 4090", 165.2e12, 24, 1.008e12),
        Gpu("RTX 3090", 71.0e12, 24, 0.936e12),
    )
}
"""By name. A device whose own name holds several of these has the longest."""


def gpu_named(name: str) -> Gpu | None:
    """The GPU that a device's name, such as `NVIDIA H100 80GB HBM3` or `h100`, stands for; None if it is not known."""
    words = f" {name.upper().replace('-', ' ')} "
    found = [key for key in GPUS if f" {key.upper()} " in words]
    return GPUS[max(found, key=len)] if found else None
