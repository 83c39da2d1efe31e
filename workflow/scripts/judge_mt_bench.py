"""Makes judgments and a score record from one block of checkpoints' MT-Bench answers.

By hand: python workflow/scripts/judge_mt_bench.py results/runs/.../STAGE/spec.yaml results/suites/SUITE/spec.yaml --part part01
"""

from sftstudy.evaluate.judge import judge, leave_unjudged
from sftstudy.program import run, score_block


def main() -> None:
    """Judge one block's answers."""
    score_block(judge, __doc__, skip=leave_unjudged)


if __name__ == "__main__":
    run(main)
