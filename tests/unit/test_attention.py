"""Attention sample by sample is the model's own causal attention, whichever way it is computed."""

import math

import pytest
import torch
from torch.nn import functional

from sftstudy.train import attention
from sftstudy.train.attention import PackedSamples, per_sample

LENGTHS = [5, 5, 1, 9]


def heads(number: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(1, number, sum(LENGTHS), 8, generator=generator).to(dtype).requires_grad_()


def alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Each sample's attention, head by head, in the words of its definition."""
    share = query.shape[1] // key.shape[1]
    parts = []
    for q, k, v in zip(*(torch.split(tensor[0], LENGTHS, dim=1) for tensor in (query, key, value)), strict=True):
        length = q.shape[1]
        scores = q @ k.repeat_interleave(share, 0).transpose(1, 2) / math.sqrt(q.shape[2])
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        parts.append((scores.softmax(-1) @ v.repeat_interleave(share, 0)).transpose(0, 1))
    return torch.cat(parts)[None]


@pytest.mark.parametrize("num_pairs", [1, 2, 6])
@pytest.mark.parametrize("way", ["sdpa", "products"])
def test_values_and_gradients_are_those_of_the_definition(num_pairs: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "products":
        monkeypatch.setattr(
            functional, "scaled_dot_product_attention", lambda q, k, v, scale, **_: attention._by_products(q, k, v, scaling=scale)
        )
    inputs = heads(6, torch.float32), heads(num_pairs, torch.float32), heads(num_pairs, torch.float32)
    found = per_sample(torch.nn.Module(), *inputs, None, samples=PackedSamples(LENGTHS))[0]
    expected = alone(*inputs)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(
        torch.autograd.grad(found.sin().sum(), inputs), torch.autograd.grad(expected.sin().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_short_samples_in_bf16_go_by_products_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = heads(6, torch.bfloat16), heads(2, torch.bfloat16), heads(2, torch.bfloat16)
    expected = alone(*(tensor.float() for tensor in inputs))
    both = []
    for short in (attention.SHORT, 0):
        monkeypatch.setattr(attention, "SHORT", short)
        both.append(per_sample(torch.nn.Module(), *inputs, None, samples=PackedSamples(LENGTHS))[0].float())
    assert not torch.equal(*both)
    for found in both:
        assert (found - expected).norm() < 1e-2 * expected.norm()
