"""Losses, gradient norms and weights do not depend on how many processes train, nor on how the model is spread over them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from processes import in_processes
from sftstudy.train import loop
from sftstudy.train.attention import attention_of
from sftstudy.train.models import gathered
from sftstudy.train.parallel import World, joined, spread
from training_toys import random_model, random_samples, training

NUM_STEPS = 6
TOLERANCES = {"fp32": {"loss": 1e-5, "norm": 1e-4, "weights": 1e-4}, "bf16": {"loss": 1e-2, "norm": 5e-2, "weights": 1e-1}}
"""Relative differences from one process, the weights' as a norm of their change. docs/log.md has what was measured."""


def train(sharding: Any, precision: Any, packing: Any, offload: bool = False) -> dict[str, Any]:
    """A few steps of seven samples, micro-batches of a few samples each; runs in every process."""
    settings = training(
        sharding=sharding, precision=precision, packing=packing, max_tokens_per_microbatch=24, learning_rate=3e-3, clip_norm=0.5
    )
    with joined("cpu") as world:
        packed = packing == "on"
        model = random_model(attention=attention_of(world.device, packed=packed, precision=precision))
        num_weights = sum(weight.numel() for weight in model.parameters())
        before = {name: tensor.clone() for name, tensor in gathered(model).items()}
        spread(model, world, precision=precision, sharding=sharding, cpu_offload=offload)
        held = [weight.to_local() for weight in model.parameters() if isinstance(weight, DTensor)]
        results: list[loop.StepResult] = []
        loop.train(
            model,
            loop.make_optimizer(model, settings),
            first_step=0,
            num_steps=NUM_STEPS,
            seed=0,
            training=settings,
            world=world,
            packed=packed,
            samples_of=lambda step: random_samples(seed=step),
            rate_of=lambda _: settings.learning_rate,
            after_step=lambda _, result: results.append(result),
        )
        after = gathered(model)
        change = np.concatenate([(after[name] - before[name]).flatten().numpy() for name in sorted(after)])
        return {
            "size": world.size,
            "held": sum(weight.numel() for weight in held) / num_weights,
            "dtypes": {str(weight.dtype) for weight in held},
            "losses": [result.loss for result in results],
            "norms": [result.grad_norm for result in results],
            "change": change,
        }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_two_and_four_processes_agree_replicated_and_sharded(precision: str) -> None:
    (alone,) = in_processes(1, train, "none", precision, "off")
    assert min(alone["norms"]) > 0.5  # clipped at every step, so a wrong norm would show in the weights
    cases = [(number, sharding) for number in (2, 4) for sharding in ("none", "full")]
    for number, sharding in cases:
        everyone = in_processes(number, train, sharding, precision, "on" if number == 4 else "off")
        assert [one["size"] for one in everyone] == [number] * number
        share = [one["held"] for one in everyone]
        assert share == [1.0] * number if sharding == "none" else max(share) < 1.1 / number  # sharded for real, not quietly DDP
        assert all(one["dtypes"] == {"torch.float32"} for one in everyone)
        first = everyone[0]
        assert all((one["losses"], one["norms"]) == (first["losses"], first["norms"]) for one in everyone)
        assert all(np.array_equal(one["change"], first["change"]) for one in everyone)
        found = {
            "loss": max(abs(ours / theirs - 1) for ours, theirs in zip(first["losses"], alone["losses"], strict=True)),
            "norm": max(abs(ours / theirs - 1) for ours, theirs in zip(first["norms"], alone["norms"], strict=True)),
            "weights": float(np.linalg.norm(first["change"] - alone["change"]) / np.linalg.norm(alone["change"])),
        }
        print(f"| {precision} | {number} | {sharding} | {found['loss']:.1e} | {found['norm']:.1e} | {found['weights']:.1e} |")
        assert all(found[name] < tolerance for name, tolerance in TOLERANCES[precision].items()), found
    assert len(cases) == 4


def decide_and_fail() -> list[Any]:
    """What processes see of decisions and errors of the first one."""
    from sftstudy.errors import StoppedError, StudyError
    from sftstudy.train.parallel import EndedByFirstError

    seen: list[Any] = []
    with joined("cpu") as world:
        seen.append(world.first_decides(lambda: f"by {world.rank}"))
        seen.append(world.total(world.rank, 1.5))
        for error in (StudyError("broken"), StoppedError("stopped")):
            try:
                world.fail(error)
            except (StudyError, EndedByFirstError) as raised:
                seen.append((type(raised).__name__, getattr(raised, "code", None)))

        def broken() -> None:
            raise StudyError("no such file")

        try:
            world.first_decides(broken)
        except (StudyError, EndedByFirstError) as raised:
            seen.append((type(raised).__name__, getattr(raised, "code", None)))
    return seen


def test_the_first_process_decides_and_speaks_for_all() -> None:
    first, second = in_processes(2, decide_and_fail)
    assert first[:2] == second[:2] == ["by 0", [1.0, 3.0]]
    assert first[2:] == [("StudyError", None), ("StoppedError", None), ("StudyError", None)]
    assert second[2:] == [("EndedByFirstError", 1), ("EndedByFirstError", 75), ("EndedByFirstError", 1)]


def test_a_missing_gpu_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from sftstudy.errors import StudyError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(StudyError, match=r"process 2 of this node wants a GPU of its own, 1 can be seen"), joined("cuda"):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StudyError, match="0 can be seen"), joined("cuda"):
        pass


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_offloaded_weights_train_to_the_same_bits(sharding: str) -> None:
    """On a CPU, where they go nowhere: what differs is torch's own path through its offloading."""
    kept, offloaded = (in_processes(2, train, sharding, "bf16", "off", offload)[0] for offload in (False, True))
    assert (offloaded["losses"], offloaded["norms"]) == (kept["losses"], kept["norms"])
    assert np.array_equal(offloaded["change"], kept["change"])


def test_nodes_are_those_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROUP_WORLD_SIZE", raising=False)
    world = World(0, 4, torch.device("cpu"))
    assert world.num_nodes == 1
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert world.num_nodes == 2
