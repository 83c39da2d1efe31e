"""Makes a study's decision at a rung: which of its runs go on, by what all of them showed up to it.

By hand: python workflow/scripts/decide_screen.py results/studies/STUDY/screens/spec.yaml --rung 0.1
"""

from sftstudy.program import layout_of, parser, read_spec, run, rung
from sftstudy.records import write_record
from sftstudy.screens import decide_screen
from sftstudy.spec import ScreenSpec


def main() -> None:
    """Decide once."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--rung", type=rung, required=True, help="a rung of the screen, such as 0.1")
    arguments = arguments_parser.parse_args()
    spec, layout = read_spec(arguments.spec, ScreenSpec), layout_of(arguments)
    write_record(layout.screens(spec.study) / f"{arguments.rung}.json", decide_screen(spec, arguments.rung, layout=layout))


if __name__ == "__main__":
    run(main)
