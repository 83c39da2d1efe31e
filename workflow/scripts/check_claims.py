"""Makes a study's claims.json and claims.html: a verdict on each of its claims, with what it rests on.

By hand: python workflow/scripts/check_claims.py results/studies/STUDY/spec.yaml
"""

from sftstudy.claims.check import check_claims
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec


def main() -> None:
    """Check one study's claims."""
    arguments = parser(__doc__).parse_args()
    check_claims(read_spec(arguments.spec, StudySpec), layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
