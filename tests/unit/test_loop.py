"""The loss does not depend on the cut into micro-batches, and a step does what a plain loop does."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional

from processes import in_processes
from sftstudy.config import Lora, Training
from sftstudy.errors import StudyError
from sftstudy.train import loop
from sftstudy.train.attention import attention_of
from sftstudy.train.batches import Sample, lay_out
from sftstudy.train.models import prepared
from sftstudy.train.parallel import World, joined, spread, whole
from training_toys import FAMILIES, LENGTHS, random_model, random_samples, training


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return random_samples()


def spread_model(world: World, settings: Training, family: str = "Llama", *, packed: bool = False) -> Any:
    model = prepared(random_model(family, attention=attention_of(world.device, packed=packed, precision="fp32")), settings, seed=0)
    spread(model, world, precision=settings.precision, sharding=settings.sharding, cpu_offload=settings.cpu_offload)
    return model


def gradients(world: World, samples: list[Sample], family: str = "Llama", *, packed: bool = False, **settings: Any) -> Any:
    """(loss, all gradients end to end)."""
    model = spread_model(world, training(**settings), family, packed=packed)
    loss, _ = loop.accumulate(model, samples, world=world, training=training(**settings), packed=packed)
    found = [whole(weight.grad).flatten() for weight in model.parameters() if weight.grad is not None]
    return loss, torch.cat(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_do_not_depend_on_the_split(world: World, samples: list[Sample], family: str) -> None:
    loss, together = gradients(world, samples, family, max_tokens_per_microbatch=10_000)
    splits = [(packed, max_tokens) for packed in (False, True) for max_tokens in (1, 20, 40, 10_000)]
    for packed, max_tokens in splits:
        split_loss, split = gradients(world, samples, family, packed=packed, max_tokens_per_microbatch=max_tokens)
        assert split_loss == pytest.approx(loss, rel=1e-5)
        assert (split - together).norm() < 1e-5 * together.norm()
    assert len(splits) == 8
    assert together.norm() > 0.1


def test_loss_is_the_plain_one(world: World, samples: list[Sample]) -> None:
    model, settings = random_model(), training(max_tokens_per_microbatch=40)
    losses = []
    for ids, supervised in samples:
        logits = model(input_ids=torch.tensor(ids[None].astype(np.int64))).logits[0, :-1]
        losses.append(functional.cross_entropy(logits, torch.tensor(ids[1:].astype(np.int64)), reduction="none")[supervised[1:]])
    loss, total = loop.accumulate(spread_model(world, settings), samples, world=world, training=settings, packed=False)
    assert total == sum(len(part) for part in losses)
    assert loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_targets_are_the_models_own(family: str, samples: list[Sample]) -> None:
    """Scaling and capping included, which a call of the bare head would lose."""
    model = random_model(family)
    batch = lay_out(samples, packed=False, device=torch.device("cpu"))
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    expected = functional.cross_entropy(logits[batch.targets], batch.labels, reduction="sum")
    assert loop.summed_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-6)


def test_norm_is_taken_before_clipping_and_rate_is_the_given_one(world: World, samples: list[Sample]) -> None:
    expected = gradients(world, samples)[1].norm().item()
    norms, moved = [], []
    for clip_norm in (1e-3, 1e3):
        settings = training(clip_norm=clip_norm, epsilon=1.0)
        model = spread_model(world, settings)
        optimizer = loop.make_optimizer(model, settings)
        result = loop.train_step(model, optimizer, samples, learning_rate=0.01, training=settings, world=world, packed=False)
        norms.append(result.grad_norm)
        pairs = zip(model.parameters(), random_model().parameters(), strict=True)
        moved.append(max((whole(ours) - theirs).abs().max().item() for ours, theirs in pairs))
        assert result.learning_rate == 0.01
        assert result.num_tokens == sum(LENGTHS)
    assert norms == pytest.approx([expected, expected], rel=1e-5)
    assert 0 < moved[0] < moved[1]


def plain_steps(settings: Training, batches: list[list[Sample]]) -> tuple[list[float], Any]:
    """Losses and model of the shortest loop that does the same: one sample at a time, no layers spread, torch's own AdamW."""
    model = random_model()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), eps=settings.epsilon, weight_decay=settings.weight_decay
    )
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        total = sum(int(mask[1:].sum()) for _, mask in batch)
        loss = torch.zeros(())
        for ids, mask in batch:
            logits = model(input_ids=torch.tensor(ids[None].astype(np.int64))).logits[0, :-1]
            labels = torch.tensor(np.where(mask[1:], ids[1:], -100).astype(np.int64))
            loss = loss + functional.cross_entropy(logits, labels, reduction="sum") / total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def our_steps(world: World, settings: Training, batches: list[list[Sample]]) -> tuple[list[float], Any]:
    packed = settings.packing == "on"
    model = spread_model(world, settings, packed=packed)
    optimizer = loop.make_optimizer(model, settings)
    losses = []
    loop.train(
        model,
        optimizer,
        first_step=0,
        num_steps=len(batches),
        seed=1,
        training=settings,
        world=world,
        packed=packed,
        samples_of=batches.__getitem__,
        rate_of=lambda _: settings.learning_rate,
        after_step=lambda _, result: losses.append(result.loss),
    )
    return losses, model


BATCHES = [random_samples(seed=seed) for seed in range(8)]


def test_eight_steps_are_those_of_a_plain_loop(world: World) -> None:
    settings = training(max_tokens_per_microbatch=40, weight_decay=0.1)
    losses, model = plain_steps(settings, BATCHES)
    ours, our_model = our_steps(world, settings, BATCHES)
    assert ours == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < losses[0]
    pairs = list(zip(our_model.parameters(), model.parameters(), strict=True))
    assert len(pairs) > 10
    assert all(torch.allclose(whole(mine), theirs, atol=1e-4) for mine, theirs in pairs)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"activation_checkpointing": True}, 1e-6),
        ({"packing": "on"}, 1e-5),
        ({"sharding": "full"}, 1e-6),
        ({"compile": True}, 1e-4),
        ({"precision": "bf16"}, 3e-2),
    ],
)
def test_options_leave_the_losses_alone(world: World, settings: dict[str, Any], tolerance: float) -> None:
    plain, _ = our_steps(world, training(), BATCHES)
    losses, model = our_steps(world, training(**settings), BATCHES)
    assert losses == pytest.approx(plain, rel=tolerance)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    if tolerance > 1e-3:
        assert losses != plain


def test_packed_rows_of_any_number_of_samples_are_compiled_once(world: World) -> None:
    settings = training(compile=True, packing="on", max_tokens_per_microbatch=1000)
    batches = [random_samples(LENGTHS[: 7 - seed], seed=seed) for seed in range(6)]
    num_graphs = []
    for number in (1, len(batches)):
        torch._dynamo.reset()
        counters.clear()
        losses, _ = our_steps(world, settings, batches[:number])
        num_graphs.append(counters["stats"]["unique_graphs"])
    assert num_graphs[0] == num_graphs[1] > 0
    assert losses == pytest.approx(our_steps(world, training(), batches)[0], rel=1e-4)


def eight_bit_steps() -> tuple[list[float], list[float]]:
    """Losses with fp32 moments and with 8-bit ones. torchao is installed in a folder of its own."""
    sys.path.append(str(Path(sys.prefix) / "extras"))
    with joined("cpu") as world:
        return our_steps(world, training(), BATCHES)[0], our_steps(world, training(optimizer="adamw-8bit"), BATCHES)[0]


def test_an_8_bit_optimizer_leaves_the_losses_nearly_alone() -> None:
    (found,) = in_processes(1, eight_bit_steps)
    plain, losses = found
    assert losses == pytest.approx(plain, rel=2e-2)
    assert losses != plain


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Liger's kernels need a GPU")
def test_liger_leaves_the_losses_alone() -> None:
    pytest.importorskip("liger_kernel")
    with joined("cuda") as world:
        plain, _ = our_steps(world, training(), BATCHES)
        losses, _ = our_steps(world, training(liger=True), BATCHES)
    assert losses == pytest.approx(plain, rel=1e-4)


def test_adapters_learn_and_nothing_else_does(world: World) -> None:
    settings = training(lora=Lora(rank=4, alpha=8.0, dropout=0.1))
    losses, model = our_steps(world, settings, BATCHES * 2)
    assert losses[-1] < losses[0]
    assert losses[0] == pytest.approx(our_steps(world, training(), BATCHES[:1])[0][0], rel=0.1)  # dropout alone
    named = dict(model.named_parameters())
    learning = [name for name, weight in named.items() if weight.requires_grad]
    assert len(learning) == 2 * 7 * 2
    assert all("lora_" in name for name in learning)
    base = dict(random_model().named_parameters())
    frozen = {name: weight for name, weight in named.items() if not weight.requires_grad}
    plain = {name.removeprefix("base_model.model.").replace(".base_layer", ""): weight for name, weight in frozen.items()}
    assert plain.keys() == base.keys()
    assert all(torch.equal(whole(weight), base[name]) for name, weight in plain.items())


def test_chance_is_a_function_of_seed_and_step(world: World) -> None:
    settings = training(lora=Lora(rank=4, alpha=8.0, dropout=0.5))
    first, _ = our_steps(world, settings, BATCHES[:3])
    torch.rand(17)
    assert our_steps(world, settings, BATCHES[:3])[0] == first


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_by_its_step(world: World, samples: list[Sample], broken: float) -> None:
    model = spread_model(world, training())
    steps = []

    def after_step(step: int, _: loop.StepResult) -> None:
        steps.append(step)
        with torch.no_grad():
            next(model.parameters()).fill_(broken)

    with pytest.raises(StudyError, match=r"^step 2: loss nan, gradient norm nan; lower learning_rate"):
        loop.train(
            model,
            loop.make_optimizer(model, training()),
            first_step=0,
            num_steps=3,
            seed=0,
            training=training(),
            world=world,
            packed=False,
            samples_of=lambda _: samples,
            rate_of=lambda _: 0.01,
            after_step=after_step,
        )
    assert steps == [1]


def test_out_of_memory_names_the_key_to_lower(world: World, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: Any) -> Any:
        return torch.empty(2**55)

    monkeypatch.setattr(loop, "summed_loss", hungry)
    with pytest.raises(StudyError, match=r"^step 1: out of memory with max_tokens_per_microbatch 4096; lower it"):
        our_steps(world, training(), [samples])
