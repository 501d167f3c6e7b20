"""What a job calls while it runs: metrics into the record, by one appended line each. Imports nothing heavy."""

from __future__ import annotations

import json
import logging
import math
import operator
import os
from collections.abc import Mapping
from typing import IO

_LOGGER = logging.getLogger(__name__)
_STREAM: tuple[str, int, IO[bytes]] | None = None


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Record numbers of one step of the running experiment; outside a run it does nothing but a debug line.

    The line is written at once and unbuffered: what was logged survives the job's death. Of the processes of a
    distributed job only global rank 0 writes.

    Args:
        metrics: name to number (numpy and torch scalars too); non-finite ones are kept by name.
        step: what the numbers belong to (numpy integers too); None for a single result.

    Raises:
        TypeError: a value that is no number, or a step that is none either.
    """
    place = os.environ.get("GITEXP_METRICS")
    if place is None:
        _LOGGER.debug("log_metrics: no run of nemo-gitexp here, nothing recorded")
        return
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
        return
    row: dict[str, float | str | int | None] = {"step": _plain_step(step)}
    row.update((name, plain_number(name, value)) for name, value in metrics.items())
    _stream(place).write((json.dumps(row) + "\n").encode())


def _plain_step(step: object) -> int | float | None:
    """Return the step as JSON has it; a fraction too, which the collector counts as a step that is none."""
    return step if step is None or isinstance(step, (int, float)) else operator.index(step)  # type: ignore[arg-type]


def plain_number(name: str, value: object) -> float | int | str:
    """Return a number of any library as JSON has it, one that is not finite by its name.

    Raises:
        TypeError: it is no number.
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"metric {name} is no number: {value!r}")
    number = value if isinstance(value, int) else float(value)
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return number


def _stream(place: str) -> IO[bytes]:
    """Return the open file, opened anew after a fork: two processes must not share a position."""
    global _STREAM  # noqa: PLW0603 - one stream a process, kept open because opening costs more than writing
    if _STREAM is None or _STREAM[:2] != (place, os.getpid()):
        if _STREAM is not None:
            _STREAM[2].close()
        _STREAM = (place, os.getpid(), open(place, "ab", buffering=0))  # noqa: SIM115, PTH123 - kept open on purpose
    return _STREAM[2]
