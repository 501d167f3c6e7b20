"""Starts the job in a process group of its own, watches it, stops it when asked, and leaves nothing of it running."""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import subprocess
import threading
import time

from .documents import write_document
from .machine import process_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Callable, Mapping, Sequence

    from .shapes import ErrorReport, JobEnd
    from .steps import StepCounter

POLL_S = 0.2
LEFTOVER_GRACE_S = 1.0
INTERRUPT_GRACE_S = 3.0
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")
WARNING_SIGNALS = ("SIGUSR1", "SIGUSR2")
"""What `sbatch --signal` sends some time before the end; the job knows what to make of it."""

SETTLE_S = 0.3
"""A scheduler signals every process that it sees, the job perhaps a moment before the worker."""

DIRECT_S = 1.0
"""Where a scheduler may have signalled the job too, it may take so long to end before it is told once more."""


class CancelledError(Exception):
    """Somebody asked to cancel; the message says who."""


class Canceller:
    """Knows whether somebody asked to cancel: by a signal to this process, or by the file cancel.json.

    In a scheduled run only the file cancels. A signal may mean preemption, a time limit, a requeue or scancel: then the
    job is interrupted, and what becomes of the run is said elsewhere.

    Args:
        path: where cancel.json would appear.
        is_scheduled: whether a scheduler has this run.
    """

    def __init__(self, path: str, *, is_scheduled: bool = False) -> None:
        self._path = path
        self._is_scheduled = is_scheduled
        self._signal: int | None = None
        self._warnings: list[int] = []

    def listen(self) -> None:
        """Take SIGTERM, SIGINT and SIGHUP as a request, except where the caller ignores them (nohup)."""
        for name in STOP_SIGNALS + (WARNING_SIGNALS if self._is_scheduled else ()):
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def reason(self) -> str | None:
        """Return who asked to cancel, None when nobody did."""
        if os.path.exists(self._path) and (self._signal is None or self._is_scheduled):
            return "request"
        if self._signal is None or self._is_scheduled:
            return None
        return signal.Signals(self._signal).name

    def interruption(self) -> int | None:
        """Return the signal by which a scheduler interrupts, None when it does not or somebody cancels."""
        return self._signal if self._is_scheduled and self.reason() is None else None

    def is_asked(self) -> bool:
        """Return whether the job is to end, for whatever reason."""
        return self.reason() is not None or self.interruption() is not None

    def take_warnings(self) -> list[int]:
        """Return the signals that the job is to hear of and that end nothing, each once."""
        taken, self._warnings = self._warnings, []
        return taken

    def check(self) -> None:
        """Raise when somebody asked to cancel.

        Raises:
            CancelledError: somebody did.
        """
        reason = self.reason()
        if reason:
            raise CancelledError(reason)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if signal.Signals(number).name in WARNING_SIGNALS:
            self._warnings.append(number)
        else:
            self._signal = self._signal or number


class Job:
    """A started job: its process, and the group that it and its children form."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._waiter = threading.Thread(target=process.wait, daemon=True)
        self._waiter.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; return whether it has ended."""
        self._waiter.join(timeout_s)
        return not self._waiter.is_alive()

    def returncode(self) -> int:
        """Return how it ended, negative for a signal; only after its end."""
        return self._process.returncode

    def interrupt(self) -> None:
        """Ask the job itself to end as Ctrl-C does, so that it can still report on itself; wait for that a little."""
        self._process.send_signal(signal.SIGINT)
        self.wait(INTERRUPT_GRACE_S)

    def stop(self, grace_s: float) -> None:
        """Ask the group to end, and kill it when the grace is over; return when the job itself has ended."""
        self.signal_group(signal.SIGTERM)
        if not self.wait(grace_s):
            self.kill()

    def kill(self) -> None:
        """Kill the group and return when the job itself has ended."""
        self.signal_group(signal.SIGKILL)
        self._waiter.join()

    def end_leftovers(self) -> None:
        """End what the job left running in its group."""
        if not _has_living_members(self._process.pid):
            return
        self.signal_group(signal.SIGTERM)
        deadline = time.monotonic() + LEFTOVER_GRACE_S
        while time.monotonic() < deadline and _has_living_members(self._process.pid):
            time.sleep(0.02)
        self.signal_group(signal.SIGKILL)

    def signal_group(self, number: int) -> None:
        """Send the signal to every process of the group that is still there."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # PermissionError: macOS, for a group of zombies


def start_job(argv: Sequence[str], *, cwd: str, env: Mapping[str, str], log: str, child: str) -> Job:
    """Start the job, its output appended to the log, its pid written to `child`.

    Raises:
        OSError: the program cannot be started.
    """
    with open(log, "ab", buffering=0) as output:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with contextlib.suppress(OSError):  # a full disk: the job may still end well, and its pid is only a convenience
        write_document(child, process_document(process.pid))
    return Job(process)


def watch_job(job: Job, canceller: Canceller, steps: StepCounter | None, grace_s: float) -> JobEnd:
    """Wait until the job ends, is cancelled, or has made the steps that were asked for."""
    cancelled, stopped = None, False
    while not job.wait(POLL_S):
        cancelled = canceller.reason()
        stopped = cancelled is None and steps is not None and steps.is_done()
        if stopped:
            job.interrupt()
        if cancelled or stopped:
            job.stop(grace_s)
            break
    job.end_leftovers()
    stopped = stopped or (cancelled is None and steps is not None and steps.is_over())
    return job_end(job.returncode(), cancelled=cancelled, stopped=stopped)


def watch_scheduled_job(
    job: Job,
    canceller: Canceller,
    steps: StepCounter | None,
    graces_s: tuple[float, float],
    tell: Callable[[int], object],
) -> JobEnd:
    """Do the same for a job that a scheduler may interrupt.

    A warning is passed on, and the job goes on or ends as it likes. Any other signal is passed on once; a job that has
    ended after it is interrupted, whatever its exit code: it may have left off in good order.

    Args:
        job: the started job.
        canceller: knows who asked for what.
        steps: counts steps, where only some are wanted.
        graces_s: how long the job may take to end when cancelled, and when interrupted.
        tell: called with the signal before it is passed on.
    """
    warned: int | None = None
    while not (job.wait(POLL_S) or canceller.is_asked() or (steps is not None and steps.is_done())):
        for number in canceller.take_warnings():
            warned = number
            job.signal_group(number)
    if job.wait(0) and job.returncode():
        _settle(canceller)
    interrupted = canceller.interruption()
    if interrupted:
        tell(interrupted)
        _let_end(job, canceller, interrupted, graces_s[1])
    end = watch_job(job, canceller, steps, graces_s[0])
    if not end["cancelled"] and not end["stopped"]:
        end["interrupted"] = interrupted or (warned if end["exit_code"] != 0 else None)
    return end


def _settle(canceller: Canceller) -> None:
    """Wait a moment for the signal that a job which did not end well may have had before this process."""
    deadline = time.monotonic() + SETTLE_S
    while not canceller.is_asked() and time.monotonic() < deadline:
        time.sleep(POLL_S / 10)


def _let_end(job: Job, canceller: Canceller, number: int, grace_s: float) -> None:
    """Wait for a job that is to end by a signal; kill it when the grace is over, leave off when somebody cancels."""
    deadline = time.monotonic() + grace_s
    if not _is_signalled_alone() and job.wait(min(DIRECT_S, grace_s)):
        return
    job.signal_group(number)
    while not job.wait(POLL_S) and canceller.reason() is None:
        if time.monotonic() > deadline:
            job.kill()


def _is_signalled_alone() -> bool:
    """Return whether Slurm signals the worker and nothing below it: it does where it keeps a job in a cgroup.

    Elsewhere (proctrack/linuxproc) it signals all descendants, and a job that is told twice may be disturbed while it
    saves its state.
    """
    try:
        with open("/proc/self/cgroup", "rb") as file:
            return f"job_{os.environ.get('SLURM_JOB_ID', '')}/".encode() in file.read()
    except OSError:
        return False


def job_end(returncode: int, *, cancelled: str | None, stopped: bool) -> JobEnd:
    """Return the end of a started job."""
    return {
        "started": True,
        "exit_code": returncode if returncode >= 0 else None,
        "signal": -returncode if returncode < 0 else None,
        "cancelled": cancelled,
        "interrupted": None,
        "stopped": stopped,
        "error": None,
    }


def never_started(error: ErrorReport | None, cancelled: str | None = None, interrupted: int | None = None) -> JobEnd:
    """Return the end of a job that was refused, could not be started, or was cancelled or interrupted before."""
    return {
        "started": False,
        "exit_code": None,
        "signal": None,
        "cancelled": cancelled,
        "interrupted": interrupted,
        "stopped": False,
        "error": error,
    }


def _has_living_members(group: int) -> bool:
    """Return whether the process group has a process that is no zombie."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    if not os.path.exists("/proc/self/stat"):
        return True
    return any(_is_living_member(path, group) for path in glob.glob("/proc/[0-9]*/stat"))


def _is_living_member(stat_path: str, group: int) -> bool:
    try:
        with open(stat_path, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return int(fields[2]) == group and fields[0] not in (b"Z", b"X")
