"""What run directories say: which runs an experiment has, and whether each still goes on.

Never NeMo Run's word: files, and whether the processes they name live. A run that a scheduler has goes by files alone:
its processes live elsewhere, and one that was interrupted may start again.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from nemo_gitexp.errors import DocumentError
from nemo_gitexp.jsontext import JsonValue, parse_json, render_json
from nemo_gitexp.moments import iso_exact
from nemo_gitexp.rundir import RunPaths, write_beside
from nemo_gitexp.worker.lastword import ended_result
from nemo_gitexp.worker.machine import host_digest, process_lives, writer_lives
from nemo_gitexp.worker.merge import is_alive, merged_result, stage_word
from nemo_gitexp.worker.segments import is_interrupted, read_segments

STATE_FILE_BYTES = 1 << 30
"""A plan and a result name every data and output file: 100,000 of them take 20 MB, more than any record may."""

GOES_ON = ("launched", "running", "requeued")
"""States of a run that has not ended."""

OBSERVERS_FILES = ("log.gz", "cancel.json", "abandoned.json", "scheduler.json", "dropped.json")
"""What others than the run itself write: no part of what it left."""


@dataclass(frozen=True, slots=True)
class RunState:
    """One run as its directory tells it.

    `status` is launched, running, requeued (a scheduler interrupted it and is to start it again), finished (the worker
    wrote its result), dead, or void: no launcher ever took it, and none will. `reason` says why dead.
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
    status, reason = _status(paths)
    moments = [_first_start(part) for part in paths.parts()]
    return RunState(
        paths=paths,
        record=paths.run.partition(".")[0],
        is_reproduction=is_reproduction(paths),
        status=status,
        started=min((at for at in moments if isinstance(at, str)), default=None),
        reason=reason,
    )


def _first_start(part: RunPaths) -> JsonValue:
    """Return when a worker started, the first time where a scheduler started it again."""
    segments = read_segments(str(part.root))
    return segments[0].get("started") if segments else read_state_file(part.started).get("at")


def _status(paths: RunPaths) -> tuple[str, str | None]:
    if paths.result.exists():
        return "finished", None
    if paths.submitted.exists():
        return _scheduled_status(paths)
    supervisor = read_state_file(paths.supervisor)
    is_launched = bool(supervisor) and writer_lives(str(paths.supervisor), supervisor)
    parts = paths.parts()
    if any(read_state_file(part.started) for part in parts):
        return _begun_status(paths, parts, is_launched=is_launched)
    if paths.refused.exists():
        return "dead", str(read_state_file(paths.refused).get("message", "the launcher refused the job"))
    if supervisor:
        return ("launched", None) if is_launched else ("dead", "the launcher is gone and the job never started")
    launching = read_state_file(paths.launching)
    return ("launched", None) if launching and process_lives(launching) else ("void", "its launcher is gone")


def _scheduled_status(paths: RunPaths) -> tuple[str, str | None]:
    """Return how a run stands that a scheduler has: only its last word tells that one without a result is over."""
    parts = paths.parts()
    stands = [_scheduled_stand(part) for part in parts]
    if all(stand in ("finished", "dead") for stand in stands):
        reasons = [_last_words(part) for part, stand in zip(parts, stands, strict=True) if stand == "dead"]
        # The last stage may have ended just now, and the result of all is still to be written.
        return ("dead", reasons[0]) if reasons else ("running", None)
    for status in ("running", "requeued"):
        if status in stands:
            return status, None
    return ("running" if "finished" in stands or "dead" in stands else "launched"), None


def _scheduled_stand(part: RunPaths) -> str:
    """Return how one worker stands that a scheduler has: finished, dead, requeued, running, or launched."""
    if part.result.exists():
        return "finished"
    if part.scheduler_word.exists():
        return "dead"
    if is_interrupted(str(part.root)):
        return "requeued"
    return "running" if part.started.exists() else "launched"


def _last_words(part: RunPaths) -> str:
    error = (ended_result(str(part.root)) or {}).get("error")
    return str(error["message"]) if isinstance(error, dict) else "the scheduler ended it"


def _begun_status(paths: RunPaths, parts: Sequence[RunPaths], *, is_launched: bool) -> tuple[str, str | None]:
    """Return how a run stands of which a worker at least has started."""
    is_waiting = any(not any(file.exists() for file in (part.started, part.result, part.abandoned)) for part in parts)
    if any(is_alive(str(part.root)) for part in parts) or (is_waiting and is_launched):
        return "running", None
    # The last worker may have written the result and left between the looks.
    return ("finished", None) if paths.result.exists() else ("dead", "the worker is gone and left no result")


def stage_states(paths: RunPaths) -> dict[str, Mapping[str, JsonValue]]:
    """Return how each stage of a live run stands, nothing for a run without stages.

    Keys: status (launched while it waits), and `reused_from` once it has ended.
    """
    parts = paths.parts()
    return {} if parts == [paths] else {part.run: _stage_state(part) for part in parts}


def part_word(part: RunPaths) -> str:
    """Return how the worker of a live run, or of one of its stages, stands; launched while it waits."""
    return str(_stage_state(part)["status"])


def _stage_state(part: RunPaths) -> Mapping[str, JsonValue]:
    word, result = stage_word(str(part.root))
    if word is None and is_interrupted(str(part.root)):
        return {"status": "requeued"}
    if word is None:
        return {"status": "running" if part.child.exists() else "launched"}
    return {"status": word, "reused_from": cast("JsonValue", (result or {}).get("reused_from"))}


def give_up_stage(part: RunPaths) -> bool:
    """Say that a stage will never start, its task being over; return whether that is so.

    First said, then looked, as in `give_up`.
    """
    if not part.started.exists() and not part.result.exists():
        write_beside(part.abandoned, b"{}\n")
    return not part.started.exists()


def give_up(paths: RunPaths) -> bool:
    """Make sure that a run without a living process will not start after all; return whether that is so.

    Whoever starts says so first and then looks for this word; here the word is said first: one of the two sees the
    other, however slow either is.
    """
    for part in dict.fromkeys((paths, *paths.parts())):
        if not part.started.exists() and not part.result.exists():
            write_beside(part.abandoned, b"{}\n")
    now = inspect_run(paths).status
    return now in ("dead", "void")


def read_state_file(path: Path) -> Mapping[str, JsonValue]:
    """Return a JSON file of a run directory, empty when it is not there or not whole."""
    try:
        document = parse_json(path.read_bytes(), path.name, limit_bytes=STATE_FILE_BYTES)
    except (OSError, DocumentError):
        return {}
    return document if isinstance(document, Mapping) else {}


def job_names(paths: RunPaths) -> tuple[str, ...]:
    """Return what runs a run: the scheduler's ids, or the process of this machine."""
    if paths.submitted.exists():
        from nemo_gitexp.submission import parse_submission  # for what a scheduler has

        submission = parse_submission(read_state_file(paths.submitted))
        if submission is not None:
            return submission.job_ids
    pid = read_state_file(paths.supervisor).get("pid")
    return (f"pid-{pid}",) if pid else ()


def is_cut_short(paths: RunPaths) -> bool:
    """Return whether whoever submitted a run is gone before it said which jobs it is: a scheduler may have them."""
    if not paths.submitting.exists() or paths.submitted.exists():
        return False
    return inspect_run(paths).status in ("dead", "void")


def request_cancel(paths: RunPaths, now: str) -> None:
    """Ask the worker to stop the job: by file, which reaches every host, and by signal where it lives here.

    One that works in a copy of the run directory has its file later, and would take the signal for a scheduler's.
    """
    write_beside(paths.cancel, render_json({"at": now}))
    for part in () if paths.relocated.exists() else paths.parts():
        request_stage_cancel(part)


def request_stage_cancel(part: RunPaths) -> None:
    """Ask one worker to stop its job, by signal, where it lives on this machine."""
    started = read_state_file(part.started)
    pid = started.get("pid")
    if isinstance(pid, int) and started.get("host") == host_digest() and process_lives(started):
        os.kill(pid, signal.SIGTERM)


def leave_cancelled(paths: RunPaths) -> None:
    """Write the result of a run that was cancelled before any launcher had it, as a worker would."""
    now = iso_exact(datetime.now(UTC))
    times: dict[str, JsonValue] = {"started": now, "ended": now, "duration_s": 0.0}
    result: JsonValue = {"schema": 1, "status": "cancelled", "job_started": False, **times}
    write_beside(paths.result, render_json(result))


def conclude(paths: RunPaths) -> None:
    """Write the result of a run of stages that has none although all have ended: the last one was killed.

    A run of which no stage ever started has none: its experiment is recorded, no more and no less.
    """
    parts = paths.parts()
    if paths.result.exists() or parts == [paths]:
        return
    is_known = all(part.result.exists() for part in parts) or paths.is_begun
    merged = merged_result(str(paths.root)) if is_known else None
    if merged is not None:
        write_beside(paths.result, render_json(cast("JsonValue", merged)))


def end_orphans(paths: RunPaths) -> None:
    """Kill what the jobs of dead workers still run on this machine: nobody can record what they do any more."""
    for part in paths.parts():
        if part.result.exists() or not read_state_file(part.started) or is_alive(str(part.root)):
            continue
        child = read_state_file(part.child)
        pid = child.get("pid")
        if isinstance(pid, int) and child.get("host") == host_digest() and process_lives(child):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def last_write(paths: RunPaths) -> float:
    """Return when the run directory was last written to, seconds since the epoch."""
    return max(_mtimes(paths.root), default=0.0)


def _mtimes(root: Path) -> Iterable[float]:
    for base, _, files in os.walk(root):
        is_top = base == str(root) or Path(base).parent == root / "stages"
        for name in files:
            if not (is_top and (name in OBSERVERS_FILES or name.startswith("."))):
                with contextlib.suppress(FileNotFoundError):  # the worker lives after all, and tidies up
                    yield Path(base, name).lstat().st_mtime
