"""What every test may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from builder import Work, make_work

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Return a repository with one commit and a tiny training script, isolated from this machine's user."""
    return make_work(tmp_path / "work", tmp_path / "home")
