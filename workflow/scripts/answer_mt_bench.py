"""Makes one block of checkpoints' answers to an MT-Bench question set, in FastChat's format.

By hand: python workflow/scripts/answer_mt_bench.py results/runs/.../STAGE/spec.yaml results/suites/SUITE/spec.yaml --part part01
"""

from sftstudy.evaluate.mt_bench import answer, leave_unanswered
from sftstudy.program import run, score_block


def main() -> None:
    """Answer all questions with each checkpoint of a block."""
    score_block(answer, __doc__, skip=leave_unanswered)


if __name__ == "__main__":
    run(main)
