"""Experiments in containers: NeMo Run and docker-py as they are, the daemon a stand-in that really runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker_daemon
import own_root
import pytest
from builder import Work, make_work, wait_until

pytestmark = pytest.mark.slow

PROFILE = """\
[tool.nemo-gitexp.executors.box]
type = "docker"
image = "example.org/python:3"
python = "/usr/bin/python3"
volumes = ["/usr/share:/extra"]
[tool.nemo-gitexp.executors.box.env]
NOTE = "x; touch injected; $HOME it's"
"""
TRAINING = """\
import json, os, pathlib, socket, sys, time
print("in", os.getcwd(), "on", socket.gethostname(), "as", os.getppid() < 100, os.environ["NOTE"], flush=True)
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    stream.write(json.dumps({"step": 0, "loss": 0.25}) + "\\n")
kept = pathlib.Path(os.environ["GITEXP_OUTPUTS"], "weights.txt")
kept.write_text("1")
kept.chmod(0o600)
while sys.argv[1] == "stay":
    time.sleep(0.05)
sys.exit(int(sys.argv[1]))
"""
FLOW = """\
def load():
    return [1, 2, 3]
def hold():
    import time
    while True:
        time.sleep(0.05)
def train(load, scale):
    return {"sum": sum(load) * scale}
"""
PIPELINE = """\
purpose: Two stages
config: {scale: 3}
stages:
  load: {function: "flow:load"}
  train: {function: "flow:train", dependencies: [load]}
"""

HELD = """\
purpose: A stage that waits for one that does not end
config: {scale: 3}
stages:
  hold: {function: "flow:hold"}
  train: {function: "flow:train", dependencies: [hold]}
"""


@dataclass
class Bed:
    """A repository with an executor, and the daemon that it leads to."""

    work: Work
    daemon: docker_daemon.Daemon

    def run(self, *arguments: str, options: tuple[str, ...] = (), code: int = 0) -> dict:
        command = ("python", "job.py", *arguments)
        return self.work.gitexp("--json", "run", "--executor", "box", *options, "--", *command, code=code).json

    def shown(self, experiment: str) -> dict:
        return self.work.gitexp("--json", "show", experiment).json

    def run_directory(self, experiment: str) -> Path:
        (found,) = (self.work.root / ".git" / "gitexp" / "runs").glob(f"{experiment}.*")
        return found


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Iterator[Bed]:
    hindrances = {way: own_root.find_hindrance(way) for way in own_root.WAYS}
    way = next((way for way in own_root.WAYS if hindrances[way] is None), None)
    if way is None:
        pytest.skip(str(hindrances))
    room = tmp_path_factory.mktemp("docker")
    files = {
        "job.py": TRAINING,
        "flow.py": FLOW,
        "experiments/flow/experiment.yaml": PIPELINE,
        "experiments/held/experiment.yaml": HELD,
        "pyproject.toml": PROFILE,
    }
    with docker_daemon.serving(room, way) as (daemon, address):
        work = make_work(room / "work", room / "home", files=files, DOCKER_HOST=address)
        yield Bed(work, daemon)


def test_a_run_in_a_container_is_as_any_other(bed: Bed) -> None:
    ran = bed.run("0")
    assert (ran["status"], ran["metrics"]) == ("completed", {"loss": 0.25})
    log = bed.work.gitexp("logs", ran["experiment"]).out
    name = bed.daemon.made[-1].config["Hostname"]
    assert f"in /nemo_run/code on {name} as True x; touch injected; $HOME it's" in log
    assert bed.daemon.containers == {}
    assert bed.daemon.made[-1].config["HostConfig"]["Binds"][0] == "/usr/share:/extra"
    assert not bed.run_directory(ran["experiment"]).joinpath("nemo").exists()


def test_a_failing_job_is_a_failed_run(bed: Bed) -> None:
    ran = bed.run("7", code=1)
    assert (ran["status"], ran["error"]["exit_code"]) == ("failed", 7)


def test_a_detached_run_outlives_who_submitted_it_and_is_cancelled(bed: Bed) -> None:
    experiment = bed.run("stay", options=("--detach",))["experiment"]
    wait_until(lambda: bed.shown(experiment)["status"] == "running")
    container = bed.daemon.only()
    place = bed.run_directory(experiment)
    wait_until(lambda: "in /nemo_run/code" in bed.work.gitexp("logs", experiment).out)
    (log,) = place.glob("nemo/**/log.txt")
    assert log.stat().st_mode & 0o066 == 0o066
    assert place.joinpath("nemo").stat().st_mode & 0o077 == 0
    backend = json.loads((place / "submitted.json").read_text())["backend"]
    assert (backend["scheduler"], backend["variables"]) == (
        "docker_persistent",
        {"DOCKER_HOST": bed.work.env["DOCKER_HOST"]},
    )
    assert bed.work.gitexp("--json", "cancel", experiment).json["status"] == "cancelled"
    assert container.ended.wait(30)
    assert bed.shown(experiment)["status"] == "cancelled"


def test_what_somebody_else_removed_left_no_result_and_is_lost(bed: Bed) -> None:
    experiment = bed.run("stay", options=("--detach",))["experiment"]
    wait_until(lambda: bed.shown(experiment)["status"] == "running")
    wait_until(lambda: "in /nemo_run/code" in bed.work.gitexp("logs", experiment).out)
    bed.daemon.remove(bed.daemon.only())
    wait_until(lambda: bed.shown(experiment)["status"] == "lost")
    assert "knows nothing of it any more" in bed.shown(experiment)["error"]["message"]
    assert bed.work.gitexp("status", experiment).err == ""


def test_a_daemon_that_does_not_answer_ends_no_run(bed: Bed) -> None:
    experiment = bed.run("stay", options=("--detach",))["experiment"]
    submitted = bed.run_directory(experiment) / "submitted.json"
    known = submitted.read_text()
    submitted.write_text(known.replace("docker.sock", "nothing.sock"))
    (bed.run_directory(experiment) / ".asked").unlink(missing_ok=True)
    said = bed.work.gitexp("status", experiment)
    assert "running" in said.out or "launched" in said.out
    assert "box: " in said.err
    assert "shown as they were last known" in said.err
    submitted.write_text(known.replace(json.loads(known)["backend"]["host"], "0" * 12))
    (bed.run_directory(experiment) / ".asked").unlink()
    assert "box: executor box: its containers are on another machine" in bed.work.gitexp("status", experiment).err
    submitted.write_text(known)
    assert bed.work.gitexp("--json", "cancel", experiment).json["status"] == "cancelled"


def test_stages_wait_for_each_other_in_their_containers(bed: Bed) -> None:
    before = len(bed.daemon.made)
    ran = bed.work.gitexp("--json", "run", "--executor", "box", "flow").json
    assert (ran["status"], ran["metrics"]["sum"]) == ("completed", 18)
    assert len(bed.daemon.made) == before + 2


def test_a_stage_does_not_wait_for_one_whose_container_is_gone(bed: Bed) -> None:
    experiment = bed.work.gitexp("--json", "run", "--executor", "box", "--detach", "held").json["experiment"]
    wait_until(lambda: {task["status"] for task in bed.shown(experiment)["tasks"]} == {"running", "launched"})
    hold, train = sorted(bed.daemon.containers.values(), key=lambda one: "hold" not in one.name)
    bed.daemon.remove(hold)
    wait_until(lambda: bed.shown(experiment)["status"] not in ("running", "launched"))
    assert train.ended.wait(30)
    assert {task["name"]: task["status"] for task in bed.shown(experiment)["tasks"]} == {
        "hold": "lost",
        "train": "skipped",
    }


def test_a_daemon_that_refuses_leaves_the_experiment_recorded(bed: Bed) -> None:
    bed.daemon.refusal = "no space left on device"
    try:
        said = bed.work.gitexp("run", "--again", "--executor", "box", "--", "python", "job.py", "0", code=3).err
    finally:
        bed.daemon.refusal = None
    assert "executor box: it was not accepted" in said
    assert "no space left on device" in said
    (row,) = bed.work.gitexp("--json", "log", "-n", "1").json["experiments"]
    assert row["status"] == "recorded"


def test_a_sweep_runs_in_containers(bed: Bed) -> None:
    swept = bed.work.gitexp("--json", "sweep", "--executor", "box", "flow", "scale=4,5").json
    assert [row["metrics"]["sum"] for row in swept["experiments"]] == [24, 30]
