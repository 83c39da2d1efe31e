"""Learning rate: values worked out by hand, and the sums that they must have."""

from typing import Any

import pytest

from sftstudy.config import Training
from sftstudy.train.schedule import learning_rate, num_warmup_steps


def rates(num_steps: int, **settings: Any) -> list[float]:
    training = Training(effective_batch_size=1, learning_rate=1.0, budget_samples=1, num_checkpoints=1, **settings)
    return [learning_rate(step_index, num_steps=num_steps, training=training) for step_index in range(num_steps)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1, 1]),
        ({"schedule": "constant", "warmup_steps": 2}, [0.5, 1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"schedule": "linear", "warmup_steps": 2}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "cosine", "warmup_ratio": 1 / 3}, [0.5, 1, 1, 0.8535534, 0.5, 0.1464466]),
        ({"schedule": "linear", "warmup_steps": 12}, [number / 12 for number in range(1, 7)]),
    ],
)
def test_rates(settings: dict[str, Any], expected: list[float]) -> None:
    assert rates(6, **settings) == pytest.approx(expected)


def test_warmup_ratio_is_rounded_up_but_not_by_dust() -> None:
    def steps(ratio: float) -> int:
        training = Training(effective_batch_size=1, learning_rate=1, budget_samples=1, num_checkpoints=1, warmup_ratio=ratio)
        return num_warmup_steps(num_steps=100, training=training)

    assert [steps(0.07), steps(0.071), steps(0.0)] == [7, 8, 0]
