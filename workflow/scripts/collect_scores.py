"""Makes results/scores.csv and results/missing.csv: every score that some studies want, and every record amiss.

By hand: python workflow/scripts/collect_scores.py results/studies/STUDY/spec.yaml [...]
"""

import argparse
from pathlib import Path

from sftstudy.program import layout_of, read_spec, run
from sftstudy.spec import StudySpec
from sftstudy.tables.collect import collect_scores


def main() -> None:
    """Collect the scores of all studies named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("specs", type=Path, nargs="+", help="spec.yaml of each study")
    parser.add_argument("--results", type=Path, default=Path("results"), help="root of the records")
    parser.add_argument("--scratch", type=Path, default=Path("scratch"), help="not read; all programs take it")
    arguments = parser.parse_args()
    collect_scores([read_spec(path, StudySpec) for path in arguments.specs], layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
