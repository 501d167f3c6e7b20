"""What stands for the result of a worker that left none, where a scheduler has said its last word about it.

`scheduler.json` beside the worker's files is written once, by whoever asks first; all who look later read the same.
"""

from __future__ import annotations

import os
import signal

from .documents import read_document
from .segments import read_segments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional, Tuple

    from .shapes import JsonValue

FILE = "scheduler.json"
SIGNAL_EXIT_BASE = 128
LOST = "LostRunError"

WORDS = {
    "TIMEOUT": ("failed", "TimeLimitError", "the scheduler stopped it at its time limit"),
    "DEADLINE": ("failed", "TimeLimitError", "the scheduler stopped it at its deadline"),
    "OUT_OF_MEMORY": ("failed", "OutOfMemoryError", "killed for using more memory than the job asked for"),
    "CANCELLED": ("cancelled", "CancelledError", "cancelled at the scheduler"),
    "PREEMPTED": ("cancelled", "CancelledError", "preempted and not started again"),
    "REVOKED": ("cancelled", "CancelledError", "revoked by the scheduler"),
    "NODE_FAIL": ("lost", LOST, "its node failed"),
    "BOOT_FAIL": ("lost", LOST, "its node could not be started"),
    "COMPLETED": ("lost", LOST, "the scheduler says that it completed, and it left no result"),
    "FORGOTTEN": ("lost", LOST, "it left no result, and the scheduler knows nothing of it any more"),
}
"""Slurm's final states: status, type of error, message.

A node that failed may only be out of reach, and its worker may still write a result: that is what lost means, and a
late result replaces it.
"""

REASONS = {
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "OUT_OF_MEMORY": "failed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted",
    "REVOKED": "cancelled",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
}
"""Why the last segment ended."""


def ended_result(directory: str) -> dict[str, JsonValue] | None:
    """Return what stands for the result of a worker that a scheduler ended; None while it may go on or start again.

    It depends on the files of its directory alone.
    """
    word = read_document(os.path.join(directory, FILE))
    if word is None:
        return None
    status, exit_code, number, error = _verdict(word, directory)
    segments = read_segments(directory)
    times = [item["duration_s"] for item in segments if isinstance(item.get("duration_s"), (int, float))]
    found: dict[str, JsonValue] = {
        "schema": 1,
        "status": status,
        "exit_code": exit_code,
        "signal": number,
        "error": error,
        "job_started": bool(segments),
        "started": segments[0].get("started") if segments else None,
        "begun_s": segments[0].get("begun_s") if segments else None,
        "ended": segments[-1].get("ended") if segments else None,
        "duration_s": sum(times) if times else None,  # type: ignore[arg-type]  # numbers, as asked in the line above
    }
    return found


def forbids_start(directory: str) -> str | None:
    """Return the scheduler's last word where a run that has it is over for good; a failed node's run may go on."""
    word = read_document(os.path.join(directory, FILE))
    if word is None or _verdict(word, directory)[0] == "lost":
        return None
    return str(word.get("state"))


def last_reason(directory: str, job: object) -> str | None:
    """Return why the last segment ended, as far as the scheduler says; None without its last word on that job."""
    word = read_document(os.path.join(directory, FILE))
    return None if word is None or word.get("job", job) != job else REASONS.get(str(word.get("state")), "unknown")


def _verdict(
    word: Mapping[str, JsonValue], directory: str
) -> Tuple[str, Optional[int], Optional[int], "dict[str, JsonValue]"]:
    """Return status, exit code, signal and error."""
    state = str(word.get("state"))
    code, number = _number(word.get("exit_code")), _number(word.get("signal"))
    if state in WORDS:
        status, kind, message = WORDS[state]
        if kind == "CancelledError" and os.path.exists(_cancel_file(directory)):
            message = "cancelled by request"
        return status, None, number, {"type": kind, "message": message}
    if state != "FAILED":
        return "lost", code, number, {"type": LOST, "message": f"the scheduler says {state}, and it left no result"}
    if number is None and (code or 0) > SIGNAL_EXIT_BASE:
        number = (code or 0) - SIGNAL_EXIT_BASE
    if number:
        return "failed", None, number, {"type": "SignalError", "message": f"killed by {_name(number)}"}
    said = "the job failed without a word of the worker's"
    return "failed", code, None, {"type": "ExitCodeError", "message": f"exit code {code}: {said}"}


def _cancel_file(directory: str) -> str:
    parent = os.path.dirname(directory)
    run = os.path.dirname(parent) if os.path.basename(parent) == "stages" else directory
    return os.path.join(run, "cancel.json")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _number(value: JsonValue) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
