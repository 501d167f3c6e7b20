"""What a worker does differently where a scheduler has its run, which may be interrupted and start again any time.

It begins and ends segments, cleans up after an earlier start that was killed, and remembers how things were before the
first one.
"""

from __future__ import annotations

import contextlib
import os
import signal

from .documents import read_document, write_document
from .machine import host_digest, process_lives
from .segments import Segment, is_restart
from .watch import WARNING_SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

    from .ranks import Ranks
    from .shapes import JobEnd, JsonValue, Plan

REPORTS = ("error.json", "function.json", "job.json")
"""What a job says about itself: an earlier start's must not be taken for this one's."""

BEFORE_FILE = "before.json"


class Restart:
    """This start of a scheduled run, the first or a later one.

    Args:
        plan: the launcher's plan.
        ranks: this process among those of the run.
        env: the worker's environment.
    """

    def __init__(self, plan: Plan, ranks: Ranks, env: Mapping[str, str]) -> None:
        self._plan = plan
        self._ranks = ranks
        self._env = env
        self._segment: Segment | None = None
        self.is_restart = is_restart(plan["run_dir"], env, is_first_rank=ranks.is_first)

    @property
    def grace_s(self) -> float:
        """How long an interrupted job may take to end; the scheduler itself kills it by its own clock."""
        return (self._plan.get("scheduled") or {}).get("grace_s", self._plan["grace_s"])

    @property
    def offset(self) -> int:
        """At which byte of the metric stream this segment begins."""
        return self._segment.offset if self._segment else 0

    def begin(self, started: float) -> None:
        """End what an earlier start left running here, drop what it said about itself, begin a segment.

        Raises:
            OSError: the run directory cannot be written.
        """
        if self.is_restart:
            self._end_orphan()
            for name in REPORTS:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._ranks.file(name))
        if self._ranks.is_first:
            self._segment = Segment(self._plan["run_dir"], self._env, started)
            self._segment.begin()

    def before(self) -> dict[str, JsonValue] | None:
        """Return how things were before the first start of this run; None at that."""
        return read_document(self._ranks.file(BEFORE_FILE))

    def keep_before(self, document: Mapping[str, object]) -> None:
        """Remember how things were."""
        write_document(self._ranks.file(BEFORE_FILE), document)

    def tell_interrupted(self, number: int) -> None:
        """Say at once that a signal has come: who sent it may not wait for the job to end."""
        if self._segment:
            self._segment.leave_interrupted(number, None)

    def judge(self, end: JobEnd) -> JobEnd:
        """Return the end of a job; one that was only warned and that names an error of its own has failed by itself."""
        reported = read_document(self._ranks.file("error.json"))
        is_warning = any(end["interrupted"] == getattr(signal, name) for name in WARNING_SIGNALS)
        if is_warning and reported and reported.get("type") != "SystemExit":
            end["interrupted"] = None
        return end

    def leave_interrupted(self, end: JobEnd) -> None:
        """Write what there is to say about a run that may go on another time."""
        if self._segment and end["interrupted"]:
            self._segment.end(self._segment.leave_interrupted(end["interrupted"], end), end)

    def leave_ended(self, end: JobEnd) -> None:
        """End the segment in which the run has come to its result."""
        result = read_document(os.path.join(self._plan["run_dir"], "result.json")) or {}
        status = str(result.get("status"))
        if self._segment:
            self._segment.end("completed" if status == "stopped" else status, end)

    def is_superseded(self) -> bool:
        """Return whether the run was started again elsewhere, while this start lived on."""
        return self._segment is not None and not self._segment.is_latest()

    def whole(self, started: float, duration_s: float) -> tuple[float, float]:
        """Return when the whole run began, seconds since the epoch, and how long all of its segments took."""
        segment = self._segment
        return (segment.first_begun_s, segment.earlier_s + duration_s) if segment else (started, duration_s)

    def _end_orphan(self) -> None:
        """Kill the job of an earlier start whose worker was killed on this node: two must not write to one place."""
        child = read_document(self._ranks.file("child.json")) or {}
        pid = child.get("pid")
        if isinstance(pid, int) and child.get("host") == host_digest() and process_lives(child):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
