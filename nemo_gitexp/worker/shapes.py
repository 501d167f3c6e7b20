"""The shapes of the files in a run directory, for the type checker only: nothing here runs in a job.

`plan.json` comes from the launcher, `result.json` goes to the collector; `JobOrder` passes from the worker to its job.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple, TypedDict, Union

JsonValue = Union[None, bool, int, float, str, "List[JsonValue]", "Dict[str, JsonValue]"]

ManifestRow = Tuple[str, str, int, str]
"""Path, git mode (100644, 100755, 120000), size in bytes, sha256 of the bytes on disk or of a link's target text."""

FileState = Tuple[int, int, int]
"""Size in bytes, modification time in ns, inode: what tells cheaply that a file was touched."""


class EntryPlan(TypedDict, total=False):
    """What to run; `kind` is script, module, code, function, call, command or notebook, and says which keys are there.

    `search` is one directory for a function, a list of them for a call.
    """

    kind: str
    path: str
    module: str
    code: str
    target: str
    build: bool
    sha256: str
    bytecode: str
    search: str
    call: Dict[str, str]
    returns: Dict[str, List[str]]
    args: List[str]
    argv: List[str]


class OutputPlan(TypedDict):
    """A declared output, relative to the outputs directory or absolute; `keep` is dvc, in-place or digest."""

    path: str
    keep: str


class InputPlan(TypedDict):
    """An input; each of `files` is path, md5, size, mtime in ns, inode, as the launcher verified them.

    `md5` is empty where nobody hashed; `kinds` tell how the files were made: reflink, hardlink, copy, symlink.
    """

    path: str
    pin: str
    size_bytes: Optional[int]
    files: List[Tuple[str, str, int, int, int]]
    kinds: List[str]


class TopologyPlan(TypedDict, total=False):
    """How many worker processes share this run, and what starts them on a node: torchrun, or None.

    `devices` and `image` are for the launcher alone.
    """

    nodes: int
    tasks_per_node: int
    launcher: Optional[str]
    devices: Optional[int]
    image: Optional[str]


class StagePlan(TypedDict):
    """A stage among those of its run: what it waits for, where its ancestors' outputs are, how many run at once."""

    name: str
    run: str
    dependencies: List[str]
    results: Dict[str, str]
    slots: int


class StageOrder(TypedDict):
    """What the job of a stage is told beside its entry: where earlier results lie and where its own goes."""

    results: Dict[str, str]
    outputs: str


class TrackedPlan(TypedDict):
    """Which part of the program is the experiment: its name there, the how manieth of the same, its configuration."""

    name: str
    ordinal: int
    config_hash: str


class TrackerIdsPlan(TypedDict):
    """How this run is called in W&B and MLflow."""

    run_id: str
    name: str


class ScheduledPlan(TypedDict, total=False):
    """What the worker is told when a scheduler has the run, which may stop it and start it again.

    `chain` is the number of jobs that follow each other; `grace_s` how long a job that was told to end may take.
    """

    kind: str
    chain: int
    grace_s: float


class PlanRequired(TypedDict):
    """The keys that every plan has."""

    schema: int
    kind: str
    run_dir: str
    manifest: str
    cancel: str
    workspace: str
    cwd: str
    user_root: Optional[str]
    trusted_roots: List[str]
    entry: EntryPlan
    interpreter: Optional[str]
    interpreter_flags: List[str]
    probe_interpreter: Optional[str]
    env: Dict[str, str]
    unset_env: List[str]
    seed: int
    determinism: str
    outputs: List[OutputPlan]
    outputs_dir: str
    config: str
    metrics_file: Optional[str]
    inputs: List[InputPlan]
    allow_extra: List[str]
    stop_after_steps: Optional[int]
    grace_s: float


class Plan(PlanRequired, total=False):
    """`plan.json`: what the launcher asks of the worker."""

    experiment: str
    study: str
    name: str
    run: str
    topology: TopologyPlan
    stage: StagePlan
    tracked: Optional[TrackedPlan]
    tracker_ids: TrackerIdsPlan
    variables: Optional[str]
    scheduled: Optional[ScheduledPlan]


class JobOrder(TypedDict):
    """What the job process is told, as one marshalled file: reading JSON would import modules before the user does."""

    run_dir: str
    report: str
    error: str
    returned: str
    workspace: str
    user_root: Optional[str]
    trusted_roots: List[str]
    entry: EntryPlan
    config: Dict[str, JsonValue]
    stage: Optional[StageOrder]
    seed: int
    is_alone: bool
    determinism: str
    interpreter_flags: List[str]
    own_wandb_id: Optional[str]


class ErrorReport(TypedDict, total=False):
    """Why a run did not complete; `paths` (at most 20) where files are to blame."""

    type: str
    message: str
    paths: List[str]


class OutputReport(TypedDict):
    """One output as found; `files` (relative path, md5, size) only where it is a directory."""

    path: str
    keep: str
    sha256: str
    md5: str
    digest: Optional[str]
    size_bytes: int
    is_dir: bool
    files: List[Tuple[str, str, int]]


class JobEnd(TypedDict):
    """How the job process ended, seen from outside.

    `interrupted` is the signal that a scheduler sent: whether the run is over is not the worker's to say.
    """

    started: bool
    exit_code: Optional[int]
    signal: Optional[int]
    cancelled: Optional[str]
    interrupted: Optional[int]
    stopped: bool
    error: Optional[ErrorReport]
