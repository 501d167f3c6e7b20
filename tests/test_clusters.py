"""`run.SlurmExecutor` of a program: its shape, what of it is refused, where it leads, and what submits our worker."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

nemo_run = pytest.importorskip("nemo_run")

from nemo_run.run.job import JobGroup  # noqa: E402

from nemo_gitexp.clusters import (  # noqa: E402
    find_cluster,
    kept_executor,
    own_executors,
    require_plain,
    require_supported,
    submit_workers,
    tunnel_of,
    unassigned,
    worker_executor,
)
from nemo_gitexp.errors import ExecutorError, LaunchError, UsageError  # noqa: E402
from nemo_gitexp.launchers.submit import job_line  # noqa: E402
from nemo_gitexp.rundir import RunPaths  # noqa: E402
from nemo_gitexp.submission import Tunnel  # noqa: E402
from nemo_gitexp.tasks import read_shape  # noqa: E402

SSH = {"host": "login", "user": "me", "job_dir": "/shared/jobs", "port": 2222}


def slurm(**more):
    return nemo_run.SlurmExecutor(**{"account": "ci", "tunnel": nemo_run.LocalTunnel(job_dir=""), **more})


@pytest.mark.parametrize(
    "given, shape",
    [
        ({}, (1, 1, None, None)),
        ({"nodes": 2, "ntasks_per_node": 4, "gpus_per_node": 8}, (2, 4, None, 8)),
        ({"ntasks_per_node": 4, "gpus_per_task": 2}, (1, 4, None, 8)),
        ({"nodes": 2, "ntasks_per_node": 4, "launcher": "torchrun"}, (2, 4, "torchrun", None)),
        ({"ntasks_per_node": 8, "gpus_per_task": 8, "launcher": "torchrun"}, (1, 8, "torchrun", 8)),
        ({"torchrun_nproc_per_node": 3, "launcher": "torchrun"}, (1, 3, "torchrun", None)),
    ],
)
def test_the_shape_is_that_of_the_processes_whoever_starts_them(given, shape):
    executor = slurm(**given)
    for _ in range(2):  # NeMo Run changes the executor when it looks at the launcher
        found = read_shape(executor, {}, None)
        assert (found.nodes, found.tasks_per_node, found.launcher, found.devices) == shape
        executor.get_launcher()


@pytest.mark.parametrize(
    "option, value",
    [
        ("container_image", "nvcr.io/nvidia/nemo"),
        ("array", "0-3"),
        ("heterogeneous", True),
        ("het_group_indices", [0, 1]),
        ("retries", 2),
        ("dependency_type", "afterany"),
        ("dependencies", ["slurm_tunnel://nemo_run/7"]),
        ("nodes", "2"),
    ],
)
def test_what_a_job_of_ours_would_not_get_is_refused_by_name(option, value):
    with pytest.raises(ExecutorError, match=option) as caught:
        require_supported(slurm(**{option: value}))
    assert caught.value.hint


def test_all_tasks_go_to_one_place():
    ssh = nemo_run.SSHTunnel(**SSH)
    assert find_cluster([nemo_run.LocalExecutor()] * 2) is None
    assert find_cluster([slurm(), slurm(partition="other")]) == Tunnel()
    assert find_cluster([slurm(tunnel=ssh)]) == Tunnel("login", "me", 2222, None)
    for others in (nemo_run.LocalExecutor(), slurm(tunnel=ssh)):
        with pytest.raises(ExecutorError, match="go to one place"):
            find_cluster([slurm(), others])
    other_port = slurm(tunnel=nemo_run.SSHTunnel(**{**SSH, "port": 22}))
    with pytest.raises(ExecutorError, match="me@login:22"):
        find_cluster([slurm(tunnel=ssh), other_port])


def test_the_worker_is_submitted_with_what_is_the_sites_and_without_the_traps():
    given = slurm(
        partition="p",
        mem="1G",
        env_vars={"low": "x; y"},
        tunnel=nemo_run.SSHTunnel(**SSH),
        packager=nemo_run.Packager(),
    )
    given.assign("t_1", "/home/experiments/t/t_1", "task", "task")
    own = worker_executor(given, "t_1")
    assert (own.account, own.partition, own.mem) == ("ci", "p", "1G")
    assert (own.env_vars, own.dependency_type, own.poll_estimated_start_time) == ({}, "afterany", False)
    assert type(own.packager) is nemo_run.Packager
    assert own.tunnel.job_dir == "/shared/jobs"
    assert given.env_vars == {"low": "x; y"}
    kept = kept_executor(given, "t_1", {"a": "b"})
    assert (kept.env_vars, kept.dependency_type, kept.tunnel.job_dir) == ({"a": "b"}, "afterok", "/shared/jobs")


def test_a_local_tunnel_has_no_directory_of_its_own():
    executor = slurm(tunnel=nemo_run.LocalTunnel(job_dir="/elsewhere"))
    assert unassigned(executor, "t_1").tunnel.job_dir == ""


def test_the_tasks_of_a_group_keep_what_each_was_given():
    tasks = [nemo_run.Script(inline="true")] * 2
    group = JobGroup("g", tasks, [slurm(nodes=2, env_vars={"A": "1"}), slurm(ntasks_per_node=3, env_vars={"B": "2"})])
    first, second = own_executors(group.executors, 2)
    assert (first.nodes, first.ntasks_per_node, first.env_vars) == (2, 1, {"A": "1"})
    assert (second.nodes, second.ntasks_per_node, second.env_vars["B"]) == (1, 3, "2")
    same = own_executors(JobGroup("g", tasks, slurm(nodes=3)).executors, 2)
    assert [each.nodes for each in same] == [3, 3]


@pytest.mark.parametrize("bad", ["my task", "a;b", "$HOME", "", "ü"])
def test_names_that_slurms_shell_would_read_are_refused(bad):
    require_plain("/home/me/.nemo_run/experiments/t/t_1", ["train.py", "a-b_1"])
    with pytest.raises(UsageError, match="unquoted"):
        require_plain("/home", [bad])
    with pytest.raises(UsageError, match="/nemo_run"):
        require_plain("/home/nemo_run/experiments", [])


def test_the_line_of_a_job_keeps_paths_that_nemo_run_would_replace(tmp_path):
    python = tmp_path / "nemo_run" / "it's a python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$0|$@"\n')
    python.chmod(0o755)
    run = RunPaths(tmp_path / "nemo_run" / "runs" / "r")
    line = job_line(str(python), run, run.stage("s"))
    assert "/nemo_run" not in line
    said = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"{python}|{run.worker} {run.stage('s').plan}"


def test_what_was_not_accepted_is_said_in_slurms_words(tmp_path):
    class RefusedError(Exception):
        result = SimpleNamespace(stderr="sbatch: error: one\nsbatch: error: invalid partition\n")

    def launch():
        raise RefusedError

    job = SimpleNamespace(id="t", executor=slurm(), handle="", task=None, dependencies=None)
    run = RunPaths(tmp_path)
    with pytest.raises(LaunchError, match="not accepted: sbatch: error: invalid partition"):
        submit_workers(run, {"": job}, {"t": ()}, launch)
    assert not run.submitted.exists()
    assert tunnel_of(job.executor) == Tunnel()


def test_jobs_that_could_not_be_taken_back_are_named(tmp_path, monkeypatch):
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "scancel").write_text("#!/bin/sh\necho scancel: error: no controller >&2\nexit 1\n")
    (commands / "scancel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")

    def launch():
        raise RuntimeError("sbatch: error: invalid partition")

    jobs = {
        name: SimpleNamespace(id=name, executor=slurm(), handle=handle, task=None, dependencies=None)
        for name, handle in (("load", "slurm://x/4711"), ("train", ""))
    }
    with pytest.raises(LaunchError, match=r"partition; .*still in the queue: 4711 \(.*controller\)") as raised:
        submit_workers(RunPaths(tmp_path), jobs, {"train": ("load",)}, launch)
    assert "scancel" in (raised.value.hint or "")
