"""What a program calls while it runs: metrics into a stream, by one appended line each. Imports nothing heavy.

A line is one write to a file opened for appending: it is with the kernel when the call returns, whole, whichever thread
or forked process wrote it.
"""

from __future__ import annotations

import json
import logging
import math
import operator
import os
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol

from nemo_gitexp.errors import MetricValueError, StateDirectoryError

_LOGGER = logging.getLogger(__name__)
_STEPS = (int, type(None))


class Sink(Protocol):
    """Where the metrics of one experiment go."""

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take the numbers of one step."""


_ENTERED: list[Sink] = []
_MINE: ContextVar[tuple[Sink, ...]] = ContextVar("nemo_gitexp_sinks", default=())
"""Those that were entered in this thread or asynchronous task, or in what started it."""

_STREAM: MetricLog | None = None


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Record numbers of one step of the running experiment; outside of one it does nothing but a debug line.

    That is the experiment tracked here (of several the one that this thread or task has started last), else the run
    that this process belongs to. What was logged survives the process's death. Of the processes of a distributed job
    only global rank 0 writes.

    Args:
        metrics: name to number (numpy and torch scalars too); non-finite ones are kept by name.
        step: what the numbers belong to (numpy integers too); None for a single result.

    Raises:
        MetricValueError: a value that is no number, or a step that is none either (also a TypeError).
        StateDirectoryError: the line cannot be written.
    """
    sink = _current_sink()
    if sink is not None:
        sink.log(metrics, step)
        return
    place = os.environ.get("GITEXP_METRICS")
    if place is None:
        _LOGGER.debug("log_metrics: no run of nemo-gitexp here, nothing recorded")
        return
    if not is_first_rank():
        return
    _stream(place).log(metrics, step)


def is_first_rank() -> bool:
    """Return whether this process is the one of a distributed job that records: global rank 0."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def enter(sink: Sink) -> None:
    """Let `log_metrics` write there from now on."""
    _ENTERED.append(sink)
    _MINE.set((*_MINE.get(), sink))


def leave(sink: Sink) -> None:
    """Let `log_metrics` write there no more."""
    if sink in _ENTERED:
        _ENTERED.remove(sink)
    _MINE.set(tuple(mine for mine in _MINE.get() if mine is not sink))


def _current_sink() -> Sink | None:
    """Return the innermost sink of this thread or task; in one that has none of its own the last one of the process."""
    for sink in reversed(_MINE.get()):
        if sink in _ENTERED:
            return sink
    return _ENTERED[-1] if _ENTERED else None


class MetricLog:
    """One metric stream on disk.

    Args:
        place: the file; lines are added to it.
        prefix: stands before the name of every metric in the file; `latest` has the names that were logged.
    """

    __slots__ = ("_file", "_place", "_prefix", "_torn", "latest")

    def __init__(self, place: str, prefix: str = "") -> None:
        """Open the file.

        Raises:
            StateDirectoryError: it cannot be written.
        """
        self._place = place
        self._prefix = prefix
        self._torn = False
        self.latest: dict[str, float | int | str] = {}
        try:
            self._file = open(place, "ab", buffering=0)  # noqa: SIM115, PTH123 - open as long as its experiment goes on
        except OSError as fault:
            raise self._unwritable(fault) from fault

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add one line.

        Raises:
            MetricValueError: a value or a step that is no number; nothing is written then.
            StateDirectoryError: the line cannot be written.
        """
        row = plain_metrics(metrics, self._prefix)
        line = (json.dumps({**row, "step": plain_step(step)} if step is not None else _stepless(row)) + "\n").encode()
        # What a full disk cut off must not spoil the next line.
        whole = b"\n" + line if self._torn else line
        try:
            self._torn = self._file.write(whole) != len(whole)
        except OSError as fault:
            raise self._unwritable(fault) from fault
        if self._torn:
            raise self._unwritable(OSError(28, os.strerror(28)))
        own = len(self._prefix)
        self.latest.update({name[own:]: value for name, value in row.items()} if own else row)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _unwritable(self, fault: OSError) -> StateDirectoryError:
        return StateDirectoryError(f"cannot write {self._place}: {fault.strerror}", path=os.path.dirname(self._place))  # noqa: PTH120


class Discard:
    """A stream that records nothing; what is no number is an error here too, or ranks would part ways."""

    def __init__(self) -> None:
        """Remember nothing yet; a program that reads its own metrics back finds them here too."""
        self.latest: dict[str, float | int | str] = {}

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Check the numbers of one step.

        Raises:
            MetricValueError: a value or a step that is no number.
        """
        row = plain_metrics(metrics)
        plain_step(step)
        self.latest.update(row)

    def close(self) -> None:
        """Have nothing to close."""


def plain_metrics(metrics: Mapping[str, float], prefix: str = "") -> dict[str, float | int | str]:
    """Return metrics as JSON has them.

    Raises:
        MetricValueError: no mapping, a name that is no text, a value that is no number.
    """
    if not hasattr(metrics, "items"):
        raise MetricValueError(f"metrics map names to numbers: {metrics!r}", hint='log({"loss": 0.5}, step=1)', key="")
    row: dict[str, float | int | str] = {}
    for name, value in metrics.items():
        if type(value) is float and value - value == 0.0 and type(name) is str:  # finite: nearly all, and fast
            row[prefix + name] = value
        else:
            row[prefix + _name(name)] = plain_number(name, value)
    return row


def _stepless(row: dict[str, float | int | str]) -> dict[str, float | int | str | None]:
    return {"step": None, **row}


def plain_step(step: object) -> int | float | None:
    """Return the step as JSON has it; a fraction too, which the collector counts as a step that is none.

    Raises:
        MetricValueError: it is no number.
    """
    if type(step) in _STEPS or isinstance(step, (int, float)):
        return step  # type: ignore[return-value]  # checked in this very line
    try:
        return operator.index(step)  # type: ignore[arg-type]
    except TypeError as fault:
        raise MetricValueError(f"a step is a whole number, not {step!r}", key="step") from fault


def plain_number(name: str, value: object) -> float | int | str:
    """Return a number of any library as JSON has it, one that is not finite by its name.

    Raises:
        MetricValueError: it is no number.
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise MetricValueError(f"metric {name} is no number: {value!r}", hint="log numbers only", key=str(name))
    try:
        number = value if isinstance(value, int) else float(value)
    except (TypeError, ValueError, RuntimeError) as fault:  # an array or tensor of several
        raise MetricValueError(f"metric {name} is no single number: {fault}", hint="log its mean", key=name) from fault
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return number


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise MetricValueError(f"the name of a metric is text, not {name!r}", hint='{"loss": 0.5}', key=repr(name))
    return name


def _stream(place: str) -> MetricLog:
    """Return the open stream of this run: opening costs more than writing."""
    global _STREAM  # noqa: PLW0603 - one stream a process
    if _STREAM is None or _STREAM._place != place:  # noqa: SLF001 - its own room
        if _STREAM is not None:
            _STREAM.close()
        _STREAM = MetricLog(place)
    return _STREAM
