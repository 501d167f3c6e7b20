"""Repositories whose path a shell would take apart, on a cluster that NeMo Run reaches through shells."""

from __future__ import annotations

import pytest
from slurm_work import make_slurm_work, render_profile

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("tunnel", ["local", "ssh"])
def test_a_repository_in_a_directory_of_any_name_runs_as_any_other(cluster, tmp_path, tunnel):
    room = tmp_path / "ö dd; touch injected; $(touch injected)'"
    work = make_slurm_work(cluster, room, render_profile(cluster, "far", tunnel))
    document = work.gitexp("run", "--json", "--executor", "far", "--", "python", "train.py", "--lr", "0.2").json
    assert (document["status"], document["metric_stats"]["loss"]["n"]) == ("completed", 3)
    assert not list(tmp_path.rglob("injected"))
    assert not list((cluster.ssh.home / ".cache/nemo-gitexp/runs").iterdir())


def test_a_job_finds_where_its_user_keeps_the_files_of_nemo_run(cluster, tmp_path):
    work = make_slurm_work(cluster, tmp_path, render_profile(cluster, "near", "local"))
    work.env["NEMORUN_HOME"] = "/users/own"
    words = ["python", "-c", "import os; print('home is', os.environ['NEMORUN_HOME'])"]
    assert "home is /users/own" in work.gitexp("run", "--executor", "near", "--", *words).err
