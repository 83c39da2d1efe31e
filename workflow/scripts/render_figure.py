"""Makes one figure of a study as PNG and PDF from results/scores.csv and the training records.

By hand: python workflow/scripts/render_figure.py results/studies/STUDY/spec.yaml FIGURE
"""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.figures import render_figure


def main() -> None:
    """Render one figure."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("figure", help="the figure's name in the study")
    arguments = arguments_parser.parse_args()
    render_figure(read_spec(arguments.spec, StudySpec), arguments.figure, layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
