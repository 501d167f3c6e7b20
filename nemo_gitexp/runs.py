"""What run directories say: which runs an experiment has, and whether each still goes on.

Never a scheduler's or NeMo Run's word: files, and whether the processes they name live.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.errors import DocumentError
from nemo_gitexp.jsontext import JsonValue, parse_json, render_json
from nemo_gitexp.rundir import RunPaths, write_beside
from nemo_gitexp.worker.machine import boot_id, host_digest, pid_start

START_PATIENCE_S = 60.0
"""How long a plan without any process beside it may be on its way (a slow disk, a loaded machine)."""


@dataclass(frozen=True, slots=True)
class RunState:
    """One run as its directory tells it.

    `status` is launched, running, finished (the worker wrote its result) or dead; `reason` says why dead.
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
    found = [RunPaths(run_root / name) for name in names if not name.startswith(".")]
    return sorted((paths for paths in found if paths.plan.exists()), key=lambda paths: paths.plan.stat().st_mtime_ns)


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
        if process_lives(started):
            return "running", None
        # The worker may have written its result and left between the two looks.
        return ("finished", None) if paths.result.exists() else ("dead", "the worker is gone and left no result")
    if paths.refused.exists():
        return "dead", str(read_state_file(paths.refused).get("message", "the launcher refused the job"))
    if supervisor:
        alive = process_lives(supervisor)
        return ("launched", None) if alive else ("dead", "the launcher is gone and the job never started")
    age = time.time() - paths.plan.stat().st_mtime
    return ("launched", None) if age < START_PATIENCE_S else ("dead", "nobody took the run")


def process_lives(document: Mapping[str, JsonValue]) -> bool:
    """Return whether the process described by a `started_document` lives; on another host: cannot be told, so yes."""
    if document.get("host") != host_digest():
        return True
    pid = document.get("pid")
    if not isinstance(pid, int) or document.get("boot_id") != boot_id():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    start = pid_start(pid)
    return start is not None and start == document.get("pid_start") and not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def read_state_file(path: Path) -> Mapping[str, JsonValue]:
    """Return a small JSON file of a run directory, empty when it is not there or not whole."""
    try:
        document = parse_json(path.read_bytes(), path.name)
    except (OSError, DocumentError):
        return {}
    return document if isinstance(document, Mapping) else {}


def request_cancel(paths: RunPaths, now: str) -> None:
    """Ask the worker to stop the job: by file, which reaches every host, and by signal where it lives here."""
    write_beside(paths.cancel, render_json({"at": now}))
    started = read_state_file(paths.started)
    pid = started.get("pid")
    if isinstance(pid, int) and started.get("host") == host_digest() and process_lives(started):
        import signal

        os.kill(pid, signal.SIGTERM)


def last_write(paths: RunPaths) -> float:
    """Return when the run directory was last written to, seconds since the epoch."""
    return max(_mtimes(paths.root), default=0.0)


def _mtimes(root: Path) -> Iterable[float]:
    for base, _, files in os.walk(root):
        for name in files:
            if name != "cancel.json":
                yield Path(base, name).lstat().st_mtime
