"""The run directory: the names of its files, and how they are written. Nothing else knows them."""

from __future__ import annotations

import os
import shlex
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.errors import StateDirectoryError
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.moments import iso_now
from nemo_gitexp.owners import owner_token
from nemo_gitexp.worker.machine import started_document

UNDROPPED = ".undropped."
"""What the names of directories in a run root begin with that remember copies of runs elsewhere."""


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run directory, or of a stage in it; the only place that knows their names."""

    root: Path

    @property
    def run(self) -> str:
        """The run's own name: `<record sha>[.repro].<nonce>`."""
        return self.root.name

    def parts(self) -> list[RunPaths]:
        """Return the directories of its workers: itself, or one of each stage, which has the same files."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.root / "stages") if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return [self]
        return [self.stage(name) for name in names]

    def stage(self, name: str) -> RunPaths:
        """Return the directory of one stage's worker."""
        return RunPaths(self.root / "stages" / name)

    @property
    def is_begun(self) -> bool:
        """Whether a worker has started."""
        return any(part.started.exists() for part in self.parts())

    @property
    def plan(self) -> Path:
        """What the launcher asks of the worker."""
        return self.root / "plan.json"

    @property
    def manifest(self) -> Path:
        """What the workspace must hold."""
        return self.root / "manifest.json"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.json"

    @property
    def results(self) -> Path:
        """Where the outputs of a stage's ancestors lie, by name."""
        return self.root / "results.json"

    @property
    def inputs(self) -> Path:
        """Where the inputs lie on this machine, by their path in the repository."""
        return self.root / "inputs.json"

    @property
    def variables(self) -> Path:
        """What the executor's profile adds to the job's environment; it may be secret, and goes with the run."""
        return self.root / "variables.json"

    @property
    def outputs(self) -> Path:
        """The output root."""
        return self.root / "outputs"

    @property
    def metrics(self) -> Path:
        """What the job appends its metrics to."""
        return self.root / "metrics.jsonl"

    @property
    def tracker_metrics(self) -> Path:
        """What the job told W&B, MLflow and TensorBoard, as a metric stream."""
        return self.root / "tracker-metrics.jsonl"

    @property
    def log(self) -> Path:
        """Stdout and stderr of the job."""
        return self.root / "log.txt"

    @property
    def packed_log(self) -> Path:
        """The log as it goes into the store, packed by whoever collects first."""
        return self.root / "log.gz"

    @property
    def worker(self) -> Path:
        """The worker's entry, run by path."""
        return self.root / "node" / "start.py"

    @property
    def launching(self) -> Path:
        """Who prepares the run and where its workspace will be: the first file, there before anything else is."""
        return self.root / "launching.json"

    @property
    def supervisor(self) -> Path:
        """Who launches: written by the supervisor when it takes the plan."""
        return self.root / "supervisor.json"

    @property
    def asked(self) -> Path:
        """Touched when NeMo Run is asked about the run."""
        return self.root / ".asked"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor and NeMo Run said."""
        return self.root / "supervisor.log"

    @property
    def submitting(self) -> Path:
        """As `submitted.json`, with the names of the jobs instead of their ids: there while they are submitted."""
        return self.root / "submitting.json"

    @property
    def submitted(self) -> Path:
        """Which jobs of which scheduler the run is: written by whoever submitted it, once that was accepted."""
        return self.root / "submitted.json"

    @property
    def scheduler_word(self) -> Path:
        """The scheduler's last word on a worker that left no result; the first who asks writes it."""
        return self.root / "scheduler.json"

    @property
    def refused(self) -> Path:
        """Why the launcher could not start the job."""
        return self.root / "refused.json"

    @property
    def abandoned(self) -> Path:
        """Somebody found the run without a living process before its job started: it must not start any more."""
        return self.root / "abandoned.json"

    @property
    def relocated(self) -> Path:
        """Where the copy of this run lies that its node works in, if it is another place."""
        return self.root / "relocated.json"

    @property
    def dropped(self) -> Path:
        """That copy is gone, or holds no secrets any more where it is kept."""
        return self.root / "dropped.json"

    @property
    def undropped(self) -> RunPaths:
        """Beside this directory: what remembers where the copy lies when this is gone before it."""
        return RunPaths(self.root.with_name(f"{UNDROPPED}{self.run}"))

    @property
    def prepared(self) -> tuple[Path, ...]:
        """What a node needs of the run directory; the rest is this side's own."""
        files = (self.plan, self.manifest, self.config, self.results, self.inputs, self.variables)
        return (*files, self.worker.parent, self.root / "stages", self.outputs)

    @property
    def started(self) -> Path:
        """Who works: written by the worker."""
        return self.root / "started.json"

    @property
    def child(self) -> Path:
        """The process id of the job."""
        return self.root / "child.json"

    @property
    def cancel(self) -> Path:
        """Somebody asks to cancel."""
        return self.root / "cancel.json"

    @property
    def job(self) -> Path:
        """Settings read back in the job."""
        return self.root / "job.json"

    def rank_jobs(self) -> dict[int, Path]:
        """Return what the other ranks than the first read back, by rank."""
        found = {int(path.suffixes[0].removeprefix(".rank")): path for path in self.root.glob("job.rank[0-9]*.json")}
        return dict(sorted(found.items()))

    @property
    def result(self) -> Path:
        """The worker's last word."""
        return self.root / "result.json"


def write_beside(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file by rename, so that a reader sees all of it or nothing; nothing else stays after a failure.

    With `private` nobody else can read it at any moment.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if private:
            beside.touch(mode=0o600)
        beside.write_bytes(content)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_once(path: Path, content: bytes) -> bool:
    """Write a file as `write_beside`, unless it is there already; return whether it was not."""
    beside = path.with_name(f".{path.name}.{owner_token()}")
    try:
        beside.write_bytes(content)
        return move_once(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def move_once(beside: Path, path: Path) -> bool:
    """Give a whole file, which may stay, its name unless something has that already; return whether it did.

    A reader sees all of it or nothing; where the file system has no hard links, for a moment an empty file.

    Raises:
        OSError: it cannot be written.
    """
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        beside.replace(path)
    return True


def save_document(path: Path, content: bytes) -> Path:
    """Write a file for people, by rename, and return its path; its directory is made.

    Raises:
        StateDirectoryError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, content)
    except OSError as fault:
        hint = f"ls -ld {shlex.quote(str(path.parent))}"
        raise StateDirectoryError(f"cannot write {path}: {fault.strerror}", hint=hint, path=str(path)) from fault
    return path


def reserve_run(run_root: Path, workspace_root: Path, sha: str, *, reproduction: bool = False) -> RunPaths:
    """Make a run directory that says who prepares it; from here on others see that the experiment is on its way.

    Raises:
        StateDirectoryError: it cannot be made.
    """
    run = f"{sha}{'.repro' if reproduction else ''}.{uuid.uuid4().hex[:8]}"
    beside = run_root / f".{owner_token()}.{run}"
    owner = started_document(iso_now())
    paths = RunPaths(run_root / run)
    try:
        beside.mkdir(parents=True)
        # A run root inside the work tree: what runs write there is no part of the next experiment.
        (beside / ".gitignore").write_bytes(b"*\n")
        RunPaths(beside).launching.write_bytes(render_json({**owner, "workspace": str(workspace_root / run)}))
        beside.rename(paths.root)
    except OSError as fault:
        shutil.rmtree(beside, ignore_errors=True)
        raise unwritable(paths, fault) from fault
    return paths


def unwritable(paths: RunPaths, fault: OSError) -> StateDirectoryError:
    """Return the error that says that a run directory cannot be written."""
    return StateDirectoryError(f"cannot write {paths.root}: {fault.strerror}", hint="df -h", path=str(paths.root))
