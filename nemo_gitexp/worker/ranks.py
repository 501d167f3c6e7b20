"""Several worker processes of one run: who verifies, who waits, who writes the result.

Only a plan with a `topology` of more than one process asks for this. Ranks come from the launcher's environment
(torchrun's names, then Slurm's); files in the shared run directory are the only thing that the processes tell each
other: `verified.<start>.<node>.json`, `refused.…` and `ended.<start>.rank<N>.json`. A start is a job of the scheduler's
and how often it was started again: a chain has several jobs.
"""

from __future__ import annotations

import glob
import os
import time

from .documents import read_document, write_document
from .segments import restart_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Mapping

    from .shapes import ErrorReport, JobEnd, JsonValue, Plan

POLL_S = 0.2
MOST_WAIT_S = 1800.0


class Ranks:
    """This process among those of the run.

    Args:
        plan: the launcher's plan.
        env: the environment.
    """

    def __init__(self, plan: Plan, env: Mapping[str, str]) -> None:
        topology = plan.get("topology") or {"nodes": 1, "tasks_per_node": 1, "devices": None, "launcher": None}
        self._run_dir = plan["run_dir"]
        self._nodes = topology["nodes"]
        self._start = f"{env.get('SLURM_JOB_ID') or 0}-{restart_count(env)}"
        self._size = self._nodes * topology["tasks_per_node"]
        is_alone = self._size <= 1
        self.rank = 0 if is_alone else _number(env, "RANK", "SLURM_PROCID")
        self._local_rank = 0 if is_alone else _number(env, "LOCAL_RANK", "SLURM_LOCALID")
        self._node = 0 if is_alone else _number(env, "GROUP_RANK", "SLURM_NODEID")
        self.is_alone = is_alone

    @property
    def is_first(self) -> bool:
        """Return whether this process writes the results of the run."""
        return self.rank == 0

    @property
    def is_verifier(self) -> bool:
        """Return whether this process verifies for its node."""
        return self._local_rank == 0

    def file(self, name: str) -> str:
        """Return where this process keeps its own `name`: rank 0 as it is, others with their rank in it."""
        stem, ending = os.path.splitext(name)
        return os.path.join(self._run_dir, name if self.is_first else f"{stem}.rank{self.rank}{ending}")

    def tell(self, refusal: ErrorReport | None) -> None:
        """Tell the other processes what this node's verification found."""
        if not self.is_alone:
            word = "refused" if refusal else "verified"
            write_document(self._mark(word, self._node), dict(refusal or {}))

    def tell_end(self, end: JobEnd, error: ErrorReport | None) -> None:
        """Tell rank 0 how this rank ended by itself: whoever starts the ranks ends all others when one has failed."""
        numbers = {"rank": self.rank, "exit_code": end["exit_code"], "signal": end["signal"]}
        write_document(self._ending(str(self.rank)), {**numbers, "error": error, "at": time.time()})

    def wait_for_ends(self, is_asked: Callable[[], object]) -> None:
        """Wait until all other ranks have told how they ended, one has failed, or this process is to end."""
        deadline = time.monotonic() + MOST_WAIT_S
        while not is_asked() and time.monotonic() < deadline:
            ends = self._ends()
            if len(ends) >= self._size - 1 or any(end.get("error") for end in ends):
                return
            time.sleep(POLL_S)

    def find_failure(self) -> dict[str, JsonValue] | None:
        """Return what the rank that failed first has told, None when none has."""
        failed = [end for end in self._ends() if end.get("error")]
        return min(failed, key=lambda end: float(str(end.get("at"))), default=None)

    def _ends(self) -> list[dict[str, JsonValue]]:
        said = [read_document(path) for path in glob.glob(self._ending("*"))]
        return [document for document in said if document is not None]

    def wait(self, is_cancelled: Callable[[], object]) -> ErrorReport | None:
        """Wait until all nodes have verified; return the first refusal, if there is one."""
        deadline = time.monotonic() + MOST_WAIT_S
        while not self.is_alone and not is_cancelled():
            refused = [node for node in range(self._nodes) if os.path.exists(self._mark("refused", node))]
            if refused:
                said = read_document(self._mark("refused", refused[0])) or {}
                return {"type": str(said.get("type")), "message": f"node {refused[0]}: {said.get('message')}"}
            missing = [node for node in range(self._nodes) if not os.path.exists(self._mark("verified", node))]
            if not missing:
                return None
            if time.monotonic() > deadline:
                return {"type": "NodeMissingError", "message": f"no word from node {missing[0]} in {MOST_WAIT_S:.0f} s"}
            time.sleep(POLL_S)
        return None

    def _ending(self, rank: str) -> str:
        directory = self._run_dir if rank != "*" else glob.escape(self._run_dir)
        return os.path.join(directory, f"ended.{self._start}.rank{rank}.json")

    def _mark(self, word: str, node: int) -> str:
        return os.path.join(self._run_dir, f"{word}.{self._start}.{node}.json")


def _number(env: Mapping[str, str], *names: str) -> int:
    """Return the first of the variables that is a whole number, 0 when none is."""
    values = [env[name] for name in names if env.get(name, "").isdigit()]
    return int(values[0]) if values else 0
