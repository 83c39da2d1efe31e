"""Makes a stage's screen.json: whether it goes on beyond a rung, and which studies keep it.

By hand: python workflow/scripts/write_screen.py STAGE/spec.yaml --rung 0.1 --decisions results/studies/STUDY/screens/0.1.json
"""

from pathlib import Path

from sftstudy.program import layout_of, parser, read_spec, run, rung
from sftstudy.records import write_record
from sftstudy.screens import write_screen
from sftstudy.spec import StageSpec


def main() -> None:
    """Write one stage's verdict."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--rung", type=rung, required=True, help="the rung, such as 0.1")
    arguments_parser.add_argument("--decisions", type=Path, nargs="*", default=[], help="the studies' decisions about it")
    arguments_parser.add_argument("--always", nargs="*", default=[], help="studies that keep it without a decision")
    arguments_parser.add_argument("--before", type=Path, nargs="*", default=[], help="its screen.json at the rung before, if any")
    arguments = arguments_parser.parse_args()
    spec, layout = read_spec(arguments.spec, StageSpec), layout_of(arguments)
    folder = layout.stage_results(spec.model, spec.data, spec.recipe, spec.seed, spec.stage)
    record = write_screen(
        spec,
        arguments.rung,
        decisions=arguments.decisions,
        always=arguments.always,
        before=next(iter(arguments.before), None),
    )
    write_record(layout.rung(folder, arguments.rung) / "screen.json", record)


if __name__ == "__main__":
    run(main)
