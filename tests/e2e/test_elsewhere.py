"""What one clone recorded is launched in another, also where git does not know who the user is (a CI machine)."""

from __future__ import annotations

import pytest
from builder import Work, wait_until

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
