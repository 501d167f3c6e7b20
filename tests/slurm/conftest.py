"""The cluster that the tests of this directory share: one for each test process, up when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import Cluster, bring_up, find_hindrance
from slurm_work import end_started


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Give a running Slurm with an sshd, or skip with the reason."""
    hindrance = find_hindrance()
    if hindrance is not None:
        pytest.skip(hindrance)
    with bring_up() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def _no_command_stays() -> Iterator[None]:
    """End the commands that a module started and, having failed, did not wait for."""
    yield
    end_started()
