"""The nursery: imports NeMo Run once, and makes a supervisor of its own for each run that it is handed.

Run as a module, in a process that never imports user code. It forks while it has one thread: NeMo Run starts none when
it is imported (measured). A supervisor leads a session of its own and has its own home for NeMo Run's files, so that
neither the end of this process nor that of another supervisor reaches it.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from nemo_gitexp.handover import accept, refuse, take_order
from nemo_gitexp.launchers.nemo import (
    import_nemo_run,
    move_home,
    nemo_home,
    redirect_output,
    refuse_start,
    supervise,
    take_run,
)
from nemo_gitexp.rundir import RunPaths

TAKEN = b"1"


def main() -> int:
    """Import NeMo Run, then fork a supervisor for each run directory that comes on stdin, until that ends."""
    state_dir = Path(sys.argv[1])
    gc.disable()
    with nemo_home(state_dir) as home:
        nemo_run = import_nemo_run(home)
        gc.freeze()  # the pages stay shared with all supervisors
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
        while isinstance(order := take_order(), str):
            answer = accept if _has_taken(nemo_run, RunPaths(Path(order)), state_dir) else refuse
            answer()
    return 0


def _has_taken(nemo_run: Any, paths: RunPaths, state_dir: Path) -> bool:
    """Fork a supervisor and return whether it took the run."""
    word, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(word)
            code = _be_supervisor(nemo_run, paths, state_dir, say)
        finally:  # whatever happens, it must not go on as a second nursery and clear the first one's home away
            os._exit(code)
    os.close(say)
    try:
        return os.read(word, 1) == TAKEN
    finally:
        os.close(word)


def _be_supervisor(nemo_run: Any, paths: RunPaths, state_dir: Path, say: int) -> int:
    """Supervise one run to its end in this forked process and return the exit code."""
    try:
        _stand_alone()
        if not take_run(paths):
            return 1
        os.write(say, TAKEN)
        os.close(say)
        redirect_output(paths)
        gc.enable()  # it may stay for weeks
        with nemo_home(state_dir) as home:
            move_home(home)
            supervise(nemo_run, paths, home)
    except BaseException as fault:  # noqa: BLE001 - whatever NeMo Run raises, the run must not look as if it went on
        traceback.print_exc()
        refuse_start(paths, f"{type(fault).__name__}: {fault}")
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _stand_alone() -> None:
    """Leave what belongs to the nursery: its session, its pipes, how it waits for children, its random numbers."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(silence, descriptor)
    os.close(silence)
    random.seed()


if __name__ == "__main__":
    sys.exit(main())
