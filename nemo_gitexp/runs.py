"""What run directories say: which runs an experiment has, and whether each still goes on.

Never a scheduler's or NeMo Run's word: files, and whether the processes they name live.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nemo_gitexp.errors import DocumentError
from nemo_gitexp.jsontext import JsonValue, parse_json, render_json
from nemo_gitexp.owners import process_lives
from nemo_gitexp.rundir import RunPaths, write_beside
from nemo_gitexp.worker.machine import HEARTBEAT_S, host_digest

SILENCE_S = 30 * HEARTBEAT_S
"""A worker on another host that has not touched its file for that long is dead."""

STATE_FILE_BYTES = 1 << 30
"""A plan and a result name every data and output file: 100,000 of them take 20 MB, more than any record may."""

OBSERVERS_FILES = ("log.gz", "cancel.json", "abandoned.json")
"""What others than the run itself write: no part of what it left."""


@dataclass(frozen=True, slots=True)
class RunState:
    """One run as its directory tells it.

    `status` is launched, running, finished (the worker wrote its result), dead, or void: no launcher ever took it,
    and none will. `reason` says why dead.
    """

    paths: RunPaths
    record: str
    is_reproduction: bool
    status: str
    started: str | None
    reason: str | None = None


def list_run_directories(run_root: Path, record: str | None = None) -> list[RunPaths]:
    """Return the run directories below a root, those of one experiment on request, oldest first."""
    try:
        names = [entry.name for entry in os.scandir(run_root) if record is None or entry.name.startswith(f"{record}.")]
    except FileNotFoundError:
        return []
    found = [
        (_begun(paths), paths) for name in names if not name.startswith(".") for paths in [RunPaths(run_root / name)]
    ]
    return [paths for begun, paths in sorted(found, key=lambda item: (item[0], item[1].run)) if begun]


def _begun(paths: RunPaths) -> int:
    """Return when the run directory was made, nanoseconds since the epoch; 0 for a directory that is none."""
    try:
        return paths.launching.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0


def is_reproduction(paths: RunPaths) -> bool:
    """Return whether a run directory belongs to a reproduction, which never becomes a result."""
    return ".repro." in paths.run


def inspect_run(paths: RunPaths) -> RunState:
    """Return how a run stands, from its files and the processes that they name."""
    started, supervisor = read_state_file(paths.started), read_state_file(paths.supervisor)
    status, reason = _status(paths, started, supervisor)
    at = started.get("at")
    return RunState(
        paths=paths,
        record=paths.run.partition(".")[0],
        is_reproduction=is_reproduction(paths),
        status=status,
        started=at if isinstance(at, str) else None,
        reason=reason,
    )


def _status(
    paths: RunPaths, started: Mapping[str, JsonValue], supervisor: Mapping[str, JsonValue]
) -> tuple[str, str | None]:
    if paths.result.exists():
        return "finished", None
    if started:
        if _lives(paths.started, started):
            return "running", None
        # The worker may have written its result and left between the two looks.
        return ("finished", None) if paths.result.exists() else ("dead", "the worker is gone and left no result")
    if paths.refused.exists():
        return "dead", str(read_state_file(paths.refused).get("message", "the launcher refused the job"))
    if supervisor:
        alive = _lives(paths.supervisor, supervisor)
        return ("launched", None) if alive else ("dead", "the launcher is gone and the job never started")
    launching = read_state_file(paths.launching)
    return ("launched", None) if launching and process_lives(launching) else ("void", "its launcher is gone")


def _lives(path: Path, document: Mapping[str, JsonValue]) -> bool:
    """Return whether the process that wrote the file lives; on another host: whether the file is fresh enough."""
    if document.get("host") == host_digest():
        return process_lives(document)
    try:
        return time.time() - path.stat().st_mtime < SILENCE_S
    except FileNotFoundError:
        return False


def give_up(paths: RunPaths) -> bool:
    """Make sure that a run without a living process will not start after all; return whether that is so.

    Whoever starts says so first and then looks for this word; here the word is said first: one of the two sees the
    other, however slow either is.
    """
    if not paths.started.exists():
        write_beside(paths.abandoned, b"{}\n")
    now = inspect_run(paths).status
    return now in ("dead", "void")


def read_state_file(path: Path) -> Mapping[str, JsonValue]:
    """Return a JSON file of a run directory, empty when it is not there or not whole."""
    try:
        document = parse_json(path.read_bytes(), path.name, limit_bytes=STATE_FILE_BYTES)
    except (OSError, DocumentError):
        return {}
    return document if isinstance(document, Mapping) else {}


def request_cancel(paths: RunPaths, now: str) -> None:
    """Ask the worker to stop the job: by file, which reaches every host, and by signal where it lives here."""
    write_beside(paths.cancel, render_json({"at": now}))
    started = read_state_file(paths.started)
    pid = started.get("pid")
    if isinstance(pid, int) and started.get("host") == host_digest() and process_lives(started):
        os.kill(pid, signal.SIGTERM)


def leave_cancelled(paths: RunPaths) -> None:
    """Write the result of a run that was cancelled before any launcher had it, as a worker would."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    times: dict[str, JsonValue] = {"started": now, "ended": now, "duration_s": 0.0}
    result: JsonValue = {"schema": 1, "status": "cancelled", "job_started": False, **times}
    write_beside(paths.result, render_json(result))


def end_orphan(paths: RunPaths) -> None:
    """Kill what a dead worker's job still runs on this machine: nobody can record what it does any more."""
    if inspect_run(paths).status != "dead":
        return
    child = read_state_file(paths.child)
    pid = child.get("pid")
    if isinstance(pid, int) and child.get("host") == host_digest() and process_lives(child):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def last_write(paths: RunPaths) -> float:
    """Return when the run directory was last written to, seconds since the epoch."""
    return max(_mtimes(paths.root), default=0.0)


def _mtimes(root: Path) -> Iterable[float]:
    for base, _, files in os.walk(root):
        is_top = base == str(root)
        for name in files:
            if not (is_top and (name in OBSERVERS_FILES or name.startswith("."))):
                yield Path(base, name).lstat().st_mtime
