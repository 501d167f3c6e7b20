"""The shape of a run and its numeric environment: what changes numbers and must be set before Python starts. Pure."""

from __future__ import annotations

from collections.abc import Mapping

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
