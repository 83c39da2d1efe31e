"""Makes one table of a study as CSV, Markdown, LaTeX and HTML, and its pedigree, from results/scores.csv and the records behind it.

By hand: python workflow/scripts/render_table.py results/studies/STUDY/spec.yaml TABLE [--formats csv md tex html]
"""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.render import FORMATS, render_table


def main() -> None:
    """Render one table."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("table", help="the table's name in the study")
    arguments_parser.add_argument(
        "--formats", nargs="+", default=list(FORMATS), help="any of csv, md, tex and html; all by default"
    )
    arguments = arguments_parser.parse_args()
    study = read_spec(arguments.spec, StudySpec)
    render_table(study, arguments.table, arguments.formats, layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
