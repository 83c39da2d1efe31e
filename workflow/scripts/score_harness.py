"""Makes a score record of one suite of lm-eval benchmarks on one block of a stage's checkpoints.

By hand: python workflow/scripts/score_harness.py results/runs/.../STAGE/spec.yaml results/suites/SUITE/spec.yaml --part part01
"""

from sftstudy.evaluate.harness import score_harness
from sftstudy.evaluate.shards import publish_stopped
from sftstudy.program import run, score_block


def main() -> None:
    """Score one block of checkpoints."""
    score_block(score_harness, __doc__, skip=publish_stopped, races=True)


if __name__ == "__main__":
    run(main)
