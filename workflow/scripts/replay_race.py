"""Prints, as CSV, what racing would have saved in each finished stage of a study, and how often it would have chosen otherwise.

By hand: python workflow/scripts/replay_race.py results/studies/STUDY/spec.yaml --benchmark mmlu > races.csv
"""

import sys

from sftstudy.config import Race
from sftstudy.program import count, from_json, layout_of, parser, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.races import describe, replay_races, to_csv


def main() -> None:
    """Replay one study on one benchmark."""
    arguments_parser = parser(__doc__)
    arguments_parser.add_argument("--benchmark", required=True, help="the benchmark to race on")
    arguments_parser.add_argument("--race", type=from_json(Race), default=Race(), help="its rules as JSON")
    arguments_parser.add_argument("--orders", type=count, default=100, help="random orders of the items")
    arguments = arguments_parser.parse_args()
    study, layout = read_spec(arguments.spec, StudySpec), layout_of(arguments)
    lines = replay_races(study, arguments.benchmark, rules=arguments.race, num_orders=arguments.orders, layout=layout)
    sys.stdout.write(to_csv(lines))
    print(describe(lines, rules=arguments.race), file=sys.stderr)


if __name__ == "__main__":
    run(main)
