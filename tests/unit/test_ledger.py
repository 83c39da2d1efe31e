"""Costs in every currency, of one stage and of two that follow each other, and an equal budget."""

from dataclasses import replace

import pytest

from sftstudy.ledger import TrainedStage, common_budget, latest_within, make_ledger
from sftstudy.records import CheckpointEntry, StepMetrics


def stage(name: str, places: list[tuple[str, int, int, int]], *, batch: int, num_steps: int, processes: int = 1) -> TrainedStage:
    """Checkpoints are (name, step, seen, spent); a step has 10 supervised tokens per sample and takes a minute."""
    entries = [
        CheckpointEntry(ckpt=ckpt, step=step, samples_seen=seen, samples_spent=spent, supervised_tokens_seen=0, weights_hash="w")
        for ckpt, step, seen, spent in places
    ]
    steps = [
        StepMetrics(
            step=number, samples_seen=number * batch, loss=1, grad_norm=1, learning_rate=1e-3, num_supervised_tokens=10 * batch,
            num_tokens=1, time_s=60, tokens_per_s=1,
        )
        for number in range(1, num_steps + 1)
    ]  # fmt: skip
    return TrainedStage(name, entries, steps, processes)


def test_a_later_stage_costs_all_of_the_earlier_one() -> None:
    first = stage("01-knowledge", [("ckpt01", 2, 8, 8), ("ckpt02", 4, 16, 16)], batch=4, num_steps=4, processes=2)
    second = stage("02-skills", [("ckpt01", 3, 8 + 6, 16 + 6)], batch=2, num_steps=3)
    ledger = make_ledger([first, second])
    assert [(cost.stage, cost.ckpt) for cost in ledger] == [
        ("01-knowledge", "ckpt01"),
        ("01-knowledge", "ckpt02"),
        ("02-skills", "ckpt01"),
    ]
    assert ledger[0].costs == pytest.approx(
        {"samples_seen": 8, "samples_spent": 8, "supervised_tokens": 80, "steps": 2, "gpu_hours": 4 / 60}
    )
    assert ledger[2].costs == pytest.approx(
        {"samples_seen": 14, "samples_spent": 22, "supervised_tokens": 160 + 60, "steps": 7, "gpu_hours": 8 / 60 + 3 / 60}
    )


def test_an_equal_budget_is_what_both_can_pay() -> None:
    large = make_ledger([stage("01", [("ckpt01", 1, 64, 64), ("ckpt02", 2, 128, 128)], batch=64, num_steps=2)])
    small = make_ledger([stage("01", [(f"ckpt{i:02d}", 2 * i, 32 * i, 32 * i) for i in range(1, 5)], batch=16, num_steps=8)])
    assert common_budget([large, small], "samples_seen") == 128
    assert common_budget([large, small], "steps") == 2
    chosen = latest_within(small, "steps", 2)
    assert chosen is not None
    assert chosen.ckpt == "ckpt01"
    assert latest_within(small, "steps", 1) is None


def test_measured_hours_need_not_be_equal_to_the_second() -> None:
    quick = make_ledger([stage("01", [("ckpt01", 2, 8, 8), ("ckpt02", 4, 16, 16)], batch=4, num_steps=4)])
    slow = [replace(cost, costs=cost.costs | {"gpu_hours": cost.costs["gpu_hours"] * 1.01}) for cost in quick]
    chosen = latest_within(slow, "gpu_hours", common_budget([quick, slow], "gpu_hours"))
    assert chosen is not None
    assert chosen.ckpt == "ckpt02"
