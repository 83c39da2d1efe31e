"""A fresh checkout per test."""

from pathlib import Path

import pytest

from checkouts import copy_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a new clone would hold."""
    return copy_checkout(tmp_path / "checkout")
