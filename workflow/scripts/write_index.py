"""Makes results/index.html, a line for each study that has a report.

By hand: python workflow/scripts/write_index.py
"""

import argparse
from pathlib import Path

from sftstudy.program import layout_of, run
from sftstudy.tables.index import write_index


def main() -> None:
    """List the studies of a results folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="root of the records")
    parser.add_argument("--scratch", type=Path, default=Path("scratch"), help="not read; all programs take it")
    write_index(layout=layout_of(parser.parse_args()))


if __name__ == "__main__":
    run(main)
