"""Follows the metric stream for a run of only the first N steps, and cuts the stream to those steps."""

from __future__ import annotations

import json
import os
import time

from .documents import write_bytes

TAIL_BYTES = 64 * 1024

QUIET_S = 1.0
"""A step may have several lines; when the stream rests this long, or the next step begins, the last one is whole."""


class StepCounter:
    """Counts the distinct steps of a growing metrics.jsonl.

    Args:
        path: the stream; it need not exist yet.
        limit: the number of steps wanted.
        since: at which byte this segment of the run begins: from the first step that it logs on, what earlier segments
            logged is void, and until then nothing is done.
    """

    def __init__(self, path: str, limit: int, since: int = 0) -> None:
        self._path = path
        self._limit = limit
        self._since = since
        self._offset = since
        self._earlier = _steps_of(_head(path, since)) if since else []
        self._grown_at = time.monotonic()
        self._has_begun = not self._earlier
        self.steps: list[object] = list(self._earlier)

    def is_over(self) -> bool:
        """Return whether a step beyond the limit was seen, after reading what is new."""
        self._read_new_lines()
        return self._has_begun and len(self.steps) > self._limit

    def is_done(self) -> bool:
        """Return whether the wanted steps are there and whole, after reading what is new."""
        over = self.is_over()
        if not self._has_begun:
            return False
        rests = time.monotonic() - self._grown_at >= QUIET_S
        return over or (len(self.steps) == self._limit and rests)

    def cut(self) -> None:
        """Rewrite the stream with whole lines of the wanted steps only; what earlier segments wrote stays."""
        wanted = self.steps[: self._limit]
        earlier = _head(self._path, self._since)
        with open(self._path, "rb") as file:
            file.seek(self._since)
            lines = [line for line in file if line.endswith(b"\n")]
        kept = [line for line in lines if step_of(line) in wanted]
        if len(kept) != len(lines) or os.path.getsize(self._path) != len(earlier) + sum(map(len, kept)):
            write_bytes(self._path, earlier + b"".join(kept))

    def _read_new_lines(self) -> None:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        if not whole:
            return
        self._offset += len(whole)
        self._grown_at = time.monotonic()
        for line in whole.splitlines():
            step = step_of(line)
            if step is None:
                continue
            if not self._has_begun:
                self._has_begun = True
                self.steps = [earlier for earlier in self.steps if _is_before(earlier, step)]
            if step not in self.steps:
                self.steps.append(step)


def step_of(line: bytes) -> int | float | str | None:
    """Return the step of one metric line; None when it has none or is no JSON object."""
    try:
        row = json.loads(line.decode())
    except ValueError:
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, (int, float, str)) and not isinstance(step, bool) else None


def first_step(path: str, since: int = 0) -> int | float | str | None:
    """Return the first step in a stream from a byte on; None without one."""
    try:
        with open(path, "rb") as file:
            file.seek(since)
            return next((step for step in map(step_of, file) if step is not None), None)
    except OSError:
        return None


def last_step(path: str, since: int = 0) -> int | float | str | None:
    """Return the last step in a stream from a byte on, as far as its last 64 KiB tell; None without one."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = max(since, end - TAIL_BYTES)
            file.seek(begin)
            lines = file.read().splitlines()
    except OSError:
        return None
    return next((step for step in map(step_of, reversed(lines)) if step is not None), None)


def _head(path: str, size: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return b""


def _steps_of(text: bytes) -> list[object]:
    """Return the distinct steps of a stream, in their order."""
    return [step for step in dict.fromkeys(map(step_of, text.splitlines())) if step is not None]


def _is_before(earlier: object, step: float | str) -> bool:
    """Return whether a step comes before another; steps that are no numbers are all before."""
    if isinstance(earlier, (int, float)) and isinstance(step, (int, float)):
        return earlier < step
    return True
