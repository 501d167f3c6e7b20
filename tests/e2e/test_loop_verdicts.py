"""A verdict notices every way in which a run can fail to be the recorded one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from builder import Work, make_work
from rewriting import commit_files, graft_result

STUDY = """\
purpose: Fit something small.
command: python train.py --config {config}
config: {lr: 0.5}
outputs: [weights.txt]
metrics: {loss: {goal: min, tolerance: 0.01}, speed: {volatile: true}}
"""
TRAIN = """\
import json, os, random, sys, time
with open(sys.argv[2]) as file:
    config = json.load(file)
scale = 1.0  # one line of code
with open("points.txt") as file:
    points = [float(word) for word in file.read().split()]
checkpoint = os.environ.get("CHECKPOINT", "")
first, weight = 0, random.random()
if checkpoint and os.path.exists(checkpoint):
    with open(checkpoint) as file:
        first, weight = json.load(file)
for step in range(first, 4):
    weight = round(weight * 0.5 + scale * config["lr"] * sum(points), 9)
    # The final loss moves by what nobody recorded: an environment variable.
    loss = weight + (float(os.environ.get("DRIFT", "0")) if step == 3 else 0.0)
    with open(os.environ["GITEXP_METRICS"], "a") as stream:
        stream.write(json.dumps({"step": step, "loss": loss, "speed": time.time()}) + "\\n")
    time.sleep(float(os.environ.get("PAUSE", "0")))
    if checkpoint and step == 2:
        with open(checkpoint, "w") as file:
            json.dump((step + 1, weight), file)
if "FORGET" not in os.environ:
    with open(os.path.join(os.environ["GITEXP_OUTPUTS"], "weights.txt"), "w") as file:
        file.write(str(weight) + os.environ.get("EXTRA", ""))
sys.exit(int(os.environ.get("EXIT", "0")))
"""
FILES = {"train.py": TRAIN, "points.txt": "0.25 0.5\n", "experiments/fit/experiment.yaml": STUDY}


@pytest.fixture(scope="module")
def fit(tmp_path_factory) -> Work:
    """A repository with the study `fit`; what a test changes in it, it changes back."""
    place = tmp_path_factory.mktemp("fit")
    return make_work(place / "work", place / "home", files=FILES)


@pytest.fixture(scope="module")
def recorded(fit: Work) -> dict:
    return fit.gitexp("run", "fit", "--json").json


def reproduce(work: Work, experiment: dict, *options: str, code: int | None = None, **env: str) -> dict:
    """Reproduce with some unrecorded variables set; return the verdict."""
    other = replace(work, env={**work.env, **env})
    answered = other.gitexp("reproduce", experiment["experiment"], "--json", *options, code=code)
    return {**answered.json, "code": answered.code}


def test_the_same_again_is_bitwise_and_counted(fit: Work, recorded: dict):
    verdict = reproduce(fit, recorded, "--require", "bitwise", "--times", "2", code=0)
    assert (verdict["verdict"], verdict["scope"], verdict["met"]) == ("bitwise", "whole", True)
    assert [metric["name"] for metric in verdict["metrics"]] == ["loss"]
    assert (verdict["environment"], verdict["weakest_input"], verdict["drift"]) == ("same", "none", [])
    shown = fit.gitexp("show", recorded["experiment"], "--json").json["reproductions"]
    assert shown["best"] == "bitwise"
    assert shown["count"] >= 2
    assert "bitwise" in fit.gitexp("log", "--study", "fit").out
    fact = json.loads(fit.git("show", f"{verdict['reproduction']}:fact.json"))
    assert (fact["kind"], fact["record"], fact["by"]) == ("reproduced", recorded["experiment"], "Ada")
    assert fact["verdict"]["verdict"] == "bitwise"


CHANGES = {
    "code": ("train.py", TRAIN.replace("scale = 1.0", "scale = 1.5"), ()),
    "data": ("points.txt", "0.25 0.6\n", ()),
    "seed": (None, "", ("--seed", "7")),
    "config": (None, "", ("lr=0.7",)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_result_of_other_code_data_seed_or_config_is_caught(fit: Work, recorded: dict, change: str):
    path, content, options = CHANGES[change]
    if path:
        fit.write(path, content)
    try:
        other = fit.gitexp("run", "fit", *options, "--record-only", "--json").json
    finally:
        fit.git("checkout", "-q", "--", ".")
    graft_result(fit, recorded, other)
    verdict = reproduce(fit, other, code=1)
    assert (verdict["verdict"], verdict["met"]) == ("executed", False)
    assert verdict["first_divergence"] == {"metric": "loss", "step": 0}
    assert [metric["ok"] for metric in verdict["metrics"]] == [False]


def test_an_edit_made_since_does_not_enter_a_reproduction(fit: Work, recorded: dict):
    fit.write("train.py", "raise SystemExit('edited since')\n")
    try:
        verdict = reproduce(fit, recorded, "--require", "bitwise", code=0)
    finally:
        fit.git("checkout", "-q", "--", ".")
    assert verdict["verdict"] == "bitwise"


def test_a_record_moved_onto_other_code_is_refused(fit: Work, recorded: dict):
    message = fit.git("log", "-1", "--format=%B", recorded["experiment"])
    changed = commit_files(fit, "HEAD", {"train.py": CHANGES["code"][1]}, "one changed line")
    directory = f"experiments/{recorded['study']}/record"
    names = ("experiment.json", "config.json", "environment.json")
    files = {f"{directory}/{name}": fit.git("show", f"{recorded['experiment']}:{directory}/{name}") for name in names}
    rebased = commit_files(fit, changed, files, message)
    fit.git("update-ref", "refs/gitexp/fit/rebased", rebased)
    try:
        answered = fit.gitexp("reproduce", rebased, "--json", code=3).json
    finally:
        fit.git("update-ref", "-d", "refs/gitexp/fit/rebased")
    assert answered["error"]["type"] == "RecordError"


def test_a_metric_moved_within_its_tolerance_is_metrics_and_not_bitwise(fit: Work, recorded: dict):
    verdict = reproduce(fit, recorded, DRIFT="0.005", code=0)
    assert (verdict["verdict"], verdict["met"]) == ("metrics", True)
    assert verdict["first_divergence"] == {"metric": "loss", "step": 3}
    assert verdict["metrics"][0]["tolerance"] == 0.01
    assert reproduce(fit, recorded, "--require", "bitwise", DRIFT="0.005", code=1)["met"] is False


def test_a_metric_moved_beyond_its_tolerance_is_only_executed_and_the_run_is_kept(fit: Work, recorded: dict):
    other = replace(fit, env={**fit.env, "DRIFT": "0.05"})
    answered = other.gitexp("reproduce", recorded["experiment"], "--no-color", code=1)
    assert "executed, metrics not reached" in answered.out
    kept = [path for path in (fit.root / ".git/gitexp/runs").glob("*.repro.*") if str(path) in answered.err]
    assert [(path / "outputs" / "weights.txt").is_file() for path in kept] == [True]
    assert not list((fit.root / ".git/gitexp/workspaces").iterdir())


def test_other_output_bytes_with_equal_metrics_are_caught(fit: Work, recorded: dict):
    verdict = reproduce(fit, recorded, "--require", "bitwise", EXTRA="\n", code=1)
    assert verdict["verdict"] == "metrics"
    assert verdict["first_divergence"] is None
    assert [output["equal"] for output in verdict["outputs"]] == [False]


def test_a_missing_output_is_not_executed(fit: Work, recorded: dict):
    verdict = reproduce(fit, recorded, "--require", "executed", FORGET="1", code=1)
    assert (verdict["verdict"], verdict["outputs"][0]["got"]) == ("restored", None)


def test_a_job_that_fails_is_not_executed(fit: Work, recorded: dict):
    assert reproduce(fit, recorded, EXIT="3", code=1)["verdict"] == "restored"


def test_a_run_that_resumes_from_a_checkpoint_of_the_original_is_caught(fit: Work, tmp_path: Path):
    checkpoint = str(tmp_path / "checkpoint.json")
    resuming = replace(fit, env={**fit.env, "CHECKPOINT": checkpoint})
    original = resuming.gitexp("run", "fit", "--again", "--json").json
    verdict = reproduce(fit, original, CHECKPOINT=checkpoint, code=1)
    assert [metric["ok"] for metric in verdict["metrics"]] == [True]
    assert [output["equal"] for output in verdict["outputs"]] == [True]
    assert (verdict["verdict"], verdict["first_divergence"]) == ("executed", {"metric": "loss", "step": 0})


def test_restored_runs_nothing_and_reaches_its_level(fit: Work, recorded: dict):
    before = fit.gitexp("show", recorded["experiment"], "--json").json["reproductions"]["count"]
    verdict = reproduce(fit, recorded, "--require", "restored", EXIT="3", code=0)
    assert fit.gitexp("show", recorded["experiment"], "--json").json["reproductions"]["count"] == before
    assert (verdict["verdict"], verdict["met"], verdict["metrics"]) == ("restored", True, [])
    assert not list((fit.root / ".git/gitexp/workspaces").iterdir())


def test_a_prefix_run_stops_after_its_steps_and_says_so(fit: Work, recorded: dict):
    verdict = reproduce(fit, recorded, "--steps", "2", "--require", "bitwise", PAUSE="0.3", DRIFT="9", code=0)
    assert (verdict["verdict"], verdict["scope"]) == ("bitwise", "0-2")
    assert verdict["outputs"] == []


def test_a_plan_runs_nothing_and_leaves_no_fact(fit: Work, recorded: dict):
    before = fit.git("for-each-ref")
    answered = fit.gitexp("reproduce", recorded["experiment"], "--plan")
    assert recorded["name"] in answered.out
    assert fit.git("for-each-ref") == before


def test_an_expensive_run_is_confirmed_first(fit: Work, recorded: dict):
    dear = replace(fit, env={**fit.env, "NEMO_GITEXP_REPRODUCE_COST_LIMIT": "0.0000001"})
    refused = dear.gitexp("reproduce", recorded["experiment"], "--json", code=2).json["error"]
    assert (refused["type"], refused["limit"]) == ("CostLimitError", 1e-07)
    assert refused["device_hours"] > 0
    assert "device-hours" in refused["message"]
    assert "--yes" in refused["hint"]
    twice = dear.gitexp("reproduce", recorded["experiment"], "--times", "2", "--json", code=2).json["error"]
    assert twice["device_hours"] == pytest.approx(2 * refused["device_hours"])
    assert "that needs --yes" in dear.gitexp("reproduce", recorded["experiment"], "--plan").out
    paid = dear.gitexp("reproduce", recorded["experiment"], "--yes", "--json")
    assert paid.json["met"] is True
    assert "device-hours" in paid.err
    assert dear.gitexp("reproduce", recorded["experiment"], "--steps", "1", "--json").json["scope"] == "0-1"


@pytest.mark.parametrize(
    "options, code",
    [
        (("--require", "perfect"), 2),
        (("--env", "guess"), 2),
        (("--times", "0"), 2),
        (("--steps", "0"), 2),
        (("--executor", "nowhere"), 2),
        (("--executor", "nowhere", "--bisect"), 125),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_runs(fit: Work, recorded: dict, options, code):
    answered = fit.gitexp("reproduce", recorded["experiment"], *options, "--json", code=code)
    assert answered.json["error"]["hint"]
