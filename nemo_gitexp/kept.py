"""An experiment of NeMo Run that is looked back on: its tasks' states and logs, of this process or an earlier one.

Imports NeMo Run: nobody imports this room before it is needed.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nemo_gitexp.catalog import read_current
from nemo_gitexp.collect import log_pieces, read_log, section_of
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import UnknownExperimentError, UsageError
from nemo_gitexp.handles import Added, Handle, write_handle
from nemo_gitexp.launchers.nemo import users_home
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.moments import iso_now
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import GOES_ON, inspect_run, list_run_directories, request_cancel, request_stage_cancel
from nemo_gitexp.scheduled import cancel_stage, cancel_submitted
from nemo_gitexp.seeds import require_seed
from nemo_gitexp.submitted import SubmittedExperiment, word_of

_LOGGER = logging.getLogger("nemo_gitexp")
_FIRST = ("RUNNING", "PENDING", "SUBMITTED", "UNSUBMITTED", "FAILED", "CANCELLED", "SUCCEEDED")
"""What a group is called: as the first of these that one of its tasks is."""


class KeptExperiment(SubmittedExperiment):
    """An experiment of NeMo Run, all of whose tasks are one experiment of ours, that can be found again by its id.

    `_added` is what was added, `_handle` is set for one of an earlier process, `_workdir` once jobs have a place.
    """

    study: str | None
    seed: int | None
    purpose: str | None
    _added: tuple[Added, ...]
    _handle: Handle | None
    _workdir: str | None

    @classmethod
    def from_id(cls, id: str) -> Any:  # noqa: A002 - NeMo Run's own signature
        """Return an experiment of an earlier process.

        Raises:
            UnknownExperimentError: NeMo Run has kept none of this id.
        """
        _require_kept(_home_of(id.rpartition("_")[0]) / id, id)
        return super().from_id(id)

    @classmethod
    def from_title(cls, title: str) -> Any:
        """Return the latest experiment of a title.

        Raises:
            UnknownExperimentError: NeMo Run has kept none of this title.
        """
        _require_kept(next(iter(sorted(_home_of(title).glob("*/"))), _home_of(title) / "none"), title)
        return super().from_title(title)

    def _keep_handle(self) -> None:
        """Keep beside NeMo Run's files which experiment this is, for `from_id`; also of one that was run before."""
        if self.document is None:
            return
        directory = Path(self._exp_dir)
        if not directory.is_dir():
            self._save_experiment()
            self._save_jobs()
            self._save_tunnels()
        root, workdir = self._site.repository.root, self._workdir or "."
        seed = None if self.seed is None else require_seed(self.seed)
        handle = Handle(self.document["experiment"], str(root), workdir, self._added, self.study, seed, self.purpose)
        write_handle(directory, handle)
        if self._is_detached:  # whoever looks next records the result: from here on this is one of many who look
            self._handle = handle

    @property
    def documents(self) -> list[ExperimentDoc]:
        """What `show --json` says about it, also when an earlier process ran it; none before it is recorded."""
        if self._handle is None:
            return super().documents
        tip = find_experiment(self._site.repository, self._handle.experiment)
        return [read_current(self._site, tip).document]

    def _rows(self) -> dict[str, dict[str, Any]]:
        """Return the state of each task, and before those of a group that of the group."""
        if self._handle is None:
            rows = super()._rows()
        else:
            names, document = self._task_names(), self.document
            rows = {job.id: self._row_of(job, word_of(document, names[job.id])) for job in self._jobs}
        found: dict[str, dict[str, Any]] = {}
        for each in self._added:
            members = [rows[job] for job, _ in each.tasks]
            if each.is_group:
                telling = min(members, key=lambda row: _FIRST.index(row["status"].name))
                found[each.name] = {**telling, "name": each.name}
            found |= {row["name"]: row for row in members}
        return found

    def logs(self, job_id: str, regex: str | None = None) -> None:
        """Print what a task, or each of a group, has written so far, or wrote in an earlier process.

        Raises:
            UsageError: there is no such task, or it has no log here.
        """
        pattern = re.compile(regex or "")
        for job, name in self._named(job_id):
            lines = self._log_lines(name)
            sys.stderr.writelines(f"{job} {line}\n" for line in lines if pattern.search(line))

    def cancel(self, job_id: str) -> None:
        """Stop a task, or each of a group, if it still runs; what depends on it is skipped.

        Raises:
            UsageError: there is no such task.
            SchedulerError: the scheduler that has it does not answer.
        """
        names = [name for _, name in self._named(job_id)]
        paths = self._live_paths()
        if paths is None:
            _LOGGER.warning("%s does not run any more", job_id)
            return
        parts = paths.parts()
        if parts == [paths]:
            request_cancel(paths, iso_now())
            cancel_submitted(paths, waiting_only=True)
            return
        for part in parts:
            if part.run in names and paths.submitted.exists():
                cancel_stage(paths, part.run)
            elif part.run in names:
                request_stage_cancel(part)

    def _named(self, job_id: str) -> Sequence[tuple[str, str]]:
        """Return what NeMo Run calls it, or each of a group, with its name in the record."""
        for each in self._added:
            if each.name == job_id:
                return each.tasks
        names = self._task_names()
        if job_id not in names:
            known = [name for each in self._added for name in (each.name, *(job for job, _ in each.tasks))]
            raise UsageError(
                f"there is no task {job_id}",
                hint=f"the tasks are {', '.join(dict.fromkeys(known)) or 'not run yet'}",
                task=job_id,
            )
        return [(job_id, names[job_id])]

    def _task_names(self) -> dict[str, str]:
        return {job: name for each in self._added for job, name in each.tasks}

    def _live_paths(self) -> RunPaths | None:
        """Return the directory of the run as long as it goes on."""
        if self._handle is None:
            paths = self._attempts[0].paths if self._attempts else None
            return None if paths is None or self._is_left else paths
        runs = list_run_directories(self._site.run_root, self._handle.experiment)
        live = [paths for paths in runs if inspect_run(paths).status in GOES_ON]
        return live[-1] if live else None

    def _log_lines(self, name: str) -> list[str]:
        """Return the lines of one task from the live run, or from the log that was kept."""
        paths = self._live_paths()
        document = self.document
        if paths is not None:
            pieces: Iterable[bytes] = log_pieces(paths)
        elif document is None or document["result"] is None:
            raise UsageError("it has no log yet", hint="exp.run() first")
        else:
            tip = find_experiment(self._site.repository, document["experiment"])
            kept = read_log(self._site.repository, read_current(self._site, tip).experiment.run or {})
            pieces = kept or ()
        text = b"".join(pieces).decode("utf-8", "replace")
        return section_of(text, name) if len(self._jobs) > 1 else text.splitlines()


def _home_of(title: str) -> Path:
    return users_home() / "experiments" / title


def _require_kept(directory: Path, name: str) -> None:
    if not name or not directory.is_dir():
        raise UnknownExperimentError(
            f"NeMo Run has kept no experiment {name} here",
            hint="Experiment.catalog(title) lists them; nemo-gitexp log lists what was recorded",
            name=name,
        )
