"""Times whole processes, side by side in one run; kept small, for a child's peak memory counts its parent's pages."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One command to time; `before` runs untimed before each round."""

    name: str
    argv: Sequence[str]
    cwd: Path
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Timed:
    """Wall seconds of all rounds and the largest peak memory."""

    name: str
    walls_s: tuple[float, ...]
    peak_mb: float

    @property
    def median_s(self) -> float:
        """Median wall time."""
        return statistics.median(self.walls_s)


def time_cases(cases: Sequence[Case], env: Mapping[str, str], rounds: int) -> dict[str, Timed]:
    """Run every case once a round, one after another, so that noise meets all alike."""
    walls: dict[str, list[float]] = {case.name: [] for case in cases}
    peaks: dict[str, float] = {case.name: 0.0 for case in cases}
    os.sync()  # what made the repositories is still being written: it must not be measured
    for _ in range(rounds):
        for case in cases:
            if case.before is not None:
                case.before()
            wall, peak = time_once(case, env)
            walls[case.name].append(wall)
            peaks[case.name] = max(peaks[case.name], peak)
    return {name: Timed(name, tuple(times), peaks[name]) for name, times in walls.items()}


def time_once(case: Case, env: Mapping[str, str]) -> tuple[float, float]:
    """Return wall seconds and peak memory (MB) of one process.

    Raises:
        RuntimeError: it failed; a failing command is no measurement.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        list(case.argv), cwd=case.cwd, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    said = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{case.name}: exit {process.returncode}\n{said.decode()[-2000:]}")
    return wall, usage.ru_maxrss / 1024
