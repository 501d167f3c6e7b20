"""Programs that use NeMo Run's Python API with `run.SlurmExecutor`, on a real Slurm, on this machine and through ssh.

One story: a program launches everything for each way to the cluster, others look, and each test looks at its part.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from builder import Work, wait_until
from nemo_work import PRELUDE, make_nemo_work

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]

SECRET = "s3cr3t-of-this-site"
HEAD = (
    """
import sys
sys.modules["torch"] = None  # NeMo Run only tries it, and half of its import is that
"""
    + PRELUDE
    + """
from nemo_gitexp import Experiment
import nemo_gitexp as gitexp
from tasks import fail, train

WAY, ROOM = json.loads(os.environ["WAY"]), os.environ["ROOM"]

def slurm(**more):
    tunnel = run.SSHTunnel(job_dir=f"{ROOM}/tunnel", **WAY) if WAY else run.LocalTunnel(job_dir="")
    return run.SlurmExecutor(account="ci", partition="debug", time="00:10:00", tunnel=tunnel, **more)

def waiting(file):
    return run.Script(inline=f"echo waits; until test -e {file}; do sleep 0.1; done")
"""
)
LAUNCH = (
    HEAD
    + """
odd = {"lower": f"x; touch {ROOM}/injected; it's $HOME", "MY_TOKEN": os.environ["SECRET"]}
exp = gitexp.run(run.Partial(train, lr=0.3), executor=slurm(env_vars=odd), name="one", seed=7, detach=True)
say("one", exp)
with Experiment("chain", executor=slurm(), clean_mode=True) as exp:
    bad = exp.add(run.Partial(fail, why="as asked"), name="bad")
    exp.add(run.Partial(train), name="after", dependencies=[bad])
    group = exp.add([run.Partial(train, lr=0.7), run.Script(inline='echo "$WORD" > $GITEXP_OUTPUTS/word')], name="grp",
                    executor=[slurm(), slurm(env_vars={"WORD": "a b"})])
    exp.add(run.Script(inline="cat $GITEXP_RESULTS"), name="last", dependencies=[group])
    exp.run(detach=True)
say("chain", exp)
if not WAY:
    with Experiment("held", executor=slurm(), clean_mode=True) as exp:
        exp.add(waiting(f"{ROOM}/go"), name="first")
        stopped = exp.add(waiting(f"{ROOM}/never"), name="stopped")
        exp.add(run.Script(inline="true"), name="never", dependencies=[stopped])
        exp.run(detach=True)
    say("held", exp)
    exp = gitexp.run(run.Script(path="ranks.py", entrypoint="python"), name="ranks",
                     executor=slurm(ntasks_per_node=2, launcher="torchrun"), tail_logs=True)
    say("ranks", exp)
    refusal("sbatch", lambda: gitexp.run(run.Partial(train, lr=0.9), name="no", executor=slurm(constraint="gpu")))
"""
)
FOLLOW = (
    HEAD
    + """
exp = Experiment("interrupted", executor=slurm(), clean_mode=True)
exp.add(waiting(f"{ROOM}/never"), name="t")
try:
    exp.run(tail_logs=True)
except KeyboardInterrupt:
    say("interrupted", exp)
"""
)
LOOK = (
    HEAD
    + """
with Experiment.from_id(sys.argv[1]) as exp:
    if sys.argv[2] == "cancel":
        exp.cancel("stopped")
    elif sys.argv[2] == "logs":
        exp.logs("grp-0")
    elif sys.argv[2] == "reset":
        exp.reset()
        exp.run(detach=True)
    say(sys.argv[2], exp)
"""
)
RANKS = """
import json, os
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(total)
print("rank", dist.get_rank(), "of", dist.get_world_size(), flush=True)
if dist.get_rank() == 0:
    with open(os.environ["GITEXP_METRICS"], "a") as stream:
        stream.write(json.dumps({"step": 0, "total": total.item()}) + "\\n")
dist.destroy_process_group()
"""
SEEN = """

_train = train

def train(lr: float = 0.1, steps: int = 3, where: pathlib.Path = pathlib.Path(".")):
    _train(lr, steps, where)
    names = ("lower", "LOWER")
    seen = {name: os.environ.get(name) for name in names}
    pathlib.Path(os.environ["GITEXP_OUTPUTS"], "seen.json").write_text(json.dumps(seen))
    if os.environ.get("MY_TOKEN"):
        print("the token has", len(os.environ["MY_TOKEN"]), "characters", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that runs, and what it said."""

    process: subprocess.Popen[bytes]
    report: Path

    def said(self) -> dict[str, dict]:
        """Wait for its end and return what it said; `err` is what it printed."""
        _, err = self.process.communicate(timeout=600)
        if self.process.returncode:
            raise AssertionError(f"{self.process.args}: exit {self.process.returncode}\n{err.decode()}")
        lines = [json.loads(line) for line in self.report.read_text().splitlines()]
        return {**{line["what"]: line for line in lines}, "err": err.decode()}


def start(work: Work, name: str, *arguments: str, way: dict | None = None) -> Program:
    room = work.root.parent
    report = room / f"{name}{len(list(room.glob('*.said')))}.said"
    report.touch()
    env = {**work.env, "SAID": str(report), "PYTHONPATH": str(work.root), "WAY": json.dumps(way or {}),
           "ROOM": str(room), "SECRET": SECRET}  # fmt: skip
    argv = [sys.executable, f"{name}.py", *arguments]
    return Program(
        subprocess.Popen(argv, cwd=work.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE), report
    )


def make_work_for(cluster, room: Path) -> Work:
    room.mkdir()
    work = make_nemo_work(room, launch=LAUNCH, follow=FOLLOW, look=LOOK, ranks=RANKS)
    tasks = work.root / "tasks.py"
    tasks.write_text(tasks.read_text() + SEEN)
    work.commit("tasks")
    work.env = cluster.environment(work.env)
    return work


def ended(work: Work, experiment: str) -> dict:
    """Wait until the command line says that it has ended, which records it."""
    found = {}

    def is_over() -> bool:
        found.update(work.gitexp("status", experiment, "--json").json["experiments"][0])
        return found["status"] not in ("recorded", "launched", "running")

    wait_until(is_over, 300)
    return work.gitexp("show", experiment, "--json").json


@pytest.fixture(scope="module")
def story(cluster, tmp_path_factory):
    """Run everything that the tests look at."""
    place = tmp_path_factory.mktemp("doors")
    ssh = cluster.ssh
    way = {"host": ssh.host, "user": ssh.user, "port": ssh.port, "identity": str(ssh.identity)}
    works = {"local": make_work_for(cluster, place / "local"), "ssh": make_work_for(cluster, place / "ssh")}
    launched = {"local": start(works["local"], "launch"), "ssh": start(works["ssh"], "launch", way=way)}
    follower = start(works["local"], "follow")
    work, room = works["local"], place / "local"
    runs = work.root / ".git" / "gitexp" / "runs"

    def waits(experiment: str, part: str = "") -> bool:
        return any("waits" in log.read_text() for log in runs.glob(f"{experiment}*/{part}log.txt"))

    def interrupted() -> str | None:
        refs = work.refs("refs/gitexp/interrupted/")
        return next(iter(refs.values()), None)

    wait_until(lambda: bool(interrupted()) and waits(interrupted()), 300)
    follower.process.send_signal(signal.SIGINT)
    told = SimpleNamespace(works=works, room=room, cluster=cluster, place=place)
    told.said = {name: program.said() for name, program in launched.items()}
    held = told.said["local"]["held"]
    wait_until(lambda: waits(held["document"]["experiment"], "stages/stopped/"), 300)
    told.cancel = start(work, "look", held["id"], "cancel").said()["cancel"]
    (room / "go").touch()
    told.ended = {
        name: {what: ended(works[name], said[what]["document"]["experiment"]) for what in ("one", "chain")}
        for name, said in told.said.items()
    }
    logs = start(work, "look", told.said["local"]["chain"]["id"], "logs")
    reset = start(works["ssh"], "look", told.said["ssh"]["one"]["id"], "reset", way=way)
    told.interrupted = follower.said()
    told.held = ended(work, held["document"]["experiment"])
    told.logs, told.reset = logs.said(), reset.said()["reset"]
    return told


@pytest.fixture(params=["local", "ssh"])
def way(request, story):
    work = story.works[request.param]
    said, over = story.said[request.param], story.ended[request.param]
    return SimpleNamespace(work=work, said=said, ended=over, room=work.root.parent, story=story)


def test_a_detached_call_returns_when_it_is_accepted_and_the_command_line_collects_it(way):
    document = way.said["one"]["document"]
    assert document["status"] in ("launched", "running", "completed")
    found = way.ended["one"]
    assert (found["status"], found["executor"], found["seed"]) == ("completed", "slurm", 7)
    assert found["metrics"]["loss"] == pytest.approx(0.1)
    (job,) = found["jobs"]
    assert way.story.cluster.job(job)["JobState"] == "COMPLETED"
    assert job == document["jobs"][0]


def test_variables_arrive_as_they_are_and_a_secret_stays_nowhere(way):
    experiment = way.said["one"]["document"]["experiment"]
    found = way.ended["one"]
    got = way.room / "got"
    way.work.gitexp("outputs", experiment, "--get", str(got))
    odd = f"x; touch {way.room}/injected; it's $HOME"
    assert json.loads((got / "seen.json").read_text()) == {"lower": odd, "LOWER": None}
    assert found["topology"]["environment"]["lower"] == odd
    assert not (way.room / "injected").exists()
    assert f"the token has {len(SECRET)} characters" in way.work.gitexp("logs", experiment).out
    assert "not recorded, for they look like secrets: MY_TOKEN" in way.said["err"]
    places = [way.work.root, way.room / "tunnel", way.story.cluster.ssh.home]
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []
    assert SECRET not in way.work.git("log", "--all", "-p")


def test_a_task_whose_dependency_failed_is_skipped_and_groups_and_what_waits_for_them_run(way):
    found = way.ended["chain"]
    tasks = {task["name"]: task["status"] for task in found["tasks"]}
    assert tasks == {
        "bad": "failed",
        "after": "skipped",
        "grp-0": "completed",
        "grp-1": "completed",
        "last": "completed",
    }
    assert (found["status"], found["error"]["message"]) == ("failed", "stage bad: as asked")
    assert len(set(found["jobs"])) == len(tasks)
    got = way.room / "chain"
    way.work.gitexp("outputs", found["experiment"], "--get", str(got))
    assert (got / "grp-1" / "word").read_text() == "a b\n"


def test_a_later_process_finds_it_by_its_id(story):
    assert story.logs["logs"]["states"] == {
        "bad": "FAILED",
        "after": "CANCELLED",
        "grp": "SUCCEEDED",
        "grp-0": "SUCCEEDED",
        "grp-1": "SUCCEEDED",
        "last": "SUCCEEDED",
    }
    assert "grp-0 training at 0.7" in story.logs["err"]


def test_torchrun_starts_its_processes_and_who_waits_has_the_result(story):
    said = story.said["local"]["ranks"]
    document = said["document"]
    assert (document["status"], said["states"]) == ("completed", {"ranks": "SUCCEEDED"})
    assert document["metrics"]["total"] == 3
    assert (document["topology"]["launcher"], document["topology"]["tasks_per_node"]) == ("torchrun", 2)
    log = story.works["local"].gitexp("logs", document["experiment"]).out
    assert "rank 0 of 2" in log


def test_one_task_is_cancelled_from_another_process_and_what_needs_it_is_skipped(story):
    assert story.said["local"]["held"]["states"].keys() == {"first", "stopped", "never"}
    tasks = {task["name"]: task["status"] for task in story.held["tasks"]}
    assert tasks == {"first": "completed", "stopped": "cancelled", "never": "skipped"}
    assert story.cancel["states"]["first"] in ("RUNNING", "SUCCEEDED")


def test_ctrl_c_cancels_the_job_and_records_that(story):
    said = story.interrupted["interrupted"]
    assert (said["document"]["status"], said["states"]) == ("cancelled", {"t": "CANCELLED"})
    assert story.cluster.wait_state(said["document"]["jobs"][0])["JobState"] in ("FAILED", "CANCELLED", "COMPLETED")


def test_what_slurm_refuses_is_said_in_its_words_and_nothing_is_left_running(story):
    error = story.said["local"]["sbatch"]["error"]
    assert (error["type"], error["is_ours"]) == ("LaunchError", True)
    assert "it was not accepted" in error["message"]
    assert "constraint" in error["message"] or "feature" in error["message"].lower()
    (experiment,) = story.works["local"].refs("refs/gitexp/no/").values()
    work = story.works["local"]
    assert work.gitexp("show", experiment, "--json").json["status"] == "recorded"
    assert not list((work.root / ".git" / "gitexp" / "runs").glob(f"{experiment}*"))


def test_reset_in_a_later_process_runs_the_same_on_the_same_cluster(story):
    first = story.ended["ssh"]["one"]
    found = ended(story.works["ssh"], story.reset["document"]["experiment"])
    assert (found["status"], found["identity"]) == ("completed", first["identity"])
    assert found["experiment"] != first["experiment"]
