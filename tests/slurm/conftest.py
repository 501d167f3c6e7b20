"""The cluster that the tests of this directory share: one for each test process, up when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import Cluster, bring_up, find_hindrance
from slurm_work import end_started


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    """Give a running Slurm with an sshd, or skip with the reason."""
    hindrance = find_hindrance()
    if hindrance is not None:
        pytest.skip(hindrance)
    with bring_up() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """Give the cluster; afterwards no command, no job and no node is as a module that failed may have left it."""
    yield running_cluster
    end_started()
    running_cluster.cancel("--user=root")
    running_cluster.resume()
