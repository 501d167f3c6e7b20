"""Fixtures of the worker's tests: an empty run, under this interpreter or under each one found."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_directory import VERSIONS, Run, new_run, require_python


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """An empty run under this interpreter."""
    return new_run(tmp_path)


@pytest.fixture(params=VERSIONS)
def any_run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """An empty run under each Python version found here."""
    run = new_run(tmp_path)
    run.plan["interpreter"] = require_python(request.param)
    return run
