"""Writes a job's resolved input. By hand: `python workflow/scripts/write_spec.py OUTPUT --text JSON`."""

import argparse
from pathlib import Path

from sftstudy import spec
from sftstudy.program import run


def main() -> None:
    """Parse the canonical text that the plan made, check it, write it as YAML."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="spec.yaml to write")
    parser.add_argument("--text", required=True, help="canonical JSON of the spec")
    arguments = parser.parse_args()
    spec.write(arguments.output, spec.parse(arguments.text))


if __name__ == "__main__":
    run(main)
