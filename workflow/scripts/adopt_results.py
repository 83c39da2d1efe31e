"""Takes over copied results: checks their spec hashes against today's plan, then marks them as up to date.

By hand, in a checkout whose results/ came from elsewhere: `python workflow/scripts/adopt_results.py [--config overlay=FOLDER]`.
"""

import argparse
import subprocess
import sys

from sftstudy.adopt import problems
from sftstudy.errors import StudyError
from sftstudy.plan import Plan
from sftstudy.program import config_settings, run


def main() -> None:
    """Refuse by name what does not match; else let Snakemake touch everything in the order of the DAG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", nargs="*", default=[], metavar="KEY=VALUE", help="as for snakemake: overlay=, studies=")
    arguments = parser.parse_args()
    plan = Plan.from_settings(config_settings(arguments))
    if lines := problems(plan):
        print("\n".join(lines), file=sys.stderr)
        raise StudyError(f"{len(lines)} records do not match the plan; nothing was touched; `snakemake -n` shows what would run")
    command = [
        "snakemake",
        "tables",
        "passports",
        # where nothing was removed, or never will be, the record is not needed
        *(str(record) for record in plan.retention_records if record.exists()),
        "--touch",
        "--cores",
        "1",
        "--quiet",
        "all",
        *(["--config", *arguments.config] if arguments.config else []),
    ]
    sys.exit(subprocess.run([sys.executable, "-m", *command], check=False).returncode)


if __name__ == "__main__":
    run(main)
