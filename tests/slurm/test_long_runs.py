"""Runs that a real Slurm interrupts: requeued, cut off at their time limit, cancelled from outside; and chains."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from builder import Work, wait_until
from slurm_work import make_slurm_work, render_profile, run_directories, shown, start, wait_status

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

TRAINING = """\
import json, os, pathlib, signal, sys, time
control, out = pathlib.Path(sys.argv[2]), pathlib.Path(os.environ["GITEXP_OUTPUTS"])
state, told = out / "state", []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
begin = int(state.read_text()) if state.exists() else 0
for step in range(begin, 8):
    with open(os.environ["GITEXP_METRICS"], "a") as stream:
        stream.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\\n")
    if step % 3 == 0:
        state.write_text(str(step))
    hold = control / f"hold{step}"
    if hold.exists():
        hold.rename(control / "held")
        while not told:
            time.sleep(0.02)
        (control / f"told{step}").write_text(str(len(told)))
        sys.exit(0)
(out / "model").write_text(str(step))
"""
"""Eight steps with a checkpoint every third; held at a step until it is told to end, where it leaves in good order."""


def begin(work: Work, control: Path, *options: str, hold: int = 5) -> dict:
    """Start a run that is held at a step; return its document once it is there."""
    control.mkdir()
    (control / f"hold{hold}").write_text("")
    words = ("--json", "run", "--executor", "c", "--detach", *options, "--", "python", "long.py", "--control", control)
    answer = start(work, *map(str, words)).answer()
    wait_until((control / "held").exists)
    (control / "held").unlink()
    return answer


@pytest.fixture(scope="module")
def story(cluster, tmp_path_factory):
    room = tmp_path_factory.mktemp("long")
    work = make_slurm_work(cluster, room, render_profile(cluster, "c", "local"), {"long.py": TRAINING})
    return SimpleNamespace(work=work, cluster=cluster, room=room)


def segments_of(work: Work, document: dict) -> list[tuple]:
    record = f"{document['result']}:experiments/{document['study']}/record"
    run = json.loads(work.git("show", f"{record}/run.json"))
    return [(one["job"], one["restart"], one["first_step"], one["last_step"], one["reason"]) for one in run["segments"]]


def test_a_requeued_run_goes_on_and_is_the_one_that_was_never_interrupted(story) -> None:
    work, cluster, control = story.work, story.cluster, story.room / "requeued"
    answer = begin(work, control)
    (job,) = wait_status(work, answer["experiment"], "running")["jobs"]
    cluster.run("scontrol", "requeue", job)
    assert wait_status(work, answer["experiment"], "requeued")["status"] == "requeued"
    cluster.start_now(job)
    wait_status(work, answer["experiment"], "completed")
    document = shown(work, answer["experiment"])
    assert (control / "told5").read_text() == "1"
    assert segments_of(work, document) == [(job, 0, 0, 5, "requeued"), (job, 1, 3, 7, "completed")]
    assert document["metric_stats"]["loss"]["n"] == 8
    again = ("reproduce", answer["experiment"], "--executor", "local", "--require", "bitwise")
    verdict = work.gitexp("--json", *again).json
    assert (verdict["verdict"], verdict["met"]) == ("bitwise", True)


def test_a_lost_node_leaves_no_doubles(story) -> None:
    work, cluster, control = story.work, story.cluster, story.room / "lost"
    answer = begin(work, control)
    (run,) = run_directories(work, answer["experiment"])
    (job,) = wait_status(work, answer["experiment"], "running")["jobs"]
    node = cluster.job(job)["NodeList"]
    cluster.fail(node)
    cluster.start_now(job, timeout_s=120)
    wait_status(work, answer["experiment"], "completed")
    document = shown(work, answer["experiment"])
    assert document["metric_stats"]["loss"]["n"] == 8
    first, second = segments_of(work, document)
    assert (first[:4], second[2:]) == ((job, 0, 0, 5), (3, 7, "completed"))
    assert first[4] in ("node failure", "requeued")  # Slurm writes the cause into the output, or has no time to
    assert second[1] > 0
    assert not list(run.glob("reserve*"))


def test_a_chain_goes_on_after_the_time_limit_and_its_third_job_has_nothing_to_do(story) -> None:
    work, cluster, control = story.work, story.cluster, story.room / "chain"
    answer = begin(work, control, "--chain", "3")
    jobs = wait_status(work, answer["experiment"], "running")["jobs"]
    assert len(jobs) == 3
    cluster.end_limit(jobs[0])
    wait_status(work, answer["experiment"], "completed", timeout_s=120)
    assert [cluster.wait_state(job)["JobState"] for job in jobs] == ["TIMEOUT", "COMPLETED", "COMPLETED"]
    document = shown(work, answer["experiment"])
    first, second = segments_of(work, document)
    assert (first, second) == ((jobs[0], 0, 0, 5, "time limit"), (jobs[1], 0, 3, 7, "completed"))
    assert document["metric_stats"]["loss"]["n"] == 8


def test_scancel_from_outside_is_the_end_with_what_there_is(story) -> None:
    work, control = story.work, story.room / "cancelled"
    answer = begin(work, control)
    (job,) = wait_status(work, answer["experiment"], "running")["jobs"]
    story.cluster.cancel(job)
    document = wait_status(work, answer["experiment"], "cancelled")
    assert document["error"]["message"] == "cancelled at the scheduler"
    assert document["metric_stats"]["loss"]["n"] == 6
    assert segments_of(work, shown(work, answer["experiment"])) == [(job, 0, 0, 5, "cancelled")]
