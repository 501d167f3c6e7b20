"""Launching from a process that is not ours: its environment and its logging are the user's, and stay so."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping

from nemo_gitexp.errors import LaunchError
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.launchers.nemo import START_VARIABLE, start_line
from nemo_gitexp.moments import iso_now
from nemo_gitexp.rundir import RunPaths, write_beside
from nemo_gitexp.runs import read_state_file
from nemo_gitexp.submitters import Receipt
from nemo_gitexp.worker.machine import started_document

LOCK = threading.RLock()
"""For what all threads of the process share while one of them launches: variables, loggers, NeMo Run's own paths."""


class Acceptance:
    """Takes a prepared run over: this process launches it when its turn comes."""

    def submit(self, paths: RunPaths) -> Receipt:
        """Say who launches.

        Raises:
            LaunchError: somebody gave the run up meanwhile.
        """
        write_beside(paths.supervisor, render_json(started_document(iso_now())))
        # First said, then looked: whoever gave the run up meanwhile did it the other way round.
        if paths.abandoned.exists() or not paths.plan.exists():
            raise LaunchError("the run was given up before it was launched", run=paths.run)
        return Receipt("local", (f"pid-{os.getpid()}",))


@contextlib.contextmanager
def start_lines(workers: Mapping[int, tuple[RunPaths, RunPaths]]) -> Iterator[None]:
    """Set the variables that start workers, `START_VARIABLE<number>`, for as long as NeMo Run launches.

    Args:
        workers: the run directory, and the part of it that is the worker's (the same, or a stage's), by number.
    """
    env = dict(os.environ)
    lines = {}
    for number, (run, part) in workers.items():
        interpreter = read_state_file(run.plan).get("interpreter")
        lines[f"{START_VARIABLE}{number}"] = start_line(
            run, part, interpreter if isinstance(interpreter, str) else None, env
        )
    with LOCK:
        os.environ.update(lines)
        try:
            yield
        finally:
            for variable in lines:
                os.environ.pop(variable, None)


@contextlib.contextmanager
def users_logging() -> Iterator[None]:
    """Keep the user's logging: NeMo Run replaces and closes the root's handlers, and sets its level."""
    root = logging.getLogger()
    with LOCK:
        handlers, level = root.handlers[:], root.level
        root.handlers[:] = []
        try:
            yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
