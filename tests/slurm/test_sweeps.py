"""A sweep on Slurm: all combinations are submitted at once, and the queue decides which runs when."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from builder import Work, wait_until
from cluster import Cluster
from slurm_work import make_slurm_work, render_profile, start

pytestmark = pytest.mark.slurm

STUDY = """\
purpose: something small
command: python train.py --lr {config.lr} --until {config.until}
config: {lr: 0.1, until: none}
metrics: {loss: {goal: min}}
executor: ci
"""


@dataclass(slots=True)
class Room:
    """A repository with a study on the cluster, and the file that its jobs wait for."""

    work: Work
    gate: Path

    def runs(self, file: str) -> int:
        """Return how many run directories hold a file."""
        return len(list((self.work.root / ".git/gitexp/runs").glob(f"*/{file}")))


@pytest.fixture
def room(cluster: Cluster, tmp_path: Path) -> Iterator[Room]:
    pyproject = render_profile(cluster, "ci", "local", f'python = "{sys.executable}"')
    work = make_slurm_work(cluster, tmp_path, pyproject, {"experiments/toy/experiment.yaml": STUDY})
    gate = tmp_path / "gate"
    yield Room(work, gate)
    gate.touch()


def test_all_combinations_are_submitted_at_once_and_compared(room: Room) -> None:
    started = start(room.work, "--json", "sweep", "toy", "lr=0.3,0.2,0.1,0.4", f"until={room.gate}")
    wait_until(lambda: room.runs("submitted.json") == 4)
    assert room.runs("result.json") == 0
    room.gate.touch()
    answer = started.answer()
    assert [item["status"] for item in answer["combinations"]] == ["completed"] * 4
    repeated = start(room.work, "--json", "sweep", "toy", "lr=0.3,0.2,0.1,0.4", f"until={room.gate}").answer()
    assert [item["experiment"] for item in repeated["experiments"]] == [
        item["experiment"] for item in answer["experiments"]
    ]
    best = min(answer["experiments"], key=lambda item: item["metrics"]["loss"])  # who waits longer comes lower
    assert answer["best"]["experiment"] == best["experiment"]
    assert {item["executor"] for item in answer["experiments"]} == {"ci"}
    assert len({job for item in answer["experiments"] for job in item["jobs"]}) == 4


def test_ctrl_c_takes_all_jobs_back_and_resume_submits_them_again(room: Room) -> None:
    started = start(room.work, "--json", "sweep", "toy", "lr=0.3,0.2,0.1", f"until={room.gate}")
    wait_until(lambda: room.runs("submitted.json") == 3 and room.runs("started.json"))
    os.kill(started.process.pid, signal.SIGINT)
    interrupted = started.answer(code=130)
    assert {item["status"] for item in interrupted["combinations"]} == {"cancelled"}
    room.gate.touch()
    answer = start(room.work, "--json", "sweep", "toy", "--resume").answer()
    assert [item["status"] for item in answer["combinations"]] == ["completed"] * 3
    assert answer["sweep"] == interrupted["sweep"]
