"""`diff`: which two experiments it takes when one or none is named, and the present state as the second."""

from __future__ import annotations

import pytest
from builder import SCRIPT, Work, make_work

STUDY = """\
purpose: to be compared
command: python train.py --lr {config.lr}
config: {lr: 0.1, deep: {er: 1}}
metrics: {loss: {goal: min}}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    place = tmp_path_factory.mktemp("compare")
    return make_work(place / "work", place / "home", files={"experiments/toy/experiment.yaml": STUDY})


@pytest.fixture(scope="module")
def three(work: Work) -> list[dict]:
    """Return a completed experiment, another one with less loss, and one that is only recorded."""
    first = work.gitexp("run", "toy", "--json").json
    second = work.gitexp("run", "toy", "lr=0.05", "deep.er=2", "+new=x", "--seed", "7", "--json").json
    third = work.gitexp("run", "toy", "lr=9", "--record-only", "--json").json
    return [first, second, third]


def test_without_a_second_it_takes_the_completed_one_before(work: Work, three: list[dict]) -> None:
    first, second, third = (item["experiment"] for item in three)
    assert work.gitexp("diff", "--json").json["b"] == second
    assert work.gitexp("diff", "--json").json["a"] == third
    compared = work.gitexp("diff", second, "--json").json
    assert (compared["a"], compared["b"]) == (second, first)
    assert compared["config"]["changed"] == {"lr": {"a": 0.05, "b": 0.1}, "deep.er": {"a": 2, "b": 1}}
    assert compared["config"]["only_a"] == {"new": "x"}
    assert compared["seed"] == {"a": 7, "b": 42}
    assert compared["metrics"]["loss"]["better"] == "a"
    error = work.gitexp("diff", first, "--json", code=3).json["error"]
    assert error["type"] == "UnknownExperimentError"


def test_the_baseline_of_the_branch_comes_first(work: Work, three: list[dict]) -> None:
    first, second, third = three
    work.git("checkout", "-q", "-b", "release")
    work.git("merge", "-q", "--squash", first["branch"])
    work.git("commit", "-q", "-m", "the first is our baseline")
    try:
        assert work.gitexp("diff", third["experiment"], "--json").json["b"] == first["experiment"]
        # The baseline itself is compared with the one before it, if there is any.
        assert work.gitexp("diff", first["experiment"], "--json", code=3).json["error"]["hint"]
        # A record that came with a merge is no code: the same study there has no changed files.
        assert work.gitexp("diff", second["experiment"], "--worktree", "--json").json["code"]["files"] == []
        ran = work.gitexp("run", "toy", "--json").json
        assert ran["duplicate_of"] == first["experiment"]
    finally:
        work.git("checkout", "-q", "main")


def test_the_present_state_as_the_second(work: Work, three: list[dict]) -> None:
    first = three[0]["experiment"]
    assert work.gitexp("diff", first, "--worktree", "--exit-code", "--json").json["b"] == "worktree"
    work.write("train.py", SCRIPT + "# edited\n")
    work.write("experiments/toy/experiment.yaml", STUDY.replace("lr: 0.1", "lr: 0.2"))
    try:
        compared = work.gitexp("diff", first, "--worktree", "--exit-code", "--json", code=1).json
    finally:
        work.git("checkout", "-q", ".")
    assert compared["config"]["changed"] == {"lr": {"a": 0.1, "b": 0.2}}
    assert [item["path"] for item in compared["code"]["files"]] == ["experiments/toy/experiment.yaml", "train.py"]
    assert compared["metrics"] == {}


@pytest.mark.parametrize(
    "command",
    [
        ["python", "-u", "train.py", "--lr", "0.1"],
        ["python", "-c", "print(1)", "--x=1"],
        ["python", "-m", "tools.echo", "{outputs}"],
        ["bash", "-c", "true"],
    ],
)
def test_a_typed_command_compares_with_itself_typed_again(work: Work, command: list[str]) -> None:
    (work.root / "tools").mkdir(exist_ok=True)
    args = ["--seed", "3", "--determinism", "bitwise", "-m", "why", "--record-only", "--json"]
    ran = work.gitexp("run", *args, "--", *command, cwd=work.root / "tools").json
    compared = work.gitexp("diff", ran["experiment"], "--worktree", "--json").json
    assert compared["config"]["changed"] == compared["config"]["only_a"] == compared["config"]["only_b"] == {}
    assert compared["topology"] == {}
    work.gitexp("diff", ran["experiment"], "--worktree", "--exit-code")


def test_a_script_run_from_its_own_directory_too(work: Work) -> None:
    work.write("tools/echo.py", "print(1)\n")
    ran = work.gitexp("run", "--record-only", "--json", "--", "python", "echo.py", cwd=work.root / "tools").json
    work.gitexp("diff", ran["experiment"], "--worktree", "--exit-code")


def test_reports_are_written_where_one_stands(work: Work, three: list[dict]) -> None:
    (work.root / "sub").mkdir()
    sides = [item["experiment"] for item in three[:2]]
    for layout, word in {"md": "|", "html": "<html", "json": '"schema"', "text": "lr"}.items():
        work.gitexp("diff", *sides, "--format", layout, "-o", f"r.{layout}", cwd=work.root / "sub")
        assert word in (work.root / "sub" / f"r.{layout}").read_text()
    error = work.gitexp("diff", *sides, "-o", "no/where", "--json", code=3).json["error"]
    assert error["type"] == "StateDirectoryError"


def test_an_environment_that_only_the_job_knew_is_compared_by_what_it_found(work: Work) -> None:
    work.write("wrapped.sh", "python train.py --lr 0.1\n")
    (straight, wrapped) = (
        work.gitexp("run", "--json", "--", *words).json["experiment"]
        for words in (["python", "train.py", "--lr", "0.1"], ["bash", "wrapped.sh"])
    )
    environment = work.gitexp("diff", straight, wrapped, "--json").json["environment"]
    assert environment["a"] == environment["b"]
    assert environment["a"].startswith("sha256:")
    assert (environment["interpreter"], environment["packages"]) == (None, {})
    recorded = work.gitexp("run", "--record-only", "--json", "--", "bash", "wrapped.sh", "2").json["experiment"]
    environment = work.gitexp("diff", straight, recorded, "--json").json["environment"]
    assert (environment["b"], environment["interpreter"], environment["packages"]) == (None, None, {})
