"""Who starts the worker of a prepared run directory: the launcher protocol, and the processes that submit for us.

Here stands only what hands a run over; the processes themselves, which import NeMo Run, are in `launchers`.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from nemo_gitexp.errors import LaunchError
from nemo_gitexp.handover import Successor
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import read_state_file
from nemo_gitexp.worker.machine import writer_lives


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a launcher hands back: who runs the job, in its own words."""

    executor: str
    jobs: tuple[str, ...]


class Launcher(Protocol):
    """Something that starts the worker of a prepared run directory."""

    def submit(self, paths: RunPaths) -> Receipt:
        """Start it; the run directory says how it goes on.

        Raises:
            LaunchError: it was not accepted.
        """


class Supervisor(Successor):
    """Submits one prepared run through NeMo Run and stays until it has ended: NeMo Run cannot detach local jobs."""

    def __init__(self, state_dir: Path) -> None:
        """Start the process, which imports NeMo Run while the caller records and restores."""
        super().__init__("nemo_gitexp.launchers.nemo", state_dir, state_dir)

    def submit(self, paths: RunPaths) -> Receipt:
        """Hand the run over and wait for the acknowledgement (not for the job).

        Raises:
            LaunchError: the supervisor died first.
        """
        if not self.hand_over(str(paths.root)):
            raise LaunchError(
                "the supervisor did not accept the run",
                hint=f"{shlex.quote(sys.executable)} -c 'import nemo_run' shows what is wrong",
            )
        return Receipt("local", (f"pid-{self.process.pid}",))


class Nursery:
    """Submits prepared runs through NeMo Run, which one process imports for all; each gets a supervisor of its own.

    The supervisors are independent of that process and of each other; should it be killed, another one is started.
    """

    def __init__(self, state_dir: Path) -> None:
        """Start the process, which imports NeMo Run while the caller records and restores."""
        self._state_dir = state_dir
        self._process = self._start()

    def __enter__(self) -> Self:
        """Hand out the launcher."""
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        """Let the process leave; supervisors go on."""
        self._process.__exit__(kind, value, trace)

    def submit(self, paths: RunPaths) -> Receipt:
        """Hand a run over and wait until its supervisor has taken it (not for the job).

        Raises:
            LaunchError: nobody took it.
        """
        if not self._process.hand_over(str(paths.root)) and not self._is_supervised(paths):
            self._process.__exit__(None, None, None)
            self._process = self._start()
            if not self._process.hand_over(str(paths.root)) and not self._is_supervised(paths):
                raise LaunchError(
                    "no supervisor accepted the run",
                    hint=f"{shlex.quote(sys.executable)} -c 'import nemo_run' shows what is wrong",
                    run=paths.run,
                )
        return Receipt("local", (f"pid-{read_state_file(paths.supervisor).get('pid')}",))

    def _start(self) -> Successor:
        return Successor("nemo_gitexp.launchers.nursery", self._state_dir, self._state_dir)

    @staticmethod
    def _is_supervised(paths: RunPaths) -> bool:
        """Return whether a supervisor took the run although the process that made it cannot say so any more."""
        supervisor = read_state_file(paths.supervisor)
        return bool(supervisor) and writer_lives(str(paths.supervisor), supervisor)


class Submitter(Successor):
    """Submits prepared runs through NeMo Run to an executor that keeps them itself; takes any number of runs."""

    def __init__(
        self, state_dir: Path, executor: str, table: Mapping[str, JsonValue], hidden: Collection[str] = ()
    ) -> None:
        """Start the process, which imports NeMo Run while the caller records and restores.

        Args:
            state_dir: where NeMo Run's own files may lie for a while.
            executor: name of the profile.
            table: the profile with this machine's values in it; it goes through a pipe, never into a file.
            hidden: variables that jobs get from the profile: Slurm keeps the environment of whoever submits in files.
        """
        self.executor = executor
        self._table = table
        super().__init__("nemo_gitexp.launchers.submit", state_dir, state_dir, hidden)

    def submit(self, paths: RunPaths) -> Receipt:
        """Have the run submitted and wait until it was accepted.

        Raises:
            LaunchError: it was not accepted.
        """
        order: JsonValue = {"run_dir": str(paths.root), "executor": self.executor, "table": dict(self._table)}
        line = self.ask(order)
        if not line:
            raise LaunchError(
                f"executor {self.executor}: the process that submits died",
                hint=f"{shlex.quote(sys.executable)} -c 'import nemo_run' shows what is wrong",
            )
        answer = json.loads(line)
        if "error" in answer:
            raise LaunchError(f"executor {self.executor}: {answer['error']}", hint=str(answer.get("hint") or ""))
        return Receipt(self.executor, tuple(answer["jobs"]))
