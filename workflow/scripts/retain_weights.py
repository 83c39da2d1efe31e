"""Removes the weights of a stage that nobody will ask for, and makes its retention.json.

By hand: python workflow/scripts/retain_weights.py STAGE/spec.yaml --removable ckpt01 ckpt02 --scores SUITE/PART01.json ...
"""

from pathlib import Path

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.records import write_record
from sftstudy.spec import StageSpec
from sftstudy.train.retain import retain_weights


def main() -> None:
    """Remove what may go, write the record."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--removable", nargs="+", required=True, help="checkpoints that may go, such as ckpt01")
    arguments_parser.add_argument("--scores", type=Path, nargs="+", required=True, help="score records of all suites and parts")
    arguments_parser.add_argument("--children", type=Path, nargs="*", default=[], help="training.json of what continues from it")
    arguments = arguments_parser.parse_args()
    spec, layout = read_spec(arguments.spec, StageSpec), layout_of(arguments)
    record = retain_weights(
        spec, removable=arguments.removable, scores=arguments.scores, children=arguments.children, layout=layout
    )
    folder = layout.stage_results(spec.model, spec.data, spec.recipe, spec.seed, spec.stage)
    write_record(folder / "retention.json", record)


if __name__ == "__main__":
    run(main)
