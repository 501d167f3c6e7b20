"""A pipeline on Slurm: a job for each stage, and none that waits for ever for one that failed."""

from __future__ import annotations

import pytest
from slurm_work import make_slurm_work, render_profile, start

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

FLOW = """\
import nemo_gitexp

def first(x):
    return {"x": x}

def breaks(results):
    raise ValueError("this stage fails")

def after(results):
    return {"never": 1}

def other(results):
    nemo_gitexp.log_metrics({"loss": results["first"]["x"] / 2}, step=0)
    return {"other": 2.0}
"""
DEFINITION = """\
purpose: Try a pipeline on a cluster
executor: cluster
config: {x: 3}
stages:
  first: {function: "flow:first"}
  breaks: {function: "flow:breaks", dependencies: [first]}
  after: {function: "flow:after", dependencies: [breaks]}
  last: {function: "flow:after", dependencies: [after, other]}
  other: {function: "flow:other", dependencies: [first]}
"""


@pytest.fixture(scope="module")
def answers(cluster, tmp_path_factory):
    """Run the pipeline by both ways to the cluster at once; give what each answered."""
    files = {"flow.py": FLOW, "experiments/flow/experiment.yaml": DEFINITION}
    started = {}
    for tunnel in ("local", "ssh"):
        profile = render_profile(cluster, "cluster", tunnel)
        work = make_slurm_work(cluster, tmp_path_factory.mktemp(tunnel), profile, files)
        started[tunnel] = start(work, "--json", "run", "flow")
    return {tunnel: one.answer(code=1) for tunnel, one in started.items()}


@pytest.mark.parametrize("tunnel", ["local", "ssh"])
def test_what_depends_on_a_failed_stage_is_skipped_and_no_job_stays(cluster, answers, tunnel):
    answer = answers[tunnel]
    assert answer["status"] == "failed"
    assert {task["name"]: task["status"] for task in answer["tasks"]} == {
        "first": "completed",
        "breaks": "failed",
        "after": "skipped",
        "last": "skipped",
        "other": "completed",
    }
    assert answer["metrics"] == {"x": 3, "loss": 1.5, "other": 2.0}
    assert "this stage fails" in answer["error"]["message"]
    assert len(answer["jobs"]) == 5
    for job in answer["jobs"]:
        cluster.wait_state(job, "COMPLETED", "FAILED")
