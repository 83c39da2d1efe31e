"""Makes a study's report.html: its question, summary, advice, claims, tables, figures and what they rest on, on one page.

By hand: python workflow/scripts/write_report.py results/studies/STUDY/spec.yaml
"""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.report import write_report


def main() -> None:
    """Write one study's report."""
    arguments = parser(__doc__).parse_args()
    write_report(read_spec(arguments.spec, StudySpec), layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
