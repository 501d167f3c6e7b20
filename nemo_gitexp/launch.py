"""How a workspace becomes a running job: the run directory, the plan, the launcher protocol, the supervisor.

What must be exact (argv, environment, directories) travels in the plan; a launcher only starts the worker by path.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nemo_gitexp.entry import Entry, expand_placeholders
from nemo_gitexp.errors import LaunchError
from nemo_gitexp.handover import Successor
from nemo_gitexp.jsontext import JsonValue, render_json
from nemo_gitexp.record import ExperimentRecord
from nemo_gitexp.rundir import RunPaths, unwritable, write_beside
from nemo_gitexp.sitevalues import bind_site, bind_text, site_words
from nemo_gitexp.topology import NUMERIC_VARIABLES
from nemo_gitexp.workspace import Workspace

GRACE_S = 10
_WORKER_SOURCES = Path(__file__).parent / "worker"
_JOB_VARIABLES = ("GITEXP_CONFIG", "GITEXP_OUTPUTS", "GITEXP_SEED", "GITEXP_EXPERIMENT", "GITEXP_METRICS")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """How an experiment is to be run this time."""

    sha: str
    record: ExperimentRecord
    config: Mapping[str, JsonValue]
    workspace: Workspace
    user_root: Path
    common_dir: Path
    interpreter: Path | None
    probe_interpreter: Path | None
    reproduction: bool = False
    stop_after_steps: int | None = None
    keep_workspace: bool = False
    site: Mapping[str, str] = field(default_factory=dict)

    @property
    def bound_config(self) -> Mapping[str, JsonValue]:
        """The configuration with this machine's values in it."""
        return {key: bind_site(value, self.site) for key, value in self.config.items()}


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a launcher hands back: who runs the job, in its own words."""

    executor: str
    jobs: tuple[str, ...]


class Launcher(Protocol):
    """Something that starts the worker of a prepared run directory."""

    def submit(self, paths: RunPaths) -> Receipt:
        """Start it; the run directory says how it goes on.

        Raises:
            LaunchError: it was not accepted.
        """


def prepare_run(paths: RunPaths, request: RunRequest) -> None:
    """Fill the run directory: worker, configuration, manifest, and last of all the plan.

    Raises:
        SettingsError: a `${site:NAME}` that this machine has no value for.
        StateDirectoryError: it cannot be written.
    """
    try:
        paths.outputs.mkdir()
        package = paths.root / "node" / "_gitexp_worker"
        package.mkdir(parents=True)
        for source in sorted(_WORKER_SOURCES.glob("*.py")):
            shutil.copyfile(source, (package.parent if source.name == "start.py" else package) / source.name)
        write_beside(paths.config, render_json(request.bound_config))
        write_beside(paths.manifest, request.workspace.manifest())
        write_beside(paths.plan, render_json(_plan(paths, request)))
    except OSError as fault:
        raise unwritable(paths, fault) from fault


def _plan(paths: RunPaths, request: RunRequest) -> JsonValue:
    record, workspace = request.record, request.workspace
    values = {"config": str(paths.config), "outputs": str(paths.outputs), "seed": str(record.seed)}
    entry = _expanded(record.entry, values, request)
    numeric = {str(k): str(v) for k, v in _mapping(record.topology.get("environment")).items()}
    return {
        "schema": 1,
        "kind": "reproduction" if request.reproduction else "run",
        "experiment": request.sha,
        "study": record.study,
        "name": record.name,
        "run": paths.run,
        "run_dir": str(paths.root),
        "workspace": str(workspace.path),
        "keep_workspace": request.keep_workspace,
        "cwd": str(workspace.path / record.workdir),
        "user_root": str(request.user_root),
        "site": site_words(request.site, [output.path for output in record.outputs]),
        "home": os.path.expanduser("~"),  # noqa: PTH111 - text to be recognised in messages, no path to open
        "trusted_roots": [str(request.common_dir), str(paths.root)],
        "entry": entry,
        "interpreter": None if request.interpreter is None else str(request.interpreter),
        "interpreter_flags": entry.get("interpreter_flags", []),
        "probe_interpreter": None if request.probe_interpreter is None else str(request.probe_interpreter),
        "env": {**numeric, **_job_variables(paths, request)},
        "unset_env": [name for name in NUMERIC_VARIABLES if name not in numeric] + _unset_job_variables(record),
        "seed": record.seed,
        "determinism": record.determinism,
        "topology": {
            "nodes": record.topology.get("nodes", 1),
            "tasks_per_node": record.topology.get("tasks_per_node", 1),
        },
        "outputs": [{"path": bind_text(output.path, request.site), "keep": output.keep} for output in record.outputs],
        "outputs_dir": str(paths.outputs),
        "config": str(paths.config),
        "metrics_file": record.metrics.file,
        "inputs": [item.to_json() for item in workspace.inputs],
        "allow_extra": workspace.allowed_extras(),
        "tracked": {**record.tracked.to_json(), "config_hash": record.config_hash} if record.tracked else None,
        "stop_after_steps": request.stop_after_steps,
        "grace_s": GRACE_S,
    }


def _unset_job_variables(record: ExperimentRecord) -> list[str]:
    """Return the job variables that a tracked program did not have when it was recorded."""
    return list(_JOB_VARIABLES) if record.tracked else []


def _job_variables(paths: RunPaths, request: RunRequest) -> dict[str, str]:
    if request.record.tracked:
        # A part of a program, which ran without a job around it: only that part finds its way, by this one.
        return {"GITEXP_RUN_DIR": str(paths.root)}
    return {
        "GITEXP_CONFIG": str(paths.config),
        "GITEXP_OUTPUTS": str(paths.outputs),
        "GITEXP_SEED": str(request.record.seed),
        "GITEXP_EXPERIMENT": request.sha,
        "GITEXP_RUN_DIR": str(paths.root),
        "GITEXP_METRICS": str(paths.metrics),
    }


def _expanded(entry: Entry, values: Mapping[str, str], request: RunRequest) -> dict[str, JsonValue]:
    document = entry.to_json()
    strict = not request.record.ad_hoc
    for key in () if request.record.tracked else ("args", "argv"):
        words = document.get(key)
        if isinstance(words, list):
            expanded = expand_placeholders([str(word) for word in words], values, request.config, strict=strict)
            document[key] = bind_site(expanded, request.site)
    return document


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, Mapping) else {}


class Supervisor(Successor):
    """Submits one prepared run through NeMo Run and stays until it has ended: NeMo Run cannot detach local jobs."""

    def __init__(self, state_dir: Path) -> None:
        """Start the process, which imports NeMo Run while the caller records and restores."""
        super().__init__("nemo_gitexp.launchers.nemo", state_dir, state_dir)

    def submit(self, paths: RunPaths) -> Receipt:
        """Hand the run over and wait for the acknowledgement (not for the job).

        Raises:
            LaunchError: the supervisor died first.
        """
        if not self.hand_over(str(paths.root)):
            raise LaunchError(
                "the supervisor did not accept the run",
                hint=f"{shlex.quote(sys.executable)} -c 'import nemo_run' shows what is wrong",
            )
        return Receipt("local", (f"pid-{self.process.pid}",))
