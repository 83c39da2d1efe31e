"""The loss does not depend on the cut into micro-batches, and a sample's loss not on its neighbours."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from sftstudy.config import Training
from sftstudy.errors import StudyError
from sftstudy.train import loop
from sftstudy.train.stage import load_model

LENGTHS = [5, 17, 3, 9, 9, 2, 12]


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    return load_model(model_folder, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def samples() -> list[loop.Sample]:
    rng = np.random.default_rng(0)
    made = []
    for length in LENGTHS:
        supervised = rng.random(length) < 0.5
        supervised[0], supervised[-1] = False, True
        made.append((rng.integers(3, 25, size=length).astype(np.int32), supervised))
    return made


def gradients(model: Any, samples: list[loop.Sample], *, max_tokens: int) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss, _ = loop.accumulate(model, samples, max_tokens=max_tokens, precision="fp32")
    return loss, torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_cut_is_by_padded_tokens_and_loses_nobody() -> None:
    cuts = loop.cut(LENGTHS, max_tokens=20)
    assert [[LENGTHS[sample] for sample in cut] for cut in cuts] == [[17], [12], [9, 9], [5, 3, 2]]
    assert sorted(sample for cut in cuts for sample in cut) == list(range(7))
    assert loop.cut([50, 1], max_tokens=20) == [[0], [1]]


def test_gradients_do_not_depend_on_the_split(model: Any, samples: list[loop.Sample]) -> None:
    loss, whole = gradients(model, samples, max_tokens=10_000)
    splits = [1, 10, 20, 40]
    for max_tokens in splits:
        split_loss, split = gradients(model, samples, max_tokens=max_tokens)
        assert split_loss == pytest.approx(loss, rel=1e-6)
        assert torch.allclose(split, whole, rtol=1e-4, atol=1e-7)
    assert whole.norm() > 0.1


def test_loss_is_the_plain_one(model: Any, samples: list[loop.Sample]) -> None:
    losses = []
    for ids, supervised in samples:
        logits = model(input_ids=torch.tensor(ids[None].astype(np.int64))).logits[0, :-1]
        losses.append(functional.cross_entropy(logits, torch.tensor(ids[1:].astype(np.int64)), reduction="none")[supervised[1:]])
    loss, total = loop.accumulate(model, samples, max_tokens=40, precision="fp32")
    assert total == sum(len(part) for part in losses)
    assert loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)


def test_scaled_logits_stay_scaled() -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    granite = GraniteForCausalLM(
        GraniteConfig(
            vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, logits_scaling=8.0
        )
    )
    ids = torch.randint(3, 20, (1, 6))
    expected = functional.cross_entropy(granite(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum")
    batch = loop.collate([(ids[0].numpy().astype(np.int32), np.array([False] + [True] * 5))], device=torch.device("cpu"))
    assert loop.summed_loss(granite, batch, precision="fp32").item() == pytest.approx(expected.item(), rel=1e-6)


def training(**settings: Any) -> Training:
    defaults = {"effective_batch_size": 7, "learning_rate": 0.01, "budget_samples": 7, "num_checkpoints": 1}
    return Training(**{**defaults, **settings})


def test_norm_is_taken_before_clipping_and_rate_is_the_given_one(model: Any, samples: list[loop.Sample]) -> None:
    expected = gradients(model, samples, max_tokens=40)[1].norm().item()
    norms, moved = [], []
    for clip_norm in (1e-3, 1e3):
        tuned = copy.deepcopy(model)
        settings = training(clip_norm=clip_norm, epsilon=1.0)
        result = loop.train_step(tuned, loop.make_optimizer(tuned, settings), samples, learning_rate=0.01, training=settings)
        norms.append(result.grad_norm)
        moved.append((next(tuned.parameters()) - next(model.parameters())).abs().max().item())
        assert result.learning_rate == 0.01
        assert result.num_tokens == sum(LENGTHS)
    assert norms == pytest.approx([expected, expected], rel=1e-5)
    assert 0 < moved[0] < moved[1]


def test_bf16_computes_in_bf16_on_fp32_weights(model: Any, samples: list[loop.Sample]) -> None:
    losses = [loop.accumulate(model, samples, max_tokens=40, precision=precision)[0] for precision in ("fp32", "bf16")]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_ends_the_run_by_its_step(model: Any, samples: list[loop.Sample]) -> None:
    broken = copy.deepcopy(model)
    optimizer = loop.make_optimizer(broken, training())

    def after_step(step: int, _: loop.StepResult) -> None:
        with torch.no_grad():
            next(broken.parameters()).fill_(float("nan"))

    with pytest.raises(StudyError, match=r"^step 2: loss nan, gradient norm nan; lower learning_rate"):
        loop.train(
            broken,
            optimizer,
            first_step=0,
            num_steps=3,
            training=training(),
            samples_of=lambda _: samples,
            rate_of=lambda _: 0.01,
            after_step=after_step,
        )
