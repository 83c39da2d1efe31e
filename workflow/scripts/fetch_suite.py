"""Makes a record of a suite's lm-eval tasks and their items, all fetched and checked, so that scoring needs no network.

By hand: python workflow/scripts/fetch_suite.py results/suites/SUITE/spec.yaml
"""

from sftstudy.evaluate.fetch import fetch_suite
from sftstudy.program import layout_of, parser, read_spec, run
from sftstudy.spec import SuiteSpec


def main() -> None:
    """Fetch one suite."""
    arguments = parser(__doc__).parse_args()
    fetch_suite(read_spec(arguments.spec, SuiteSpec), layout=layout_of(arguments))


if __name__ == "__main__":
    run(main)
