"""Decides whether a run may start: the workspace, the data and the places for outputs must be as recorded."""

from __future__ import annotations

import os

from .documents import read_document
from .entryfiles import entry_files
from .inputs import find_wrong_inputs
from .manifest import UNEXPECTED, Verification, allowance, is_compiled, verify_workspace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .shapes import ErrorReport, Plan

MOST_PATHS = 20


def verify_plan(plan: Plan, *, is_restart: bool = False) -> Verification:
    """Compare the workspace with the manifest; pinned data and what the plan allows may be there besides.

    When the run was started before, its job may have changed files itself: they are `tolerated`, but for those that are
    the entry point.

    Raises:
        ValueError: the manifest is missing or damaged.
    """
    path = plan["manifest"]
    rows = (read_document(path) or {}).get("files")
    if not isinstance(rows, list):
        raise ValueError(f"{path} is missing or damaged")  # noqa: TRY004 - damage in a file, no wrong argument
    data = [row[0] for item in plan["inputs"] for row in item["files"]]
    # A manifest's data lie behind one link; what is below it is compared by `find_wrong_inputs`.
    unlisted = [item["path"] for item in plan["inputs"] if not item["files"] or "symlink" in item["kinds"]]
    allowed = allowance(data, [*plan["allow_extra"], *unlisted])
    found = verify_workspace(plan["workspace"], rows, allowed)  # type: ignore[arg-type]  # the launcher's contract
    if plan.get("stage"):
        # What other stages wrote is named by them; and Python compiles anew what it finds older than its source.
        faults = found.faults.items()
        found.faults = {path: fault for path, fault in faults if fault != UNEXPECTED and not is_compiled(path)}
    if is_restart:
        entry = entry_files(plan)
        found.tolerated = {path: fault for path, fault in found.faults.items() if path not in entry}
        found.faults = {path: fault for path, fault in found.faults.items() if path in entry}
    return found


def find_refusal(plan: Plan, verification: Verification, *, is_restart: bool = False) -> ErrorReport | None:
    """Return why the run must not start; None when it may. What an earlier start of it made is in nobody's way."""
    if not os.path.isdir(plan["cwd"]):
        return {"type": "WorkspaceMismatchError", "message": f"no directory {plan['cwd']}", "paths": [plan["cwd"]]}
    if verification.faults:
        return _mismatch("WorkspaceMismatchError", "the workspace is not as recorded", verification.faults)
    wrong = find_wrong_inputs(plan["workspace"], plan["inputs"])
    if wrong:
        return _mismatch("DataMismatchError", "the data are not as recorded", wrong)
    if is_restart:
        return None
    left = os.listdir(plan["outputs_dir"])
    if plan["kind"] == "reproduction":
        left += [item["path"] for item in plan["outputs"] if _is_taken(item["path"])]
    if left:
        faults = dict.fromkeys(left, "is there already")
        return _mismatch("OutputsNotEmptyError", "the places for outputs are not empty", faults)
    return None


def _mismatch(kind: str, message: str, faults: dict[str, str]) -> ErrorReport:
    """Return a refusal that names at most `MOST_PATHS` paths, each with what is wrong with it."""
    paths = sorted(faults)[:MOST_PATHS]
    named = ", ".join(f"{path} ({faults[path]})" for path in paths)
    more = f" and {len(faults) - len(paths)} more" if len(faults) > len(paths) else ""
    return {"type": kind, "message": f"{message}: {named}{more}", "paths": paths}


def _is_taken(path: str) -> bool:
    """Return whether an output outside the run directory holds something from before."""
    if not os.path.isabs(path) or not os.path.lexists(path):
        return False
    return bool(os.listdir(path)) if os.path.isdir(path) else True
