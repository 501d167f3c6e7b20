"""The supervisor: submits one prepared run through NeMo Run's LocalExecutor and stays until it has ended.

Run as a module, in a process that never imports user code. NeMo Run's status and exit codes are not believed
(after its launcher's death it says RUNNING for ever): the worker's files in the run directory are the truth.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_gitexp.worker.machine import started_document

if TYPE_CHECKING:
    from nemo_gitexp.rundir import RunPaths

POLL_S = 0.05


def main() -> int:
    """Import NeMo Run, take one run directory from stdin, run it, clean up."""
    gc.disable()
    home = Path(os.environ["NEMORUN_HOME"])
    inbox = _Inbox()
    inbox.start()
    try:
        with _without_torch():
            import nemo_run
        gc.freeze()
        inbox.join()
        if inbox.paths is None:
            return 0
        _redirect_output(inbox.paths)
        _supervise(nemo_run, inbox.paths)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


class _Inbox(threading.Thread):
    """Reads the run directory and acknowledges at once, while the main thread still imports."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.paths: RunPaths | None = None

    def run(self) -> None:
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):
            return
        from nemo_gitexp.rundir import RunPaths, write_beside

        paths = RunPaths(Path(os.fsdecode(line[:-1])))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_beside(paths.supervisor, json.dumps(started_document(now)).encode())
        self.paths = paths
        sys.stdout.buffer.write(b"accepted\n")
        sys.stdout.buffer.flush()


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hide torch during an import: NeMo Run's YAML serializer only tries it, at 1.5 s and 200 MB (measured)."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def _redirect_output(paths: RunPaths) -> None:
    descriptor = os.open(paths.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _supervise(nemo_run: Any, paths: RunPaths) -> None:
    """Start the worker as an inline script and wait for its result file, then for NeMo Run to notice."""
    from nemo_gitexp.launch import shell_line, worker_command
    from nemo_gitexp.rundir import write_beside

    plan = json.loads(paths.plan.read_bytes())
    python = plan["interpreter"] or sys.executable
    line = shell_line(worker_command(paths, python))
    try:
        with nemo_run.Experiment(
            "gitexp",
            executor=nemo_run.LocalExecutor(),
            clean_mode=True,
            enable_goodbye_message=False,
            skip_status_at_exit=True,
            serialize_metadata_for_scripts=False,
            log_level="ERROR",
        ) as experiment:
            experiment.add(nemo_run.Script(inline=line), name="job", tail_logs=False)
            experiment.run(detach=False)
            _wait(experiment, paths)
    except Exception as fault:
        # Whatever NeMo Run raises here, the run must not look as if it went on.
        if not paths.started.exists():
            write_beside(paths.refused, json.dumps({"type": type(fault).__name__, "message": str(fault)}).encode())
        raise


def _wait(experiment: Any, paths: RunPaths) -> None:
    """Wait without NeMo Run's own 2 s poll, which leaving the context at once would bring."""
    next_look = 0.0
    while not paths.result.exists():
        if time.monotonic() > next_look:
            if not _is_running(experiment):
                return
            next_look = time.monotonic() + 1
        time.sleep(POLL_S)
    while _is_running(experiment):
        time.sleep(POLL_S)


def _is_running(experiment: Any) -> bool:
    status = experiment.status(return_dict=True)
    states = [getattr(task["status"], "name", str(task["status"])) for task in status.values()]
    return any(state in {"RUNNING", "SUBMITTED", "PENDING", "UNSUBMITTED"} for state in states)


if __name__ == "__main__":
    sys.exit(main())
