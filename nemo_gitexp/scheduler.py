"""Slurm's commands: what has become of jobs, and cancelling them. Spells squeue, sacct and scancel, and nothing else.

One question for all jobs of a cluster. NeMo Run asks sacct once for each job, and knows nothing without accounting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nemo_gitexp.errors import SchedulerError
from nemo_gitexp.processes import Completed

Shell = Callable[[Sequence[str]], Completed]
"""Runs a command where the scheduler's commands are."""

MOST_IDS = 500
"""So many ids go into one command line."""

FINAL = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
"""States after which Slurm never starts the job again by itself."""

FORGOTTEN = "FORGOTTEN"
"""Our word for a job of which the scheduler knows nothing any more."""


@dataclass(frozen=True, slots=True)
class JobWord:
    """What the scheduler says about a job: its state in Slurm's words, the batch script's end, why it waits."""

    state: str
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended for good."""
        return self.state in FINAL or self.state == FORGOTTEN


def ask_slurm(shell: Shell, job_ids: Iterable[str]) -> dict[str, JobWord]:
    """Return what Slurm says about each job.

    squeue knows what lives and what ended in the last minutes (MinJobAge), at once and without accounting; only for
    older jobs is sacct asked, which many clusters have and some do not.

    Raises:
        SchedulerError: the commands are not there, or do not answer: then nothing is known.
    """
    wanted = list(dict.fromkeys(job_ids))
    found: dict[str, JobWord] = {}
    for begin in range(0, len(wanted), MOST_IDS):
        some = wanted[begin : begin + MOST_IDS]
        found |= _squeue(shell, some)
        rest = [job for job in some if job not in found]
        if rest:
            found |= _sacct(shell, rest)
    return found | {job: JobWord(FORGOTTEN) for job in wanted if job not in found}


def find_jobs(shell: Shell, names: Sequence[str]) -> dict[str, str]:
    """Return the ids of the jobs that the queue has of these names, by name; names are ours, so each is one job's.

    Raises:
        SchedulerError: squeue is not there, or does not answer.
    """
    found: dict[str, str] = {}
    for begin in range(0, len(names), MOST_IDS):
        some = names[begin : begin + MOST_IDS]
        done = shell(["squeue", "--noheader", "--states=all", f"--name={','.join(some)}", "-o", "%i|%j"])
        if done.returncode:
            raise _unanswered("squeue", done)
        for line in done.stdout.decode("utf-8", "replace").splitlines():
            job, _, name = line.strip().partition("|")
            if name in some:
                found[name] = job
    return found


def cancel_jobs(shell: Shell, job_ids: Sequence[str], *, waiting_only: bool = False) -> None:
    """Cancel jobs, on request only those that have not begun; what has ended is left alone.

    Raises:
        SchedulerError: scancel is not there, or refuses; of the others all were asked for.
    """
    faults: list[SchedulerError] = []
    for begin in range(0, len(job_ids), MOST_IDS):
        some = job_ids[begin : begin + MOST_IDS]
        done = shell(["scancel", *(["--state=PENDING"] if waiting_only else []), *some])
        if done.returncode and "Invalid job id" not in done.said:
            faults.append(_unanswered("scancel", done))
    if faults:
        raise faults[0]


def _squeue(shell: Shell, job_ids: Sequence[str]) -> dict[str, JobWord]:
    fields = "JobID:|,State:|,exit_code:|,Reason:|"
    done = shell(["squeue", "--noheader", "--states=all", f"--jobs={','.join(job_ids)}", "-O", fields])
    # Of one unknown id alone it says that it is invalid; of several it names those that it knows.
    if done.returncode and "Invalid job id" not in done.said:
        raise _unanswered("squeue", done)
    found: dict[str, JobWord] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        job, state, status, reason = (*(part.strip() for part in line.split("|")), "", "", "", "")[:4]
        if job in job_ids and state:
            found[job] = _word(state, int(status) if status.isdigit() else None, reason)
    return found


def _word(state: str, wait_status: int | None, reason: str) -> JobWord:
    said = None if reason in ("", "None") else reason
    if state not in FINAL or wait_status is None:
        return JobWord(state, reason=said)
    code = os.waitstatus_to_exitcode(wait_status)
    return JobWord(state, code if code >= 0 else None, -code if code < 0 else None, said)


def _sacct(shell: Shell, job_ids: Sequence[str]) -> dict[str, JobWord]:
    try:
        done = shell(["sacct", "-nPX", "-j", ",".join(job_ids), "-o", "JobID,State,ExitCode"])
    except SchedulerError:
        return {}
    if done.returncode:  # no accounting on this cluster
        return {}
    found: dict[str, JobWord] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        job, state, code = (*line.split("|"), "", "", "")[:3]
        if job in job_ids and state:
            exit_code, _, signal = code.partition(":")
            found[job] = JobWord(
                state.split()[0],  # "CANCELLED by 1000"
                int(exit_code) if exit_code.isdigit() else None,
                int(signal) or None if signal.isdigit() else None,
            )
    return found


def _unanswered(command: str, done: Completed) -> SchedulerError:
    said = done.said.splitlines()
    return SchedulerError(f"{command} does not answer: {said[-1] if said else f'exit code {done.returncode}'}")
