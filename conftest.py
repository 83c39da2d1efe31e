"""One option for all tests: `pytest --fix` rewrites golden files instead of comparing with them."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register `--fix`."""
    parser.addoption("--fix", action="store_true", help="rewrite golden files with what the code gives now")
