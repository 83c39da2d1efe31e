"""A cluster for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkouts import copy_checkout
from cluster import Cluster, missing_programs


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


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh checkout on the file system that all nodes share."""
    return copy_checkout(tmp_path / "checkout")
