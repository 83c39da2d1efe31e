"""Writes a job's resolved input. By hand: `python workflow/scripts/write_spec.py OUTPUT < SPEC.json`."""

import argparse
import sys
from pathlib import Path

from sftstudy import spec
from sftstudy.program import run


def main() -> None:
    """Check the text that the plan made, and write it as YAML."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="spec.yaml to write")
    arguments = parser.parse_args()
    spec.write(arguments.output, spec.parse(sys.stdin.read()))


if __name__ == "__main__":
    run(main)
