"""`doctor` looks at a real cluster, here and through a real ssh; it submits nothing."""

from __future__ import annotations

import pytest
from slurm_work import make_slurm_work, render_profile

pytestmark = [pytest.mark.slurm]


@pytest.fixture(scope="module")
def work(cluster, tmp_path_factory):
    room = tmp_path_factory.mktemp("doctor")
    profiles = render_profile(cluster, "near", "local")
    profiles += render_profile(cluster, "far", "ssh")
    apart = f'root = "{room}/runs"\nshared = false\ndata = "cache"\ncache = "{room}/no-cache"\npython = "/no/python"'
    profiles += render_profile(cluster, "apart", "ssh", apart)
    return make_slurm_work(cluster, room, profiles)


def findings(work, name: str, code: int) -> dict[str, dict]:
    document = work.gitexp("doctor", "--executor", name, "--json", code=code).json
    return {item["check"]: item for item in document["executors"][name]}


def test_a_cluster_of_this_machine_is_fine(work, cluster):
    before = set(cluster.jobs())
    found = findings(work, "near", 0)
    assert {item["state"] for item in found.values()} == {"ok"}
    assert "UP" in found["slurmctld"]["said"]
    assert set(cluster.jobs()) <= before


def test_a_cluster_through_ssh_is_fine_and_sees_the_runs(work):
    found = findings(work, "far", 0)
    assert {item["state"] for item in found.values()} == {"ok"}
    assert {"ssh", "rsync", "rsync there", "key", "known_hosts", "shared"} <= set(found)


def test_what_a_site_lacks_is_found_through_ssh(work):
    found = findings(work, "apart", 1)
    assert {check for check, item in found.items() if item["state"] != "ok"} == {"cache", "python there"}
    assert "/no/python" in found["python there"]["said"]
    assert found["root"]["state"] == "ok"


def test_a_host_that_nobody_knows_is_not_connected_to(work, cluster):
    known = cluster.ssh.known_hosts.read_bytes()
    cluster.ssh.known_hosts.write_bytes(b"")
    try:
        found = findings(work, "far", 1)
    finally:
        cluster.ssh.known_hosts.write_bytes(known)
    assert found["known_hosts"]["state"] == "missing"
    assert found["known_hosts"]["mend"].startswith(f"ssh-keyscan -p {cluster.ssh.port} {cluster.ssh.host}")
    assert "sbatch" not in found
