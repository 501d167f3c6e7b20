"""Tasks and executors of NeMo Run as what an experiment records of them: entry points, configurations, shapes.

Nothing is recorded or submitted here. What of an executor belongs to a site (accounts, tunnels, directories) is left.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nemo_run
from nemo_run.core.execution.launcher import Launcher, Torchrun
from nemo_run.core.serialization.zlib_json import ZlibJSONSerializer

from nemo_gitexp.asked import Unresolved
from nemo_gitexp.attempt import this_python
from nemo_gitexp.clusters import devices_of, is_scheduled, require_supported
from nemo_gitexp.command import anchor_script
from nemo_gitexp.entry import CallEntry, Entry, ScriptEntry, parse_command, taken_verbatim
from nemo_gitexp.errors import ExecutorError, RecipeError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.recipes import describe_live
from nemo_gitexp.secretwords import holds_secret, is_secret_variable, known_secrets
from nemo_gitexp.topology import TaskShape

_SHELLS = {"python": ".py"}


@dataclass(frozen=True, slots=True)
class TaskParts:
    """What is recorded of one task.

    Args:
        entry: what runs.
        call: the call whose configuration is still to be made; None for a script.
        config: of a script: what it is and what it is given.
        files: what the record has to carry for it, by name.
        env: variables of the script itself.
    """

    entry: Entry
    call: Unresolved | None = None
    config: Mapping[str, JsonValue] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


def require_task(given: Any) -> Any:
    """Return a task as NeMo Run can take it: a lazy one is resolved.

    Raises:
        RecipeError: it is none.
    """
    task = given.resolve() if getattr(given, "is_lazy", False) else given
    if not isinstance(task, (nemo_run.Partial, nemo_run.Config, nemo_run.Script)):
        raise RecipeError(f"a {type(task).__name__} is no task", hint="run.Partial(function, …), or run.Script(path=…)")
    return task


def read_task(task: Any, name: str, *, root: Path, workdir: str, study: str) -> TaskParts:
    """Return what is recorded of a `run.Partial` or `run.Script`.

    Args:
        task: as plugins left it.
        name: of the task; files that the record carries for it are called so.
        root: the work tree.
        workdir: where jobs run, relative to the root; a script's path is relative to it.
        study: whose record it is.

    Raises:
        UnportableFunctionError: it calls something that no job can import.
        CanonicalFormError, UnbuildableConfigError: it is given something that cannot be recorded.
        RecipeError: it is no task.
    """
    task = require_task(task)
    if isinstance(task, nemo_run.Script):
        return _read_script(task, name, root, workdir, study)
    config, search = describe_live(task, root)
    target = str(config["_target_"])
    entry = CallEntry(target, this_python(), tuple(dict.fromkeys((*search, workdir))))
    return TaskParts(entry, Unresolved(None, config))


def _read_script(script: Any, name: str, root: Path, workdir: str, study: str) -> TaskParts:
    config: dict[str, JsonValue] = {"entrypoint": script.entrypoint}
    files: dict[str, bytes] = {}
    if script.inline:
        file = f"{name}{_SHELLS.get(script.entrypoint, '.sh')}"
        files[file] = f"#!/usr/bin/bash\n{script.inline}".encode()  # as NeMo Run writes it
        config["inline"] = script.inline
        words = [script.entrypoint, os.path.relpath(f"experiments/{study}/record/{file}", workdir)]
    else:
        config |= {"path": script.path, "args": [str(word) for word in script.args]} | ({"m": True} if script.m else {})
        words = [script.entrypoint, *(["-m"] if script.m else []), script.path, *map(str, script.args)]
    entry = taken_verbatim(parse_command(words))
    if isinstance(entry, ScriptEntry) and entry.python.interpreter == "python":
        entry = replace(entry, python=replace(entry.python, interpreter=this_python().interpreter))
    env = {str(key): str(value) for key, value in script.env.items()}
    return TaskParts(anchor_script(entry, root, workdir), None, config, files, env)


def read_shape(executor: Any, script_env: Mapping[str, str], group: str | None) -> TaskShape:
    """Return how an executor runs a task, as it is recorded; secrets among its variables are left out.

    Raises:
        ExecutorError: it cannot be serialised, nothing can be submitted to it from here, or it asks for what a job of
            ours would not get.
    """
    kind = type(executor).__name__
    _require_serialisable(executor, kind)
    if is_scheduled(executor):
        require_supported(executor)
    elif not isinstance(executor, nemo_run.LocalExecutor):
        raise ExecutorError(
            f"programs submit to run.LocalExecutor and run.SlurmExecutor, not to {kind}",
            hint="nemo-gitexp run --executor NAME, with a profile; nemo_run.Experiment records nothing",
            executor=kind,
        )
    elif executor.nodes > 1:
        raise ExecutorError(f"{kind} has nodes={executor.nodes}, and there is one here", hint="nodes=1", executor=kind)
    launcher = _launcher(executor, kind)
    env = {**{str(key): str(value) for key, value in executor.env_vars.items()}, **script_env}
    known = known_secrets({**os.environ, **env})
    return TaskShape(
        nodes=executor.nodes if is_scheduled(executor) else 1,
        tasks_per_node=_tasks_per_node(executor, launcher),
        devices=devices_of(executor, launcher) if is_scheduled(executor) else None,
        launcher=launcher,
        env=tuple(sorted((name, value) for name, value in env.items() if not is_secret(name, value, known))),
        group=group,
    )


def _tasks_per_node(executor: Any, launcher: str | None) -> int:
    if not is_scheduled(executor):
        return int(executor.ntasks_per_node) if launcher else 1
    # torchrun: so many processes of one task of Slurm's, also once NeMo Run has changed ntasks_per_node to one.
    return int((executor.torchrun_nproc_per_node if launcher else None) or executor.ntasks_per_node)


def is_secret(name: str, value: str, known: Mapping[str, str]) -> bool:
    """Return whether a variable must not be recorded, by its name or by what its value holds (`known_secrets`)."""
    is_reference = value.startswith("${") and value.endswith("}")
    return holds_secret(value, known) or (is_secret_variable(name) and not is_reference)


def _require_serialisable(executor: Any, kind: str) -> None:
    try:
        ZlibJSONSerializer().serialize(executor.to_config())
    except Exception as fault:  # a serialiser meets user's values: whatever it raises is about them
        said = str(fault).strip().splitlines() or [type(fault).__name__]
        raise ExecutorError(
            f"{kind} cannot be recorded: {said[0]}", hint="give it text, numbers, lists and mappings", executor=kind
        ) from fault


def _launcher(executor: Any, kind: str) -> str | None:
    launcher = executor.clone().get_launcher()
    if isinstance(launcher, Torchrun) and not launcher.nsys_profile:
        return "torchrun"
    if type(launcher) is Launcher and not launcher.nsys_profile:
        return None
    what = "nsys profiling" if launcher.nsys_profile else f"launcher {type(launcher).__name__}"
    raise ExecutorError(
        f"{kind} has {what}, which this version cannot reproduce", hint='launcher="torchrun", or none', executor=kind
    )
