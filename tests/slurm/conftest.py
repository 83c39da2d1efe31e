"""A cluster for the tests of this folder, a study that went through it undisturbed, and copies of it to break."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from checkouts import copy_checkout
from cluster import Cluster, missing_programs
from drill import Drill, Outcome, outcome_table
from queue_runs import finish, start

OUTCOMES = pytest.StashKey[list[Outcome]]()
PASSED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that is up. Without SLURM these tests are skipped, but not where CI has to have it."""
    missing = missing_programs()
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"not here: {', '.join(missing)}")
    assert not missing, f"CI needs {', '.join(missing)}"
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    made.up()
    yield made
    made.down()


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the whole study was made on the cluster, and nothing went wrong. Not to be written to."""
    checkout = copy_checkout(tmp_path_factory.mktemp("undisturbed") / "checkout")
    finish(start(checkout), checkout)
    return checkout


@pytest.fixture
def drill(
    cluster: Cluster, undisturbed: Path, tmp_path: Path, request: pytest.FixtureRequest, pytestconfig: pytest.Config
) -> Iterator[Drill]:
    """The finished study in a checkout of its own. What a row leaves of it is compared with the undisturbed one."""
    shutil.copytree(undisturbed, tmp_path / "checkout", symlinks=True)
    made, began = Drill(tmp_path / "checkout", undisturbed, cluster), time.monotonic()
    yield made
    try:
        if request.node.stash[PASSED]:
            made.check()
            outcome = made.outcome(request.function.__doc__.splitlines()[0], seconds=time.monotonic() - began)
            pytestconfig.stash.setdefault(OUTCOMES, []).append(outcome)
    finally:
        made.clear_up()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep whether a test passed, for what comes after it."""
    report = yield
    item.stash[PASSED] = report.passed
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what became of each fault."""
    if outcomes := config.stash.get(OUTCOMES, None):
        terminalreporter.section("fault drill")
        terminalreporter.write_line(outcome_table(outcomes))
