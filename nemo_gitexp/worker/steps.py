"""Follows the metric stream for a run of only the first N steps, and cuts the stream to those steps."""

from __future__ import annotations

import json
import os
import time

from .documents import write_bytes

QUIET_S = 1.0
"""A step may have several lines; when the stream rests this long, or the next step begins, the last one is whole."""


class StepCounter:
    """Counts the distinct steps of a growing metrics.jsonl.

    Args:
        path: the stream; it need not exist yet.
        limit: the number of steps wanted.
    """

    def __init__(self, path: str, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._offset = 0
        self._grown_at = time.monotonic()
        self.steps: list[object] = []

    def is_over(self) -> bool:
        """Return whether a step beyond the limit was seen, after reading what is new."""
        self._read_new_lines()
        return len(self.steps) > self._limit

    def is_done(self) -> bool:
        """Return whether the wanted steps are there and whole, after reading what is new."""
        over = self.is_over()
        rests = time.monotonic() - self._grown_at >= QUIET_S
        return over or (len(self.steps) == self._limit and rests)

    def cut(self) -> None:
        """Rewrite the stream with whole lines of the wanted steps only."""
        wanted = self.steps[: self._limit]
        with open(self._path, "rb") as file:
            lines = [line for line in file if line.endswith(b"\n")]
        kept = [line for line in lines if step_of(line) in wanted]
        if len(kept) != len(lines) or os.path.getsize(self._path) != sum(map(len, kept)):
            write_bytes(self._path, b"".join(kept))

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
            if step is not None and step not in self.steps:
                self.steps.append(step)


def step_of(line: bytes) -> int | float | str | None:
    """Return the step of one metric line; None when it has none or is no JSON object."""
    try:
        row = json.loads(line.decode())
    except ValueError:
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, (int, float, str)) and not isinstance(step, bool) else None
