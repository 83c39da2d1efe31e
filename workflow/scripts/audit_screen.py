"""Makes a study's audit.json and audit.md: what its screen has saved, and what it may have cost.

By hand: python workflow/scripts/audit_screen.py results/studies/STUDY/spec.yaml
"""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.audit import audit_study


def main() -> None:
    """Audit one study."""
    arguments = parser(__doc__).parse_args()
    audit_study(read_spec(arguments.spec, StudySpec), layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
