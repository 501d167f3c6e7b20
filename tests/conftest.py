"""What every test may ask for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from builder import Work, make_work
from old_runs import shared_old_work

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """Return a repository with one commit and a tiny training script, isolated from this machine's user."""
    return make_work(tmp_path / "work", tmp_path / "home")


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Return a repository with runs that MLflow, W&B and DVC recorded; take a copy to change anything."""
    own = tmp_path_factory.getbasetemp()
    return shared_old_work(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)
