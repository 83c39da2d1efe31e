"""Makes a study's replay.csv and its figure: what rules of early stopping would have saved and lost. Nothing is trained for it.

By hand: python workflow/scripts/replay_screen.py results/studies/STUDY/spec.yaml
"""

from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.replay_files import replay_study


def main() -> None:
    """Replay one study."""
    arguments = parser(__doc__).parse_args()
    replay_study(read_spec(arguments.spec, StudySpec), layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
