"""Says what an interrupted run left behind, where site.env and SLURM differ, and what to type.

By hand, in the checkout: `python workflow/scripts/doctor.py`.
"""

import argparse
from pathlib import Path

from sftstudy.doctor import examine
from sftstudy.paths import Layout
from sftstudy.program import layout_of, run


def main() -> None:
    """Print two lines per finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Layout().results, help="root of the records")
    parser.add_argument("--scratch", type=Path, default=Layout().scratch, help="root of weights and tokenised data")
    findings = examine(Path.cwd(), layout_of(parser.parse_args()))
    for finding in findings:
        print(f"- {finding.what}\n  -> {finding.remedy}")
    if not findings:
        print("nothing was left behind: no orphaned jobs, locks, incomplete outputs, leases or broken records")


if __name__ == "__main__":
    run(main)
