"""`probe`: what the first steps of a job depend on is found before the job is paid for, and nothing of it stays."""

from __future__ import annotations

import os
import signal

import pytest
from builder import Work, make_work, wait_until

FIT = """\
import json, os, sys, time
mode, threads = sys.argv[1], int(os.environ.get("OMP_NUM_THREADS", "1"))
workers = int(sys.argv[sys.argv.index("--num_workers") + 1]) if "--num_workers" in sys.argv else 0
for step in range(2000):
    values = [1 / (place + 1 + step) for place in range(100)]
    if mode == "threads":  # partial sums, one a thread, as a parallel reduction adds
        loss = sum(sum(values[first::threads]) for first in range(threads))
    elif mode == "hashes":  # the order of a set of texts
        loss = sum(float(name) / (place + 1) for place, name in enumerate({str(value) for value in values}))
    elif mode == "workers":
        loss = sum(values[workers:])
    elif mode == "clock":
        loss = time.time()
    else:
        loss = sum(values)
    if mode == "fails" and step == 2:
        raise SystemExit("no more data")
    if mode != "silent":
        with open(os.environ["GITEXP_METRICS"], "a") as stream:
            stream.write(json.dumps({"step": step, "loss": loss}) + "\\n")
    elif step == 3:
        break
    time.sleep(0.02)
"""
STUDY = "purpose: Fit.\ncommand: python fit.py {config.mode} --num_workers {config.data.num_workers}\n"
STUDY += "config: {mode: plain, data: {num_workers: 0}}\n"


@pytest.fixture(scope="module")
def fit(tmp_path_factory) -> Work:
    """A repository with the study `fit`; no test here changes it."""
    place = tmp_path_factory.mktemp("probe")
    return make_work(place / "work", place / "home", files={"fit.py": FIT, "experiments/fit/experiment.yaml": STUDY})


def probe(work: Work, *words: str, code: int) -> dict:
    return work.gitexp("probe", "--steps", "3", "--json", *words, code=code).json


def varied(answer: dict) -> dict[str, bool | None]:
    return {item["vary"]: item["equal"] for item in answer["variations"]}


def test_a_deterministic_job_is_equal_whatever_is_varied_and_nothing_of_it_stays(fit: Work):
    before = fit.git("for-each-ref")
    answer = probe(fit, "fit", "--vary", "threads,workers,hashseed", code=0)
    assert (answer["equal"], answer["steps"], answer["experiment"]) == (True, 3, None)
    assert varied(answer) == {"threads": True, "workers": True, "hashseed": True}
    assert answer["depends_on"] == []
    assert fit.git("for-each-ref") == before
    assert fit.git("status", "--porcelain") == ""
    assert fit.gitexp("log", "--json").json["experiments"] == []
    state = fit.root / ".git/gitexp"
    assert [list((state / name).iterdir()) for name in ("runs", "workspaces")] == [[], []]


@pytest.mark.parametrize("mode, cause", [("threads", "threads"), ("hashes", "hashseed"), ("workers", "workers")])
def test_what_the_numbers_depend_on_is_named(fit: Work, mode: str, cause: str):
    answer = probe(fit, "fit", f"mode={mode}", "--vary", cause, code=1)
    assert (answer["equal"], answer["depends_on"], answer["independent_of"]) == (True, [cause], [])
    (found,) = [item for item in answer["variations"] if item["vary"] == cause]
    assert found["first_divergence"] == {"metric": "loss", "step": 0}
    assert found["metrics"][0]["largest_difference"] > 0
    assert found["before"] != found["after"]


def test_a_job_that_differs_by_itself_is_not_blamed_on_anything(fit: Work):
    answered = fit.gitexp("probe", "--steps", "3", "fit", "mode=clock", "--vary", "threads", code=1)
    assert "two runs of the same differ from step 0 on (loss)" in answered.out
    assert "not tried: two runs of the same differ already" in answered.out


def test_a_command_is_probed_and_its_own_arguments_varied(fit: Work):
    command = ("--", "python", "fit.py", "workers", "--num_workers", "3")
    answer = probe(fit, "--vary", "workers", *command, code=1)
    (found,) = answer["variations"]
    assert (found["before"], found["after"]) == ("num_workers=3", "num_workers=2")
    (none,) = probe(fit, "--vary", "workers", "--", "python", "fit.py", "plain", code=0)["variations"]
    assert (none["tried"], none["equal"]) == (False, None)
    assert "no key of its configuration is a number of workers" in none["why"]


def test_a_recorded_experiment_is_probed_as_it_is(fit: Work):
    recorded = fit.gitexp("run", "fit", "mode=hashes", "--record-only", "--json").json
    fit.write("fit.py", "raise SystemExit('edited since')\n")
    try:
        answer = probe(fit, recorded["experiment"], "--vary", "hashseed", code=1)
    finally:
        fit.git("checkout", "-q", "--", ".")
        fit.git("update-ref", "-d", recorded["ref"])
    assert (answer["experiment"], answer["depends_on"]) == (recorded["experiment"], ["hashseed"])


@pytest.mark.parametrize(
    "words, code, said",
    [
        (("fit", "mode=silent"), 3, "log_metrics"),
        (("fit", "mode=fails"), 3, "no more data"),
        (("nowhere",), 3, "neither an experiment nor a study"),
        (("fit", "--vary", "weather"), 2, "threads,workers,hashseed"),
        (("fit", "--steps", "0"), 2, "counts from 1"),
        (("latest", "lr=1"), 2, "as it is recorded"),
        ((), 2, "what is to be probed"),
    ],
)
def test_what_cannot_be_probed_is_said_with_what_helps(fit: Work, words: tuple[str, ...], code: int, said: str):
    error = probe(fit, *words, code=code)["error"]
    assert said in error["message"] + error["hint"]
    assert error["hint"]


def test_a_killed_probe_leaves_nothing_that_tidying_does_not_take(fit: Work):
    process, state = fit.start("probe", "fit"), fit.root / ".git/gitexp"
    wait_until(lambda: list((state / "runs").glob("*.repro.*/child.json")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(fit.refs("refs/gitexp-tmp/")) == 1
    wait_until(lambda: list((state / "runs").glob("*.repro.*/result.json")))  # its worker ends by itself
    fit.gitexp("collect")
    assert fit.refs("refs/gitexp-tmp/") == {}
    assert [list((state / name).iterdir()) for name in ("runs", "workspaces")] == [[], []]
