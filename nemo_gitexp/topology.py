"""The shape of a run and its numeric environment: what changes numbers and must be set before Python starts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import cast

from nemo_gitexp.errors import RecordError
from nemo_gitexp.jsontext import JsonValue

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
NUMERIC_VARIABLES = (
    *THREAD_VARIABLES,
    "OMP_DYNAMIC",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "NVIDIA_TF32_OVERRIDE",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO",
    "FLASH_ATTENTION_DETERMINISTIC",
    "PYTHONHASHSEED",
)
"""Variables that change numbers and must be set before the interpreter starts; an experiment records their values."""

BITWISE_VARIABLES = {
    "NCCL_ALGO": "Ring",
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
}


@dataclass(frozen=True, slots=True)
class TaskShape:
    """How one task of a NeMo Run experiment runs: processes, what starts them, and the variables it is given.

    `launcher` is torchrun or None; `env` are variables as pairs, by name; `group` names the tasks that run together;
    `devices` are GPUs of a node, None: not asked for.
    """

    nodes: int = 1
    tasks_per_node: int = 1
    launcher: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    group: str | None = None
    devices: int | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """Return what the record holds."""
        devices: dict[str, JsonValue] = {} if self.devices is None else {"devices": self.devices}
        return {
            "nodes": self.nodes,
            "tasks_per_node": self.tasks_per_node,
            **devices,
            "launcher": self.launcher,
            "env": dict(self.env),
            "group": self.group,
        }


def parse_shape(document: Mapping[str, JsonValue]) -> TaskShape:
    """Return the shape that `to_json` wrote.

    Raises:
        RecordError: a field of the wrong type.
    """
    nodes, tasks, env = document.get("nodes"), document.get("tasks_per_node"), document.get("env")
    launcher, group, devices = document.get("launcher"), document.get("group"), document.get("devices")
    is_counted = isinstance(nodes, int) and isinstance(tasks, int) and isinstance(devices, (int, NoneType))
    if not (is_counted and isinstance(env, Mapping) and isinstance(launcher, (str, NoneType))):
        raise RecordError("the recorded shape of a task is damaged")
    return TaskShape(
        nodes=int(cast("int", nodes)),
        tasks_per_node=int(cast("int", tasks)),
        launcher=launcher,
        env=tuple(sorted((name, str(value)) for name, value in env.items())),
        group=None if group is None else str(group),
        devices=cast("int | None", devices),
    )


def shaped(base: Mapping[str, JsonValue], shape: TaskShape) -> dict[str, JsonValue]:
    """Return a topology with the shape of the one task there is; its variables are part of the environment."""
    numeric = base.get("environment")
    known = dict(numeric) if isinstance(numeric, Mapping) else {}
    env: dict[str, JsonValue] = {**known, **dict(shape.env)}
    return {
        **base,
        "nodes": shape.nodes,
        "tasks_per_node": shape.tasks_per_node,
        "devices": shape.devices,
        "launcher": shape.launcher,
        "environment": {name: env[name] for name in sorted(env)},
    }


def topology(determinism: str, env: Mapping[str, str], threads: int, seed: int) -> dict[str, JsonValue]:
    """Return the topology of a local run: its shape and its numeric environment, as numbers that are recorded.

    Args:
        determinism: off, seeded or bitwise.
        env: the user's environment; what it sets of `NUMERIC_VARIABLES` is kept.
        threads: threads of each library.
        seed: the experiment's.
    """
    numeric = {name: env[name] for name in NUMERIC_VARIABLES if env.get(name)}
    if determinism != "off":
        count = str(threads)
        numeric = {**dict.fromkeys(THREAD_VARIABLES, count), **numeric}
        numeric.setdefault("PYTHONHASHSEED", str(seed % 2**32))
        numeric.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if determinism == "bitwise":
        numeric = {**numeric, **BITWISE_VARIABLES}
    return _shaped(1, 1, numeric)


def running_topology(env: Mapping[str, str], started_with: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return the topology of a program that runs already: its shape and what was really set before Python started.

    Args:
        env: its environment, in which torchrun says how many processes there are (WORLD_SIZE, LOCAL_WORLD_SIZE).
        started_with: the environment that its interpreter was started with.
    """
    world, here = _count(env.get("WORLD_SIZE")), _count(env.get("LOCAL_WORLD_SIZE"))
    numeric = {name: started_with[name] for name in NUMERIC_VARIABLES if started_with.get(name)}
    return _shaped(max(1, world // here), here, numeric)


def count_devices(topology: Mapping[str, JsonValue]) -> tuple[int, int]:
    """Return how many nodes a run has and how many devices on each: its accelerators, else one for each task."""
    nodes, tasks, devices = (topology.get(name) for name in ("nodes", "tasks_per_node", "devices"))
    each = devices if isinstance(devices, int) and devices > 0 else tasks
    return (nodes if isinstance(nodes, int) else 1), (each if isinstance(each, int) else 1)


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() and int(text) > 0 else 1


def _shaped(nodes: int, tasks_per_node: int, numeric: Mapping[str, str]) -> dict[str, JsonValue]:
    return {
        "nodes": nodes,
        "tasks_per_node": tasks_per_node,
        "devices": None,
        "launcher": None,
        "image": None,
        "environment": {name: numeric[name] for name in sorted(numeric)},
    }
