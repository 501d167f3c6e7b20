"""This process as the worker of its own run: what it writes into the run directory at the beginning and at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nemo_gitexp.catalog import Site
from nemo_gitexp.entry import CommandEntry
from nemo_gitexp.environment import capture_environment
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.origin import Origin, imported_late, started_with
from nemo_gitexp.rundir import RunPaths, unwritable, write_beside
from nemo_gitexp.session import Ending, ending_of
from nemo_gitexp.sitevalues import site_words
from nemo_gitexp.store import Experiment
from nemo_gitexp.worker.documents import write_bytes, write_document
from nemo_gitexp.worker.finish import iso_time, write_result
from nemo_gitexp.worker.machine import HEARTBEAT_S, started_document
from nemo_gitexp.worker.outputs import declared_outputs, find_undeclared, hash_output
from nemo_gitexp.worker.pace import nothing_to_check
from nemo_gitexp.worker.readback import JobReport
from nemo_gitexp.worker.redirect import RedirectRule
from nemo_gitexp.worker.remains import NOTHING_LEFT
from nemo_gitexp.worker.seeding import NUMPY_MODULUS, Seeding, process_seed
from nemo_gitexp.worker.trackerplaces import Job, leave_tracked

if TYPE_CHECKING:
    from nemo_gitexp.jsontext import JsonValue
    from nemo_gitexp.worker.shapes import JobEnd
    from nemo_gitexp.worker.shapes import Plan as WorkerPlan

LOOK_S = 1.0
"""How often a session looks whether somebody asks to cancel it."""

PATIENCE_S = 20.0
"""How long a program that was asked to stop may clean up before its experiment is ended without it."""

RESERVE_BYTES = 64 * 1024
"""Set aside for the result, should the disk fill up."""


@dataclass(frozen=True, slots=True)
class OwnRun:
    """A recorded experiment that this process runs: since when, and which modules it had then."""

    site: Site
    experiment: Experiment
    paths: RunPaths
    remarks: tuple[str, ...]
    determinism: str
    began: float
    clock: float
    modules: frozenset[str]


def begin_run(site: Site, experiment: Experiment, paths: RunPaths, origin: Origin, determinism: str) -> OwnRun:
    """Fill the run directory and say that this process is the worker.

    Raises:
        StateDirectoryError: it cannot be written.
    """
    began, clock = time.time(), time.monotonic()
    repository = site.repository
    owner = started_document(iso_time(began))
    document: JsonValue = {
        "schema": 1,
        "kind": "session",
        "experiment": experiment.sha,
        "study": experiment.record.study,
        "name": experiment.record.name,
        "run": paths.run,
        "run_dir": str(paths.root),
        "workspace": str(site.workspace_root / paths.run),
        "keep_workspace": False,
        "user_root": str(repository.root),
        "site": site_words(site.settings.site, []),
        "home": os.path.expanduser("~"),  # noqa: PTH111 - text to be recognised in messages, no path to open
        "interpreter": sys.executable,
        "outputs_dir": str(paths.outputs),
        "inputs": [],
    }
    try:
        paths.outputs.mkdir()
        write_beside(paths.config, render_json(experiment.config))
        write_beside(paths.plan, render_json(document))
        paths.log.touch()
        write_bytes(str(paths.root / "reserve.bin"), os.urandom(RESERVE_BYTES))
        if isinstance(origin.entry, CommandEntry):
            captured = replace(capture_environment(root=repository.root), captured="job")
            write_document(str(paths.root / "job-environment.json"), captured.to_json())
        write_beside(paths.supervisor, render_json(owner))
        write_beside(paths.started, render_json(owner))
    except OSError as fault:
        raise unwritable(paths, fault) from fault
    return OwnRun(site, experiment, paths, origin.remarks, determinism, began, clock, frozenset(sys.modules))


def leave_result(run: OwnRun, outputs: Path, seed: int, ending: Ending) -> None:
    """Write what a worker writes at the end of its job: error, log, settings, and last of all the result.

    Raises:
        OSError: the disk is full, the directory is gone.
        KeyboardInterrupt: Ctrl-C while outputs were read, which may be long; the result is there, as cancelled.
    """
    paths = run.paths
    left, interruption = dict(NOTHING_LEFT), None
    remarks = [*run.remarks, *imported_late(run.site.repository.root, run.modules, run.began)]
    left["remarks"] = remarks
    try:
        left |= _made(str(outputs))
        logged = _logged(str(outputs), paths, run.began)
        left |= {**logged, "remarks": [*remarks, *cast("list[str]", logged["remarks"])]}
    except (OSError, KeyboardInterrupt) as fault:
        ending = ending_of(fault) if ending.status == "completed" else ending
        interruption = fault if isinstance(fault, KeyboardInterrupt) else None
    _leave_error(paths, ending)
    hash_seed = started_with().get("PYTHONHASHSEED")
    rule = RedirectRule(None, str(paths.root), ())
    JobReport(str(paths.job), _seeds(seed, run.determinism), rule, hash_seed).write()
    plan = cast("WorkerPlan", {"run_dir": str(paths.root)})
    write_result(plan, _job_end(ending), left, run.began, time.monotonic() - run.clock)
    if interruption is not None:
        raise interruption


def _made(outputs: str) -> dict[str, object]:
    """Return the outputs with their hashes, and what is no output although it is there."""
    made = [hash_output(outputs, item) for item in declared_outputs(outputs, [])]
    return {
        "outputs": [output for output in made if output is not None],
        "undeclared_outputs": find_undeclared(outputs, [], []),
    }


def _logged(outputs: str, paths: RunPaths, began: float) -> dict[str, object]:
    """Return where the program logged below its outputs; what it logged goes into the run directory."""
    plan = cast("WorkerPlan", {"run_dir": str(paths.root), "outputs_dir": outputs, "tracked": True})
    return leave_tracked(Job(plan, {}, began, lambda _: False), nothing_to_check)


def _leave_error(paths: RunPaths, ending: Ending) -> None:
    """Write why it did not end well, with the traceback in the log; without room for them the result must do."""
    if ending.error is None:
        return
    with contextlib.suppress(OSError):
        write_document(str(paths.root / "error.json"), ending.error)
        with paths.log.open("ab") as log:
            log.write(ending.error["traceback"].encode("utf-8", "backslashreplace"))


def _job_end(ending: Ending) -> JobEnd:
    """Return the ending as a worker sees its job's."""
    error = None
    if ending.error is not None and ending.status == "failed":
        error = {"type": ending.error["type"], "message": ending.error["message"]}
    return {
        "started": True,
        "exit_code": ending.exit_code,
        "signal": None,
        "cancelled": ending.cancelled,
        "interrupted": None,
        "stopped": False,
        "error": cast("None", error),
    }


def _seeds(seed: int, determinism: str) -> Seeding:
    """Return what was seeded, as a job says it."""
    own = process_seed(seed, os.environ)
    seeding = Seeding(own, determinism)
    values = {"python": ("random", own), "numpy": ("numpy.random", own % NUMPY_MODULUS), "torch": ("torch", own)}
    for name, (module, value) in values.items():
        if determinism != "off" and module in sys.modules:
            seeding.seeds[name] = value
    return seeding


def keep_fresh(paths: RunPaths, ended: threading.Event, end: Callable[[], None]) -> None:
    """Touch this process's file as long as the session goes on, and end the process when somebody asks for it.

    On another host nothing else tells whether it lives, and nothing else reaches it. A program that goes on in spite of
    the signal runs on; its experiment is ended.
    """
    fresh = time.monotonic()
    while not ended.wait(LOOK_S):
        if paths.cancel.exists():
            os.kill(os.getpid(), signal.SIGTERM)
            if not ended.wait(PATIENCE_S):
                end()
            return
        if time.monotonic() - fresh > HEARTBEAT_S:
            fresh = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(paths.started)
