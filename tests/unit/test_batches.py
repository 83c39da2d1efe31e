"""Every sample once, evenly over processes, within the budget; and no sample sees another, in any family of models."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from sftstudy.train.attention import TESTED_FAMILIES, PackedSamples, attention_inputs, attention_of, has_flash_attention, is_packed
from sftstudy.train.batches import cut_step, lay_out
from training_toys import FAMILIES, LENGTHS, random_model, random_samples, training

CPU = torch.device("cpu")


def padded(members: list[int], lengths: list[int]) -> int:
    return len(members) * max((lengths[member] for member in members), default=0)


def packed(members: list[int], lengths: list[int]) -> int:
    return sum(lengths[member] for member in members)


@pytest.mark.parametrize("layout", [padded, packed])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 4])
def test_every_sample_once_and_as_many_microbatches_for_every_process(layout: Any, num_processes: int) -> None:
    rng = np.random.default_rng(0)
    lengths = [int(length) for length in rng.integers(1, 300, size=101)]
    for max_tokens in (1, 200, 1000, 100_000):
        cuts = cut_step(lengths, num_processes=num_processes, max_tokens=max_tokens, packed=layout is packed)
        assert len(cuts) == num_processes
        assert len({len(cut) for cut in cuts}) == 1
        microbatches = [members for cut in cuts for members in cut]
        assert sorted(member for members in microbatches for member in members) == list(range(101))
        assert all(len(members) <= 1 or layout(members, lengths) <= max_tokens for members in microbatches)


@pytest.mark.parametrize("layout", [padded, packed])
def test_work_is_spread_evenly(layout: Any) -> None:
    rng = np.random.default_rng(1)
    lengths = [int(length) for length in rng.lognormal(5, 0.8, size=512).clip(8, 2000)]
    cuts = cut_step(lengths, num_processes=4, max_tokens=8192, packed=layout is packed)
    loads = [sum(layout(members, lengths) for members in cut) for cut in cuts]
    assert max(loads) < 1.05 * sum(loads) / 4
    costs = [layout(members, lengths) for cut in cuts for members in cut]
    assert min(costs) > 0.4 * max(costs)
    if layout is padded:
        assert sum(loads) < 1.2 * sum(lengths)
    else:
        assert len(costs) <= 4 * -(-sum(lengths) // (4 * 8192)) + 4


def test_fewer_samples_than_processes_leave_some_with_nothing() -> None:
    for layout in (True, False):
        cuts = cut_step([5, 3], num_processes=4, max_tokens=100, packed=layout)
        assert sorted(cuts) == [[[]], [[]], [[0]], [[1]]]


def test_tensors_of_a_padded_and_of_a_packed_microbatch() -> None:
    samples = [
        (np.array([7, 8, 9], dtype=np.int32), np.array([False, True, True])),
        (np.array([5, 6], dtype=np.int32), np.array([True, True])),  # the first token of a sample is never a target
    ]
    rows = lay_out(samples, packed=False, device=CPU)
    assert rows.input_ids.tolist() == [[7, 8, 9], [5, 6, 0]]
    assert rows.attention_mask is not None
    assert rows.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert rows.targets.tolist() == [[True, True, False], [True, False, False]]
    assert (rows.labels.tolist(), rows.position_ids) == ([8, 9, 6], None)
    row = lay_out(samples, packed=True, device=CPU)
    assert row.input_ids.tolist() == [[7, 8, 9, 5, 6]]
    assert row.position_ids is not None
    assert row.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert row.targets.tolist() == [[True, True, False, True, False]]
    assert (row.labels.tolist(), row.attention_mask) == ([8, 9, 6], None)


def losses(model: Any, samples: Any, /, *, packed: bool, **changes: Any) -> torch.Tensor:
    """Loss of every supervised token, in the order of the samples."""
    batch = lay_out(samples, packed=packed, device=model.device)
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, use_cache=False, **attention_inputs(model, batch) | changes).logits
    return functional.cross_entropy(logits[batch.targets].float(), batch.labels, reduction="none")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_samples_loss_is_the_same_alone_padded_and_packed(family: str) -> None:
    """Alone by the library's plainest attention; padded and packed by those that train."""
    plain, samples = random_model(family, attention="eager").eval(), random_samples()
    alone = torch.cat([losses(plain, [sample], packed=False) for sample in samples])
    assert len(alone) > len(LENGTHS)
    for packed in (False, True):
        model = random_model(family, attention=attention_of(CPU, packed=packed, precision="fp32")).eval()
        assert torch.allclose(losses(model, samples, packed=packed), alone, atol=2e-5)
    # were they not kept apart, it would show
    leaking = losses(model, samples, packed=True, samples=PackedSamples([sum(LENGTHS)]))
    assert (leaking - alone).abs().max() > 0.1


@pytest.mark.skipif(not has_flash_attention(torch.device("cuda")), reason="flash attention needs a GPU and the package flash-attn")
@pytest.mark.parametrize("family", FAMILIES)
def test_flash_attention_keeps_packed_samples_apart(family: str) -> None:
    model = random_model(family, attention="flash_attention_2").eval().to("cuda", torch.bfloat16)
    samples = random_samples()
    alone = torch.cat([losses(model, [sample], packed=True) for sample in samples])
    assert torch.allclose(losses(model, samples, packed=True), alone, atol=2e-2)


def test_every_tested_family_is_packed_by_default_and_no_other() -> None:
    assert {random_model(family).config.model_type for family in FAMILIES} == TESTED_FAMILIES
    assert [is_packed(training(packing=packing), "gemma2") for packing in ("auto", "on", "off")] == [False, True, False]
    assert [is_packed(training(packing=packing), "llama") for packing in ("auto", "on", "off")] == [True, True, False]


def test_a_process_with_nothing_to_do_still_takes_part() -> None:
    for packed in (False, True):
        batch = lay_out([], packed=packed, device=CPU)
        model = random_model(attention=attention_of(CPU, packed=packed, precision="fp32"))
        assert (batch.input_ids.shape, batch.labels.shape) == ((1, 1), (0,))
        logits = model(input_ids=batch.input_ids, **attention_inputs(model, batch)).logits
        functional.cross_entropy(logits[batch.targets], batch.labels, reduction="sum").backward()
        gradients = [weight.grad for weight in model.parameters()]
        assert all(gradient is not None and not gradient.any() for gradient in gradients)
