"""What an executor profile is made of: its parts and the keys they stand under. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from nemo_gitexp.jsontext import JsonValue

KINDS: Final = ("local", "slurm", "docker", "skypilot", "lepton", "dgxcloud", "kubeflow", "kuberay")
LAUNCHERS: Final = ("torchrun",)
DATA_WAYS: Final = ("copy", "pull", "cache")
TUNNELS: Final = ("local", "ssh")

SHAPE_SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "nodes": ("nodes", "num_nodes"),
        "tasks_per_node": ("tasks_per_node", "ntasks_per_node", "nprocs_per_node"),
        "devices": ("devices", "gpus_per_node", "num_gpus"),
        "launcher": ("launcher",),
        "image": ("image", "container_image"),
    }
)
"""The keys of the shape: ours first, then what NeMo Run's executors call the same."""

SHAPE_KEYS: Final = frozenset(spelling for spellings in SHAPE_SPELLINGS.values() for spelling in spellings)
ENV_KEYS: Final = ("env", "env_vars")
PLACE_KEYS: Final = ("python", "root", "shared", "cache", "data", "image_at")
TUNNEL_KEYS: Final = ("type", "host", "user", "port", "identity", "job_dir", "shell", "pre_command")
OWN_KEYS: Final = ("type", *SHAPE_SPELLINGS, "env", "tunnel", *PLACE_KEYS)

_NOT_YOURS = "NeMo Run's experiment sets it"
_ONE_JOB = "an experiment is one job; pipelines and sweeps are how there are several"
REFUSED_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "packager": "the recorded state is what is shipped, by nemo-gitexp itself",
        "experiment_id": _NOT_YOURS,
        "job_dir": "it is a key of [tunnel]; for runs on the site, root",
        "job_name": _NOT_YOURS,
        "job_details": _NOT_YOURS,
        "resource_group": _NOT_YOURS,
        "run_as_group": _NOT_YOURS,
        "array": f"NeMo Run cannot follow job arrays; {_ONE_JOB}",
        "heterogeneous": _ONE_JOB,
        "het_group_indices": _ONE_JOB,
        "dependencies": _ONE_JOB,
        "dependency_type": _ONE_JOB,
        "torchrun_nproc_per_node": "say tasks_per_node",
        "poll_estimated_start_time": "nemo-gitexp follows its jobs itself",
        "retries": "a job that is started again by NeMo Run is not told apart from the first",
    }
)
"""Fields of NeMo Run that no profile may set, and why."""


Kind: TypeAlias = Literal["local", "slurm", "docker", "skypilot", "lepton", "dgxcloud", "kubeflow", "kuberay"]
DataWay: TypeAlias = Literal["copy", "pull", "cache"]


@dataclass(frozen=True, slots=True)
class ProfileShape:
    """What belongs to the experiment.

    Attributes:
        nodes: how many.
        tasks_per_node: processes on each.
        devices: accelerators on each node; None: not said.
        launcher: what starts the processes, "torchrun"; None: the scheduler, or there is one.
        image: the container's, as given (`name:tag`, better `name@sha256:…`); None: none.
        environment: variables among `NUMERIC_VARIABLES`, by name.
    """

    nodes: int = 1
    tasks_per_node: int = 1
    devices: int | None = None
    launcher: str | None = None
    image: str | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class TunnelProfile:
    """How Slurm's commands are reached: from this machine (`local`), or on another one by `ssh`.

    `host`, `user`, `identity` (path of a private key, `~` allowed), `job_dir` (a directory there for NeMo Run's own
    files), `shell` and `pre_command` may hold references, and be None where another source is to say them.
    """

    kind: Literal["local", "ssh"] = "local"
    host: str | None = None
    user: str | None = None
    port: int | None = None
    identity: str | None = None
    job_dir: str | None = None
    shell: str | None = None
    pre_command: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run lies on the site.

    Attributes:
        python: interpreter there; None: as for local runs.
        root: directory there for runs, where the file system is not shared.
        shared: whether paths of this machine mean the same there.
        cache: a DVC cache there.
        data: how inputs get there without a shared file system: copied, by `dvc pull` there, or from `cache`.
        image_at: what the site calls the image (a mirror's name, a .sqsh file); None: as recorded.
    """

    python: str | None = None
    root: str | None = None
    shared: bool = True
    cache: str | None = None
    data: DataWay = "copy"
    image_at: str | None = None


@dataclass(frozen=True, slots=True)
class ExecutorProfile:
    """One profile, checked as far as that is possible without NeMo Run.

    `options` are fields of NeMo Run's executor of this `kind` that belong to the site; they and the texts of `tunnel`,
    `env` and `place` may hold `${env:NAME}` and `${site:NAME}` until `bind_profile` has replaced them.
    """

    name: str
    kind: Kind
    shape: ProfileShape = ProfileShape()
    options: Mapping[str, JsonValue] = field(default_factory=lambda: MappingProxyType({}))
    tunnel: TunnelProfile | None = None
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    place: Place = Place()
