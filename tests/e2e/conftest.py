"""The tiny study, run once from a fresh checkout with the default command; every test here looks at that one run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkouts import copy_checkout, snakemake


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the whole tiny study has run."""
    checkout = copy_checkout(tmp_path_factory.mktemp("e2e") / "checkout")
    result = snakemake(checkout, "-c", "all", "--quiet", "rules")
    assert result.returncode == 0, result.stdout[-3000:]
    return checkout


@pytest.fixture
def restored(study: Path) -> Iterator[Path]:
    """The study's checkout; config and package are put back after the test, with the old file times."""
    files = [path for folder in ("config", "src", "workflow") for path in (study / folder).rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat()) for path in files if "__pycache__" not in path.parts}
    yield study
    for path, (data, stat) in before.items():
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
