"""Makes one table of a study as CSV, Markdown and LaTeX from results/scores.csv and the per-item files.

By hand: python workflow/scripts/render_table.py results/studies/STUDY/spec.yaml TABLE [--formats csv md tex]
"""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.render import render_table


def main() -> None:
    """Render one table."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("table", help="the table's name in the study")
    arguments_parser.add_argument(
        "--formats", nargs="+", default=["csv", "md", "tex"], help="any of csv, md and tex; all by default"
    )
    arguments = arguments_parser.parse_args()
    study = read_spec(arguments.spec, StudySpec)
    render_table(study, arguments.table, arguments.formats, layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
