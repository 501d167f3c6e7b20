"""An experiment of NeMo Run on its way: recorded, restored, submitted, followed, collected.

Imports NeMo Run: nobody imports this room before it is needed. What NeMo Run says about a job is not believed; the
worker's files in the run directory are the truth.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import nemo_run
from nemo_run.run.experiment import AppState
from nemo_run.run.torchx_backend.schedulers import local as nemo_local

from nemo_gitexp.attempt import Attempt, record_sweep
from nemo_gitexp.catalog import Site
from nemo_gitexp.clusters import submit_workers
from nemo_gitexp.collect import discard_run
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import GitexpError, InsideJobError, LaunchError, UsageError
from nemo_gitexp.execution import ASK_S, RunLogs, Silence, cancel_and_wait
from nemo_gitexp.launchers.inprocess import LOCK, Acceptance, start_lines
from nemo_gitexp.launchers.nemo import (
    NOTICE_S,
    POLL_S,
    last_words,
    refuse_start,
)
from nemo_gitexp.moments import iso_now
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import GOES_ON, give_up_stage, inspect_run, leave_cancelled, part_word, request_cancel
from nemo_gitexp.scheduled import look_at_runs
from nemo_gitexp.standing import ENDED

LOOK_S = 0.5
_ROW = (("Status", "status"), ("Executor", "executor"), ("Job id", "job_id"), ("Local Directory", "local_dir"))
_STATES = {
    "recorded": "UNSUBMITTED",
    "launched": "PENDING",
    "running": "RUNNING",
    "requeued": "RUNNING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "lost": "FAILED",
    "cancelled": "CANCELLED",
    "skipped": "CANCELLED",
    "unstarted": "CANCELLED",
}
"""How a task stands, in NeMo Run's words: whatever has ended is so in these, too."""

_LOGGER = logging.getLogger("nemo_gitexp")


class SubmittedExperiment(nemo_run.Experiment):  # type: ignore[misc]  # NeMo Run ships no types
    """An experiment of NeMo Run whose tasks are recorded, restored, submitted and collected.

    What is recorded stands in `_attempts`; `_tasks` says for each of `_jobs` whose attempt and which task it is. A job
    that fails is no error here, as in NeMo Run: `document["status"]` and `status()` say it, the result keeps its log.
    Ctrl-C cancels the jobs, records that, and goes on its way as `KeyboardInterrupt`.
    """

    _site: Site
    _width: int
    _again: bool
    _home: Path | None
    _attempts: list[Attempt]
    _tasks: list[tuple[Attempt, str]]
    _jobs: list[Any]
    _id: str
    _exp_dir: str
    tunnels: dict[str, Any]
    _reconstruct: bool

    def _begin(self, site: Site, *, again: bool = False, width: int | None = None) -> None:
        """Start without anything recorded; `width`: how many attempts may run at the same time, None: all."""
        self._site = site
        self._again = again
        self._width = width or 0
        self._home = None
        self._attempts, self._tasks = [], []
        self._waiting: list[Attempt] = []
        self._running: list[Attempt] = []
        self._ended: list[Attempt] = []
        self._is_recorded = self._is_left = self._is_detached = False
        self._asked_s = 0.0
        self._tailed: frozenset[str] | None = frozenset()

    # ------------------------------------------------------------------------------------------------- what it is

    @property
    def is_over(self) -> bool:
        """Whether every task has ended and that is recorded; an equal one that somebody else runs must have, too."""
        documents = self.documents
        return len(documents) >= len(self._attempts) and all(document["status"] in ENDED for document in documents)

    @property
    def site(self) -> Site:
        """The repository that it records in."""
        return self._site

    @property
    def documents(self) -> list[ExperimentDoc]:
        """What `show --json` says about each task's experiment, as far as it is recorded."""
        return [attempt.document for attempt in self._attempts if attempt.document is not None]

    @property
    def document(self) -> ExperimentDoc | None:
        """What `show --json` says about the experiment; None before it is recorded, and where there are several."""
        documents = self.documents
        return documents[0] if len(documents) == 1 and len(self._attempts) <= 1 else None

    @property
    def experiment(self) -> str | None:
        """The record commit, full hex sha; None as for `document`."""
        return self.document["experiment"] if self.document else None

    @property
    def result(self) -> str | None:
        """The result commit, full hex sha; None as for `document`, and before there is one."""
        return self.document["result"] if self.document else None

    @property
    def ref(self) -> str | None:
        """The ref `refs/gitexp/<study>/<name>`; None as for `document`."""
        return self.document["ref"] if self.document else None

    def status(self, return_dict: bool = False) -> Any:  # noqa: FBT001, FBT002 - NeMo Run's own signature
        """Return or print the state of each task: as its worker says while it runs, then as recorded."""
        if not self._has_states:
            return super().status(return_dict=return_dict)
        rows = self._rows()
        return rows if return_dict else self._print_rows(rows)

    @property
    def _has_states(self) -> bool:
        """Whether there is more to say about its tasks than NeMo Run knows."""
        return bool(self.documents)

    def _rows(self) -> dict[str, dict[str, Any]]:
        """Return the state of each task, by what NeMo Run calls it, as `nemo_run.Experiment.status` does."""
        return {job.id: self._row(job) for job in self._jobs}

    def _print_rows(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Print the states of the tasks in NeMo Run's form, and what they are recorded as."""
        say = functools.partial(self.console.print, soft_wrap=True, highlight=False)
        say(f"\n[bold green]Experiment Status for[/bold green] [bold orange1]{self._id}\n")
        for number, job in enumerate(self._jobs):
            row = rows[job.id]
            say(f"[bold green]Task {number}[/bold green]: [bold orange1]{row['name']}")
            for name, key in _ROW:
                say(f"- [bold green]{name}[/bold green]: {row[key]}")
            say()
        for document in self.documents:
            say(f"[bold green]Recorded as[/bold green] {document['study']}/{document['name']}")
            say(f"nemo-gitexp show {document['experiment'][:12]}\n")

    # ------------------------------------------------------------------------------------------------- its life

    def run(
        self,
        sequential: bool = False,  # noqa: FBT001, FBT002 - NeMo Run's own signature
        detach: bool = False,  # noqa: FBT001, FBT002
        tail_logs: bool = False,  # noqa: FBT001, FBT002
        direct: bool = False,  # noqa: FBT001, FBT002
        *,
        again: bool | None = None,
    ) -> None:
        """Record, restore and submit; outside of a `with` block also wait and record the results.

        Args:
            sequential: one task after the other, in their order; nothing for the stages of a pipeline, which wait for
                what they depend on and take turns, as `width` says.
            detach: return as soon as the scheduler has the jobs; local ones cannot be left alone: it says so and stays.
            tail_logs: print the logs of the jobs while they run.
            direct: refused.
            again: run what completed before once more; None: as the experiment was made.

        Raises:
            UsageError: `direct`, which would run the state of this process instead of the recorded one.
            InsideJobError: this process is a job itself.
            GitexpError: nothing of the task in question was recorded, or it is recorded and did not start.
        """
        _require_launchable(direct=direct)
        if self._is_recorded:
            _LOGGER.warning("%s was run already", self._title)
            return
        if self._current_experiment_token is None:
            with self:
                self.run(sequential, detach, tail_logs, again=again)
            return
        self._is_detached = detach and all(attempt.intent.scheduler for attempt in self._attempts)
        if detach and not self._is_detached:
            _LOGGER.warning("a local job cannot be left alone; waiting for it")
        self._is_recorded = True
        self._tailed = None if tail_logs else self._tailed
        self._width = 1 if sequential else self._width
        try:
            self._start(again=self._again if again is None else again)
        except BaseException:
            self._cancel()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the jobs, record their results, leave; after Ctrl-C cancel them instead of waiting."""
        fault: BaseException | None = None
        try:
            if kind is None or issubclass(kind, Exception):
                self._follow()
            else:
                self._cancel()
        except BaseException as error:  # noqa: BLE001 - raised again below, once everything is recorded
            fault = error
            self._cancel()
        self._let_go(kind, value, trace)
        unrecorded = self._collect()
        fault = fault or unrecorded
        if fault is not None and value is None:
            raise fault

    def _save_jobs(self) -> None:
        """Write NeMo Run's list of tasks, without the source of `__main__`: what was piped into Python has none."""
        tasks = [job.serialize() for job in self._jobs]
        Path(self._exp_dir, self._TASK_FILE).write_text(json.dumps(tasks))

    def __del__(self) -> None:
        """Let go of NeMo Run's runner; its own would also take a handler of the user's logging away."""
        with contextlib.suppress(Exception):
            self._cleanup()

    # ------------------------------------------------------------------------------------------------- its parts

    def _start(self, *, again: bool) -> None:
        is_sweep = len(self._attempts) > 1 and all(attempt.intent.asked.sweep for attempt in self._attempts)
        recorded = record_sweep(self._site, self._attempts, again=again) if is_sweep else None
        for number, attempt in enumerate(self._attempts):
            if recorded[number] if recorded else attempt.record(self._site, again=again):
                self._waiting.append(attempt)
                attempt.start(self._site, Acceptance())
                if attempt.document is not None and not _LOGGER.isEnabledFor(logging.INFO):
                    name = f"{attempt.document['study']}/{attempt.document['name']}"
                    self.console.log(f"[bold cyan]Recorded as {name} ({attempt.document['experiment'][:12]})")
        self._launch_ready()
        for attempt in self._attempts:
            if attempt in self._waiting or attempt in self._running:
                attempt.announce(self._site)

    def _launch_ready(self) -> None:
        """Launch what waits, as many as may run."""
        width = self._width or len(self._attempts)
        chosen = self._waiting[: max(0, width - len(self._running))]
        if not chosen:
            return
        for attempt in chosen:
            if attempt.intent.scheduler:
                self._submit(attempt)
        here = [attempt for attempt in chosen if not attempt.intent.scheduler]
        workers = {
            number: (attempt.paths, part)
            for number, (attempt, name) in enumerate(self._tasks)
            if attempt in here and attempt.paths and (part := attempt.part(name)) and not part.result.exists()
        }
        with self._registry(), start_lines(workers):
            if self._launched:
                for number in workers:
                    self._launch_late(self._jobs[number])
            elif workers:
                self._launch_first([self._jobs[number] for number in workers])
        self._waiting = [attempt for attempt in self._waiting if attempt not in chosen]
        self._running += [] if self._is_detached else chosen

    def _submit(self, attempt: Attempt) -> None:
        """Have a scheduler take the workers of a run: they wait for each other there.

        Raises:
            LaunchError: it was not accepted; the experiment stays recorded.
        """
        paths, named = attempt.paths, {}
        for job, (owner, name) in zip(self._jobs, self._tasks, strict=True):
            if owner is attempt:
                named["" if attempt.part(name) == paths else name] = job
        if paths is None:
            return
        try:
            submit_workers(paths, named, attempt.intent.tasks, functools.partial(super().run, detach=True))
        except LaunchError:
            attempt.give_back(self._site)
            raise
        finally:
            for tunnel in self.tunnels.values():
                if isinstance(tunnel, nemo_run.SSHTunnel):
                    with contextlib.suppress(Exception):  # whatever ssh says on leaving: the jobs are there
                        tunnel.cleanup()

    def _launch_first(self, jobs: list[Any]) -> None:
        """Run these tasks by NeMo Run's own `run`: it knows nothing of the others, which would make it block."""
        known, wanted = self._jobs, [job.dependencies for job in jobs]
        try:
            self._jobs = jobs
            for job in jobs:
                job.dependencies = []
            super().run()
        finally:
            self._jobs = known
            for job, dependencies in zip(jobs, wanted, strict=True):
                job.dependencies = dependencies

    def _launch_late(self, job: Any) -> None:
        job.prepare(serialize_metadata_for_scripts=False)
        job.launch(wait=False, runner=self._runner, dryrun=True)
        job.launch(wait=False, runner=self._runner)

    def _follow(self) -> None:
        """Wait until every run has ended, launching the waiting ones as others end."""
        tails = {attempt: RunLogs(attempt.paths, only=self._tailed) for attempt in self._attempts if attempt.paths}
        looked = 0.0
        while self._running or self._waiting:
            is_time = time.monotonic() - looked > LOOK_S
            looked = time.monotonic() if is_time else looked
            if is_time:
                self._ask_schedulers()
            for attempt in list(self._running):
                if self._has_ended(attempt, look=is_time):
                    self._running.remove(attempt)
                    self._ended.append(attempt)
                tails[attempt].forward(_print_log)
            self._launch_ready()
            time.sleep(POLL_S)

    def _ask_schedulers(self) -> None:
        """Ask the schedulers that have some of the running, once for all of them, and not at each look."""
        runs = [attempt.paths for attempt in self._running if attempt.paths and attempt.intent.scheduler]
        if runs and time.monotonic() - self._asked_s > ASK_S:
            look_at_runs(runs, _LOGGER.warning)
            self._asked_s = time.monotonic()

    def _has_ended(self, attempt: Attempt, *, look: bool) -> bool:
        paths = attempt.paths
        if paths is None or paths.result.exists():
            return True
        if not look:
            return False
        if attempt.intent.scheduler:
            return inspect_run(paths).status in ("finished", "dead", "void")
        parts = [(job, part) for job, part in self._workers_of(attempt) if not part.started.exists()]
        over = [(job, part) for job, part in parts if job.launched and self._is_done_with(job)]
        if over and paths.is_begun:  # of a pipeline: the others must not wait for what never starts
            for _, part in over:
                give_up_stage(part)
        elif over and len(over) == len(parts):
            refuse_start(paths, f"the worker did not start: {last_words(Path(over[0][0].executor.job_dir))}")
        return inspect_run(paths).status in ("finished", "dead", "void")

    def _is_done_with(self, job: Any) -> bool:
        with self._registry():
            return job.status(runner=self._runner).name in ("SUCCEEDED", "FAILED", "CANCELLED")

    def _cancel(self) -> None:
        """Stop every run of ours: what was launched is asked to, what was not never will be."""
        for paths in [attempt.paths for attempt in self._attempts if attempt.paths]:
            if not paths.plan.exists():  # recorded with others, and its turn never came
                discard_run(self._site.repository, paths)
        going = [(attempt, attempt.paths) for attempt in self._running if attempt.paths and attempt.paths.root.exists()]
        waiting = [
            (attempt, attempt.paths) for attempt in self._waiting if attempt.paths and attempt.paths.plan.exists()
        ]
        self._ended += [attempt for attempt, _ in (*going, *waiting)]
        self._running, self._waiting = [], []
        for _, paths in going:
            request_cancel(paths, iso_now())
        for _, paths in waiting:
            leave_cancelled(paths)
        for _, paths in going:
            cancel_and_wait(paths, Silence())

    def _let_go(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave NeMo Run's context without its own wait, once it has seen that its jobs have ended."""
        patience = time.monotonic() + NOTICE_S
        here = [attempt for attempt in self._ended if not attempt.intent.scheduler]  # NeMo Run would ask sacct
        launched = [job for attempt in here for job in self._jobs_of(attempt) if job.launched]
        while time.monotonic() < patience and not all(self._is_done_with(job) for job in launched):
            time.sleep(POLL_S)
        self.detach, self._waited = self._is_detached, True
        with self._registry():
            super().__exit__(kind, value, trace)

    def _collect(self) -> GitexpError | None:
        """Record the results; return the first error of those that never started."""
        fault: GitexpError | None = None
        for attempt in self._ended:
            if attempt.paths is None:
                continue
            state = inspect_run(attempt.paths)
            if state.status == "running" or (state.status in GOES_ON and attempt.paths.submitted.exists()):
                continue  # it does not stop; whoever looks later records it
            try:
                attempt.finish(self._site, state)
            except GitexpError as error:
                fault = fault or error
        self._is_left = self._is_recorded and not self._is_detached
        for job in self._jobs if self._tasks else ():
            job.state = self._row(job)["status"]
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
        return fault

    def _row(self, job: Any) -> dict[str, Any]:
        attempt, name = self._tasks[self._jobs.index(job)]
        part = None if self._is_left else attempt.part(name)
        is_live = part is not None and attempt.paths is not None and attempt.paths.root.exists()
        return self._row_of(job, part_word(part) if is_live and part else word_of(attempt.document, name))

    def _row_of(self, job: Any, word: str) -> dict[str, Any]:
        return {
            "name": job.id,
            "status": AppState[_STATES.get(word, "UNKNOWN")],
            "executor": job.executor.info(),
            "job_id": job.handle.rpartition("/")[2],
            "handle": job.handle,
            "local_dir": job.executor.job_dir,
        }

    def _workers_of(self, attempt: Attempt) -> list[tuple[Any, RunPaths]]:
        owned = [(job, name) for job, (owner, name) in zip(self._jobs, self._tasks, strict=True) if owner is attempt]
        return [(job, part) for job, name in owned if (part := attempt.part(name)) and not part.result.exists()]

    def _jobs_of(self, attempt: Attempt) -> list[Any]:
        return [job for job, (owner, _) in zip(self._jobs, self._tasks, strict=True) if owner is attempt]

    @contextlib.contextmanager
    def _registry(self) -> Iterator[None]:
        """Let NeMo Run keep its list of local jobs beside its other files of ours, not in the user's home."""
        if self._home is None:
            yield
            return
        with LOCK:
            before = nemo_local.LOCAL_JOB_DIRS
            nemo_local.LOCAL_JOB_DIRS = str(self._home / "local_jobs.json")
            try:
                yield
            finally:
                nemo_local.LOCAL_JOB_DIRS = before


def _require_launchable(*, direct: bool) -> None:
    if direct:
        raise UsageError(
            "a direct run (direct=True, or nemorun without run.executor=…) runs what this process holds, not what "
            "was recorded",
            hint="leave it out and give an executor; or call the function, which records nothing",
        )
    if os.environ.get("GITEXP_RUN_DIR"):
        raise InsideJobError(
            "this process is a job of nemo-gitexp, and a job launches no experiments",
            hint='start what launches without `nemo-gitexp run`; guard it in modules: if __name__ == "__main__":',
        )


def word_of(document: ExperimentDoc | None, name: str) -> str:
    """Return how a task stands as it is recorded, in our words."""
    stages = {str(task.get("name")): str(task.get("status")) for task in document["tasks"]} if document else {}
    return stages.get(name, document["status"] if document else "recorded")


def _print_log(text: bytes) -> None:
    sys.stdout.write(text.decode("utf-8", "replace"))
    sys.stdout.flush()
