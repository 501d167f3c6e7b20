"""Processes of our own that outlive whoever started them: handed one order over a pipe, then let go."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Self

from nemo_gitexp.errors import LaunchError, StateDirectoryError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.processes import spawn_detached
from nemo_gitexp.rundir import RunPaths

ACCEPTED = b"accepted\n"
REFUSED = b"refused\n"


class Successor:
    """A process that is started early, so that it imports while its starter works, and takes orders: most take one.

    End of file instead of an order makes it leave.
    """

    def __init__(self, module: str, argument: Path, state_dir: Path, without: Collection[str] = ()) -> None:
        """Start `python -m module argument` in `state_dir`, in a session of its own; it lacks these variables.

        Raises:
            StateDirectoryError: its directory cannot be made.
        """
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise StateDirectoryError(f"cannot make {state_dir}: {fault.strerror}", path=str(state_dir)) from fault
        # -P: nothing in the directory where it works is importable.
        env = {name: value for name, value in os.environ.items() if name not in without}
        self.process = spawn_detached([sys.executable, "-P", "-m", module, str(argument)], cwd=state_dir, env=env)

    def __enter__(self) -> Self:
        """Hand out the process."""
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        """Let go of it: with an order it goes on, without one it leaves."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def hand_over(self, order: JsonValue) -> bool:
        """Hand the order over and return whether it was accepted; it is not, when the process died first."""
        return self.ask(order) == ACCEPTED

    def ask(self, order: JsonValue) -> bytes:
        """Hand an order over and return the line that answers it, empty when the process died first."""
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise LaunchError("a process of our own was started without pipes")
        try:
            stdin.write(json.dumps(order).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            return b""
        return stdout.readline()


class Background(Successor):
    """Starts a run in place of the command, which leaves at once: restoring may take long."""

    def __init__(self, root: Path, state_dir: Path) -> None:
        """Start the process for the repository at `root`."""
        super().__init__("nemo_gitexp.background", root, state_dir)

    def take(
        self, paths: RunPaths, interpreter: Path | None, probe_interpreter: Path | None, *, keep: bool, reuse: bool
    ) -> None:
        """Hand a reserved run over.

        Raises:
            LaunchError: the process died first.
        """
        order: JsonValue = {
            "run_dir": str(paths.root),
            "interpreter": None if interpreter is None else str(interpreter),
            "probe_interpreter": None if probe_interpreter is None else str(probe_interpreter),
            "keep": keep,
            "reuse": reuse,
        }
        if not self.hand_over(order):
            raise LaunchError("the background process did not take the run", hint="the same without --detach")


def take_order() -> JsonValue:
    """Return the order given to this process, None when its starter left without one. Blocks."""
    line = sys.stdin.buffer.readline()
    order: JsonValue = json.loads(line) if line.endswith(b"\n") else None
    return order


def accept() -> None:
    """Acknowledge the order; whoever gave it may be gone."""
    _answer(ACCEPTED)


def refuse() -> None:
    """Say that the order is not carried out, and wait for the next one."""
    _answer(REFUSED)


def _answer(word: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(word)
        sys.stdout.buffer.flush()
