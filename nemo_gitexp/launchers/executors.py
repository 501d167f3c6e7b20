"""Profiles as executors of NeMo Run: which fields there are, and one built from a bound profile and a topology.

Imports NeMo Run, lazily. Nothing is submitted or connected here.
"""

from __future__ import annotations

import dataclasses
import getpass
import importlib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nemo_gitexp.errors import LaunchError
from nemo_gitexp.extras import missing_extra
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.profilefields import (
    SHAPE_FIELDS,
    FieldRule,
    FieldType,
    KindFields,
    converted,
    find_faults,
    find_missing,
)
from nemo_gitexp.profiles import ExecutorProfile, TunnelProfile
from nemo_gitexp.profileshape import require_runnable
from nemo_gitexp.profiletable import profile_error

_CORE: Final = "nemo_run.core.execution"
_CLASSES: Final[Mapping[str, tuple[str, str]]] = {
    "local": (f"{_CORE}.local", "LocalExecutor"),
    "slurm": (f"{_CORE}.slurm", "SlurmExecutor"),
    "docker": (f"{_CORE}.docker", "DockerExecutor"),
    "skypilot": (f"{_CORE}.skypilot", "SkypilotExecutor"),
    "lepton": (f"{_CORE}.lepton", "LeptonExecutor"),
    "dgxcloud": (f"{_CORE}.dgxcloud", "DGXCloudExecutor"),
    "kubeflow": (f"{_CORE}.kubeflow", "KubeflowExecutor"),
    "kuberay": (f"{_CORE}.kuberay", "KubeRayExecutor"),
}
_SIMPLE: Final[Mapping[Any, str]] = {str: "text", int: "whole", float: "number", bool: "flag", types.NoneType: "none"}


def read_fields() -> dict[str, KindFields]:
    """Return the fields of every kind of executor that NeMo Run offers here, as its dataclasses say them."""
    return {kind: _fields_of(kind) for kind in _CLASSES}


def build_executor(bound: ExecutorProfile, topology: Mapping[str, JsonValue]) -> Any:
    """Return the executor of NeMo Run for a run of the recorded topology on the site of a profile.

    Variables of the job are not among its `env_vars`: NeMo Run changes their names and leaves values unquoted; they
    travel in the plan of the run.

    Args:
        bound: the profile, every reference replaced (`bind_profile`).
        topology: of the record: nodes, tasks_per_node, devices, launcher, image.

    Raises:
        SettingsError: the profile has faults, or lacks what must be given.
        LaunchError: an extra is not installed (the hint says which), it would run other processes than the recorded
            ones, or NeMo Run refuses the values.
    """
    require_extra(bound)
    require_runnable(bound, topology)
    known = _fields_of(bound.kind)
    ready = _ready(bound, known, topology)
    if faults := [*find_faults(ready, known, is_bound=True), *find_missing(ready, known)]:
        raise profile_error(bound.name, faults)
    arguments: dict[str, Any] = {
        **ready.options,
        **_shape_arguments(bound, topology),
        **_own_arguments(bound),
    }
    try:
        return _class_of(bound.kind)(**arguments)
    except Exception as fault:  # whatever a constructor of NeMo Run raises is about the values it was given
        said = str(fault).strip().splitlines() or [type(fault).__name__]
        raise LaunchError(
            f"executor {bound.name}: NeMo Run's {known.name} refuses it: {said[0]}",
            hint=f"nemo-gitexp doctor --executor {bound.name}",
            executor=bound.name,
        ) from fault


def local_arguments(topology: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return the arguments of the LocalExecutor for a topology: a launcher, where there is one, and its processes."""
    if not topology.get("launcher"):
        return {}
    return {"launcher": topology["launcher"], "ntasks_per_node": topology["tasks_per_node"]}


def require_extra(profile: ExecutorProfile) -> None:
    """Check that what a kind of executor needs beside NeMo Run is installed.

    Raises:
        LaunchError: it is not; the hint installs it.
    """
    if extra := missing_extra(profile.kind):
        raise LaunchError(
            f"executor {profile.name}: {profile.kind} needs the extra {extra.name} of nemo_run ({extra.module})",
            hint=extra.command,
            executor=profile.name,
            extra=extra.name,
        )


def _ready(bound: ExecutorProfile, known: KindFields, topology: Mapping[str, JsonValue]) -> ExecutorProfile:
    """Return a bound profile with the recorded image, and numbers where references stood for them."""
    image, rules = topology.get("image"), known.fields or {}
    return dataclasses.replace(
        bound,
        shape=dataclasses.replace(bound.shape, image=image if isinstance(image, str) else None),
        options={
            key: converted(value, rules[key].type) if key in rules else value for key, value in bound.options.items()
        },
    )


def _shape_arguments(bound: ExecutorProfile, topology: Mapping[str, JsonValue]) -> dict[str, Any]:
    if bound.kind == "local":
        return local_arguments(topology)
    names = SHAPE_FIELDS[bound.kind]
    given = {names[key]: topology[key] for key in names if topology.get(key) is not None}
    if image := names.get("image"):
        where = bound.place.image_at or topology.get("image")
        given |= {} if where is None else {image: where}
    if bound.kind == "kuberay":
        return given | _worker_groups(bound, topology)
    return given | ({"launcher": topology["launcher"]} if topology.get("launcher") else {})


def _worker_groups(bound: ExecutorProfile, topology: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return Ray's workers, one for each node; a profile that describes them itself has them built."""
    group = importlib.import_module(_CLASSES["kuberay"][0]).KubeRayWorkerGroup
    described = bound.options.get("worker_groups")
    if isinstance(described, (list, tuple)):
        return {"worker_groups": [group(**item) for item in described if isinstance(item, Mapping)]}
    devices = topology.get("devices")
    return {"worker_groups": [group(group_name="workers", replicas=topology.get("nodes", 1), gpus_per_worker=devices)]}


def _own_arguments(bound: ExecutorProfile) -> dict[str, Any]:
    import nemo_run

    if bound.kind == "skypilot":
        return {}  # takes no packager but its own
    arguments: dict[str, Any] = {"packager": nemo_run.Packager()}  # nothing: the run directory is shipped
    if bound.kind == "slurm":
        arguments |= {"tunnel": build_tunnel(bound), "poll_estimated_start_time": False}
    elif bound.place.root:
        directory = {"lepton": "nemo_run_dir", "dgxcloud": "pvc_nemo_run_dir"}.get(bound.kind)
        arguments |= {directory: bound.place.root} if directory and directory not in bound.options else {}
    return arguments


def build_tunnel(bound: ExecutorProfile) -> Any:
    """Return NeMo Run's tunnel of a bound Slurm profile; not connected.

    A local one has an empty `job_dir`: with any other, NeMo Run's own script is not found (measured). One by ssh must
    have one: the profile's, or below its `root`, or what the launcher sets.

    Raises:
        SettingsError: it has none.
    """
    import nemo_run

    tunnel = bound.tunnel or TunnelProfile()
    if tunnel.kind == "local":
        return nemo_run.LocalTunnel(job_dir="")
    if not tunnel.job_dir and not bound.place.root:
        raise profile_error(bound.name, [("tunnel.job_dir", "is missing", None)])
    return nemo_run.SSHTunnel(
        host=tunnel.host,
        user=tunnel.user or getpass.getuser(),
        port=tunnel.port,
        identity=None if tunnel.identity is None else str(Path(tunnel.identity).expanduser()),
        job_dir=tunnel.job_dir or f"{(bound.place.root or '').rstrip('/')}/nemo",
        shell=tunnel.shell,
        pre_command=tunnel.pre_command,
    )


def _class_of(kind: str) -> Any:
    module, name = _CLASSES[kind]
    return getattr(importlib.import_module(module), name)


def _fields_of(kind: str) -> KindFields:
    try:
        executor = _class_of(kind)
    except ImportError:
        return KindFields(_CLASSES[kind][1], None)
    hints = typing.get_type_hints(executor)
    return KindFields(
        executor.__name__,
        {
            item.name: FieldRule(_type_of(hints[item.name]), _is_required(item))
            for item in dataclasses.fields(executor)
            if item.init
        },
    )


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _type_of(hint: Any) -> FieldType:
    """Return a type as `profilefields` knows it; what has no form in a table of settings is "any"."""
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return ["either", *(_type_of(argument) for argument in arguments)]
    if origin in (list, tuple):
        return ["list", _type_of(arguments[0]) if arguments else "any"]
    if origin is dict:
        return ["table", _type_of(arguments[1]) if arguments else "any"]
    if dataclasses.is_dataclass(hint):
        return ["table", "any"]
    return "any"
