"""Trains a stage up to a rung. By hand: `python workflow/scripts/train_rung.py results/runs/.../STAGE/spec.yaml --rung 0.1`."""

from sftstudy.program import run
from sftstudy.train.command import train


def main() -> None:
    """Write `metrics.jsonl` and `training.json` under `rungs/`, in this order, once the rung is reached."""
    train(__doc__, to_rung=True)


if __name__ == "__main__":
    run(main)
