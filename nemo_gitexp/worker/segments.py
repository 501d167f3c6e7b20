"""The segments of a run that a scheduler has: each start of its worker, which may be interrupted and start again.

`segments.jsonl` has one line for each start and one for its end, each appended by one write, by global rank 0 alone. A
start without an end is a segment that nobody saw end. The run directory's metric stream is one file for all segments:
each start says at which byte its own part begins.
"""

from __future__ import annotations

import json
import os
import signal
import time

from .documents import write_document
from .finish import iso_time
from .machine import host_digest
from .steps import first_step, last_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

    from .shapes import JobEnd, JsonValue

FILE = "segments.jsonl"
SUBMITTED = "submitted.json"
METRICS = "metrics.jsonl"
TIME_LIMIT = "time limit"
LIMIT_SLACK_S = 2.0
"""A scheduler's clock and a node's may differ by so much."""


def is_scheduled(directory: str) -> bool:
    """Return whether a scheduler has the worker of this directory, the run's own or a stage's: files alone tell."""
    run = os.path.dirname(os.path.dirname(directory)) if _is_stage(directory) else directory
    places = (os.path.join(directory, FILE), os.path.join(run, SUBMITTED))
    return any(os.path.exists(place) for place in places)


def read_segments(directory: str) -> list[dict[str, JsonValue]]:
    """Return the segments in their order, each start joined with its end, if it has one.

    Keys of a start: segment (from 1), job, restart, host, started, begun_s, offset (bytes of the metric stream before
    it). Of an end: ended, duration_s, first_step, last_step, reason (None: interrupted, nobody knows why), exit_code,
    signal.
    """
    found: dict[int, dict[str, JsonValue]] = {}
    for line in _lines(os.path.join(directory, FILE)):
        number = line.get("segment")
        if isinstance(number, int) and ("started" in line or number in found):
            found.setdefault(number, {}).update(line)
    return [found[number] for number in sorted(found)]


def is_interrupted(directory: str) -> bool:
    """Return whether the last segment has ended without a result of the worker: the job is to be started again."""
    segments = read_segments(directory)
    return bool(segments) and "ended" in segments[-1] and segments[-1].get("reason") in (None, TIME_LIMIT)


class Segment:
    """This start of the worker among those of its run. Only global rank 0 has one.

    Args:
        directory: of the worker.
        env: its environment, as Slurm set it.
        begun_s: when it started, seconds since the epoch.
    """

    def __init__(self, directory: str, env: Mapping[str, str], begun_s: float) -> None:
        self._directory = directory
        self._env = env
        self._begun_s = begun_s
        self._clock = time.monotonic()
        self._earlier = read_segments(directory)
        self.number = 1 + max((_whole(item.get("segment")) for item in self._earlier), default=0)
        self.offset = 0

    @property
    def first_begun_s(self) -> float:
        """When the first segment started, seconds since the epoch."""
        times = [item.get("begun_s") for item in self._earlier]
        return min([self._begun_s, *(moment for moment in times if isinstance(moment, (int, float)))])

    @property
    def earlier_s(self) -> float:
        """How long the earlier segments took, as far as anybody saw them end, in seconds."""
        times = [item.get("duration_s") for item in self._earlier]
        return sum(seconds for seconds in times if isinstance(seconds, (int, float)))

    def begin(self) -> None:
        """Say that it starts; what was cut off at the end of the metric stream must not spoil this start's first line.

        Raises:
            OSError: it cannot be written.
        """
        metrics = os.path.join(self._directory, METRICS)
        _end_line(metrics)
        self.offset = os.path.getsize(metrics) if os.path.exists(metrics) else 0
        self._append(
            {
                "segment": self.number,
                "job": self._env.get("SLURM_JOB_ID"),
                "restart": restart_count(self._env),
                "host": host_digest(),
                "started": iso_time(self._begun_s),
                "begun_s": self._begun_s,
                "offset": self.offset,
            }
        )

    def end(self, reason: str | None, end: JobEnd) -> None:
        """Say how it ended: completed, failed, cancelled, skipped, time limit, or None for an interruption."""
        metrics = os.path.join(self._directory, METRICS)
        self._append(
            {
                "segment": self.number,
                "ended": iso_time(time.time()),
                "duration_s": round(time.monotonic() - self._clock, 6),
                "first_step": first_step(metrics, self.offset),
                "last_step": last_step(metrics, self.offset),
                "reason": reason,
                "exit_code": end["exit_code"],
                "signal": end["interrupted"] or end["signal"],
            }
        )

    def leave_interrupted(self, number: int, end: JobEnd | None) -> str | None:
        """Write `interrupted.<segment>.json`; return why, where that can be told here: at its time limit.

        Args:
            number: the signal that came from outside.
            end: how the job ended; None while it still runs: a scheduler does not wait for it to end.
        """
        at = time.time()
        limit = self._env.get("SLURM_JOB_END_TIME", "")
        reason = TIME_LIMIT if limit.isdigit() and at >= int(limit) - LIMIT_SLACK_S else None
        document: dict[str, object] = {
            "schema": 1,
            "segment": self.number,
            "job": self._env.get("SLURM_JOB_ID"),
            "restart": restart_count(self._env),
            "signal": number,
            "signal_name": signal.Signals(number).name,
            "at": iso_time(at),
            "reason": reason,
            "last_step": last_step(os.path.join(self._directory, METRICS), self.offset),
            "job_started": None if end is None else end["started"],
            "job_exit_code": None if end is None else end["exit_code"],
            "job_signal": None if end is None else end["signal"],
        }
        write_document(os.path.join(self._directory, f"interrupted.{self.number}.json"), document)
        return reason

    def is_latest(self) -> bool:
        """Return whether no other start came after this one: a node that was given up may live on, and be wrong."""
        return all(_whole(item.get("segment")) <= self.number for item in read_segments(self._directory))

    def _append(self, line: Mapping[str, object]) -> None:
        path = os.path.join(self._directory, FILE)
        _end_line(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (json.dumps(line, sort_keys=True) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_restart(directory: str, env: Mapping[str, str], *, is_first_rank: bool) -> bool:
    """Return whether this start is not the first one of its run.

    The first rank has not said yet that it starts; others find its word, or do not: what counts is another start's.
    """
    if restart_count(env) > 0:
        return True
    own = (env.get("SLURM_JOB_ID"), 0)
    segments = read_segments(directory)
    return any(is_first_rank or (item.get("job"), item.get("restart")) != own for item in segments)


def restart_count(env: Mapping[str, str]) -> int:
    """Return how often Slurm has started this job again."""
    text = env.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdigit() else 0


def _is_stage(directory: str) -> bool:
    return os.path.basename(os.path.dirname(directory)) == "stages"


def _lines(path: str) -> list[dict[str, JsonValue]]:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return []
    found = []
    for line in content.splitlines():
        try:
            value = json.loads(line.decode())
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _end_line(path: str) -> None:
    """End the last line of a file where it was cut off."""
    try:
        with open(path, "r+b") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
    except FileNotFoundError:
        return


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
