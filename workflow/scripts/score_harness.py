"""Makes a score record of one suite of lm-eval benchmarks on one block of a stage's checkpoints.

By hand: python workflow/scripts/score_harness.py results/runs/.../STAGE/spec.yaml results/suites/SUITE/spec.yaml --part part01
"""

from pathlib import Path

from sftstudy.evaluate.harness import score_harness
from sftstudy.evaluate.weights import block_of
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StageSpec, SuiteSpec


def main() -> None:
    """Score one block of checkpoints."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("suite", type=Path, help="the suite's spec.yaml")
    arguments_parser.add_argument("--part", required=True, help="block of the stage's checkpoints, such as part01")
    arguments = arguments_parser.parse_args()
    stage, suite = read_spec(arguments.spec, StageSpec), read_spec(arguments.suite, SuiteSpec)
    checkpoints = block_of(stage, suite, part=arguments.part)
    score_harness(stage, suite, part=arguments.part, checkpoints=checkpoints, layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
