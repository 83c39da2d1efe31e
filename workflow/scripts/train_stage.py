"""Trains a stage, or continues it. By hand: `python workflow/scripts/train_stage.py results/runs/.../STAGE/spec.yaml`."""

from sftstudy.program import run
from sftstudy.train.command import train


def main() -> None:
    """Write `metrics.jsonl` and `training.json`, in this order, once all is done."""
    train(__doc__, to_rung=False)


if __name__ == "__main__":
    run(main)
