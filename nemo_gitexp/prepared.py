"""An experiment of NeMo Run that a factory or a pipeline prepared: what it runs is given when it is made."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nemo_run
from nemo_run.run.experiment import _current_experiment

from nemo_gitexp.attempt import Attempt, Intent
from nemo_gitexp.catalog import Site
from nemo_gitexp.errors import UsageError
from nemo_gitexp.launchers.inprocess import users_logging
from nemo_gitexp.launchers.nemo import QUIET, START_VARIABLE, private_home, users_home, worker_line
from nemo_gitexp.submitted import SubmittedExperiment

_USUAL_HOME = Path("~/.nemo_run").expanduser()


class PreparedExperiment(SubmittedExperiment):
    """An experiment of NeMo Run, each of whose tasks is an experiment of this repository.

    `run()` records them, unless an equal one completed before, restores exactly what was recorded and submits that
    through NeMo Run. At the end of the `with` block, or of `run()` outside of one, the results are recorded.

    Args:
        title: what NeMo Run calls it.
        intents: what is to be recorded and run, one task each.
        site: the repository.
        again: run what completed before once more.
        width: how many of the intents may run at the same time; None: all of them. A pipeline counts as one: its stages
            start together and take turns among themselves, as many at once as there are cores, and at least four.
    """

    def __init__(
        self,
        title: str,
        intents: Sequence[Intent],
        *,
        site: Site,
        again: bool = False,
        width: int | None = None,
    ) -> None:
        self._begin(site, again=again, width=width)
        self._home = None if _has_own_home() else private_home(site.repository.state_dir, uuid.uuid4().hex[:8])
        self._attempts = [Attempt(intent) for intent in intents]
        self._tasks = [(attempt, name) for attempt in self._attempts for name in attempt.intent.tasks]
        with users_logging():
            place = str(self._home) if self._home else os.environ.get("NEMORUN_HOME")
            super().__init__(title, executor=nemo_run.LocalExecutor(), base_dir=place, **QUIET)
        self._add_jobs()

    def to_config(self) -> Any:
        """Return what NeMo Run keeps of an experiment in its own files: one of its own class."""
        given = {"title": self._title, "id": self._id, "executor": self.executor.to_config(), **QUIET}
        return nemo_run.Config(nemo_run.Experiment, **given, threadpool_workers=self._threadpool_workers)

    def add(self, *_tasks: object, **_options: object) -> str:
        """Refuse: what runs here is what was recorded.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self._title} runs what it was made for", hint="nemo_run.Experiment takes further tasks")

    def _add_jobs(self) -> None:
        token = _current_experiment.set(self)  # `add` works in the context alone
        try:
            for number, (_, name) in enumerate(self._tasks):
                script = nemo_run.Script(inline=worker_line(f"{START_VARIABLE}{number}"))
                nemo_run.Experiment.add(self, script, name=name)
        finally:
            _current_experiment.reset(token)
        for job, (attempt, name) in zip(self._jobs, self._tasks, strict=True):
            job.dependencies = list(attempt.intent.tasks[name])


def _has_own_home() -> bool:
    """Return whether the user has said where NeMo Run keeps its files."""
    return bool(os.environ.get("NEMORUN_HOME")) or users_home() != _USUAL_HOME
