"""A repository with tasks for NeMo Run, and how its scripts are run and answer."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from builder import Work, make_work

if TYPE_CHECKING:
    from pathlib import Path

TASKS = """
import json, os, pathlib

def train(lr: float = 0.1, steps: int = 3, where: pathlib.Path = pathlib.Path(".")):
    print("training at", lr, flush=True)
    with open(os.environ["GITEXP_METRICS"], "a") as stream:
        for step in range(steps):
            stream.write(json.dumps({"step": step, "loss": lr / (step + 1)}) + "\\n")
    pathlib.Path(os.environ["GITEXP_OUTPUTS"], "weights.txt").write_text(str(lr))

def fail(why: str = "bad"):
    raise ValueError(why)
"""
PRELUDE = """
import json, os, sys, traceback
import nemo_run as run
import nemo_gitexp
from nemo_run.run.experiment import _current_experiment
EXECUTOR = run.LocalExecutor(env_vars={"FOO": "bar"})

def states(experiment):
    return {name: row["status"].name for name, row in experiment.status(return_dict=True).items()}

def say(what, experiment=None, **more):
    if experiment is not None:
        more = {"id": experiment._id, "document": experiment.document, "states": states(experiment), **more}
    with open(os.environ["SAID"], "a") as file:
        file.write(json.dumps({"what": what, **more}) + "\\n")

def refusal(what, action):
    try:
        action()
    except Exception as fault:
        told = {"type": type(fault).__name__, "message": str(fault), "hint": getattr(fault, "hint", None),
                "facts": {key: str(value) for key, value in getattr(fault, "facts", {}).items()},
                "is_ours": isinstance(fault, nemo_gitexp.GitexpError)}
        say(what, error=told, is_clean=_current_experiment.get(None) is None)
    else:
        say(what, error=None)
"""
"""What the scripts of these tests begin with: `say` appends a line for the test to the file SAID."""


@dataclass(frozen=True)
class Ran:
    """What a program said, and what it printed."""

    said: dict[str, dict]
    out: str
    err: str
    code: int


def make_nemo_work(place: Path, **files: str) -> Work:
    """Make a repository with `tasks.py`, and other files by name with `__` for a slash and without `.py`."""
    known = {".gitignore": "__pycache__/\nignored*\n", "tasks.py": TASKS}
    scripts = {f"{name.replace('__', '/')}.py": text for name, text in files.items()}
    return make_work(place / "work", place / "home", files={**known, **scripts})


def run_program(
    work: Work, *argv: str, cwd: Path | None = None, stdin: str | None = None, code: int | None = 0, **env: str
) -> Ran:
    """Run a program of the repository under this interpreter; `code` is the exit code that is expected."""
    report = work.root.parent / "said.jsonl"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=cwd or work.root,
        env={**work.env, "SAID": str(report), "PYTHONPATH": str(work.root), **env},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = report.read_text().splitlines() if report.exists() else []
    ran = Ran({line["what"]: line for line in map(json.loads, lines)}, done.stdout, done.stderr, done.returncode)
    if code is not None and done.returncode != code:
        pytest.fail(f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return ran
