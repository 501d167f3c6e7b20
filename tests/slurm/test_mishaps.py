"""What goes wrong on the way to Slurm and with its jobs: each has an answer that is true, and leaves no job behind."""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace

import pytest
from builder import wait_until
from cluster import ENDED
from slurm_work import make_slurm_work, render_profile, run_directories, shown, start, start_run, wait_status

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def story(cluster, tmp_path_factory):
    """Run everything that the tests look at, most of it at once."""
    room = tmp_path_factory.mktemp("mishaps")
    profiles = render_profile(cluster, "cluster", "local") + render_profile(cluster, "far", "ssh")
    profiles += render_profile(cluster, "refused", "local").replace('"debug"', '"nowhere"')
    profiles += render_profile(cluster, "closed", "ssh").replace(f"port = {cluster.ssh.port}", "port = 1")
    work = make_slurm_work(cluster, room, profiles)
    told = SimpleNamespace(work=work, room=room, cluster=cluster, never=str(room / "never"))
    refusals = {name: start_run(work, name, "--lr", lr) for name, lr in (("refused", "0.3"), ("closed", "0.4"))}
    started = {
        name: start_run(work, executor, "--until", f"{told.never}-{name}", options=("--detach",))
        for name, executor in (("killed", "cluster"), ("far", "far"), ("deaf", "cluster"))
    }
    told.refusals = {name: one.answer(code=3) for name, one in refusals.items()}
    told.detached = {name: one.answer() for name, one in started.items()}
    return told


def directory_of(story, experiment: str):
    """Return the only run directory of an experiment once its job is at work."""
    (run,) = run_directories(story.work, experiment)
    wait_until((run / "child.json").exists)
    return run


@pytest.mark.parametrize("name, said", [("refused", "Invalid partition name"), ("closed", "Connection refused")])
def test_what_is_not_accepted_stays_recorded_and_says_why(story, name, said):
    error = story.refusals[name]["error"]
    assert said in error["message"]
    assert error["hint"] == f"nemo-gitexp doctor --executor {name}"
    recorded = [entry for entry in story.work.gitexp("--json", "log").json["experiments"] if entry["executor"] == name]
    assert [entry["status"] for entry in recorded] == ["recorded"]
    assert run_directories(story.work, recorded[0]["experiment"]) == []


def test_a_worker_that_is_killed_is_not_running_for_ever(story):
    killed = story.detached["killed"]
    started = json.loads((directory_of(story, killed["experiment"]) / "started.json").read_text())
    os.kill(started["pid"], signal.SIGKILL)
    story.cluster.wait_state(killed["jobs"][0], "FAILED")
    found = wait_status(story.work, killed["experiment"], "failed", "lost")
    assert found["error"]["signal"] == signal.SIGKILL


def test_a_cluster_that_does_not_answer_is_named_and_its_runs_are_as_last_known(story):
    far = story.detached["far"]["experiment"]
    directory_of(story, far)
    broken = story.room / "broken"
    broken.mkdir()
    (broken / "ssh").write_text("#!/bin/sh\necho ssh: connect to host: No route to host >&2\nexit 255\n")
    (broken / "ssh").chmod(0o755)
    path = story.work.env["PATH"]
    story.work.env["PATH"] = f"{broken}:{path}"
    try:
        answer = story.work.gitexp("--json", "status")
        collected = story.work.gitexp("collect")
        refused = story.work.gitexp("--json", "logs", far)
    finally:
        story.work.env["PATH"] = path
    assert "far: squeue does not answer" in answer.err
    assert "far: squeue does not answer" in collected.err
    assert "No route to host" in answer.err
    assert {entry["experiment"]: entry["status"] for entry in answer.json["experiments"]}[far] == "running"
    assert "step 0" in refused.out
    assert story.work.gitexp("--json", "cancel", far).json["status"] == "cancelled"


def test_a_job_that_has_begun_is_cancelled_though_its_scheduler_does_not_answer(story):
    deaf = story.detached["deaf"]
    directory_of(story, deaf["experiment"])
    broken = story.room / "deaf"
    broken.mkdir()
    for name in ("squeue", "scancel"):
        (broken / name).write_text("#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n")
        (broken / name).chmod(0o755)
    path = story.work.env["PATH"]
    story.work.env["PATH"] = f"{broken}:{path}"
    try:
        answer = story.work.gitexp("--json", "cancel", deaf["experiment"])
    finally:
        story.work.env["PATH"] = path
    assert answer.json["status"] == "cancelled"
    assert "scancel does not answer: Unable to contact slurm controller; waiting" in answer.err
    story.cluster.wait_state(deaf["jobs"][0], *ENDED)


def test_ctrl_c_cancels_the_job_of_a_followed_run(story):
    before = set(story.cluster.jobs())
    following = start(
        story.work, "--json", "run", "--executor", "cluster", "--", "python", "train.py", "--until", story.never
    )
    wait_until(lambda: set(story.cluster.jobs()) - before)
    (job,) = set(story.cluster.jobs()) - before
    (run,) = [path for path in (story.work.root / ".git/gitexp/runs").iterdir() if job in _jobs_of(path)]
    wait_until((run / "child.json").exists)
    os.killpg(following.process.pid, signal.SIGINT)
    assert following.answer(code=130)["status"] == "cancelled"
    story.cluster.wait_state(job, *ENDED)


def _jobs_of(run) -> list[str]:
    file = run / "submitted.json"
    wait_until(file.exists)
    return [job for jobs in json.loads(file.read_text())["jobs"].values() for job in jobs]


def test_without_accounting_failures_are_seen_all_the_same(story):
    path = story.work.env["PATH"]
    story.work.env["PATH"] = path.replace(str(story.cluster.bin), str(story.cluster.bare_bin))
    try:
        answer = start_run(story.work, "cluster", "--lr", "0.2", "--code", "5").answer(code=1)
    finally:
        story.work.env["PATH"] = path
    assert (answer["status"], answer["error"]["exit_code"]) == ("failed", 5)
    assert shown(story.work, answer["experiment"])["status"] == "failed"
