"""Which shapes a kind of executor can run as they are recorded, so that what is recorded is what runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from nemo_gitexp.errors import LaunchError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.profileparts import ExecutorProfile, Kind, ProfileShape

ShapeFault: TypeAlias = "tuple[str, str, str | None]"
"""A key of the shape, what is wrong with it, and the word that would be right."""


def shape_faults(kind: Kind, shape: ProfileShape) -> list[ShapeFault]:
    """Return why an executor of a kind would not run the processes of a shape; empty: it would.

    Source: NeMo Run 0.11. Without a launcher only Slurm starts several processes; on lepton and dgxcloud torchrun
    starts one for each device, whatever `nprocs_per_node` says.
    """
    if kind in ("local", "docker") and shape.nodes > 1:
        return [("nodes", f"= {shape.nodes}: {kind} runs on one node", None)]
    if kind != "slurm" and shape.nodes * shape.tasks_per_node > 1 and shape.launcher is None:
        return [("launcher", f'= "torchrun" is needed: {kind} starts one process a node', "torchrun")]
    if kind in ("lepton", "dgxcloud") and shape.launcher and shape.devices not in (None, 0, shape.tasks_per_node):
        said = f"= {shape.devices} is needed: on {kind} NeMo Run starts one process for each device"
        return [("tasks_per_node", said, str(shape.devices))]
    return []


def recorded_shape(topology: Mapping[str, JsonValue]) -> ProfileShape:
    """Return the shape in the topology of a record; what is missing is as for one process."""
    nodes, tasks, devices = (topology.get(key) for key in ("nodes", "tasks_per_node", "devices"))
    launcher, image = topology.get("launcher"), topology.get("image")
    return ProfileShape(
        nodes=nodes if isinstance(nodes, int) else 1,
        tasks_per_node=tasks if isinstance(tasks, int) else 1,
        devices=devices if isinstance(devices, int) else None,
        launcher=launcher if isinstance(launcher, str) else None,
        image=image if isinstance(image, str) else None,
    )


def needed_elsewhere(topology: Mapping[str, JsonValue]) -> str:
    """Return what a record needs of an executor that a plain local one does not have; "" where that one will do."""
    shape = recorded_shape(topology)
    needs = [f"{shape.nodes} nodes"] if shape.nodes > 1 else []
    needs += [f"{shape.tasks_per_node} processes on each"] if shape_faults("local", shape) else []
    needs += [f"the image {shape.image}"] if shape.image else []
    return ", ".join(needs)


def submission_fault(profile: ExecutorProfile) -> tuple[str, str] | None:
    """Return why nothing is submitted to an executor, and what to do instead; None: it takes runs.

    Source: NeMo Run 0.11 has no scheduler for KubeRayExecutor; of the clouds nothing but a shared file system brings
    results back.
    """
    if profile.kind == "kuberay":
        said = f"executor {profile.name}: NeMo Run makes clusters of Ray with kuberay, and runs no experiments on them"
        return said, "--executor NAME, of another type; nemo-gitexp config shows them"
    if profile.kind in ("lepton", "dgxcloud", "kubeflow", "skypilot") and not profile.place.shared:
        said = f"executor {profile.name}: nothing brings results back from {profile.kind} but a shared file system"
        return said, "shared = true in its table, where jobs see this machine's files under the same paths"
    return None


def require_runnable(profile: ExecutorProfile, topology: Mapping[str, JsonValue]) -> str | None:
    """Check that an executor can run the recorded processes; return a warning where it runs them without their image.

    Args:
        profile: of the executor of this site.
        topology: of the record.

    Raises:
        LaunchError: it would run others, and what came out would be no answer.
    """
    shape = recorded_shape(topology)
    if faults := shape_faults(profile.kind, shape):
        said = "; ".join(f"{key} {what}" for key, what, _ in faults)
        raise LaunchError(
            f"executor {profile.name} cannot run what is recorded: {said}",
            hint="--executor NAME, of one that can; nemo-gitexp config shows them",
            executor=profile.name,
        )
    if profile.kind == "local" and shape.image is not None:
        return f"warning: recorded in the container {shape.image}, and executor {profile.name} runs in none"
    return None
