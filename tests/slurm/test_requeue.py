"""Jobs that Slurm stops and starts again: one experiment, one result, metrics without doubles."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from builder import wait_until
from slurm_work import make_slurm_work, render_profile, run_directories, shown, start, wait_status

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

TRAINING = """\
import json, os, sys, time
go, checkpoint = sys.argv[1], os.path.join(os.environ["GITEXP_OUTPUTS"], "step.txt")
step = int(open(checkpoint).read()) if os.path.exists(checkpoint) else 0
print("begins at", step, flush=True)
while step < 5 or not os.path.exists(go):
    with open(os.environ["GITEXP_METRICS"], "a") as stream:
        stream.write(json.dumps({"step": step, "loss": 1 / (step + 1)}) + "\\n")
    step += 1
    if step % 5 == 0:
        with open(checkpoint, "w") as file:
            file.write(str(step))
    time.sleep(0.05)
"""
"""Goes on where its last checkpoint was, which is up to four steps before where it was stopped."""


@pytest.fixture(scope="module")
def story(cluster, tmp_path_factory):
    """Requeue one job, and lose the node of another."""
    room = tmp_path_factory.mktemp("requeue")
    profiles = render_profile(cluster, "first", "local", 'exclude = "n2"')
    profiles += render_profile(cluster, "second", "local", 'exclude = "n1"')
    work = make_slurm_work(cluster, room, profiles, {"resume.py": TRAINING})
    go = {name: room / f"go-{name}" for name in ("first", "second")}
    runs = {name: start(work, *_run(name, str(go[name]))) for name in go}
    detached = {name: one.answer() for name, one in runs.items()}
    sha = {name: answer["experiment"] for name, answer in detached.items()}
    job = {name: answer["jobs"][0] for name, answer in detached.items()}
    directory = {name: run_directories(work, sha[name])[0] for name in go}
    for name in go:
        wait_until(lambda file=directory[name] / "outputs" / "step.txt": file.exists())
    cluster.requeue(job["first"])
    between = wait_status(work, sha["first"], "requeued", "completed", "failed", "cancelled", "lost")
    cluster.fail("n2")
    cluster.resume("n2")
    for name, file in go.items():
        cluster.start_now(job[name])
        wait_until(lambda log=directory[name] / "log.txt": log.read_text().count("begins at") == 2)
        file.touch()
    ends = {name: wait_status(work, sha[name], "completed", "failed", "cancelled", "lost") for name in go}
    return SimpleNamespace(work=work, cluster=cluster, sha=sha, job=job, between=between, ends=ends)


def _run(executor: str, go: str) -> tuple[str, ...]:
    return ("--json", "run", "--detach", "--executor", executor, "--", "python", "resume.py", go)


def test_between_its_starts_an_experiment_is_requeued(story):
    assert story.between["status"] == "requeued"
    assert story.between["result"] is None


@pytest.mark.parametrize("name", ["first", "second"])
def test_it_ends_with_one_result_of_one_job(story, name):
    assert story.ends[name]["status"] == "completed"
    assert story.ends[name]["jobs"] == [story.job[name]]
    assert story.cluster.wait_state(story.job[name])["Restarts"] == "1"
    ref = story.ends[name]["ref"]
    assert len(story.work.git("rev-list", f"{story.sha[name]}..{ref}").splitlines()) == 1


@pytest.mark.parametrize("name", ["first", "second"])
def test_metrics_go_on_without_doubles(story, name):
    text = story.work.git("show", f"{story.ends[name]['result']}:experiments/resume/record/metrics.jsonl")
    steps = [json.loads(line)["step"] for line in text.splitlines()]
    assert steps == list(range(len(steps)))
    assert shown(story.work, story.sha[name])["metric_stats"]["loss"]["n"] == len(steps)


def test_the_record_tells_the_segments(story):
    text = story.work.git("show", f"{story.ends['first']['result']}:experiments/resume/record/run.json")
    segments = json.loads(text)["segments"]
    assert len(segments) == 2
    assert {segment["job"] for segment in segments} == {story.job["first"]}
