"""What one clone recorded is launched in another, also where git does not know who the user is (a CI machine)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from builder import Work, wait_until

if TYPE_CHECKING:
    from pathlib import Path

RUN = ("run", "--json", "--record-only", "--", "python", "train.py")


@pytest.fixture
def nameless(work: Work) -> tuple[Work, str]:
    """Return a repository whose git knows no user any more, and an experiment recorded there before."""
    sha = work.gitexp(*RUN).json["experiment"]
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        del work.env[name]
    work.git("config", "user.useConfigOnly", "true")
    return work, sha


def test_a_launch_without_an_identity_comes_to_its_result_and_says_what_it_could_not_write(
    nameless: tuple[Work, str],
) -> None:
    work, sha = nameless
    answered = work.gitexp("launch", sha, "--json")
    assert answered.json["status"] == "completed"
    assert "git does not know who you are" in answered.err


def test_a_detached_launch_without_an_identity_comes_to_its_result(nameless: tuple[Work, str]) -> None:
    work, sha = nameless
    work.gitexp("launch", sha, "--detach", "--json")
    wait_until(lambda: work.gitexp("show", sha, "--json").json["status"] not in ("launched", "running"))
    assert work.gitexp("show", sha, "--json").json["status"] == "completed"


def test_a_verdict_is_given_where_it_cannot_be_kept(nameless: tuple[Work, str]) -> None:
    work, sha = nameless
    work.gitexp("launch", sha)
    answered = work.gitexp("reproduce", sha, "--require", "bitwise", "--json")
    assert (answered.json["met"], answered.json["reproduction"]) == (True, None)
    assert "the verdict is not kept beside the experiment: git does not know who you are" in answered.err
    work.git("config", "user.name", "Ada")
    work.git("config", "user.email", "ada@example.org")
    assert work.gitexp("reproduce", sha, "--json").json["reproduction"].startswith("refs/gitexp-facts/")


@pytest.fixture
def clone(work: Work, tmp_path: Path) -> tuple[Work, str]:
    """Return a clone that has fetched an experiment which was recorded only, and that experiment."""
    sha = work.gitexp(*RUN).json["experiment"]
    work.git("clone", "-q", str(work.root), str(tmp_path / "clone"), cwd=tmp_path)
    other = Work(tmp_path / "clone", work.env)
    other.gitexp("init")
    other.git("fetch", "-q", "origin")
    return other, sha


def test_a_fetched_experiment_is_launched_and_has_its_result_here(clone: tuple[Work, str]) -> None:
    other, sha = clone
    assert other.gitexp("launch", sha, "--json").json["status"] == "completed"
    shown = other.gitexp("show", sha, "--json").json
    assert (shown["status"], other.refs()) == ("completed", {shown["ref"]: shown["result"]})


def test_a_fetched_experiment_whose_name_another_one_has_here_is_not_launched(clone: tuple[Work, str]) -> None:
    other, sha = clone
    ref = other.gitexp("show", sha, "--json").json["ref"].replace("refs/gitexp-remotes/origin/", "refs/")
    other.git("update-ref", ref, "HEAD")
    error = other.gitexp("launch", sha, "--json", code=3).json["error"]
    assert (error["type"], error["experiment"]) == ("LaunchError", sha)


LONG = """\
import json, os
with open(os.environ["GITEXP_METRICS"], "a") as stream:
    for step in range(9000):
        stream.write(json.dumps({"step": step, "loss": 1 / (step + 3)}) + "\\n")
open(os.environ["STARTED"], "a").write("x")
"""


def test_a_long_stream_that_lies_elsewhere_is_a_note_to_show_and_refuses_a_reproduction_before_it_runs(
    work: Work, tmp_path: Path
) -> None:
    work.env["STARTED"] = str(tmp_path / "started")
    work.write("long.py", LONG)
    ran = work.gitexp("run", "--json", "--", "python", "long.py").json
    record = json.loads(work.git("show", f"{ran['result']}:experiments/long/record/result.json"))
    pin = record["stream"]["pin"]
    (work.root / ".git/gitexp/store/files/md5" / pin[:2] / pin[2:]).unlink()
    shown = work.gitexp("show", ran["experiment"])
    assert "has no curves here: the metric stream of" in shown.out
    error = work.gitexp("reproduce", ran["experiment"], "--json", code=3).json["error"]
    assert (error["type"], error["missing"]) == ("MissingDataError", [pin])
    assert (tmp_path / "started").read_text() == "x"
    assert work.gitexp("reproduce", ran["experiment"], "--require", "restored", "--json").json["met"]
