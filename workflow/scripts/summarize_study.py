"""Makes a study's summary.txt, five lines: what ran, what did best, what the arms say, where it lies, what is missing.

By hand: python workflow/scripts/summarize_study.py results/studies/STUDY/spec.yaml
"""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.summary import summarize_study


def main() -> None:
    """Summarize one study."""
    arguments = parser(__doc__).parse_args()
    summarize_study(read_spec(arguments.spec, StudySpec), layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
