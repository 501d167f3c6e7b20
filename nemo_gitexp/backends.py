"""Jobs that only NeMo Run can be asked about: what has become of them, and cancelling them.

It is asked in a process of its own (`launchers.ask`), which costs its import: one question for many jobs, not often.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from nemo_gitexp import processes
from nemo_gitexp.errors import DocumentError, SchedulerError
from nemo_gitexp.jsontext import parse_json
from nemo_gitexp.scheduler import FORGOTTEN, JobWord
from nemo_gitexp.submission import Backend, Submission
from nemo_gitexp.worker.machine import host_digest

TIMEOUT_S: Final = 120.0
_WORDS: Final = {"SUCCEEDED": "COMPLETED", "GONE": FORGOTTEN}
"""What the states of NeMo Run are called in `scheduler.json`, where they are called something else."""


def is_asked_through_nemo(submission: Submission) -> bool:
    """Whether nothing but NeMo Run knows the jobs of a run."""
    return submission.kind != "slurm"


def ask_backend(submissions: Sequence[Submission]) -> tuple[dict[str, JobWord], list[str]]:
    """Return what NeMo Run says about the jobs of runs, and why it says nothing about others.

    Raises:
        SchedulerError: it cannot be asked.
    """
    answers = _ask(submissions, {"cancel": False, "waiting_only": False})
    words = {row["job"]: JobWord(_WORDS.get(row["state"], row["state"])) for row in answers if "state" in row}
    unknown = [f"NeMo Run does not know how {job} stands" for job, word in words.items() if word.state == "UNKNOWN"]
    return words, unknown + [row["fault"] for row in answers if "fault" in row]


def cancel_in_backend(submission: Submission, jobs: Sequence[str], *, waiting_only: bool) -> None:
    """Have NeMo Run cancel jobs of a run, on request only those that have not begun.

    Raises:
        SchedulerError: it cannot be asked, or does not reach what has them.
    """
    answers = _ask([submission], {"cancel": True, "waiting_only": waiting_only}, only=jobs)
    faults = [row["fault"] for row in answers if "fault" in row]
    if faults:
        raise SchedulerError(f"executor {submission.executor}: {faults[0]}")


def _ask(
    submissions: Sequence[Submission], request: Mapping[str, bool], only: Sequence[str] | None = None
) -> list[dict[str, str]]:
    """Ask one process for all jobs whose backend is reached in the same way."""
    ways: dict[tuple[tuple[str, str], ...], list[dict[str, str]]] = {}
    for submission in submissions:
        backend = _require_backend(submission)
        jobs = submission.job_ids if only is None else only
        rows = [{"home": backend.home, "scheduler": backend.scheduler, "job": job} for job in jobs]
        ways.setdefault(tuple(sorted(backend.variables.items())), []).extend(rows)
    return [row for variables, jobs in ways.items() for row in _ask_process(request, jobs, dict(variables))]


def _require_backend(submission: Submission) -> Backend:
    backend = submission.backend
    if backend is None:
        raise SchedulerError(f"executor {submission.executor}: submitted without a word about where NeMo Run finds it")
    if submission.kind == "docker" and backend.host != host_digest():
        raise SchedulerError(f"executor {submission.executor}: its containers are on another machine")
    return backend


def _ask_process(
    request: Mapping[str, bool], jobs: list[dict[str, str]], variables: Mapping[str, str]
) -> list[dict[str, str]]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    env = {**own, **variables, "NEMORUN_HOME": jobs[0]["home"]} if jobs else own
    argv = [sys.executable, "-P", "-m", "nemo_gitexp.launchers.ask"]
    try:
        done = processes.run(argv, env=env, stdin=json.dumps({**request, "jobs": jobs}).encode(), timeout_s=TIMEOUT_S)
        if done.returncode:
            raise SchedulerError(f"NeMo Run cannot be asked: {(done.said.splitlines() or ['it said nothing'])[-1]}")
        answer = parse_json(done.stdout, "the answer of NeMo Run's process")
    except (OSError, subprocess.TimeoutExpired, DocumentError) as fault:
        raise SchedulerError(f"NeMo Run cannot be asked: {fault}") from fault
    rows = answer if isinstance(answer, (list, tuple)) else ()
    return [{key: str(value) for key, value in row.items()} for row in rows if isinstance(row, Mapping)]
