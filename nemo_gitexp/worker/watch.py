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
    from typing import Mapping, Sequence

    from .shapes import ErrorReport, JobEnd
    from .steps import StepCounter

POLL_S = 0.2
LEFTOVER_GRACE_S = 1.0
INTERRUPT_GRACE_S = 3.0
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")


class CancelledError(Exception):
    """Somebody asked to cancel; the message says who."""


class Canceller:
    """Knows whether somebody asked to cancel: by a signal to this process, or by the file cancel.json.

    Args:
        path: where cancel.json would appear.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._signal: str | None = None

    def listen(self) -> None:
        """Take SIGTERM, SIGINT and SIGHUP as a request, except where the caller ignores them (nohup)."""
        for name in STOP_SIGNALS:
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def reason(self) -> str | None:
        """Return who asked, None when nobody did."""
        if self._signal is None and os.path.exists(self._path):
            self._signal = "request"
        return self._signal

    def check(self) -> None:
        """Raise when somebody asked.

        Raises:
            CancelledError: somebody did.
        """
        reason = self.reason()
        if reason:
            raise CancelledError(reason)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signal = self._signal or signal.Signals(number).name


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


def job_end(returncode: int, *, cancelled: str | None, stopped: bool) -> JobEnd:
    """Return the end of a started job."""
    return {
        "started": True,
        "exit_code": returncode if returncode >= 0 else None,
        "signal": -returncode if returncode < 0 else None,
        "cancelled": cancelled,
        "stopped": stopped,
        "error": None,
    }


def never_started(error: ErrorReport | None, cancelled: str | None = None) -> JobEnd:
    """Return the end of a job that was refused, could not be started, or was cancelled before."""
    return {
        "started": False,
        "exit_code": None,
        "signal": None,
        "cancelled": cancelled,
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
