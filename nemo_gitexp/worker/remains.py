"""What a job left behind: the metrics file, its outputs, stray and changed files, changed data, smuggled modules."""

from __future__ import annotations

import os
import time

from .documents import read_document
from .inputs import find_changed_inputs
from .manifest import allowance, file_state, find_changed, is_compiled, tree_states, walk_files
from .outputs import declared_outputs, find_undeclared, hash_output
from .trackerplaces import Job, leave_tracked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Mapping

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
        states: the manifest's files as verified.
        inputs: the data files as verified.
        env: the environment that the job is started with.
    """

    def __init__(
        self,
        plan: Plan,
        states: Mapping[str, FileState],
        inputs: Mapping[str, FileState | None],
        env: Mapping[str, str],
    ) -> None:
        self._plan = plan
        self._tracked = Job(plan, env, time.time(), self._is_unchanged)
        self._states = states
        self._inputs = inputs
        outside = [item["path"] for item in plan["outputs"] if os.path.isabs(item["path"])]
        self._outside_before = {path: tree_states(path) for path in outside}
        self._metrics_before = [(path, file_state(path)) for path in self._metrics_places()]

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
            "changed_files": find_changed(plan["workspace"], self._states)[:MOST_LISTED],
            "inputs_changed": find_changed_inputs(plan["workspace"], plan["inputs"], self._inputs),
            "metrics_file": self._copied_metrics(),
            "smuggled": (read_document(os.path.join(plan["run_dir"], "job.json")) or {}).get("smuggled") or [],
            **leave_tracked(self._tracked, check),
        }

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
        is_allowed = allowance(self._states, [*plan["allow_extra"], *asked, *(item["path"] for item in plan["inputs"])])
        found = (path for path, _ in walk_files(plan["workspace"]))
        return sorted(path for path in found if not is_allowed(path) and not is_compiled(path))
