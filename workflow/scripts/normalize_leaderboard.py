"""Makes a record of scores on the Open LLM Leaderboard's scale from raw ones: task -> raw score, sub-tasks included.

By hand: python workflow/scripts/normalize_leaderboard.py --scores RAW.json --record OUT.json
"""

import argparse
from pathlib import Path

from sftstudy.leaderboard import normalise_scores
from sftstudy.program import refuse_overwriting, run
from sftstudy.records import write_record
from sftstudy.registry import read_suites

SUITES = Path(__file__).parents[2] / "config/benchmarks/leaderboard-v2.yaml"


def main() -> None:
    """Normalise one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scores", type=Path, required=True, help="JSON file task -> raw score, or lm-eval's results")
    parser.add_argument("--record", type=Path, required=True, help="where the record goes")
    arguments = parser.parse_args()
    refuse_overwriting(arguments.record, arguments.scores)
    write_record(arguments.record, normalise_scores(arguments.scores, read_suites(SUITES)["leaderboard-v2"]))


if __name__ == "__main__":
    run(main)
