r"""Writes the numbers of a study's tables for prose: numbers.json, and numbers.tex for \input and \SftNumber{...}.

By hand: python workflow/scripts/write_numbers.py results/studies/STUDY/spec.yaml
"""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.numbers import write_numbers


def main() -> None:
    """Write both files of one study."""
    arguments = parser(__doc__).parse_args()
    write_numbers(read_spec(arguments.spec, StudySpec), layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
