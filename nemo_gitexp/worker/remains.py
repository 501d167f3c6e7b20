"""What a job left behind: the metrics file, its outputs, stray and changed files, changed data, smuggled modules."""

from __future__ import annotations

import os
import time

from .documents import read_document
from .inputs import find_changed_inputs
from .manifest import UNEXPECTED, allowance, file_state, find_changed, is_compiled, tree_states, walk_files
from .outputs import declared_outputs, find_undeclared, hash_output
from .trackerplaces import Job, leave_tracked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping

    from .manifest import Verification
    from .shapes import FileState, OutputReport, Plan

MOST_LISTED = 100
NOTHING_LEFT = {
    "outputs": [],
    "missing_outputs": [],
    "undeclared_outputs": [],
    "stray_files": [],
    "changed_files": [],
    "inputs_changed": [],
    "metrics_file": None,
    "smuggled": [],
    "links": [],
    "trackers": None,
    "remarks": [],
}  # type: dict[str, object]


class Remains:
    """How workspace and data were before the job, and so what the job did to them.

    Args:
        plan: the launcher's plan.
        verification: the manifest's files as verified.
        inputs: the data files as verified.
        env: the environment that the job is started with.
        before: what `earlier_document` gave at the run's first start, if this is another.
    """

    def __init__(
        self,
        plan: Plan,
        verification: Verification,
        inputs: Mapping[str, FileState | None],
        env: Mapping[str, str],
        before: Mapping[str, Any] | None = None,
    ) -> None:
        self._plan = plan
        self._states = {
            path: state for path, state in verification.states.items() if path not in verification.tolerated
        }
        self._tolerated = [path for path, fault in verification.tolerated.items() if fault != UNEXPECTED]
        self._inputs = inputs
        said = before or self._look()
        self._began = float(said["began"])
        self._tracked = Job(plan, env, self._began, self._is_unchanged)
        self._outside_before = {path: _as_states(states) for path, states in said["outside"].items()}
        self._metrics_before = [(path, _as_state(said["metrics"].get(path))) for path in self._metrics_places()]

    def earlier_document(self) -> dict[str, object]:
        """Return how things were before the run's first start, as JSON has it: a later start compares with it."""
        return {"began": self._began, "outside": self._outside_before, "metrics": dict(self._metrics_before)}

    def _look(self) -> Mapping[str, Any]:
        outside = [item["path"] for item in self._plan["outputs"] if os.path.isabs(item["path"])]
        return {
            "began": time.time(),
            "outside": {path: tree_states(path) for path in outside},
            "metrics": {path: file_state(path) for path in self._metrics_places()},
        }

    def document(self, check: Callable[[], None]) -> dict[str, object]:
        """Return these parts of result.json; outputs are read whole, once.

        Args:
            check: called every now and then; what it raises ends the reading.

        Raises:
            OSError: something cannot be read, or metrics cannot be copied into the run directory.
        """
        plan = self._plan
        declared = [item["path"] for item in plan["outputs"]]
        metrics = [plan["metrics_file"]] if plan["metrics_file"] else []
        reports, missing = self._outputs(check)
        return {
            "outputs": reports,
            "missing_outputs": missing,
            "undeclared_outputs": find_undeclared(plan["outputs_dir"], declared, metrics)[:MOST_LISTED],
            "stray_files": self._strays()[:MOST_LISTED],
            "changed_files": self._changed()[:MOST_LISTED],
            "inputs_changed": find_changed_inputs(plan["workspace"], plan["inputs"], self._inputs),
            "metrics_file": self._copied_metrics(),
            "smuggled": (read_document(os.path.join(plan["run_dir"], "job.json")) or {}).get("smuggled") or [],
            **leave_tracked(self._tracked, check),
        }

    def _changed(self) -> list[str]:
        """Return the files that came with the code and are not as they came, be it by an earlier start's job."""
        return sorted({*find_changed(self._plan["workspace"], self._states), *self._tolerated})

    def _is_unchanged(self, path: str) -> bool:
        """Return whether a file of the workspace came with the code and is as it was."""
        return path in self._states and file_state(os.path.join(self._plan["workspace"], path)) == self._states[path]

    def _outputs(self, check: Callable[[], None]) -> tuple[list[OutputReport], list[str]]:
        reports, missing = [], []
        for output in declared_outputs(self._plan["outputs_dir"], self._plan["outputs"]):
            is_made = not self._is_left_over(output["path"])
            report = hash_output(self._plan["outputs_dir"], output, check) if is_made else None
            if report:
                reports.append(report)
            else:
                missing.append(output["path"])
        return reports, missing

    def _is_left_over(self, path: str) -> bool:
        """Return whether an output outside the run directory is still as it was before the job: not made by it."""
        before = self._outside_before.get(path)
        return bool(before) and tree_states(path) == before

    def _metrics_places(self) -> list[str]:
        name = self._plan["metrics_file"]
        return [os.path.join(self._plan[where], name) for where in ("cwd", "outputs_dir")] if name else []

    def _copied_metrics(self) -> str | None:
        """Copy the first metrics file that the job wrote itself; one that came with the code is no result."""
        for path, before in self._metrics_before:
            if os.path.isfile(path) and file_state(path) != before:
                name = "declared-metrics" + os.path.splitext(path)[1]
                import shutil

                shutil.copyfile(path, os.path.join(self._plan["run_dir"], name))
                return name
        return None

    def _strays(self) -> list[str]:
        """Return files in the workspace that nobody asked for; compiled Python is no news."""
        plan = self._plan
        workspace = os.path.join(plan["workspace"], "")
        asked = [path[len(workspace) :] for path, _ in self._metrics_before if path.startswith(workspace)]
        named = [*self._states, *self._tolerated]
        is_allowed = allowance(named, [*plan["allow_extra"], *asked, *(item["path"] for item in plan["inputs"])])
        found = (path for path, _ in walk_files(plan["workspace"]))
        return sorted(path for path in found if not is_allowed(path) and not is_compiled(path))


def _as_state(value: Any) -> FileState | None:
    """Return the state of a file as JSON has kept it; lists become tuples again."""
    return None if value is None else (value[0], value[1], value[2])


def _as_states(value: Mapping[str, Any]) -> dict[str, FileState | None]:
    return {path: _as_state(state) for path, state in value.items()}
