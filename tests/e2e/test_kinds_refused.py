"""Executors that nothing can be submitted to are refused before anything is recorded."""

from __future__ import annotations

import pytest
from builder import Work, make_work

PROFILES = """\
[tool.nemo-gitexp.executors.ray]
type = "kuberay"
[tool.nemo-gitexp.executors.cloud]
type = "lepton"
image = "example.org/python@sha256:{digest}"
root = "/w"
[tool.nemo-gitexp.executors.sky]
type = "skypilot"
shared = true
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    room = tmp_path_factory.mktemp("kinds")
    return make_work(room / "work", room / "home", files={"pyproject.toml": PROFILES.format(digest="0" * 64)})


@pytest.mark.parametrize(
    "executor, said",
    [
        ("ray", "runs no experiments on them"),
        ("cloud", "shared = true in its table"),
        ("sky", "pip install 'nemo_run[skypilot]'"),
    ],
)
def test_what_takes_no_runs_is_refused_before_anything_is_recorded(work: Work, executor: str, said: str) -> None:
    answered = work.gitexp("run", "--executor", executor, "--", "python", "train.py", code=3)
    assert said in answered.err
    assert work.refs() == {}
