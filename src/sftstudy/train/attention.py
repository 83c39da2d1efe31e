"""Keeps the samples of a packed row apart: by flash attention, or each sample by itself, without a mask and without padding.

A mask over a whole row would cost tokens x tokens; here a sample of n tokens costs n x n, as if it were alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from sftstudy.config import Training
from sftstudy.train.batches import Microbatch

PER_SAMPLE = "per-sample"

SHORT = 384
"""Up to this many tokens a sample's attention in bf16 is faster on a CPU as plain products (five times at 48 tokens, twice at 256):
torch's fused backward pass costs several times its forward one there."""

TESTED_FAMILIES = frozenset({"llama", "mistral", "granite", "qwen2", "qwen3", "gpt_neox"})
"""Model types, as in `config.json`, of which the tests compare each sample's loss packed and alone."""


def attention_of(device: torch.device, *, packed: bool, precision: str) -> str:
    """How the samples of a packed row are kept apart here, or `sdpa` for padded rows. Flash attention computes in bf16 only."""
    if not packed:
        return "sdpa"
    return "flash_attention_2" if has_flash_attention(device) and precision == "bf16" else PER_SAMPLE


def has_flash_attention(device: torch.device) -> bool:
    """Whether flash attention can run: on a GPU, from the package `flash-attn`."""
    return device.type == "cuda" and find_spec("flash_attn") is not None


def is_packed(training: Training, model_type: str) -> bool:
    """Whether micro-batches are packed: for the families whose packed losses are tested, unless the recipe says otherwise."""
    return training.packing == "on" or (training.packing == "auto" and model_type in TESTED_FAMILIES)


@dataclass(frozen=True, eq=False)
class PackedSamples:
    """The lengths of a packed row's samples. Compiled layers pass this object on unread; a bare list would make them
    compile anew for every number of samples.
    """

    lengths: list[int]


def attention_inputs(model: Any, batch: Microbatch) -> dict[str, Any]:
    """What the model's attention wants to know of a micro-batch, told outright, so that nothing is guessed from positions."""
    if batch.sample_lengths is None:
        return {"attention_mask": batch.attention_mask}
    inputs: dict[str, Any] = {"position_ids": batch.position_ids}
    if model.config._attn_implementation == PER_SAMPLE:
        return inputs | {"samples": PackedSamples(batch.sample_lengths)}
    ends = torch.tensor([0, *batch.sample_lengths], device=batch.input_ids.device).cumsum(0).to(torch.int32)
    longest = max(batch.sample_lengths)
    return inputs | {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def per_sample(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    samples: PackedSamples,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within samples. Query, key and value have shape (1, heads, tokens, size), keys and values maybe fewer heads.

    Lengths are the samples' in their order; runs of equal length are computed at once. The result has shape
    (1, tokens, heads, size), as transformers' own functions have.
    """
    groups = [(length, len(list(run))) for length, run in groupby(samples.lengths)]
    sizes = [length * number for length, number in groups]
    parts = []
    split = (torch.split(tensor[0], sizes, dim=1) for tensor in (query, key, value))
    for (length, number), q, k, v in zip(groups, *split, strict=True):
        q, k, v = (tensor.unflatten(1, (number, length)).transpose(0, 1) for tensor in (q, k, v))
        mask = _window(length, sliding_window, q.device) if sliding_window and length > sliding_window else None
        dropped = dropout if module.training else 0.0
        if q.device.type == "cpu" and q.dtype == torch.bfloat16 and length <= SHORT and mask is None and not dropped:
            found = _by_products(q, k, v, scaling=scaling)
        else:
            found = functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=dropped,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        parts.append(found.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[None], None


def _by_products(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float | None) -> torch.Tensor:
    """Causal attention as plain matrix products, softmax in fp32, as transformers' `eager` rounds. Shapes as in `per_sample`.

    Heads that share keys and values are rows of one product: nothing is repeated.
    """
    pairs, length, size = key.shape[1:]
    share = query.shape[1] // pairs
    rows = query.reshape(-1, pairs, share * length, size)
    scores = (rows @ key.transpose(-1, -2)).float() * (size**-0.5 if scaling is None else scaling)
    ahead = torch.ones((length, length), dtype=torch.bool, device=query.device).triu_(1).repeat(share, 1)
    shares = scores.masked_fill_(ahead, float("-inf")).softmax(dim=-1)
    return (shares.to(value.dtype) @ value).reshape(-1, pairs * share, length, size)


def _window(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Which positions see which: themselves and the `window` - 1 before."""
    seen = torch.ones((length, length), dtype=torch.bool, device=device).tril()
    return seen.triu(1 - window)


# torch.compile must not look into the lengths: it would compile anew for every set of them
AttentionInterface.register(PER_SAMPLE, torch.compiler.disable(per_sample))  # type: ignore[no-untyped-call]
AttentionMaskInterface.register(PER_SAMPLE, lambda *_, **__: None)
