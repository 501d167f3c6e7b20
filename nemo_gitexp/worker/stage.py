"""A stage among those of its pipeline: waits for what it depends on, is skipped when that failed, concludes the run.

Stages are processes of their own that share the run directory; each tells the others by its `result.json` alone.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from .documents import read_document, write_document
from .finish import SKIPPED
from .machine import writer_lives
from .manifest import tree_states
from .merge import merged_result, stage_word
from .results import save_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Callable

    from .shapes import ErrorReport, FileState, Plan

POLL_S = 0.1
LATE_FILES_S = 3.0
"""A scheduler starts a stage once those it depends on have ended; a network file system may show that a bit later."""

MOST_WAIT_UNSTARTED_S = 120.0
"""How long a stage waits for another that has not started while its launcher is gone."""


class StagePlace:
    """This stage among those of its run.

    Args:
        plan: the stage's plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._stage = plan["stage"]
        scheduled = plan.get("scheduled")
        self._is_scheduled = bool(scheduled)
        self._is_ordered = scheduled is not None and scheduled["kind"] == "slurm"
        self._run = self._stage["run"]
        self._seen: dict[str, dict[str, FileState | None]] = {}
        self._slot: IO[bytes] | None = None

    def wait(self, is_cancelled: Callable[[], object]) -> ErrorReport | None:
        """Wait until everything that this stage depends on has completed; return why it never will.

        None, too, when somebody cancelled.
        """
        waiting = list(self._stage["dependencies"])
        since = time.monotonic()
        while waiting and not is_cancelled():
            for name in list(waiting):
                word = self._word_of(name, time.monotonic() - since)
                if word == "completed":
                    waiting.remove(name)
                elif word:
                    return {"type": SKIPPED, "message": f"stage {name} {_SAID.get(word, word)}"}
            if waiting:
                time.sleep(POLL_S)
        return None

    def take_slot(self, is_cancelled: Callable[[], object]) -> None:
        """Wait until one of the places for running stages is free, and keep it until this process ends.

        Where the file system knows no locks, nobody waits; nor where a scheduler says what runs.
        """
        if self._is_scheduled:
            return
        import fcntl

        places = os.path.join(self._run, "slots")
        os.makedirs(places, exist_ok=True)
        while not is_cancelled():
            for number in range(self._stage["slots"]):
                file = open(os.path.join(places, str(number)), "ab")  # noqa: SIM115 - closing it gives the place back
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.close()
                    continue
                except OSError:
                    pass
                self._slot = file
                return
            time.sleep(POLL_S)

    def look_at_results(self) -> None:
        """Remember what the outputs of the ancestors look like, before the job may touch them."""
        self._seen = {name: tree_states(place) for name, place in self._stage["results"].items()}

    def changed_results(self) -> ErrorReport | None:
        """Return the error that the outputs of an ancestor were changed: what is recorded is not what was used."""
        changed = sorted(name for name, seen in self._seen.items() if tree_states(self._stage["results"][name]) != seen)
        if not changed:
            return None
        return {"type": "ResultsChangedError", "message": f"the outputs of stage {changed[0]} were changed meanwhile"}

    def keep_directory(self, outputs_dir: str) -> None:
        """Make the directory of its outputs the result of a stage that is no function.

        Raises:
            OSError: it cannot be written.
        """
        save_result(Path(outputs_dir), outputs_dir)

    def conclude(self) -> None:
        """Write the result of the whole run when all stages have ended; whoever ends last does."""
        document = merged_result(self._run)
        if document is not None and not os.path.exists(os.path.join(self._run, "result.json")):
            write_document(os.path.join(self._run, "result.json"), document, durable=True)

    def _word_of(self, name: str, waited_s: float) -> str | None:
        """Return how another stage stands (`merge.stage_word`); unstarted, too, when nobody is left to start it.

        On Slurm all that this one depends on has ended when it starts: what has no result is gone. Elsewhere jobs start
        together, and whoever asks about one that is gone brings word of it.
        """
        directory = os.path.join(self._run, "stages", name)
        word, _ = stage_word(directory)
        if self._is_scheduled and not self._is_ordered:
            return word
        if self._is_scheduled:
            return "gone" if word is None and waited_s > LATE_FILES_S else word
        is_waiting = word is None and not os.path.exists(os.path.join(directory, "started.json"))
        if is_waiting and waited_s > MOST_WAIT_UNSTARTED_S and self._launcher_is_gone():
            return "unstarted"
        return word

    def _launcher_is_gone(self) -> bool:
        path = os.path.join(self._run, "supervisor.json")
        document = read_document(path)
        return document is not None and not writer_lives(path, document)


_SAID = {"failed": "failed", "skipped": "was skipped", "cancelled": "was cancelled", "lost": "was killed"}
_SAID.update({"unstarted": "was never started", "gone": "ended without a result"})
