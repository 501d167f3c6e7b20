"""Programs that track themselves, started as people start them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from builder import Answered, Work

TRACKED = """\
import random, sys
import nemo_gitexp as gitexp

with gitexp.track("digits", config={"lr": 0.1}, seed=1) as exp:
    for step in range(3):
        exp.log({"loss": random.random()}, step=step)
    exp.output("weights.txt").write_text(str(random.random()))
print(exp.status, exp.sha)
"""


def run_python(
    work: Work,
    text: str,
    *args: str,
    cwd: Path | None = None,
    code: int | None = 0,
    name: str = "tracked.py",
    **env: str,
) -> Answered:
    """Write a script into the work tree and run it with our own interpreter; `code` is the exit code expected."""
    script = work.root / name
    if not script.exists() or script.read_text() != text:
        script.write_text(text)
    return run_command(work, [sys.executable, str(script) if cwd else name, *args], cwd=cwd, code=code, **env)


def run_command(
    work: Work, command: Sequence[str], *, cwd: Path | None = None, code: int | None = 0, stdin: str = "", **env: str
) -> Answered:
    """Run a program in the work tree."""
    done = subprocess.run(
        command, cwd=cwd or work.root, env={**work.env, **env}, input=stdin.encode(), capture_output=True, check=False,
        timeout=120,
    )  # fmt: skip
    answered = Answered(done.returncode, done.stdout.decode(), done.stderr.decode())
    if code is not None and answered.code != code:
        raise AssertionError(f"{command}: exit {answered.code}\n{answered.out}\n{answered.err}")
    return answered


def start_python(work: Work, text: str, *, name: str = "tracked.py") -> subprocess.Popen[bytes]:
    """Start a script of the work tree and return when it has said `ready`."""
    (work.root / name).write_text(text)
    process = subprocess.Popen([sys.executable, "-u", name], cwd=work.root, env=work.env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def end(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> int:
    """Send a signal, wait, and return the exit code."""
    process.send_signal(number)
    process.communicate()
    return process.returncode


def listed(work: Work, cwd: Path | None = None) -> list[dict]:
    """Return all experiments as documents, oldest first."""
    return work.gitexp("log", "--json", "--all", cwd=cwd).json["experiments"][::-1]


def result_of(work: Work, document: dict, name: str = "result.json") -> dict:
    """Return one of the files of a result commit."""
    import json

    return json.loads(work.git("show", f"{document['result']}:experiments/{document['study']}/record/{name}"))


def record_of(work: Work, document: dict) -> dict:
    """Return experiment.json."""
    import json

    place = f"experiments/{document['study']}/record/experiment.json"
    return json.loads(work.git("show", f"{document['experiment']}:{place}"))


def stream_of(work: Work, document: dict) -> list[dict]:
    """Return the recorded metric stream."""
    import json

    place = f"experiments/{document['study']}/record/metrics.jsonl"
    return [json.loads(line) for line in work.git("show", f"{document['result']}:{place}").splitlines()]


def nothing_recorded(work: Work) -> bool:
    """Return whether no ref, no branch and no run directory of an experiment is there."""
    runs = work.root / ".git/gitexp/runs"
    return (
        not work.refs("refs/gitexp")
        and not work.refs("refs/heads/exp/")
        and not (runs.exists() and any(runs.iterdir()))
    )
