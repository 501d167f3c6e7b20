"""The supervisor: submits one prepared run through NeMo Run's LocalExecutor and stays until it has ended.

Run as a module, in a process that never imports user code. NeMo Run's status and exit codes are not believed
(after its launcher's death it says RUNNING for ever): the worker's files in the run directory are the truth.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_gitexp.handover import accept, take_order
from nemo_gitexp.launchers.executors import local_arguments
from nemo_gitexp.moments import iso_now
from nemo_gitexp.owners import owner_token
from nemo_gitexp.runs import conclude, end_orphans, give_up_stage, read_state_file
from nemo_gitexp.worker.machine import started_document
from nemo_gitexp.worker.merge import is_alive

if TYPE_CHECKING:
    from nemo_gitexp.rundir import RunPaths

POLL_S = 0.05
NOTICE_S = 5.0
"""How long NeMo Run may take to see that its job has ended; it looks when it is asked."""
START_VARIABLE = "_GITEXP_START_"
QUIET: Mapping[str, Any] = {
    "clean_mode": True,
    "enable_goodbye_message": False,
    "skip_status_at_exit": True,
    "serialize_metadata_for_scripts": False,
    "log_level": "ERROR",
}
"""What makes NeMo Run's experiments say and write no more than they must."""

TOUCHED_VARIABLES = (
    "OLDPWD",
    "PATH",
    "PET_LOG_DIR",
    "PYTHONUNBUFFERED",
    "SHLVL",
    "TORCHELASTIC_ERROR_FILE",
    "TORCHX_RANK0_HOST",
)
"""What TorchX and its shell set on the way; some would send a job's own torchrun into a directory that goes away."""


def main() -> int:
    """Import NeMo Run, take one run directory from stdin, run it, clean up."""
    gc.disable()
    # The import below holds the interpreter; whoever hands a run over must not wait for its turns of 5 ms.
    sys.setswitchinterval(0.0005)
    inbox = _Inbox()
    inbox.start()
    with nemo_home(Path(sys.argv[1])) as home:
        try:
            nemo_run = import_nemo_run(home)
            gc.freeze()
            gc.enable()  # from here on it may stay for weeks
            inbox.join()
            if inbox.paths is not None:
                redirect_output(inbox.paths)
                supervise(nemo_run, inbox.paths, home)
        except BaseException as fault:
            # Whatever NeMo Run raises here, the run must not look as if it went on.
            inbox.join()
            if inbox.paths is not None:
                refuse_start(inbox.paths, f"{type(fault).__name__}: {fault}")
            raise
    return 0


class _Inbox(threading.Thread):
    """Reads the run directory and acknowledges at once, while the main thread still imports."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.paths: RunPaths | None = None

    def run(self) -> None:
        order = take_order()
        if not isinstance(order, str):
            return
        from nemo_gitexp.rundir import RunPaths

        paths = RunPaths(Path(order))
        if take_run(paths):
            self.paths = paths
            accept()


def take_run(paths: RunPaths) -> bool:
    """Say that this process supervises a run; return whether it does: nobody else took it or gave it up.

    Raises:
        StateDirectoryError: that cannot be written.
    """
    from nemo_gitexp.rundir import unwritable, write_once

    try:
        is_ours = write_once(paths.supervisor, json.dumps(started_document(iso_now())).encode())
    except (FileNotFoundError, NotADirectoryError):
        return False  # it was given up, and is gone
    except OSError as fault:
        raise unwritable(paths, fault) from fault
    # First said, then looked: whoever gave the run up meanwhile did it the other way round.
    return is_ours and not paths.abandoned.exists() and paths.plan.exists()


def import_nemo_run(home: Path) -> Any:
    """Import NeMo Run, its own files in `home`, and return it; the environment is the user's own again afterwards."""
    with without_torch(), _variable("NEMORUN_HOME", str(home)):
        import nemo_run
    return nemo_run


def move_home(home: Path) -> None:
    """Let NeMo Run, which is imported already, keep its files in another directory: it reads the variable once.

    Each of its backends has a list of its jobs, whose place it computes when it is imported (`LOCAL_JOB_DIRS`, …).
    """
    from nemo_run.config import set_nemorun_home

    set_nemorun_home(str(home))
    for module in [module for name, module in list(sys.modules.items()) if name.startswith("nemo_run.")]:
        for name in [name for name in vars(module) if name.endswith("_JOB_DIRS")]:
            setattr(module, name, str(home / Path(getattr(module, name)).name))


def private_home(state_dir: Path, nonce: str = "gitexp") -> Path:
    """Return a directory for NeMo Run's own files, named after this process; whoever uses it removes it."""
    home = state_dir / "nemo" / f"{owner_token()}.{nonce}"
    if "/nemo_run" in str(home):
        # NeMo Run replaces that in its own scripts' paths too, and then finds nothing (measured).
        return Path(tempfile.gettempdir(), f"{owner_token()}.{nonce}")
    return home


def users_home() -> Path:
    """Return where NeMo Run keeps its files in a process of the user's; imports NeMo Run."""
    from nemo_run.config import get_nemorun_home

    return Path(get_nemorun_home())


@contextmanager
def nemo_home(state_dir: Path) -> Iterator[Path]:
    """Give NeMo Run a home of its own that goes away: named after this process, should it be killed."""
    home = private_home(state_dir)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while: the job must find the user's own."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def without_torch() -> Iterator[None]:
    """Hide torch during an import: NeMo Run's YAML serializer only tries it, at 1.5 s and 200 MB (measured)."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def redirect_output(paths: RunPaths) -> None:
    """Let this process write into the run's own log of its launcher."""
    descriptor = os.open(paths.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def supervise(nemo_run: Any, paths: RunPaths, home: Path) -> None:
    """Start the workers as inline scripts and wait until all have ended, then for NeMo Run to notice.

    Stages wait for each other themselves: NeMo Run would start what depends on a failed one, and would hold a stage
    back until all of the level above has ended (measured).
    """
    plan = json.loads(paths.plan.read_bytes())
    waiting = [part for part in paths.parts() if not part.result.exists()]
    variables = {f"{START_VARIABLE}{number}": part for number, part in enumerate(waiting)}
    before = dict(os.environ)
    for name, part in variables.items():
        os.environ[name] = start_line(paths, part, plan["interpreter"], before)
    width = max(1, len(waiting))
    with nemo_run.Experiment(
        "gitexp", executor=nemo_run.LocalExecutor(), threadpool_workers=width, **QUIET
    ) as experiment:
        workers = {}
        for name, part in variables.items():
            script = nemo_run.Script(inline=worker_line(name))
            executor = nemo_run.LocalExecutor(**local_shape(part))
            task = "job" if part == paths else part.run
            workers[experiment.add(script, executor, name=task, tail_logs=False)] = part
        if workers:
            experiment.run(detach=False)
            _wait(experiment, workers)
    refuse_start(paths, f"the worker did not start: {last_words(home)}")
    end_orphans(paths)
    conclude(paths)


def local_shape(part: RunPaths) -> dict[str, Any]:
    """Return the arguments of the LocalExecutor that starts a worker's processes, as its plan says."""
    topology = read_state_file(part.plan).get("topology")
    return local_arguments(topology if isinstance(topology, dict) else {})


def worker_line(variable: str) -> str:
    """Return the script that starts a worker: `start_line` stands in an environment variable.

    No path stands in it: NeMo Run replaces `/nemo_run` in the text of a script (measured).
    """
    return f'eval "${variable}"\n'


def start_line(run: RunPaths, part: RunPaths, interpreter: str | None, env: Mapping[str, str]) -> str:
    """Return a line of shell that puts the environment back as it was and becomes a worker.

    Args:
        run: the prepared run directory.
        part: of the worker: the same, or one of its stages.
        interpreter: what runs the worker; None: this one.
        env: the environment to put back, without variables of ours.
    """
    argv = [interpreter or sys.executable, str(run.worker), str(part.plan)]
    kept = [f"{name}={env[name]}" for name in TOUCHED_VARIABLES if name in env]
    gone = [name for name in TOUCHED_VARIABLES if name not in env]
    own = f"unset ${{!{START_VARIABLE}*}}"  # bash, as NeMo Run's scripts are
    return f"{own}; exec {shlex.join(['env', *(word for name in gone for word in ('-u', name)), *kept, *argv])}"


def refuse_start(paths: RunPaths, message: str) -> None:
    """Say why the job did not start, unless it did."""
    from nemo_gitexp.rundir import write_beside

    if not paths.is_begun and not paths.result.exists():
        write_beside(paths.refused, json.dumps({"message": message}).encode())


def last_words(home: Path) -> str:
    """Return the last line that the process which NeMo Run started has written, which is why it could not go on."""
    logs = sorted(home.glob("**/std*.log"))
    lines = [line for log in logs for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _wait(experiment: Any, workers: Mapping[str, RunPaths]) -> None:
    """Wait for the processes of the workers, by task, to end, and then a little for NeMo Run to notice.

    Leaving the context at once would bring NeMo Run's own 2 s poll; and where its own files are gone (a full disk) it
    never notices: then there is nothing to wait for all the same.
    """
    # All are looked at each time: one that never starts must be given up while others go on.
    while any([_worker_lives(experiment, *item, len(workers)) for item in workers.items()]):  # noqa: C419
        time.sleep(POLL_S)
    patience = time.monotonic() + NOTICE_S
    while (unnoticed := any(_is_running(experiment, task) for task in workers)) and time.monotonic() < patience:
        time.sleep(POLL_S)
    if unnoticed:
        experiment.detach = True


def _worker_lives(experiment: Any, task: str, worker: RunPaths, count: int) -> bool:
    """Return whether a worker goes on: by its own word, before that by our child process or NeMo Run's.

    Of several, one that will never start is given up, so that the others do not wait for it.
    """
    if not worker.root.exists():
        return False
    if read_state_file(worker.started):
        return is_alive(str(worker.root))
    if count > 1:
        return _is_running(experiment, task) or not give_up_stage(worker)
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return _is_running(experiment, task)
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _is_running(experiment: Any, task: str) -> bool:
    status = experiment.status(return_dict=True)[task]["status"]
    return getattr(status, "name", str(status)) in {"RUNNING", "SUBMITTED", "PENDING", "UNSUBMITTED"}


if __name__ == "__main__":
    sys.exit(main())
