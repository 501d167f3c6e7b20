"""Experiments on a real Slurm, on this machine and through ssh: every verb, and every way a job may end.

One story for each way to the cluster: everything is started at once, and each test looks at what came of its part.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from builder import wait_until
from slurm_work import make_slurm_work, render_profile, run_directories, shown, start, start_run, wait_status

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SECRET = "s3cr3t-of-this-site"


@pytest.fixture(scope="module", params=["local", "ssh"])
def story(request, cluster, tmp_path_factory):
    """Run everything that the tests look at."""
    room = tmp_path_factory.mktemp(request.param)
    env = f'NOTE = "x; touch {room}/injected; it\'s $HOME"\nlower = "a b"\nTOKEN = "${{env:SITE_TOKEN}}"'
    profiles = render_profile(cluster, "cluster", request.param, env=env)
    profiles += render_profile(cluster, "second", request.param, 'exclude = "n1"', env=env)
    work = make_slurm_work(cluster, room, profiles)
    work.env["SITE_TOKEN"] = SECRET
    go, never = room / "go", str(room / "never")
    followed = start_run(work, "cluster", "--lr", "0.2")
    failing = start_run(work, "cluster", "--code", "7")
    ways = {
        "held": ("cluster", "--lr", "0.3", "--until", str(go)),
        "limit": ("cluster", "--lr", "0.4", "--until", never),
        "outside": ("cluster", "--lr", "0.5", "--until", never),
        "ours": ("cluster", "--lr", "0.6", "--until", never),
        "drained": ("second", "--lr", "0.7", "--until", str(go)),
    }
    started = {name: start_run(work, *way, options=("--detach",)) for name, way in ways.items()}
    detached = {name: one.answer() for name, one in started.items()}
    told = SimpleNamespace(work=work, room=room, cluster=cluster, detached=detached)
    told.job = {name: answer["jobs"][0] for name, answer in detached.items()}
    told.sha = {name: answer["experiment"] for name, answer in detached.items()}
    for name in ("limit", "outside", "ours", "held", "drained"):
        wait_until((run_directories(work, told.sha[name])[0] / "child.json").exists)
    cluster.end_limit(told.job["limit"])
    cluster.drain("n2")
    waiting = start_run(work, "second", "--lr", "0.9", options=("--detach",))
    cluster.cancel(told.job["outside"])
    logs = start(work, "logs", "-f", told.sha["held"])
    told.cancelled = work.gitexp("--json", "cancel", told.sha["ours"]).json
    told.waiting = waiting.answer()
    cluster.cancel(told.waiting["jobs"][0])
    told.listed = work.gitexp("--json", "status").json["experiments"]
    go.touch()
    wait_until((run_directories(work, told.sha["drained"])[0] / "result.json").exists)
    looks = [start(work, "--json", "status", told.sha["drained"]) for _ in range(2)]
    told.looks = [look.answer() for look in looks]
    told.logs = logs.process.communicate(timeout=60)[0].decode().splitlines()
    told.logs_code = logs.process.returncode
    told.followed, told.failing = followed.answer(), failing.answer(code=1)
    yield told
    cluster.resume("n2")


def test_a_followed_run_ends_with_its_result(story):
    one = story.followed
    assert (one["status"], one["executor"], one["metrics"]["loss"]) == ("completed", "cluster", pytest.approx(0.2 / 3))
    assert "step 2" in one["said"]
    assert story.cluster.job(one["jobs"][0])["JobState"] == "COMPLETED"
    assert [output["path"] for output in one["outputs"]] == ["seen.json"]


def test_a_failing_job_has_its_own_exit_code_in_the_record(story):
    assert (story.failing["status"], story.failing["error"]["exit_code"]) == ("failed", 7)
    assert story.cluster.wait_state(story.failing["jobs"][0])["ExitCode"] == "7:0"


def test_detached_runs_are_listed_as_running_with_their_jobs(story):
    assert {answer["status"] for answer in story.detached.values()} <= {"launched", "running"}
    listed = {document["experiment"]: document for document in story.listed}
    for name in ("held", "drained"):
        assert listed[story.sha[name]]["status"] == "running"
        assert listed[story.sha[name]]["jobs"] == [story.job[name]]


def test_logs_follow_a_job_from_its_first_line_to_its_last(story):
    assert story.logs_code == 0
    steps = [line for line in story.logs if line.startswith("step ")]
    assert len(steps) > 3
    assert steps == [f"step {step}" for step in range(len(steps))]
    assert shown(story.work, story.sha["held"])["status"] == "completed"


def test_a_drained_node_lets_its_job_finish(story):
    assert wait_status(story.work, story.sha["drained"], "completed")["metrics"].keys() == {"loss"}
    assert story.cluster.job(story.job["drained"])["NodeList"] == "n2"


def test_cancel_stops_the_job_and_records_it(story):
    assert story.cancelled["status"] == "cancelled"
    story.cluster.wait_state(story.job["ours"])


def test_a_job_that_somebody_else_cancels_is_recorded_as_cancelled(story):
    assert wait_status(story.work, story.sha["outside"], "cancelled", "failed", "lost")["status"] == "cancelled"
    assert story.cluster.wait_state(story.job["outside"])["JobState"] == "CANCELLED"


def test_a_job_that_is_cancelled_before_it_began_is_cancelled_too(story):
    assert story.waiting["status"] == "launched"
    found = wait_status(story.work, story.waiting["experiment"], "cancelled", "failed", "lost")
    assert (found["status"], found["started"]) == ("cancelled", None)


def test_variables_arrive_as_they_are_and_the_secret_one_stays_nowhere(story):
    wait_status(story.work, story.sha["drained"], "completed")
    fetched = story.room / "fetched"
    story.work.gitexp("outputs", story.followed["experiment"], "--get", str(fetched))
    (seen,) = fetched.rglob("seen.json")
    assert json.loads(seen.read_text()) == {
        "NOTE": f"x; touch {story.room}/injected; it's $HOME",
        "lower": "a b",
        "LOWER": None,
    }
    assert not (story.room / "injected").exists()
    assert f"the token has {len(SECRET)} characters" in story.followed["said"]
    (run,) = run_directories(story.work, story.followed["experiment"])
    leaking = [file for file in run.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert leaking == []
    assert SECRET not in story.work.git("log", "--all", "-p")
    # Slurm keeps the environment of whoever submits.
    own = [file for file in story.cluster.directory.rglob("*") if file.is_file()]
    kept = [(file.name, line) for file in own for line in file.read_bytes().split(b"\0") if SECRET.encode() in line]
    assert kept == []
    assert story.work.git("status", "--porcelain") == ""


def test_recorded_on_slurm_it_is_reproduced_locally_and_the_other_way_round(story):
    recorded = start(story.work, "--json", "run", "--", "python", "train.py", "--lr", "0.8")
    here = start(story.work, "--json", "reproduce", story.followed["experiment"], "--executor", "local")
    assert here.answer()["verdict"] == "metrics"
    before = set(story.cluster.jobs())
    experiment = recorded.answer()["experiment"]
    there = story.work.gitexp("--json", "reproduce", experiment, "--executor", "cluster", "--keep").json
    assert there["verdict"] == "metrics"
    assert len(set(story.cluster.jobs()) - before) == 1
    (kept,) = [run for run in run_directories(story.work, experiment) if ".repro." in run.name]
    assert [file for file in kept.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()] == []


def test_a_job_over_its_time_limit_says_so(story):
    assert story.cluster.wait_state(story.job["limit"], "TIMEOUT", timeout_s=90)
    found = wait_status(story.work, story.sha["limit"], "failed", "cancelled", "lost", "completed")
    assert found["status"] == "failed"
    assert found["error"]["type"] == "TimeLimitError"


def test_two_who_look_at_once_make_one_result(story):
    assert [document["experiments"][0]["status"] for document in story.looks] == ["completed", "completed"]
    made = story.work.git("rev-list", f"{story.sha['drained']}..{story.detached['drained']['ref']}")
    assert len(made.splitlines()) == 1
