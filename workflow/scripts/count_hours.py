"""Adds up what was paid for: GPU-hours per rule, run and study, useful and wasted, and writes results/hours.csv and hours.html.

By hand: `python workflow/scripts/count_hours.py [--config overlay=FOLDER studies=a,b]`; `snakemake -c1 hours` does it.
"""

import argparse
import os
import time
from pathlib import Path

from sftstudy.hours import count_hours
from sftstudy.plan import Plan
from sftstudy.program import config_settings, run
from sftstudy.records import write_text
from sftstudy.tables.hours_page import to_csv, to_html, to_text


def main() -> None:
    """Count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="*", default=[], metavar="KEY=VALUE", help="as for snakemake: overlay=, studies=")
    parser.add_argument("--csv", type=Path, default=Path("results/hours.csv"), help="where the tidy table goes")
    parser.add_argument("--html", type=Path, default=Path("results/hours.html"), help="where the page goes")
    arguments = parser.parse_args()
    here = {os.getcwd(), os.environ.get("PWD", "")}  # as it is, and as a link names it
    found = count_hours(Plan.from_settings(config_settings(arguments)), folders=here, now=time.time())
    write_text(arguments.csv, to_csv(found))
    write_text(arguments.html, to_html(found))
    print(to_text(found) + f"page: {arguments.html}")


if __name__ == "__main__":
    run(main)
