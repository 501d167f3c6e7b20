"""A scheduler that does not answer: every verb that looks at its runs says so, once, and answers all the same."""

from __future__ import annotations

import json
import os

import pytest
from builder import Work, make_work


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Return a repository with one run that a cluster has whose squeue fails."""
    room = tmp_path_factory.mktemp("unanswered")
    squeue = room / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\necho asked >> {room}/asked\necho no controller >&2\nexit 1\n")
    squeue.chmod(0o755)
    work = make_work(room / "work", room / "home", PATH=f"{squeue.parent}:{os.environ['PATH']}")
    sha = work.gitexp("--json", "run", "--record-only", "--", "python", "train.py").json["experiment"]
    run = work.root / ".git/gitexp/runs" / f"{sha}.{'0' * 8}"
    run.mkdir(parents=True)
    tunnel = {"host": "", "user": "", "port": None, "identity": None}
    submitted = {"schema": 1, "executor": "far", "kind": "slurm", "tunnel": tunnel, "jobs": {"": ["4"]}}
    (run / "launching.json").write_text("{}")
    (run / "submitted.json").write_text(json.dumps(submitted))
    return work


@pytest.mark.parametrize("verb", ["log", "show latest", "diff latest latest", "status", "status latest", "collect"])
def test_a_verb_says_once_that_a_scheduler_does_not_answer(work: Work, verb: str) -> None:
    said = work.gitexp(*verb.split(), code=None).err
    assert said.count("warning: far: squeue does not answer: no controller") == 1


def test_no_scheduler_is_asked_more_often_for_saying_so(work: Work) -> None:
    asked = work.root.parent / "asked"
    asked.write_text("")
    work.gitexp("log")
    work.gitexp("status")
    assert len(asked.read_text().splitlines()) == 2
