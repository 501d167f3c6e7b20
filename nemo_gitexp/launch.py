"""How a workspace becomes a job that can be started: the run directory and the plan in it.

What must be exact (argv, environment, directories) travels in the plan; a launcher only starts the worker by path.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp.entry import Entry, expand_placeholders
from nemo_gitexp.environment import available_cores
from nemo_gitexp.inputpin import input_files
from nemo_gitexp.jsontext import JsonValue, render_json
from nemo_gitexp.record import ExperimentRecord
from nemo_gitexp.result import mapping
from nemo_gitexp.rundir import RunPaths, unwritable, write_beside
from nemo_gitexp.sitevalues import bind_site, bind_text, site_words
from nemo_gitexp.stages import Stage, StagesEntry, visible_config
from nemo_gitexp.topology import NUMERIC_VARIABLES
from nemo_gitexp.trackerids import tracker_ids
from nemo_gitexp.workspace import Workspace

if TYPE_CHECKING:
    from nemo_gitexp.profiles import ExecutorProfile

GRACE_S = 10
INTERRUPTED_GRACE_S = 3600
"""A job that a scheduler told to end is killed by its clock (KillWait, GraceTime), not by ours."""

LEAST_SLOTS = 4
"""So many stages of a pipeline may run at the same time, on larger machines one a core."""

_WORKER_SOURCES = Path(__file__).parent / "worker"
_JOB_VARIABLES = (
    "GITEXP_CONFIG", "GITEXP_OUTPUTS", "GITEXP_SEED", "GITEXP_EXPERIMENT", "GITEXP_METRICS", "GITEXP_INPUTS",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunRequest:
    """How an experiment is to be run this time.

    `keys` tell of a pipeline's stages what their results depend on; `profile` is the executor's, with this machine's
    values in it, None for a local run without one. `chain` is the number of jobs that go on where the one before was
    cut off. `scheduler` is the kind of what will have it where a program brings an executor and no profile; `variables`
    are what its jobs get beside what is recorded, by stage, `""` the one job.
    """

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
    keys: Mapping[str, str | None] = field(default_factory=dict)
    profile: ExecutorProfile | None = None
    chain: int = 1
    scheduler: str | None = None
    variables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def scheduled_by(self) -> str | None:
        """What will have it, as `slurm`; None: a process of this machine."""
        if self.profile is None or self.profile.kind == "local":
            return self.scheduler
        return self.profile.kind

    @property
    def is_scheduled(self) -> bool:
        """Whether a scheduler will have it, and no process of this machine."""
        return self.scheduled_by is not None

    @property
    def bound_config(self) -> Mapping[str, JsonValue]:
        """The configuration with this machine's values in it."""
        return {key: bind_site(value, self.site) for key, value in self.config.items()}


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
        entry, plan = request.record.entry, _run_plan(paths, request)
        plan |= _variables(paths, {**(request.profile.env if request.profile else {}), **request.variables.get("", {})})
        if isinstance(entry, StagesEntry):
            for stage in entry.stages:
                _prepare_stage(paths, request, plan, stage, entry)
            plan["stages"] = [
                {"name": stage.name, "dependencies": list(stage.dependencies), "key": request.keys.get(stage.name)}
                for stage in entry.stages
            ]
        else:
            plan |= _entry_plan(paths, request, Stage("", entry), request.config, {})
            plan["outputs"] = [
                {"path": bind_text(output.path, request.site), "keep": output.keep} for output in request.record.outputs
            ]
        write_beside(paths.plan, render_json(plan))
    except OSError as fault:
        raise unwritable(paths, fault) from fault


def _variables(own: RunPaths, variables: Mapping[str, str]) -> dict[str, JsonValue]:
    """Write what an executor gives to jobs beside what is recorded, and return what the plan says about it.

    It may be secret, so it is in no plan, and for nobody else.
    """
    if not variables:
        return {}
    own.variables.touch(mode=0o600)
    own.variables.write_bytes(render_json(dict(variables)))
    return {"variables": str(own.variables)}


def _prepare_stage(
    paths: RunPaths, request: RunRequest, plan: Mapping[str, JsonValue], stage: Stage, pipeline: StagesEntry
) -> None:
    """Fill the directory of one stage: the part of the configuration that it may see, and a worker's plan."""
    own, ancestors = paths.stage(stage.name), pipeline.ancestors(stage.name)
    own.root.mkdir(parents=True)
    place = paths.outputs / stage.name
    results = {name: str(paths.outputs / name) for name in ancestors}
    seen = visible_config(stage, request.config)
    write_beside(own.config, render_json({key: bind_site(value, request.site) for key, value in seen.items()}))
    write_beside(own.results, render_json(dict(results)))
    words = {"results": str(own.results), **{f"stages.{name}": place for name, place in results.items()}}
    metrics_file = request.record.metrics.file
    outputs: list[JsonValue] = [{"path": path, "keep": "dvc"} for path in (".", *stage.outputs)]
    declared: JsonValue = {
        "name": stage.name,
        "run": str(paths.root),
        "dependencies": list(stage.dependencies),
        "results": dict(results),
        # Tasks of a NeMo Run experiment may wait for each other while they run.
        "slots": len(pipeline.stages) if stage.shape or request.is_scheduled else max(LEAST_SLOTS, available_cores()),
    }
    stage_plan: dict[str, JsonValue] = {
        **plan,
        **_shape_plan(stage, plan),
        **_entry_plan(own, request, stage, seen, words, place),
        "run_dir": str(own.root),
        "outputs_dir": str(place),
        "config": str(own.config),
        # Absolute: the working directory is everybody's, a file there could be any stage's.
        "metrics_file": None if metrics_file is None else str(place / metrics_file),
        "outputs": outputs,
        "stage": declared,
        "tracker_ids": {**_tracker_ids(paths, request, stage.name)},
        **_variables(own, request.variables.get(stage.name, {})),
    }
    write_beside(own.plan, render_json(stage_plan))


def _run_plan(paths: RunPaths, request: RunRequest) -> dict[str, JsonValue]:
    """Return what all workers of a run are told."""
    record, workspace = request.record, request.workspace
    return {
        "schema": 1,
        "kind": "reproduction" if request.reproduction else "run",
        "experiment": request.sha,
        "study": record.study,
        "name": record.name,
        "run": paths.run,
        "run_dir": str(paths.root),
        "manifest": str(paths.manifest),
        "cancel": str(paths.cancel),
        "workspace": str(workspace.path),
        "keep_workspace": request.keep_workspace,
        "cwd": str(workspace.path / record.workdir),
        "user_root": str(request.user_root),
        "site": site_words(request.site, [output.path for output in record.outputs]),
        "home": os.path.expanduser("~"),  # noqa: PTH111 - text to be recognised in messages, no path to open
        "trusted_roots": [str(request.common_dir), str(paths.root)],
        "interpreter": None if request.interpreter is None else str(request.interpreter),
        "probe_interpreter": None if request.probe_interpreter is None else str(request.probe_interpreter),
        "unset_env": _unset_variables(record),
        "seed": record.seed,
        "determinism": record.determinism,
        "topology": {
            "nodes": record.topology.get("nodes", 1),
            "tasks_per_node": record.topology.get("tasks_per_node", 1),
            **{key: record.topology.get(key) for key in ("launcher", "devices", "image")},
        },
        "outputs_dir": str(paths.outputs),
        "config": str(paths.config),
        "metrics_file": record.metrics.file,
        "inputs": [item.to_json() for item in workspace.inputs],
        "allow_extra": workspace.allowed_extras(),
        "tracked": {**record.tracked.to_json(), "config_hash": record.config_hash} if record.tracked else None,
        "stop_after_steps": request.stop_after_steps,
        "grace_s": GRACE_S,
        "tracker_ids": {**_tracker_ids(paths, request)},
        "variables": None,
        "scheduled": _scheduled_plan(request),
    }


def _scheduled_plan(request: RunRequest) -> dict[str, JsonValue] | None:
    kind = request.scheduled_by
    return None if kind is None else {"kind": kind, "chain": request.chain, "grace_s": INTERRUPTED_GRACE_S}


def _tracker_ids(paths: RunPaths, request: RunRequest, stage: str | None = None) -> dict[str, str]:
    return tracker_ids(request.sha, paths.run, request.record.name, stage, reproduction=request.reproduction)


def _shape_plan(stage: Stage, plan: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    shape = stage.shape
    if shape is None:
        return {"topology": plan["topology"]}
    own = {
        "nodes": shape.nodes,
        "tasks_per_node": shape.tasks_per_node,
        "devices": shape.devices,
        "launcher": shape.launcher,
    }
    return {"topology": {**mapping(plan["topology"]), **own}}


def _entry_plan(
    own: RunPaths,
    request: RunRequest,
    stage: Stage,
    seen: Mapping[str, JsonValue],
    words: Mapping[str, str],
    outputs: Path | None = None,
) -> dict[str, JsonValue]:
    """Return what one worker runs, with its environment; `words` are more placeholders, `seen` its configuration."""
    place = str(outputs or own.outputs)
    inputs = {item.pin.path: str(request.workspace.path / item.pin.path) for item in request.workspace.inputs}
    named = {f"inputs.{name}": where for name, where in input_files(inputs).items()}
    values = {"config": str(own.config), "outputs": place, "seed": str(request.record.seed), **named, **words}
    expanded = _expanded(stage.entry, values, seen, request)
    variables = _job_variables(own, request, place)
    if inputs and not request.record.tracked:
        write_beside(own.inputs, render_json(dict(inputs)))
        variables["GITEXP_INPUTS"] = str(own.inputs)
    if words:
        variables["GITEXP_RESULTS"] = words["results"]
    return {
        "entry": expanded,
        "interpreter_flags": expanded.get("interpreter_flags", []),
        "env": {**_numeric(request.record), **dict(stage.shape.env if stage.shape else ()), **variables},
    }


def _unset_variables(record: ExperimentRecord) -> list[str]:
    """Return the variables that the recorded job did not have, of a tracked program those of jobs among them."""
    numeric = _numeric(record)
    return [name for name in NUMERIC_VARIABLES if name not in numeric] + (
        list(_JOB_VARIABLES) if record.tracked else []
    )


def _job_variables(own: RunPaths, request: RunRequest, outputs: str) -> dict[str, str]:
    if request.record.tracked:
        # A part of a program, which ran without a job around it: only that part finds its way, by this one.
        return {"GITEXP_RUN_DIR": str(own.root)}
    return {
        "GITEXP_CONFIG": str(own.config),
        "GITEXP_OUTPUTS": outputs,
        "GITEXP_SEED": str(request.record.seed),
        "GITEXP_EXPERIMENT": request.sha,
        "GITEXP_RUN_DIR": str(own.root),
        "GITEXP_METRICS": str(own.metrics),
    }


def _numeric(record: ExperimentRecord) -> dict[str, str]:
    return {str(key): str(value) for key, value in mapping(record.topology.get("environment")).items()}


def _expanded(
    entry: Entry, values: Mapping[str, str], seen: Mapping[str, JsonValue], request: RunRequest
) -> dict[str, JsonValue]:
    document = entry.to_json()
    strict = not request.record.ad_hoc
    for key in () if request.record.tracked else ("args", "argv"):
        words = document.get(key)
        if isinstance(words, list):
            given = [str(word) for word in words]
            expanded = given if entry.verbatim else expand_placeholders(given, values, seen, strict=strict)
            document[key] = bind_site(list(expanded), request.site)
    return document
