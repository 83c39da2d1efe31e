"""Makes the one-page passport of a data set as a model is trained on it.

By hand: python workflow/scripts/render_passport.py results/overlap/DATA/spec.yaml MODEL
"""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import OverlapSpec
from sftstudy.tables.passport import render_passport


def main() -> None:
    """Render one page."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("model", help="the model's name")
    arguments = arguments_parser.parse_args()
    render_passport(read_spec(arguments.spec, OverlapSpec), arguments.model, layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
