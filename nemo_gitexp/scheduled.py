"""Runs that a scheduler has: its last word about each is fetched and put beside what their workers wrote.

The files stay the truth: a scheduler is asked about runs without a result only, and believed only when it says that a
job has ended for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from nemo_gitexp.backends import ask_backend, cancel_in_backend, is_asked_through_nemo
from nemo_gitexp.errors import RemoteHostError, SchedulerError
from nemo_gitexp.jsontext import JsonValue, render_json
from nemo_gitexp.moments import iso_now
from nemo_gitexp.relocation import find_relocation
from nemo_gitexp.rundir import RunPaths, write_beside, write_once
from nemo_gitexp.runs import conclude, give_up, read_state_file
from nemo_gitexp.scheduler import FORGOTTEN, JobWord, ask_slurm, cancel_jobs, find_jobs
from nemo_gitexp.shells import shell_of
from nemo_gitexp.submission import Submission, Tunnel, parse_submission, render_submission
from nemo_gitexp.transfer import bring_home, tell_run

NEMO_ASK_S = 10.0
"""NeMo Run is asked about a run no more often than that: each question is a process that imports it."""

_Member = tuple[RunPaths, Submission]


def find_submission(paths: RunPaths) -> Submission | None:
    """Return which jobs a run is; None for one that no scheduler has."""
    return parse_submission(read_state_file(paths.submitted))


def settle_submissions(runs: Iterable[RunPaths], warn: Callable[[str], None], *, adopt: bool = True) -> set[str]:
    """Find the jobs of runs whose submitter was killed before it could say which they are.

    When all of them are there, they are the run from now on; else it will never be whole, and those there are
    cancelled.

    Args:
        runs: run directories whose submitter is gone.
        warn: told which scheduler does not answer.
        adopt: False: none of the runs is to go on.

    Returns:
        The names of the runs of which nothing is known, their scheduler not answering: they are not to be given up.
    """
    unknown: set[str] = set()
    for paths in runs:
        meant = None if paths.submitted.exists() else parse_submission(read_state_file(paths.submitting))
        if meant is None:
            continue
        try:
            is_known = _settle(paths, meant, warn, adopt=adopt)
        except SchedulerError as fault:
            warn(f"{meant.executor}: {fault.message}; whether it has jobs named {meant.job_ids[0]} is not known")
            is_known = False
        if not is_known:
            unknown.add(paths.run)
    return unknown


def _settle(paths: RunPaths, meant: Submission, warn: Callable[[str], None], *, adopt: bool) -> bool:
    shell = shell_of(meant.tunnel)
    found = find_jobs(shell, meant.job_ids)
    if adopt and len(found) == len(meant.job_ids) and not paths.abandoned.exists():
        jobs = {part: tuple(found[name] for name in names) for part, names in meant.jobs.items()}
        write_beside(paths.submitted, render_submission(replace(meant, jobs=jobs)), private=True)
    elif found:
        give_up(paths)
        _tell(paths)
        cancel_jobs(shell, list(found.values()))
    elif adopt and not bring_home([paths], warn, ended=[paths.run]):  # it may have ended, and be forgotten
        return False
    paths.submitting.unlink(missing_ok=True)
    return True


def look_at_runs(runs: Iterable[RunPaths], warn: Callable[[str], None]) -> None:
    """Ask the schedulers about the runs among these that they have: one question for all of a cluster.

    What is not on Slurm NeMo Run is asked about, once for all, and not at each look.

    What works on machines that share no file system with this one is fetched first.

    Side effects: `scheduler.json` beside workers that have ended without a result; the result of a run of stages of
    which the last one was stopped.

    Args:
        runs: run directories, of any kind.
        warn: told which scheduler does not answer.
    """
    runs = list(runs)
    bring_home([paths for paths in runs if not paths.result.exists()], warn)
    for paths in runs:
        if paths.cancel.exists() and not paths.result.exists():
            _tell(paths)  # whoever cancelled it may not have reached where it works
    by_cluster: dict[tuple[str, Tunnel], list[_Member]] = {}
    for paths in runs:
        submission = None if paths.result.exists() else find_submission(paths)
        if submission is not None and (not is_asked_through_nemo(submission) or _is_due(paths)):
            by_cluster.setdefault((submission.kind, submission.tunnel), []).append((paths, submission))
    for members in by_cluster.values():
        try:
            words = _ask(members, warn)
        except SchedulerError as fault:
            warn(f"{members[0][1].executor}: {fault.message}; its runs are shown as they were last known")
            continue
        for paths, submission in members:
            _take_words(paths, submission, words, warn)


def _is_due(paths: RunPaths) -> bool:
    """Whether it is time to ask NeMo Run about a run; whoever is told so asks, in whatever process."""
    if all(part.scheduler_word.exists() for part in paths.parts()):
        return False
    with suppress(OSError):
        if time.time() - paths.asked.stat().st_mtime < NEMO_ASK_S:
            return False
    with suppress(OSError):  # in somebody else's repository
        paths.asked.touch()
    return True


def _ask(members: Sequence[_Member], warn: Callable[[str], None]) -> Mapping[str, JobWord]:
    submissions = [submission for _, submission in members]
    if not is_asked_through_nemo(submissions[0]):
        tunnel = submissions[0].tunnel
        return ask_slurm(shell_of(tunnel), [job for submission in submissions for job in submission.job_ids])
    words, faults = ask_backend(submissions)
    for fault in dict.fromkeys(faults):
        warn(f"{submissions[0].executor}: {fault}; its runs are shown as they were last known")
    return words


def cancel_submitted(paths: RunPaths, *, waiting_only: bool) -> None:
    """Cancel the jobs of a run with its scheduler, on request only those that have not begun.

    Raises:
        SchedulerError: the scheduler does not answer.
    """
    submission = find_submission(paths)
    _tell(paths)
    if submission is not None:
        _cancel(submission, submission.job_ids, waiting_only=waiting_only)


def cancel_waiting(runs: Iterable[RunPaths], warn: Callable[[str], None]) -> None:
    """Take back the jobs of many runs that have not begun, with one command for all of a cluster.

    Side effects: runs that work elsewhere are told what was said about them here.

    Args:
        runs: run directories, of any kind.
        warn: told which scheduler does not answer.
    """
    by_cluster: dict[Tunnel, list[str]] = {}
    for paths in runs:
        _tell(paths)
        submission = find_submission(paths)
        if submission is not None and not is_asked_through_nemo(submission):  # elsewhere nothing waits in a queue
            by_cluster.setdefault(submission.tunnel, []).extend(submission.job_ids)
    for tunnel, jobs in by_cluster.items():
        try:
            cancel_jobs(shell_of(tunnel), jobs, waiting_only=True)
        except SchedulerError as fault:
            warn(f"{fault.message}; jobs that wait are still in its queue")


def cancel_stage(paths: RunPaths, name: str) -> None:
    """Cancel the job of one stage with the scheduler that has it; the others go on, but for what depends on it.

    Raises:
        SchedulerError: the scheduler does not answer.
    """
    submission = find_submission(paths)
    if submission is not None:
        _cancel(submission, submission.jobs.get(name, ()))


def _cancel(submission: Submission, jobs: Sequence[str], *, waiting_only: bool = False) -> None:
    if is_asked_through_nemo(submission):
        cancel_in_backend(submission, jobs, waiting_only=waiting_only)
    else:
        cancel_jobs(shell_of(submission.tunnel), jobs, waiting_only=waiting_only)


def _take_words(
    paths: RunPaths, submission: Submission, words: Mapping[str, JobWord], warn: Callable[[str], None]
) -> None:
    """Write the last word beside each worker that ended without a result, also where it works."""
    words = {job: words.get(job, JobWord("UNKNOWN")) for job in submission.job_ids}
    parts = {name: paths.stage(name) if name else paths for name in submission.jobs}
    final = {
        part: jobs
        for name, part in parts.items()
        if (jobs := submission.jobs[name]) and all(words[job].is_final for job in jobs) and not _is_known(part)
    }
    # It may have written its result since it was fetched, and has outputs that nobody wanted yet.
    if final and bring_home([paths], warn, ended=[paths.run]):
        for part, jobs in final.items():
            list(part.root.iterdir())  # a network file system shows what another host wrote once the directory is read
            if not part.result.exists():
                word = _own_word(paths, submission, words[jobs[-1]])
                write_once(part.scheduler_word, render_json(_document(jobs[-1], word)))
        _tell(paths)  # stages wait for each other there
    conclude(paths)


def _own_word(paths: RunPaths, submission: Submission, word: JobWord) -> JobWord:
    """Return what is written down: what we had cancelled is so, whatever exit code its end looks like."""
    is_ours = is_asked_through_nemo(submission) and paths.cancel.exists()
    return JobWord("CANCELLED") if is_ours and word.state in ("FAILED", FORGOTTEN) else word


def _is_known(part: RunPaths) -> bool:
    return part.result.exists() or part.scheduler_word.exists()


def _tell(paths: RunPaths) -> None:
    """Bring this side's words to where a run works, if that is elsewhere; it may be out of reach."""
    relocation = find_relocation(paths)
    if relocation is not None:
        with suppress(RemoteHostError):
            tell_run(relocation.host, paths, relocation)


def _document(job: str, word: JobWord) -> dict[str, JsonValue]:
    return {
        "job": job,
        "state": word.state,
        "exit_code": word.exit_code,
        "signal": word.signal,
        "reason": word.reason,
        "at": iso_now(),
    }
