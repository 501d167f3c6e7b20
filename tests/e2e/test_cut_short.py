"""A submitter that was killed before it could say which jobs a run is: the command line finds them, or gives up."""

from __future__ import annotations

import json
import os
from pathlib import Path

from builder import make_work


def test_a_run_is_not_given_up_before_its_scheduler_said_that_it_has_none_of_it(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in (("squeue", f"cat {tmp_path}/table"), ("sacct", "exit 1")):
        (commands / name).write_text(f"#!/bin/sh\n{body}\n")
        (commands / name).chmod(0o755)
    work = make_work(tmp_path / "work", tmp_path / "home", PATH=f"{commands}:{os.environ['PATH']}")
    sha = work.gitexp("--json", "run", "--record-only", "--", "python", "train.py").json["experiment"]
    run = work.root / ".git/gitexp/runs" / f"{sha}.{'0' * 8}"
    run.mkdir(parents=True)
    tunnel = {"host": "", "user": "", "port": None, "identity": None}
    meant = {"schema": 1, "executor": "c", "kind": "slurm", "tunnel": tunnel, "jobs": {"": ["gitexp-00000000-train"]}}
    (run / "launching.json").write_text("{}")
    (run / "submitting.json").write_text(json.dumps(meant))

    unanswered = work.gitexp("status", "--json")
    assert [item["status"] for item in unanswered.json["experiments"]] == ["launched"]
    assert "squeue does not answer" in unanswered.err
    work.gitexp("collect")  # which tidies up
    assert run.exists()

    (tmp_path / "table").write_text("12|gitexp-00000000-train\n")
    assert work.gitexp("show", sha, "--json").json["status"] == "launched"
    assert json.loads((run / "submitted.json").read_text())["jobs"] == {"": ["12"]}
    assert not (run / "submitting.json").exists()
