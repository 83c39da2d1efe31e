"""Makes the audit of a study's screen, what it has saved and what it may have cost: numbers, figures and a page.

By hand: python workflow/scripts/audit_screen.py results/studies/STUDY/spec.yaml
"""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.audit_files import audit_study


def main() -> None:
    """Audit one study."""
    arguments = parser(__doc__).parse_args()
    audit_study(read_spec(arguments.spec, StudySpec), layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
