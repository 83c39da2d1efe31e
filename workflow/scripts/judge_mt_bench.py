"""Makes judgments and a score record from one block of checkpoints' MT-Bench answers.

By hand: python workflow/scripts/judge_mt_bench.py results/runs/.../STAGE/spec.yaml results/suites/SUITE/spec.yaml --part part01
"""

from pathlib import Path

from sftstudy.evaluate.judge import judge
from sftstudy.evaluate.weights import block_of
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StageSpec, SuiteSpec


def main() -> None:
    """Judge one block's answers."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("suite", type=Path, help="the suite's spec.yaml")
    arguments_parser.add_argument("--part", required=True, help="block of the stage's checkpoints, such as part01")
    arguments = arguments_parser.parse_args()
    stage, suite = read_spec(arguments.spec, StageSpec), read_spec(arguments.suite, SuiteSpec)
    checkpoints = block_of(stage, suite, part=arguments.part)
    judge(stage, suite, part=arguments.part, checkpoints=checkpoints, layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
