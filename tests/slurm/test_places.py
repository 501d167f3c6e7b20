"""Experiments on a real Slurm whose nodes see other paths: through ssh without a shared file system, in containers.

Pyxis is not there; its part is taken by an `srun` before Slurm's own, which starts the command in a root directory of
ours with the mounts that it is given.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from builder import Work
from slurm_work import Started, make_slurm_work, render_profile, run_directories, shown, start_run, wait_status

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

E2E = Path(__file__).resolve().parents[1] / "e2e"
SYSTEM_PYTHON = "/usr/bin/python3"
FAR = f'shared = false\nroot = "{{room}}/far-away"\npython = "{SYSTEM_PYTHON}"'
BOXED = f'image = "example.org/python:3"\npython = "{SYSTEM_PYTHON}"'
FLOW = """\
import os, pathlib, time
def load(outputs, idle_s):
    time.sleep(idle_s)
    (outputs / "raw.txt").write_text("raw")
    print("loading in", os.getcwd())
    return [1, 2, 3]
def train(load, scale):
    return {"sum": sum(load) * scale}
"""
PIPELINE = """\
purpose: Two stages
config: {scale: 3, idle_s: 0}
stages:
  load: {function: "flow:load", outputs: [raw.txt]}
  train: {function: "flow:train", dependencies: [load]}
"""
SECRET = "s3cr3t-of-another-site"
SRUN = """\
#!/bin/sh
for word; do
    [ "$word" != --container-image ] || exec env PYTHONPATH={e2e} {python} {e2e}/fake_srun.py "$@"
done
exec /usr/bin/srun "$@"
"""


@pytest.fixture(scope="module")
def work(cluster, tmp_path_factory) -> Work:
    room = tmp_path_factory.mktemp("places")
    env = f'NOTE = "x; touch {room}/injected; it\'s $HOME"\nTOKEN = "${{env:SITE_TOKEN}}"'
    profiles = render_profile(cluster, "far", "ssh", FAR.format(room=room), env=env)
    profiles += render_profile(cluster, "boxed", "local", BOXED, env=env)
    profiles += render_profile(cluster, "near", "local", f'python = "{SYSTEM_PYTHON}"', env=env)
    files = {"flow.py": FLOW, "experiments/flow/experiment.yaml": PIPELINE}
    made = make_slurm_work(cluster, room, profiles, files)
    (room / "bin").mkdir()
    (room / "bin" / "srun").write_text(SRUN.format(e2e=E2E, python=sys.executable))
    (room / "bin" / "srun").chmod(0o755)
    made.env = {**made.env, "PATH": f"{room}/bin:{made.env['PATH']}", "ROOT_WAY": "bwrap", "SITE_TOKEN": SECRET}
    return made


@pytest.fixture(scope="module")
def story(work: Work, cluster):
    """Run everything that the tests look at."""
    never = str(work.root.parent / "never")
    running = start_run(work, "far", "--lr", "0.6", "--until", never, options=("--detach",)).answer()
    killed = work.gitexp("--json", "run", "flow", "--executor", "far", "--detach", "idle_s=600").json
    ran = {
        ("far", "plain"): start_run(work, "far", "--lr", "0.2"),
        ("boxed", "plain"): start_run(work, "boxed", "--lr", "0.2", options=("--again",)),
        ("near", "plain"): start_run(work, "near", "--lr", "0.2", options=("--again",)),
        ("far", "failing"): start_run(work, "far", "--code", "7"),
        ("boxed", "failing"): start_run(work, "boxed", "--code", "7", options=("--again",)),
    }
    for name in ("far", "boxed"):
        ran[name, "flow"] = Started(work.start("--json", "run", "flow", "--executor", name, "--again"))
    seen = wait_status(work, running["experiment"], "running")
    cancelled = work.gitexp("--json", "cancel", running["experiment"]).json
    cluster.wait_state(killed["jobs"][0], "RUNNING")
    cluster.cancel(killed["jobs"][0])
    killed = wait_status(work, killed["experiment"], "cancelled", "failed", "lost", "completed", timeout_s=120)
    answers = {key: one.answer(code=None) for key, one in ran.items()}
    return SimpleNamespace(work=work, ran=answers, running=running, seen=seen, cancelled=cancelled, killed=killed)


@pytest.mark.parametrize("name", ["far", "boxed", "near"])
def test_a_run_elsewhere_is_recorded_as_any_other(story, name):
    one = story.ran[name, "plain"]
    assert one["status"] == "completed", one["said"]
    assert one["metrics"]["loss"] == pytest.approx(0.2 / 3)
    (place,) = run_directories(story.work, one["experiment"])
    note = f"x; touch {story.work.root.parent}/injected; it's $HOME"
    assert json.loads((place / "outputs" / "seen.json").read_text())["NOTE"] == note
    assert not (story.work.root.parent / "injected").exists()
    run = json.loads(story.work.git("show", f"{one['result']}:{record_of(one)}/run.json"))
    version = subprocess.run([SYSTEM_PYTHON, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert run["environment"]["captured"] == "job"
    assert run["environment"]["interpreter"]["version"] == run["settings"]["python"] == version
    assert (one["identity"] is None) == (name != "near")  # which is seen from here


def record_of(answer: dict) -> str:
    return f"experiments/{answer['study']}/record"


@pytest.mark.parametrize("name", ["far", "boxed"])
def test_a_failing_job_elsewhere_has_its_own_exit_code(story, name):
    one = story.ran[name, "failing"]
    assert (one["status"], one["error"]["exit_code"], one["code"]) == ("failed", 7, 1)


def test_what_slurm_kept_of_a_job_elsewhere_comes_back_with_it(story):
    (place,) = run_directories(story.work, story.ran["far", "failing"]["experiment"])
    assert list((place / "nemo").rglob("log-*.out"))


@pytest.mark.parametrize("name", ["far", "boxed"])
def test_a_pipeline_elsewhere_shares_its_run(story, name):
    one = story.ran[name, "flow"]
    assert one["status"] == "completed", one["said"]
    assert one["metrics"]["sum"] == 18
    (place,) = run_directories(story.work, one["experiment"])
    inside = "/gitexp/code" if name == "boxed" else f"{story.work.root.parent}/far-away/workspaces/{place.name}"
    assert (place / "stages" / "load" / "log.txt").read_text() == f"loading in {inside}\n"
    assert {task["name"]: task["status"] for task in one["tasks"]} == {"load": "completed", "train": "completed"}


def test_a_running_job_elsewhere_is_seen_and_cancelled(story):
    assert story.seen["status"] == "running"
    (place,) = run_directories(story.work, story.running["experiment"])
    assert "step 0" in (place / "log.txt").read_text()
    assert story.cancelled["status"] == "cancelled", story.cancelled["error"]
    assert shown(story.work, story.running["experiment"])["status"] == "cancelled"


def test_a_stage_that_somebody_kills_elsewhere_takes_along_what_depends_on_it(story):
    assert story.killed["status"] == "cancelled"
    tasks = shown(story.work, story.killed["experiment"])["tasks"]
    assert {task["name"]: task["status"] for task in tasks} == {"load": "cancelled", "train": "skipped"}


def test_nothing_stays_elsewhere_of_what_is_collected(story):
    far = story.work.root.parent / "far-away"
    assert [list((far / name).iterdir()) for name in ("runs", "workspaces", "incoming")] == [[], [], []]


def test_the_secret_stays_nowhere_but_in_slurms_own_state(story):
    (place,) = run_directories(story.work, story.ran["boxed", "plain"]["experiment"])
    assert f"the token has {len(SECRET)} characters" in (place / "log.txt").read_text()
    for file in story.work.root.parent.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("name", ["far", "boxed"])
def test_what_was_recorded_here_is_reproduced_elsewhere_and_back(story, name):
    work = story.work
    here = work.gitexp("--json", "run", "--again", "--", "python", "train.py", "--lr", "0.25").json
    there = work.gitexp("--json", "reproduce", here["experiment"], "--executor", name, "--require", "metrics").json
    assert there["met"] is True
    far = story.ran[name, "plain"]["experiment"]
    back = work.gitexp("--json", "reproduce", far, "--executor", "local", "--require", "metrics").json
    assert back["met"] is True
    assert back["environment"] in ("same", "drifted")
