"""The guide's tracker: its truth is git, for this process, the next one, and a clone."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builder import Work
from tracked import end, listed, nothing_recorded, record_of, result_of, run_command, run_python, start_python

from nemo_gitexp import ExperimentMetrics, ExperimentTracker
from nemo_gitexp.errors import AlreadyFinishedError, InvalidNameError, MetricValueError
from nemo_gitexp.naming import slug

HEAD = """\
import json, logging, sys
import nemo_gitexp as gitexp
def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except gitexp.GitexpError as error:
        facts = {key: str(fact) for key, fact in sorted(error.facts.items()) if key != "experiment"}
        print(type(error).__name__, json.dumps(facts))
tracker = gitexp.ExperimentTracker(STUDY)
"""
SUMMARY = HEAD + "print(json.dumps(tracker.get_experiment_summary()))\n"


def with_study(text: str, study: str | None) -> str:
    return text.replace("STUDY", repr(study))


def summary(work: Work, study: str | None = "digits", cwd: Path | None = None) -> dict:
    """Return what a new process of the repository says."""
    said = run_command(work, [sys.executable, "-c", with_study(SUMMARY, study)], cwd=cwd)
    return json.loads(said.out)


FIRST = """\
assert isinstance(tracker.logger, logging.Logger) and tracker.study == "digits"
started = tracker.start_experiment("baseline", {"lr": 0.1, "seed": 5})
assert (started.status, started.end_time, started.metrics) == ("running", None, {})
gitexp.log_metrics({"loss": 0.5}, step=0)
tracker.complete_experiment("baseline", {"accuracy": 0.9, "odd": float("inf")})
assert started.status == "completed" and started.metrics["accuracy"] == 0.9, started
assert tracker.experiments["baseline"] is started
other = tracker.start_experiment("Größer & besser!", {"lr": 0.2}, seed=6)
gitexp.log_metrics({"loss": 0.25}, step=0)
try:
    raise ValueError("no luck")
except ValueError as error:
    tracker.fail_experiment("Größer & besser!", error)
assert other.metrics == {"loss": 0.25, "error": "no luck"}
third = tracker.start_experiment("third", {})
third.fail("text is enough")
fourth = tracker.start_experiment("fourth", {})
fourth.complete({"accuracy": 1})
tracker.start_experiment("left open", {})
print(json.dumps(tracker.get_experiment_summary()))
"""


@pytest.fixture
def told(work: Work) -> tuple[Work, dict]:
    """A repository in which five experiments were tracked, and what the process that did it said at its end."""
    said = run_python(work, with_study(HEAD + FIRST, "digits"))
    return work, json.loads(said.out)


def test_the_summary_has_exactly_the_keys_and_the_numbers_add_up(told: tuple[Work, dict]) -> None:
    said = told[1]
    assert list(said) == ["total_experiments", "completed", "failed", "running", "experiments"]
    assert [said[key] for key in list(said)[:4]] == [5, 2, 2, 1]
    assert list(said["experiments"]) == ["baseline", "Größer & besser!", "third", "fourth", "left open"]
    baseline = said["experiments"]["baseline"]
    assert list(baseline) == [field.name for field in dataclasses.fields(ExperimentMetrics)]
    assert baseline["metrics"] == {"loss": 0.5, "accuracy": 0.9, "odd": float("inf")}
    assert baseline["status"] == "completed"
    assert abs(baseline["end_time"] - baseline["start_time"] - baseline["duration"]) < 0.1
    assert abs(baseline["start_time"] - time.time()) < 600
    assert baseline["config_hash"].startswith("sha256:")
    assert len(baseline["config_hash"]) == 71


def test_a_second_process_and_a_clone_see_the_same(told: tuple[Work, dict], tmp_path: Path) -> None:
    work, said = told
    later = summary(work)
    assert later["experiments"].pop("left open")["status"] == "lost"
    assert (later["running"], later["failed"]) == (0, 3)
    del said["experiments"]["left open"]
    assert later["experiments"] == said["experiments"]
    clone = tmp_path / "clone"
    work.git("clone", "-q", str(work.root), str(clone))
    work.git("fetch", "-q", str(work.root), "refs/gitexp/*:refs/gitexp-remotes/origin/gitexp/*", cwd=clone)
    elsewhere = summary(work, cwd=clone)
    assert elsewhere["experiments"].pop("left open")["status"] == "lost"
    assert elsewhere["experiments"] == said["experiments"]


def test_they_are_experiments_like_any_other(told: tuple[Work, dict]) -> None:
    work = told[0]
    baseline, other, third, *_ = listed(work)
    assert (baseline["name"], baseline["study"], baseline["seed"]) == ("baseline", "digits", 5)
    assert record_of(work, other)["tracked"] == {"name": "Größer & besser!", "ordinal": 1}
    assert other["name"] == slug("Größer & besser!")
    assert '    raise ValueError("no luck")' in other["error"]["log_tail"]
    assert result_of(work, third)["error"] == {"type": "ExperimentFailure", "message": "text is enough", "paths": []}
    assert work.gitexp("show", "baseline").code == 0
    assert work.gitexp("diff", "baseline", "fourth", "--json", code=None).json["config"]["only_a"] == {
        "lr": 0.1,
        "seed": 5,
    }


WRONGLY = """\
tracker.start_experiment("a", {"lr": 0.1})
refused(tracker.start_experiment, "a", {"lr": 0.2})
refused(tracker.complete_experiment, "a", {"loss": "low"})
refused(tracker.complete_experiment, "b", {})
refused(tracker.fail_experiment, "aa", "why")
refused(tracker.start_experiment, "c", {"seed": 1}, seed=2)
refused(tracker.start_experiment, "", {})
refused(tracker.start_experiment, "d", {"x": object()})
assert tracker.get_experiment_summary()["total_experiments"] == 1
gitexp.ExperimentTracker(STUDY, repository=".").complete_experiment("a", {"loss": 1})
refused(tracker.complete_experiment, "a", {"loss": 1})
refused(tracker.fail_experiment, "a", "too late")
refused(tracker.experiments["a"].complete)
refused(tracker.start_experiment, "a", {})
"""


@pytest.mark.parametrize("study", ["digits", None])
def test_what_makes_no_sense_is_refused_by_type_and_leaves_nothing(work: Work, study: str | None) -> None:
    said = run_python(work, with_study(HEAD + WRONGLY, study))
    lines = [line.partition(" ") for line in said.out.splitlines()]
    assert [line[0] for line in lines] == [
        "ExperimentExistsError",
        "MetricValueError",
        "UnknownExperimentError",
        "UnknownExperimentError",
        "ConflictingConfigError",
        "InvalidNameError",
        "CanonicalFormError",
        "AlreadyFinishedError",
        "AlreadyFinishedError",
        "AlreadyFinishedError",
        "ExperimentExistsError",
    ]
    facts = [json.loads(line[2]) for line in lines]
    assert facts[0] == {"name": "a", "status": "running", "suggestion": "a-2"}
    assert facts[1] == {"key": "loss"}
    assert facts[2] == {"name": "b", "nearest": "None"}
    assert facts[3] == {"name": "aa", "nearest": "a"}
    assert facts[7] == {"name": "a", "status": "completed"}
    assert facts[10]["status"] == "completed"
    (document,) = listed(work)
    assert document["metrics"] == {"loss": 1}
    again = run_python(work, with_study(HEAD + "refused(tracker.start_experiment, 'a', {})\n", study))
    assert json.loads(again.out.partition(" ")[2])["status"] == "completed"


def test_a_name_that_another_process_runs_is_taken_and_only_that_process_ends_it(work: Work) -> None:
    opened = HEAD + "tracker.start_experiment('a', {})\ngitexp.log_metrics({'loss': 1})\n"
    opened += "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
    process = start_python(work, with_study(opened, "digits"))
    trying = HEAD + "refused(tracker.start_experiment, 'a', {})\nrefused(tracker.complete_experiment, 'a', {})\n"
    said = run_python(work, with_study(trying, "digits"), name="trying.py").out.splitlines()
    assert [line.split()[0] for line in said] == ["ExperimentExistsError", "UsageError"]
    assert summary(work)["running"] == 1
    end(process, signal.SIGKILL)
    assert summary(work)["experiments"]["a"]["status"] == "lost"
    assert summary(work)["experiments"]["a"]["metrics"]["loss"] == 1
    said = run_python(work, with_study(trying, "digits"), name="trying.py").out.splitlines()
    assert [line.split()[0] for line in said] == ["ExperimentExistsError", "AlreadyFinishedError"]


WAITING = (
    HEAD
    + """\
import time
tracker.start_experiment("done", {}).complete()
tracker.start_experiment("a", {})
gitexp.log_metrics({"loss": 1})
print("ready", flush=True)
try:
    time.sleep(60)
finally:
    gitexp.log_metrics({"cleaned": 1})
"""
)


def test_a_running_experiment_can_be_cancelled(work: Work) -> None:
    process = start_python(work, with_study(WAITING, "digits"))
    document = work.gitexp("cancel", "a", "--json").json
    process.communicate()
    assert (document["status"], document["metrics"]) == ("cancelled", {"loss": 1, "cleaned": 1})
    assert process.returncode == 143
    found = summary(work)["experiments"]
    assert [found[name]["status"] for name in ("done", "a")] == ["completed", "cancelled"]


def test_sigterm_cancels_what_runs(work: Work) -> None:
    assert end(start_python(work, with_study(WAITING, "digits")), signal.SIGTERM) == 143
    assert summary(work)["experiments"]["a"]["status"] == "cancelled"


def test_sigterm_ends_a_program_whose_experiments_have_ended_as_it_would_without_us(work: Work) -> None:
    text = HEAD + "import time\ntracker.start_experiment('a', {}).complete()\nprint('ready')\ntime.sleep(60)\n"
    assert end(start_python(work, with_study(text, "digits")), signal.SIGTERM) == -signal.SIGTERM
    assert summary(work)["experiments"]["a"]["status"] == "completed"


def test_of_several_processes_that_want_a_name_at_once_one_gets_it(work: Work) -> None:
    text = HEAD + "refused(lambda: tracker.start_experiment('a', {}).complete({'loss': 1}))\n"
    work.write("racing.py", with_study(text, "digits"))
    command = [sys.executable, "racing.py"]
    racing = [subprocess.Popen(command, cwd=work.root, env=work.env, stdout=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate()[0].decode() for process in racing]
    assert sorted(line.split(" ")[0] for line in said) == ["", "ExperimentExistsError", "ExperimentExistsError"]
    assert [document["name"] for document in listed(work)] == ["a"]


def test_a_tracker_without_a_study_lists_what_was_started_without_one(work: Work) -> None:
    text = HEAD + "tracker.start_experiment('Alone', {}).complete()\n"
    text += "gitexp.ExperimentTracker('digits').start_experiment('other', {}).complete()\n"
    run_python(work, with_study(text, None))
    work.gitexp("run", "--", "python", "train.py")
    assert list(summary(work, None)["experiments"]) == ["Alone"]
    assert list(summary(work, "digits")["experiments"]) == ["other"]
    (launched,) = summary(work, "train")["experiments"].values()
    assert launched["status"] == "completed"


def test_outside_of_a_repository_the_error_is_typed(work: Work, tmp_path: Path) -> None:
    text = with_study(
        HEAD + "refused(tracker.start_experiment, 'a', {})\nrefused(tracker.get_experiment_summary)", None
    )
    said = run_command(work, [sys.executable, "-c", text], cwd=tmp_path, GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert said.out.count("NotARepositoryError") == 2
    assert nothing_recorded(work)


def test_other_ranks_track_in_silence(work: Work) -> None:
    text = HEAD + "tracker.start_experiment('a', {}).complete({'loss': 1})\n"
    text += "print(tracker.get_experiment_summary()['completed'])\nrefused(tracker.start_experiment, 'a', {})\n"
    said = run_python(work, with_study(text, "digits"), RANK="1", WORLD_SIZE="2").out.splitlines()
    assert said[0] == "1"
    assert said[1].startswith("ExperimentExistsError")
    assert nothing_recorded(work)


def test_metrics_made_by_hand_are_a_plain_value() -> None:
    made = ExperimentMetrics("a", 100.0, None, None, "running", "sha256:0", {"loss": 1.0})
    assert dataclasses.asdict(made)["metrics"] == {"loss": 1.0}
    assert made == ExperimentMetrics("a", 100.0, None, None, "running", "sha256:0", {"loss": 1.0})
    with pytest.raises(MetricValueError):
        made.complete({"loss": "low"})  # type: ignore[dict-item]
    assert made.status == "running"
    made.complete({"accuracy": 0.5})
    assert (made.status, made.metrics) == ("completed", {"loss": 1.0, "accuracy": 0.5})
    assert made.end_time is not None
    assert made.duration == made.end_time - 100.0
    with pytest.raises(AlreadyFinishedError):
        made.fail("late")
    failed = ExperimentMetrics("b", 100.0, metrics={"loss": 1.0})
    failed.fail(ValueError("no luck"))
    assert (failed.status, failed.metrics) == ("failed", {"loss": 1.0, "error": "no luck"})
    with pytest.raises(InvalidNameError):
        ExperimentTracker(" ")


@pytest.mark.parametrize("name", [1, None, b"x"])
def test_a_name_that_is_no_text_is_refused_by_type(name: object, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work.root)
    with pytest.raises(InvalidNameError, match="name is text"):
        ExperimentTracker().start_experiment(name, {})  # type: ignore[arg-type]
