"""Makes a study's guide.json and guide.html: the recipe that its scores advise, the evidence, and what to try next.

By hand: python workflow/scripts/write_guide.py results/studies/STUDY/spec.yaml
"""

from sftstudy.guide.write import write_guide
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec


def main() -> None:
    """Write one study's guide."""
    arguments = parser(__doc__).parse_args()
    write_guide(read_spec(arguments.spec, StudySpec), layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
