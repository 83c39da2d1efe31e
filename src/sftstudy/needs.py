"""How much memory and time a job needs, by arithmetic that docs/planning.md repeats with a pencil. Pure: numbers in, numbers out.

Memory counts bytes per parameter and per token; time counts floating-point operations over what a GPU does of its peak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sftstudy.config import Training
from sftstudy.gpus import Gpu
from sftstudy.sizes import ModelSize
from sftstudy.train.checkpoints import RESUME_EVERY_S

MFU = 0.35
"""Share of the peak that training is assumed to use, until a run of the same model has a record."""
MFU_PREFILL = 0.25
"""The same for reading the prompts of a benchmark."""
FP32_SHARE = 1 / 16
"""Of the bf16 peak that fp32 products reach without matrix units."""
SUPERVISED_SHARE = 0.6
"""Of the tokens, until the mixture has a record."""

CUDA_GB = 1.0
"""Context and libraries of a process on its GPU."""
FRAGMENTATION = 1.1
"""What the allocator holds over what is in use."""
HOST_GB_PER_PROCESS = 4.0
"""Python, torch and the pinned buffers of a process."""
PCIE_BYTES_PER_S = 25e9
HOST_MEMORY_BYTES_PER_S = 50e9
DISK_BYTES_PER_S = 1e9
NETWORK_BYTES_PER_S = 25e9
"""Of a node to the others: one card of 200 Gbit/s."""
DECODE_OVERHEAD_S = 0.03
"""Of a generated token beyond reading the weights once: launching kernels from Python."""

MASTER, GRADIENT, BF16 = 4, 4, 2
MOMENTS = {"adamw": 8.0, "adamw-8bit": 2.1}
"""Bytes per weight that learns; 8-bit moments come with a scale per block."""

GB = 1e9


@dataclass(frozen=True)
class Memory:
    """What a job holds at its peak, in decimal GB: on each GPU, and on the node's host for all of its processes."""

    gpu_gb: float
    host_gb: float


def training_memory(
    size: ModelSize,
    training: Training,
    *,
    num_gpus: int,
    longest: int,
    num_nodes: int = 1,
    supervised_share: float = SUPERVISED_SHARE,
) -> Memory:
    """Peak of training on `num_gpus` of each node. `longest` is the longest sample in tokens, which may exceed the token budget.

    fp32 masters, gradients and moments are split over the GPUs of all nodes with `sharding: full`, else whole on each. Copies
    that compute are whole with `none`, and those of two layers and of the embeddings at a time with `full`. `cpu_offload` moves all
    but the copies to the host.
    """
    compute = BF16 if training.precision == "bf16" else 4
    learning = size.adapter_parameters(training.lora.rank) if training.lora else size.num_parameters
    stored = size.num_parameters + (learning if training.lora else 0)
    states = MASTER * stored + (GRADIENT + MOMENTS[training.optimizer]) * learning
    shares = num_gpus * num_nodes if training.sharding == "full" else 1
    root = size.num_parameters - size.num_layers * size.layer_parameters
    copies = compute * (2 * size.layer_parameters + root if training.sharding == "full" else size.num_parameters)
    in_flight = (compute + GRADIENT) * max(size.layer_parameters, root) * learning / size.num_parameters
    tokens = max(training.max_tokens_per_microbatch, longest)
    activations = tokens * activation_bytes(size, compute=compute, recomputed=training.activation_checkpointing)
    logits = tokens * supervised_share * logit_bytes(size, compute=compute)
    on_gpu = (0 if training.cpu_offload else states / shares) + copies + in_flight + activations + logits
    # of each node; every process reads the whole model before it is split, and the first gathers it to save
    on_host = MASTER * size.num_parameters * (num_gpus + 1) + (states / shares * num_gpus if training.cpu_offload else 0)
    return Memory(CUDA_GB + FRAGMENTATION * on_gpu / GB, HOST_GB_PER_PROCESS * num_gpus + on_host / GB)


def activation_bytes(size: ModelSize, *, compute: int, recomputed: bool) -> float:
    """Per token: what the forward pass keeps for the backward one. Attention keeps no score: it is computed in blocks.

    Of a layer: two norms keep their input in fp32 and their outcome twice, before and after the weight, which is what the products
    take; attention keeps queries, keys, values and its outcome; the MLP keeps gate, its activation, the other branch, and their
    product. Recomputed, a layer keeps its input, and one layer at a time all of this.
    """
    hidden, inner, query, key = size.hidden_size, size.intermediate_size, size.query_width, size.key_width
    layer = 2 * (4 * hidden + 2 * compute * hidden) + compute * (2 * query + 2 * key) + compute * 4 * inner
    if not recomputed:
        return size.num_layers * layer
    return size.num_layers * compute * hidden + layer


def logit_bytes(size: ModelSize, *, compute: int) -> float:
    """Per supervised token: its logits, their log-softmax in fp32, and the gradients of both."""
    return 2 * (compute + 4) * size.vocab_size


def training_flops(size: ModelSize, training: Training, *, mean_length: float, supervised_share: float = SUPERVISED_SHARE) -> float:
    """Per token, forward and backward, as `train.flops` counts a step, and once more forward for what is recomputed."""
    frozen = size.body_parameters
    weights = 4 * frozen + 6 * size.adapter_parameters(training.lora.rank) if training.lora else 6 * frozen
    attention = 12 * size.num_layers * size.hidden_size * (mean_length + 1) / 2
    head = (4 if training.lora else 6) * size.head_parameters * supervised_share
    again = 2 * frozen + attention / 3 if training.activation_checkpointing else 0
    return weights + attention + head + again


def training_rate(size: ModelSize, training: Training, *, gpu: Gpu, mean_length: float) -> float:
    """Tokens per second of one GPU's arithmetic, as assumed before anything was measured."""
    peak = gpu.bf16_flops * (1 if training.precision == "bf16" else FP32_SHARE)
    return peak * MFU / training_flops(size, training, mean_length=mean_length)


def offload_seconds(size: ModelSize, training: Training, *, num_gpus: int, num_nodes: int = 1, mean_length: float) -> float:
    """What a token costs each of `num_gpus` a node beside arithmetic with `cpu_offload`, as if nothing were hidden behind that.

    Per micro-batch a GPU fetches its share of the fp32 weights over the bus, with `sharding: full` once more for the backward pass,
    and puts gradients back. Per step the host reads and writes the states of all of its GPUs.
    """
    if not training.cpu_offload:
        return 0.0
    learning = size.adapter_parameters(training.lora.rank) if training.lora else size.num_parameters
    shares, passes = (num_gpus * num_nodes, 2) if training.sharding == "full" else (1, 1)
    per_microbatch = (MASTER * size.num_parameters * passes + GRADIENT * learning) / shares / PCIE_BYTES_PER_S
    per_step = (MASTER + GRADIENT + MOMENTS[training.optimizer]) * 2 * learning * num_gpus / shares / HOST_MEMORY_BYTES_PER_S
    tokens = training.effective_batch_size * mean_length / (num_gpus * num_nodes)  # of a GPU in a step
    return per_microbatch / training.max_tokens_per_microbatch + per_step / tokens


def network_seconds(size: ModelSize, training: Training, *, num_gpus: int, num_nodes: int, mean_length: float) -> float:
    """What a token costs each of `num_gpus` a node beside arithmetic, since weights and gradients cross the network between nodes.

    As if nothing of it were hidden behind arithmetic. With `sharding: full` every micro-batch fetches the copies that compute,
    forward and again backward, and sends fp32 gradients; with `none` gradients are summed once per step, there and back. A node
    lacks (n - 1) / n of all that. Within a node it is part of MFU.
    """
    if num_nodes == 1:
        return 0.0
    compute = BF16 if training.precision == "bf16" else 4
    learning = size.adapter_parameters(training.lora.rank) if training.lora else size.num_parameters
    tokens = training.effective_batch_size * mean_length / (num_gpus * num_nodes)  # of a GPU in a step
    if training.sharding == "full":
        num_microbatches = max(1.0, tokens / training.max_tokens_per_microbatch)
        sent = num_microbatches * (2 * compute * size.num_parameters + GRADIENT * learning)
    else:
        sent = 2 * GRADIENT * learning
    return sent * (num_nodes - 1) / num_nodes / NETWORK_BYTES_PER_S / tokens


def state_seconds(size: ModelSize, training: Training) -> float:
    """Resume state is written: fp32 weights that learn, and their moments."""
    learning = size.adapter_parameters(training.lora.rank) if training.lora else size.num_parameters
    return (MASTER + MOMENTS[training.optimizer]) * learning / DISK_BYTES_PER_S


def saving_seconds(size: ModelSize, training: Training, *, num_checkpoints: int, training_s: float, num_stops: int = 0) -> float:
    """Checkpoints are written, and read to hash; resume state with each, at `num_stops` before the end, and every ten minutes.

    The last takes a twentieth of the time at most.
    """
    compute = BF16 if training.precision == "bf16" else 4
    state_s = state_seconds(size, training)
    num_states = num_checkpoints + num_stops + training_s / max(RESUME_EVERY_S, 20 * state_s)
    return 2 * num_checkpoints * compute * size.num_parameters / DISK_BYTES_PER_S + num_states * state_s


def scoring_memory(size: ModelSize, *, compute: int, batch_size: int, tokens: int) -> Memory:
    """Peak of scoring on one GPU: weights, keys and values of a batch of `tokens` each, and its logits in fp32."""
    rows = batch_size * tokens
    cache = 2 * size.num_layers * size.key_width * compute
    logits = (compute + 4) * size.vocab_size
    on_gpu = compute * size.num_parameters + rows * (cache + logits)
    return Memory(CUDA_GB + FRAGMENTATION * on_gpu / GB, HOST_GB_PER_PROCESS + compute * size.num_parameters / GB)


def scoring_seconds(
    size: ModelSize, *, gpu: Gpu, compute: int, num_requests: int, prompt_tokens: float, new_tokens: float, batch_size: int
) -> float:
    """One checkpoint on one benchmark: prompts at a share of the peak, then new tokens one by one, each reading the weights."""
    peak = gpu.bf16_flops * (1 if compute == BF16 else FP32_SHARE)
    reading = num_requests * prompt_tokens * 2 * size.body_parameters / (peak * MFU_PREFILL)
    per_token = DECODE_OVERHEAD_S + compute * size.num_parameters / gpu.bandwidth
    return reading + math.ceil(num_requests / batch_size) * new_tokens * per_token
