"""Every key and type of the JSON answers that other programs rely upon."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from builder import Work, make_work

SHA = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"sha256:[0-9a-f]{64}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
STUDY = """\
purpose: to have every field
expected: loss below 1
model: mlp
dataset: toy
type: training
command: python train.py --lr {config.lr}
config: {lr: 0.1, deep: {er: [1, 2]}}
outputs: [weights.txt]
metrics: {loss: {goal: min, tolerance: 0.1}}
"""
FAILING = "import sys\nprint('on the way')\nraise ValueError('no such luck')\n"

Kind = object
"""A type, a tuple of types, a pattern, a literal in a set, or a mapping of keys to kinds."""

NONE = type(None)
NUMBER = (int, float)
EXPERIMENT: dict[str, Kind] = {
    "schema": {1},
    "experiment": SHA,
    "ref": re.compile(r"refs/gitexp/[^/]+/[^/]+"),
    "branch": (str, NONE),
    "study": str,
    "name": re.compile(r"\d{8}_\d{6}_\w+_\w+_\w+_v[0-9a-f]{8}(-\d+)?"),
    "purpose": str,
    "expected": str,
    "sweep": {None},
    "identity": (HASH, NONE),
    "config_hash": HASH,
    "config": dict,
    "seed": int,
    "determinism": {"off", "seeded", "bitwise"},
    "topology": dict,
    "code": {
        "commit": SHA,
        "tree": SHA,
        "key": HASH,
        "base": SHA,
        "dirty": bool,
        "untracked": list,
    },
    "inputs": list,
    "environment_key": (HASH, NONE),
    "status": {"recorded", "completed", "failed"},
    "result": (SHA, NONE),
    "metrics": dict,
    "metric_stats": dict,
    "started": (TIME, NONE),
    "ended": (TIME, NONE),
    "duration_s": (int, float, NONE),
    "error": (dict, NONE),
    "outputs": list,
    "tasks": list,
    "executor": {"local"},
    "jobs": list,
    "reproductions": {"best": (str, NONE), "count": int},
    "archived": {False},
    "withdrawn": {False},
    "duplicate_of": (SHA, NONE),
}


def check(value: object, kind: Kind, where: str = "document") -> None:
    """Check a value against a kind; a mapping must have exactly the keys, a document its schema in front."""
    if isinstance(kind, dict):
        assert isinstance(value, dict), where
        assert set(value) == set(kind), where
        assert next(iter(value)) == "schema" or "schema" not in kind, where
        for key, inner in kind.items():
            check(value[key], inner, f"{where}.{key}")
    elif isinstance(kind, set):
        assert value in kind, f"{where}: {value!r}"
    elif isinstance(kind, re.Pattern):
        assert isinstance(value, str), f"{where}: {value!r}"
        assert kind.fullmatch(value), f"{where}: {value!r}"
    elif isinstance(kind, tuple):
        assert any(_fits(value, one) for one in kind), f"{where}: {value!r}"
    else:
        assert _fits(value, kind), f"{where}: {value!r}"


def _fits(value: object, kind: Kind) -> bool:
    if isinstance(kind, re.Pattern):
        return isinstance(value, str) and kind.fullmatch(value) is not None
    return isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Made:
    """A repository with a recorded, a failed and a completed experiment, the last one's duplicate, and a verdict."""

    work: Work
    recorded: dict
    failed: dict
    completed: dict
    verdict: dict


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("documents")
    files = {"experiments/toy/experiment.yaml": STUDY, "bad.py": FAILING}
    work = make_work(place / "work", place / "home", files=files)
    recorded = work.gitexp("run", "--json", "--record-only", "toy", "lr=0.7").json
    failed = work.gitexp("run", "--json", "--", "python", "bad.py", code=1).json
    work.write("more.py", "x = 1\n")
    completed = work.gitexp("run", "--json", "toy").json
    verdict = work.gitexp("reproduce", "latest", "--require", "bitwise", "--json").json
    return Made(work, recorded, failed, completed, verdict)


def test_experiments(made: Made) -> None:
    for document in (made.recorded, made.failed, made.completed):
        check(document, EXPERIMENT)
    assert made.completed["branch"] == f"exp/toy/{made.completed['name']}"
    assert made.completed["code"]["untracked"] == ["more.py"]
    assert made.completed["code"]["base"] == made.work.git("rev-parse", "HEAD")
    assert made.completed["config"] == {"lr": 0.1, "deep": {"er": [1, 2]}}


def test_show_answers_what_run_answered(made: Made) -> None:
    shown = made.work.gitexp("show", made.failed["experiment"], "--json").json
    assert shown == made.failed
    shown = made.work.gitexp("show", made.completed["result"], "--json").json
    assert shown == {**made.completed, "reproductions": {"best": "bitwise", "count": 1}}


def test_metrics_and_outputs(made: Made) -> None:
    stats = {"last": NUMBER, "min": NUMBER, "max": NUMBER, "n": {3}}
    check(made.completed["metrics"], {"loss": NUMBER})
    check(made.completed["metric_stats"], {"loss": stats})
    output = {
        "path": {"weights.txt"},
        "sha256": re.compile("[0-9a-f]{64}"),
        "digest": {None},
        "size_bytes": {3},
        "keep": {"dvc"},
    }
    for item in made.completed["outputs"]:
        check(item, output)
    (task,) = made.completed["tasks"]
    assert {"name", "status", "exit_code", "metrics", "outputs", "reused_from"} <= set(task)


def test_the_error_of_a_failed_run(made: Made) -> None:
    kind = {"type": {"ValueError"}, "message": {"no such luck"}, "exit_code": {1}, "signal": {None}, "log_tail": list}
    check(made.failed["error"], kind)
    assert "on the way" in made.failed["error"]["log_tail"]
    assert made.failed["status"] == "failed"
    assert made.recorded["error"] is None
    assert made.completed["error"] is None


def test_a_duplicate_is_the_earlier_experiment(made: Made) -> None:
    document = made.work.gitexp("run", "--json", "toy").json
    check(document, EXPERIMENT)
    assert document["experiment"] == document["duplicate_of"] == made.completed["experiment"]


def test_lists(made: Made) -> None:
    for verb in (["log"], ["log", "--all", "-n", "2"], ["status", made.completed["name"]], ["status"], ["collect"]):
        document = made.work.gitexp(*verb, "--json").json
        check(document, {"schema": {1}, "experiments": list})
        for item in document["experiments"]:
            check(item, EXPERIMENT)
    listed = made.work.gitexp("log", "--json").json["experiments"]
    assert [item["experiment"] for item in listed] == [
        made.completed["experiment"],
        made.failed["experiment"],
        made.recorded["experiment"],
    ]
    assert [item["name"] for item in made.work.gitexp("log", "--json", "-n", "1").json["experiments"]] == [
        made.completed["name"]
    ]


def test_verdicts(made: Made) -> None:
    kind: dict[str, Kind] = {
        "schema": {1},
        "experiment": {made.completed["experiment"]},
        "verdict": {"bitwise"},
        "scope": {"whole"},
        "required": {"bitwise"},
        "met": {True},
        "environment": {"same"},
        "weakest_input": {"none"},
        "drift": list,
        "metrics": list,
        "outputs": list,
        "first_divergence": {None},
        "reproduction": re.compile(r"refs/gitexp-facts/[0-9a-f]{40}/.+"),
    }
    check(made.verdict, kind)
    for item in made.verdict["metrics"]:
        check(item, {"name": {"loss"}, "recorded": NUMBER, "got": NUMBER, "tolerance": {0.1}, "ok": {True}})
    for item in made.verdict["outputs"]:
        check(item, {"path": {"weights.txt"}, "recorded": str, "got": str, "equal": {True}})
    assert len(made.verdict["metrics"]) == len(made.verdict["outputs"]) == 1


def test_differences(made: Made) -> None:
    document = made.work.gitexp("diff", made.failed["experiment"], made.completed["experiment"], "--json").json
    pair = {"a": object, "b": object}
    kind: dict[str, Kind] = {
        "schema": {1},
        "a": {made.failed["experiment"]},
        "b": {made.completed["experiment"]},
        "config": {"common": dict, "changed": dict, "only_a": dict, "only_b": dict},
        "seed": pair,
        "code": {"a": SHA, "b": SHA, "files": list, "insertions": int, "deletions": int},
        "inputs": list,
        "environment": dict,
        "topology": dict,
        "metrics": dict,
        "outputs": list,
    }
    check(document, kind)
    assert document["config"]["only_b"] == {"lr": 0.1, "deep.er": [1, 2]}
    assert document["seed"] == {"a": 42, "b": 42}
    assert [item["path"] for item in document["code"]["files"]] == ["more.py"]
    for item in document["code"]["files"]:
        check(item, {"path": str, "change": {"A"}, "insertions": {1}, "deletions": {0}})
    check(document["metrics"], {"loss": {"a": {None}, "b": NUMBER, "delta": {None}, "better": {None}}})
    assert [item["path"] for item in document["outputs"]] == ["weights.txt"]


def test_what_is_equal_differs_in_nothing(made: Made) -> None:
    sha = made.completed["experiment"]
    assert made.work.gitexp("diff", sha, sha, "--exit-code", "--json").code == 0
    assert made.work.gitexp("diff", sha, made.recorded["experiment"], "--exit-code", "--json", code=1).json["metrics"]


def test_errors(made: Made) -> None:
    answered = made.work.gitexp("show", "nothing", "--json", code=3)
    error = answered.json["error"]
    check(answered.json, {"schema": {1}, "error": dict})
    assert {"type", "message", "hint"} <= set(error)
    assert list(error)[:3] == ["type", "message", "hint"]
    assert error["name"] == "nothing"
    assert answered.err == ""
    ambiguous = made.work.gitexp("show", "HEAD", "--json", code=3).json["error"]
    assert ambiguous["type"] == "AmbiguousExperimentError"
    assert len(ambiguous["candidates"]) == 2


def test_answers_of_the_smaller_verbs(made: Made, tmp_path: object) -> None:
    work, sha = made.work, made.completed["experiment"]
    outputs = work.gitexp("outputs", sha, "--json").json
    check(outputs, {"schema": {1}, "experiment": {sha}, "outputs": list, "written": list})
    logs = work.gitexp("logs", made.failed["experiment"], "--json").json
    check(logs, {"schema": {1}, "experiment": {made.failed["experiment"]}, "log": re.compile("(?s).*on the way.*")})
    check(work.gitexp("init", "--json").json, {"schema": {1}, "done": list, "to_commit": list})
    check(work.gitexp("--version", "--json").json, {"schema": {1}, "version": str})
    there = work.gitexp("checkout", sha, str(tmp_path) + "/there", "--json").json
    check(there, {"schema": {1}, "experiment": {sha}, "directory": str})
    work.git("worktree", "remove", "--force", there["directory"])
    planned = work.gitexp("run", "--plan", "toy", "lr=3", "--json").json
    assert (planned["status"], list(planned)[:3]) == ("planned", ["schema", "experiment", "ref"])
