"""A repository whose experiments run on the test cluster, and how it is asked and watched."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from builder import Work, make_work, wait_until
from cluster import Cluster

TRAINING = """\
import argparse, json, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--until")
parser.add_argument("--code", type=int, default=0)
arguments = parser.parse_args()
step = 0
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    while step < 3 or (arguments.until and not os.path.exists(arguments.until)):
        stream.write(json.dumps({"step": step, "loss": arguments.lr / (step + 1)}) + "\\n")
        stream.flush()
        print("step", step, flush=True)
        step += 1
        time.sleep(0.05 if arguments.until else 0)
with open(os.path.join(os.environ["GITEXP_OUTPUTS"], "seen.json"), "w") as file:
    json.dump({name: os.environ.get(name) for name in ("NOTE", "lower", "LOWER")}, file)
if os.environ.get("TOKEN"):
    print("the token has", len(os.environ["TOKEN"]), "characters", flush=True)
sys.exit(arguments.code)
"""
"""A training of at least three steps, until a file is there; it keeps which variables arrived, not the secret one."""

PROFILE = """\
[tool.nemo-gitexp.executors.{name}]
type = "slurm"
account = "ci"
partition = "debug"
time = "00:10:00"
{more}
"""
TUNNEL = """\
[tool.nemo-gitexp.executors.{name}.tunnel]
type = "ssh"
host = "{ssh.host}"
user = "{ssh.user}"
port = {ssh.port}
identity = "{ssh.identity}"
"""


def render_profile(cluster: Cluster, name: str, tunnel: str, more: str = "", env: str = "") -> str:
    """Return the table of an executor on the cluster, by a tunnel of a kind (local, ssh)."""
    way = TUNNEL.format(name=name, ssh=cluster.ssh) if tunnel == "ssh" else ""
    variables = f"[tool.nemo-gitexp.executors.{name}.env]\n{env}\n" if env else ""
    return PROFILE.format(name=name, more=more) + way + variables


def make_slurm_work(cluster: Cluster, room: Path, pyproject: str, files: dict[str, str] | None = None) -> Work:
    """Make a repository with `train.py` and executors; its commands reach the cluster."""
    work = make_work(
        room / "work", room / "home", files={"train.py": TRAINING, "pyproject.toml": pyproject, **(files or {})}
    )
    work.env = cluster.environment(work.env)
    return work


@dataclass(frozen=True, slots=True)
class Started:
    """A command that was started: its answer is a document."""

    process: subprocess.Popen[bytes]

    def answer(self, code: int | None = 0) -> dict:
        """Wait for its end and return its answer with `code` added, and `said`, what it told beside."""
        out, err = self.process.communicate(timeout=240)
        if code is not None and self.process.returncode != code:
            raise AssertionError(f"{self.process.args}: exit {self.process.returncode}\n{out.decode()}\n{err.decode()}")
        return {**json.loads(out), "code": self.process.returncode, "said": err.decode()}


STARTED: list[Started] = []
"""All of this process, to be ended whatever becomes of a test."""


def start(work: Work, *arguments: str) -> Started:
    """Start the installed command."""
    STARTED.append(Started(work.start(*arguments)))
    return STARTED[-1]


def end_started() -> None:
    """Kill what still runs of the commands that were started."""
    while STARTED:
        process = STARTED.pop().process
        if process.returncode is None:
            process.kill()
            process.communicate()


def start_run(work: Work, executor: str, *arguments: str, options: tuple[str, ...] = ()) -> Started:
    """Start `run` of the training on an executor."""
    command = ("--json", "run", "--executor", executor, *options, "--", "python", "train.py", *arguments)
    return start(work, *command)


def shown(work: Work, experiment: str) -> dict:
    """Return an experiment as `show` tells it."""
    return work.gitexp("--json", "show", experiment).json


def run_directories(work: Work, experiment: str) -> list[Path]:
    """Return the run directories of an experiment."""
    return sorted((work.root / ".git" / "gitexp" / "runs").glob(f"{experiment}.*"))


def wait_status(work: Work, experiment: str, *statuses: str, timeout_s: float = 60) -> dict:
    """Wait until `status` says one of these of an experiment and return what it said."""
    said: dict = {}

    def is_there() -> bool:
        said.update(work.gitexp("--json", "status", experiment).json["experiments"][0])
        return said["status"] in statuses

    wait_until(is_there, timeout_s)
    return said
