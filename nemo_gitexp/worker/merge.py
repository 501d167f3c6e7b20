"""One result for a run of several stages, from the results of each; the same results give the same document."""

from __future__ import annotations

import os

from .documents import read_document
from .finish import SKIPPED
from .lastword import ended_result
from .machine import writer_lives
from .manifest import is_compiled
from .segments import is_scheduled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Mapping

    from .shapes import JsonValue

MOST_LISTED = 100
LISTS = ("stray_files", "changed_files", "inputs_changed", "smuggled", "links", "remarks")
RANKED = ("lost", "failed", "cancelled", "skipped")
"""What a run of several stages came to, the worst first; completed when none of these is there."""


def merged_result(run_dir: str) -> dict[str, object] | None:
    """Return the result of a run of stages, in the form of a worker's own; None while one goes on, or without stages.

    A stage whose process is gone without a result is lost; what depends on it is skipped. What a scheduler has is over
    by its last word alone: until that is known the run goes on.
    """
    plan = read_document(os.path.join(run_dir, "plan.json")) or {}
    stages = [stage for stage in _items(plan.get("stages")) if isinstance(stage, dict)]
    results: dict[str, Mapping[str, JsonValue]] = {}
    for stage in stages:
        name = str(stage["name"])
        directory = os.path.join(run_dir, "stages", name)
        word, result = stage_word(directory)
        found = result or _without_result(word, stage, results)
        if found is None:
            return None
        results[name] = found
    return _merged(stages, results) if stages else None


def stage_word(directory: str) -> tuple[str | None, dict[str, JsonValue] | None]:
    """Return how a stage stands, and its result if there is one.

    Its status; `lost` when its process is gone without a result; `unstarted` when it never will be; None while it goes
    on or may still start.
    """
    path = os.path.join(directory, "result.json")
    result = read_document(path)
    if result is None and is_scheduled(directory):
        result = ended_result(directory) or read_document(path)
        return (None, None) if result is None else (str(result.get("status")), result)
    if result is None and os.path.exists(os.path.join(directory, "started.json")):
        if is_alive(directory):
            return None, None
        result = read_document(path)  # it may have written it and left between the two looks
        return (str(result.get("status")), result) if result else ("lost", None)
    if result is None:
        return ("unstarted", None) if os.path.exists(os.path.join(directory, "abandoned.json")) else (None, None)
    return str(result.get("status")), result


def is_alive(directory: str) -> bool:
    """Return whether the process of a stage goes on."""
    started = os.path.join(directory, "started.json")
    document = read_document(started)
    return document is not None and writer_lives(started, document)


def _without_result(
    word: str | None, stage: Mapping[str, JsonValue], results: Mapping[str, Mapping[str, JsonValue]]
) -> dict[str, JsonValue] | None:
    """Return what stands for the result of a stage that has none: lost, or skipped; None while it may still run."""
    if word == "lost":
        return _lost("the worker is gone and left no result")
    failed = [str(name) for name in _items(stage["dependencies"]) if results[str(name)].get("status") != "completed"]
    if word == "unstarted" and failed:
        error: dict[str, JsonValue] = {"type": SKIPPED, "message": f"stage {failed[0]} did not complete"}
        return {"status": "skipped", "error": error}
    return _lost("its worker was never started") if word == "unstarted" else None


def _lost(message: str) -> dict[str, JsonValue]:
    error: dict[str, JsonValue] = {"type": "LostRunError", "message": message}
    return {"status": "lost", "error": error, "job_started": True}


def _merged(
    stages: Iterable[Mapping[str, JsonValue]], results: Mapping[str, Mapping[str, JsonValue]]
) -> dict[str, object]:
    statuses = [str(result.get("status")) for result in results.values()]
    status = next((word for word in RANKED if word in statuses), "completed")
    worst = next((name for name in results if results[name].get("status") == status), "")
    blamed = results.get(worst, {}) if status != "completed" else {}
    times = [result for result in results.values() if result.get("started") and not result.get("reused_from")]
    lists = {key: _union(results.values(), key)[:MOST_LISTED] for key in LISTS}
    return {
        **lists,
        "schema": 1,
        "status": status,
        "exit_code": 0 if status == "completed" else blamed.get("exit_code"),
        "signal": blamed.get("signal"),
        "error": _blame(worst, blamed.get("error")),
        "outputs": [report for name, result in results.items() for report in _placed(name, result)],
        "missing_outputs": [
            f"{name}/{path}" for name in results for path in _items(results[name].get("missing_outputs"))
        ],
        "undeclared_outputs": [],
        "metrics_file": None,
        "started": min((str(result["started"]) for result in times), default=None),
        "ended": max((str(result["ended"]) for result in times if result.get("ended")), default=None),
        "duration_s": _span(times),
        "job_started": any(result.get("job_started") for result in results.values()),
        "function_metrics": None,
        "log_bytes": sum(_number(result.get("log_bytes")) for result in results.values()),
        "hardware": next((result["hardware"] for result in times if result.get("hardware")), {}),
        "job_environment": next((result["job_environment"] for result in times if result.get("job_environment")), None),
        "blamed": worst if blamed else None,
        "tasks": [_task(stage, results[str(stage["name"])]) for stage in stages],
    }


def _task(stage: Mapping[str, JsonValue], result: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    name = str(stage["name"])
    keys = ("status", "exit_code", "signal", "error", "reused_from", "started", "ended", "duration_s")
    found: dict[str, JsonValue] = {key: result.get(key) for key in keys}
    outputs: list[JsonValue] = [report["path"] for report in _placed(name, result)]
    return {"name": name, "key": None if _left_traces(result) else stage.get("key"), "outputs": outputs, **found}


def _left_traces(result: Mapping[str, JsonValue]) -> bool:
    """Return whether files of the workspace were written that no result holds.

    Whoever runs later may have read them: taking the result without them would be something else.
    """
    changed = [path for path in _items(result.get("changed_files")) if not is_compiled(str(path))]
    return bool(changed or _items(result.get("stray_files")) or _items(result.get("inputs_changed")))


def _placed(name: str, result: Mapping[str, JsonValue]) -> list[dict[str, JsonValue]]:
    """Return a stage's output reports, relative to the outputs of the whole run."""
    reports = [report for report in _items(result.get("outputs")) if isinstance(report, dict)]
    return [{**report, "path": os.path.normpath(f"{name}/{report['path']}")} for report in reports]


def _blame(name: str, error: JsonValue) -> JsonValue:
    if not isinstance(error, dict):
        return None
    return {**error, "message": f"stage {name}: {error.get('message')}"}


def _union(results: Iterable[Mapping[str, JsonValue]], key: str) -> list[JsonValue]:
    found: list[JsonValue] = []
    for result in results:
        found += [item for item in _items(result.get(key)) if item not in found]
    return found


def _span(times: list[Mapping[str, JsonValue]]) -> float | None:
    if not times:
        return None
    begun = [_number(result.get("begun_s")) for result in times]
    ended = [_number(result.get("begun_s")) + _number(result.get("duration_s")) for result in times]
    return round(max(ended) - min(begun), 6)


def _number(value: JsonValue) -> float:
    return value if isinstance(value, (int, float)) else 0


def _items(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []
