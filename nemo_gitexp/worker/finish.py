"""Turns the end of a job into result.json: status, error, what is left. Written last, whole, and on a full disk too."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from .documents import read_document, write_document
from .machine import hardware_document
from .submissions import describe_submissions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

    from .shapes import ErrorReport, JobEnd, Plan

SIGNAL_EXIT_BASE = 128
SKIPPED = "SkippedError"
"""The type of error of a stage that never ran because another did not complete."""
TRACKED_FILE = "tracked.json"
"""What the part of a job that is the experiment says about its end: status, exit_code, error, cancelled."""

FULL_DISK_LISTS = ("outputs", "undeclared_outputs", "stray_files", "changed_files")
"""What is left out of a result that is too long for the space a full disk has left; the status never is."""


def iso_time(seconds: float) -> str:
    """Return the time since the epoch as ISO 8601 in UTC with microseconds and Z."""
    whole = int(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((seconds - whole) * 1e6):06d}Z"


def write_result(plan: Plan, end: JobEnd, left: Mapping[str, object], started: float, duration_s: float) -> int:
    """Write result.json.

    Args:
        plan: the launcher's plan.
        end: how the job ended.
        left: what it left behind.
        started: seconds since the epoch.
        duration_s: how long the job took.

    Returns:
        The exit code for the worker: 0 for completed and stopped, else as the job's own.
    """
    run_dir = plan["run_dir"]
    end = settle_tracked(plan, end)
    error = describe_end(end, read_document(os.path.join(run_dir, "error.json")))
    error = error or describe_remains(left, is_prefix=end["stopped"]) or describe_submissions(run_dir)
    status = _status(end, error)
    result = {
        **left,
        "schema": 1,
        "status": status,
        "exit_code": end["exit_code"],
        "signal": end["signal"],
        "error": error,
        "started": iso_time(started),
        "begun_s": started,
        "ended": iso_time(time.time()),
        "duration_s": round(duration_s, 6),
        "job_started": end["started"],
        "function_metrics": read_document(os.path.join(run_dir, "function.json")),
        "log_bytes": _size(os.path.join(run_dir, "log.txt")),
        "hardware": hardware_document(),
        "job_environment": read_document(os.path.join(run_dir, "job-environment.json")),
    }
    _write_surely(run_dir, result)
    return exit_code(end, status)


def settle_tracked(plan: Plan, end: JobEnd) -> JobEnd:
    """Return how the experiment ended, where it is a part of the job that says so itself in tracked.json.

    Where the plan asks for one part, that part decides alone. Else the job decides, but a part that failed makes the
    experiment a failed one although the job went on and ended well.

    Side effects: the traceback of an error that the job itself did not print is added to its log.
    """
    wanted = plan.get("tracked")
    if not end["started"] or end["error"] or end["cancelled"] or end["stopped"]:
        return end
    said = read_document(os.path.join(plan["run_dir"], TRACKED_FILE))
    if said is None or said.get("status") == "running":
        if wanted and not end["exit_code"] and not end["signal"]:
            word = "never started" if said is None else "never ended"
            end["error"] = {"type": "TrackedBlockError", "message": f"{wanted['name']} was {word} by the job"}
        return end
    if said.get("status") == "completed":
        if wanted:
            end["exit_code"], end["signal"] = 0, None
        return end
    error = said.get("error")
    if isinstance(error, dict):
        if end["exit_code"] == 0:
            _append_log(plan["run_dir"], str(error.get("traceback") or ""))
        if said.get("status") == "failed":
            end["error"] = {"type": str(error.get("type")), "message": str(error.get("message"))}
    code = said.get("exit_code")
    if said.get("status") == "cancelled":
        end["cancelled"] = str(said.get("cancelled"))
    end["exit_code"] = code if isinstance(code, int) else end["exit_code"]
    return end


def _append_log(run_dir: str, text: str) -> None:
    with contextlib.suppress(OSError), open(os.path.join(run_dir, "log.txt"), "ab") as log:
        log.write(text.encode("utf-8", "backslashreplace"))


def error_report(fault: Exception) -> ErrorReport:
    """Return what went wrong in the worker itself."""
    return {"type": type(fault).__name__, "message": str(fault)}


def describe_end(end: JobEnd, reported: Mapping[str, object] | None) -> ErrorReport | None:
    """Return why the job did not end well, None when it did.

    Args:
        end: how it ended, seen from outside.
        reported: error.json, if the job wrote one.
    """
    if end["error"]:
        return end["error"]
    if end["cancelled"]:
        return {"type": "CancelledError", "message": f"cancelled by {end['cancelled']}"}
    if end["stopped"] or end["exit_code"] == 0:
        return None
    if reported and reported.get("type") != "SystemExit":
        return {"type": str(reported.get("type")), "message": str(reported.get("message"))}
    if end["signal"]:
        return {"type": "SignalError", "message": _signal_message(end["signal"])}
    said = f": {reported.get('message')}" if reported else ""
    return {"type": "ExitCodeError", "message": f"exit code {end['exit_code']}{said}"}


def describe_remains(left: Mapping[str, object], *, is_prefix: bool) -> ErrorReport | None:
    """Return what speaks against a job that ended well: code from the user's tree, or outputs that it did not make."""
    smuggled, missing = left["smuggled"], left["missing_outputs"]
    if isinstance(smuggled, list) and smuggled:
        files = sorted({str(item["file"]) for item in smuggled})
        names = ", ".join(f"{item['module']} from {item['file']}" for item in smuggled)
        return {"type": "SmuggledModuleError", "message": f"imported from the live work tree: {names}", "paths": files}
    if isinstance(missing, list) and missing and not is_prefix:
        named = ", ".join("a result" if path == "." else str(path) for path in missing)
        return {"type": "MissingOutputError", "message": f"not made: {named}", "paths": missing[:20]}
    return None


def _status(end: JobEnd, error: ErrorReport | None) -> str:
    if end["cancelled"] and not end["error"]:
        return "cancelled"
    if error:
        return "skipped" if error["type"] == SKIPPED else "failed"
    return "stopped" if end["stopped"] else "completed"


def _signal_message(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"killed by {name}" + ("; perhaps out of memory" if name == "SIGKILL" else "")


def _write_surely(run_dir: str, result: Mapping[str, object]) -> None:
    """Free the reserve and write; where even that is too little, write without the long lists, and say so."""
    path = os.path.join(run_dir, "result.json")
    for name in ("reserve.bin", "job-reserve.bin"):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(run_dir, name))
    try:
        write_document(path, result, durable=True)
    except OSError as fault:
        short: dict[str, object] = {key: [] for key in FULL_DISK_LISTS}
        short["job_environment"] = None
        failed = {"status": "failed", "error": {"type": "OSError", "message": f"the result is incomplete: {fault}"}}
        write_document(path, {**result, **short, **({} if result["error"] else failed)}, durable=True)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def exit_code(end: JobEnd, status: str | None = None) -> int:
    """Return the worker's own exit code: 0 for completed and stopped, else as the job's, 1 where that was 0."""
    status = status or _status(end, describe_end(end, None))
    if status in ("completed", "stopped"):
        return 0
    if end["signal"]:
        return SIGNAL_EXIT_BASE + end["signal"]
    return end["exit_code"] or 1
