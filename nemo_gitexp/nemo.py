"""The doors for programs that use NeMo Run: an `Experiment` that records, and `run`.

What is given to NeMo Run is taken as it stands when it is submitted, plugins applied. Imports NeMo Run: nobody imports
this room before it is needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import nemo_run
from nemo_run.run.experiment import _current_experiment
from nemo_run.run.job import Job, JobGroup

from nemo_gitexp.attempt import Attempt, Intent
from nemo_gitexp.catalog import open_site
from nemo_gitexp.clusters import (
    is_scheduled,
    kept_executor,
    own_executors,
    require_plain,
    unassigned,
    worker_executor,
)
from nemo_gitexp.errors import GitexpError, PluginError, UsageError
from nemo_gitexp.handles import find_handle
from nemo_gitexp.jobs import (
    Task,
    Told,
    duplicate,
    pairs_of,
    read_added,
    read_intent,
    read_tasks,
    resolved,
    restored_task,
    variables_of,
)
from nemo_gitexp.kept import KeptExperiment
from nemo_gitexp.launchers.inprocess import users_logging
from nemo_gitexp.launchers.nemo import QUIET, START_VARIABLE, worker_line
from nemo_gitexp.seeds import require_seed
from nemo_gitexp.thisrepository import find_repository

_LOGGER = logging.getLogger("nemo_gitexp")


class Experiment(KeptExperiment):
    """`nemo_run.Experiment`, whose tasks are recorded as one experiment of the repository when it is run.

    Constructor, `add`, `run`, `status`, `logs`, `cancel`, `reset`, `from_id` and `from_title` are NeMo Run's; a `with`
    block is not needed. `run()` takes the tasks as they are then, plugins applied; records them with their
    configuration, environment variables, processes, dependencies and groups; restores that state in a workspace,
    replaces each task by a worker and submits through NeMo Run. A task whose dependency fails is skipped. The study is
    the title; `study`, `seed` and `purpose` can be set before.
    """

    study: str | None = None
    seed: int | None = None
    purpose: str | None = None
    _is_bound = False
    _is_within = True
    _is_mixed = False
    _enable_goodbye_message: bool
    _skip_status_at_exit: bool

    def __init__(self, title: str, *args: Any, **kwargs: Any) -> None:
        """Start as NeMo Run's own does; the repository is the one of the working directory or of the script.

        Raises:
            NotARepositoryError: there is none.
        """
        with users_logging():
            super().__init__(title, *args, **kwargs)
        self.bind()

    def bind(self, *, again: bool = False) -> None:
        """Become ready to record; what was added before counts. `again`: what `run` does unless it is told."""
        if self._is_bound:
            self._again = self._again or again
            return
        self._handle = find_handle(Path(self._exp_dir)) if self._reconstruct else None
        repository = find_repository(Path(self._handle.root) if self._handle else None)
        self._begin(open_site(repository, os.environ), again=again)
        self._added = self._handle.added if self._handle else ()
        self._workdir = self._handle.workdir if self._handle else None
        if self._handle:
            self.study, self.seed, self.purpose = self._handle.study, self._handle.seed, self._handle.purpose
        self._given: list[Any] = []
        self._kept: dict[str, Any] = {}
        self._is_bound = True

    def to_config(self) -> Any:
        """Return what NeMo Run keeps of it; of a class of the user's that a plugin made record, this class."""
        config = super().to_config()
        if not self._is_mixed:
            return config
        names = ("title", "id", "executor", "log_level", *QUIET, "threadpool_workers")
        return nemo_run.Config(Experiment, **{name: getattr(config, name) for name in dict.fromkeys(names)})

    # ------------------------------------------------------------------------------------------------- adding tasks

    def add(
        self,
        task: Any,
        executor: Any = None,
        name: str = "",
        plugins: Any = None,
        tail_logs: bool = False,  # noqa: FBT001, FBT002 - NeMo Run's own signature
        dependencies: list[str] | None = None,
    ) -> str:
        """Add a task, or a list of tasks as a group; plugins are applied to the task itself, not to our worker.

        Returns:
            What it is called, for `dependencies`, `status`, `logs` and `cancel`.

        Raises:
            DuplicateTaskError: a task of this name is there already.
            PluginError: a plugin raised.
            RecipeError: it is no task.
            UsageError: a dependency that was not added; a group without a name.
        """
        found, known = resolved(task), [job.id for job in self._jobs]
        unknown = [each for each in dependencies or () if each not in known]
        if name in known:
            raise duplicate(name)
        if unknown:
            raise UsageError(
                f"{name or 'a task'} depends on {unknown[0]}, which is no task",
                hint="add that one first; dependencies=[…] names what exp.add returned",
                dependency=unknown[0],
            )
        if isinstance(task, list) and not (name and task):
            raise UsageError("a group of tasks has a name and at least one task", hint='exp.add([…], name="group")')
        with self._within():
            added: str = super().add(
                found, executor, name=name, tail_logs=tail_logs, dependencies=list(dependencies or ()) or None
            )
            try:
                self._apply(plugins)
            except BaseException:
                self._jobs.pop()
                raise
        return added

    def _apply(self, plugins: Any) -> None:
        """Let plugins change the task that was added last, and its executor."""
        for plugin in [] if plugins is None else plugins if isinstance(plugins, (list, tuple)) else [plugins]:
            for given, executor in pairs_of(self._jobs[-1]):
                _apply(plugin, self._id, given, executor)

    @contextlib.contextmanager
    def _within(self) -> Iterator[None]:
        """Let NeMo Run take tasks outside of a `with` block, too."""
        if self._current_experiment_token is not None:
            yield
            return
        token = _current_experiment.set(self)
        try:
            yield
        finally:
            _current_experiment.reset(token)

    def _validate_task(self, task_info: str, task: Any) -> None:
        """Let a task in that NeMo Run's own serializer cannot hold: it is described, and checked, when it is run."""

    # ------------------------------------------------------------------------------------------------- running

    def run(
        self,
        sequential: bool = False,  # noqa: FBT001, FBT002 - NeMo Run's own signature
        detach: bool = False,  # noqa: FBT001, FBT002
        tail_logs: bool = False,  # noqa: FBT001, FBT002
        direct: bool = False,  # noqa: FBT001, FBT002
        *,
        again: bool | None = None,
    ) -> None:
        """Record the tasks as one experiment, restore it and submit it; see `SubmittedExperiment.run`.

        What was refused before anything was recorded may be mended and run again.

        Args:
            sequential: each task waits for the one before, and is skipped when that fails.
            detach: return as soon as Slurm has the jobs; local ones cannot be left alone: it says so and stays.
            tail_logs: print the logs of all jobs while they run; else of those that were added with it.
            direct: refused: it would run the state of this process instead of the recorded one.
            again: run what completed before once more.

        Raises:
            GitexpError: nothing was recorded, or it is recorded and did not start.
        """
        if self._reconstruct:
            self.console.log("[bold magenta]Experiment in inspection mode...")
            return
        if self._current_experiment_token is None:
            with self:
                self.run(sequential, detach, tail_logs, direct, again=again)
            return
        if not self._is_recorded and not direct and not os.environ.get("GITEXP_RUN_DIR"):
            self._prepare_tasks(sequential=sequential)
        try:
            super().run(False, detach, tail_logs, direct, again=again)
        finally:
            if not self.documents:
                self._forget()
            elif not self._is_left:
                self._keep_handle()
        if not self._is_within:
            self._leave_quietly()

    def _leave_quietly(self) -> None:
        """Wait and record in a block that NeMo Run's own `__exit__` will leave, with its last words, once more."""
        words: tuple[bool, bool] = (self._enable_goodbye_message, self._skip_status_at_exit)
        self._enable_goodbye_message, self._skip_status_at_exit = False, True
        try:
            super().__exit__(None, None, None)
        finally:
            self._enable_goodbye_message, self._skip_status_at_exit = words

    def _prepare_tasks(self, *, sequential: bool) -> None:
        added = read_added(self._jobs)
        tasks = read_tasks(self._jobs, added, sequential=sequential)
        told = Told(self._title, self.study, self.seed, self.purpose, self._workdir)
        intent, left_out = read_intent(self._site.repository, tasks, told)
        if left_out:
            _LOGGER.warning("not recorded, for they look like secrets: %s", ", ".join(left_out))
        if intent.scheduler:
            require_plain(self._exp_dir, [task.job for task in tasks])
        attempt = Attempt(intent)
        self._given, self._added, self._workdir = self._jobs, added, intent.defined.workdir
        self._attempts, self._tasks = [attempt], [(attempt, task.name) for task in tasks]
        self._tailed = frozenset(name for each in added if each.tail_logs for _, name in each.tasks)
        self._jobs = [self._worker_job(number, task) for number, task in enumerate(tasks)]
        self._kept = {task.job: self._kept_executor(intent, task) for task in tasks if is_scheduled(task.executor)}

    def _kept_executor(self, intent: Intent, task: Task) -> Any:
        """Return the executor of a task on a cluster as NeMo Run's own files keep it: without secrets."""
        secrets = intent.variables.get("" if len(intent.tasks) == 1 else task.name, {})
        known = {name: value for name, value in variables_of(task).items() if name not in secrets}
        executor = kept_executor(task.executor, self._id, known)
        executor.assign(self._id, self._exp_dir, task_id=task.job, task_dir=task.job)
        return executor

    def _save_jobs(self) -> None:
        """Write NeMo Run's list of tasks, each with the executor that it was given."""
        workers = {job.id: job.executor for job in self._jobs if job.id in self._kept}
        try:
            for job in self._jobs if workers else ():
                job.executor = self._kept.get(job.id, job.executor)
            super()._save_jobs()
        finally:
            for job in self._jobs if workers else ():
                job.executor = workers.get(job.id, job.executor)

    def _worker_job(self, number: int, task: Task) -> Any:
        if is_scheduled(task.executor):
            executor = worker_executor(task.executor, self._id)
        else:
            executor = task.executor.clone()
            executor.env_vars = variables_of(task)
        executor.assign(self._id, self._exp_dir, task_id=task.job, task_dir=task.job)
        script = nemo_run.Script(inline=worker_line(f"{START_VARIABLE}{number}"))
        return Job(id=task.job, task=script, executor=executor, dependencies=list(task.dependencies))

    def _forget(self) -> None:
        """Be as before `run`: nothing was recorded."""
        if self._given:
            self._jobs, self._given, self._added, self._workdir = self._given, [], (), None
            self._kept = {}
        self._begin(self._site, again=self._again)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the jobs, record their results, leave."""
        super().__exit__(kind, value, trace)
        if self._is_recorded:
            self._keep_handle()

    def reset(self) -> Any:
        """Become ready to run once more what was run, also in an earlier process: as a new experiment, from new code.

        Returns:
            Itself.

        Raises:
            MissingModuleError, UnbuildableConfigError: this process has not what the tasks call.
        """
        is_ours = self._is_left or self._is_detached
        given = self._given if is_ours else self._restored() if self._handle else []
        if not given:
            self.console.log(f"[bold magenta]Experiment {self._id} has not run yet, skipping reset...")
            return self
        waits = {each.name: list(each.dependencies) for each in self._added}
        tasks = [_as_added(job, self._id) for job in given]
        self.tunnels = {}
        self._id = f"{self._title}_{time.time_ns()}"
        self._exp_dir = str(Path(self._exp_dir).parent / self._id)
        self._launched = self._waited = self._reconstruct = False
        self._live_progress = self._handle = None
        self._begin(self._site, again=True)
        self._jobs, self._given, self._added, self._kept = [], [], (), {}
        for job, (task, executor) in zip(given, tasks, strict=True):
            self.add(task, executor, name=job.id, tail_logs=job.tail_logs, dependencies=waits[job.id])
        return self

    def _restored(self) -> list[Any]:
        """Return the jobs that an earlier process ran, their tasks as they are recorded."""
        document = self.document
        if document is None:
            return []
        executors = {job.id: job.executor for job in self._jobs}
        found = []
        for each in self._added:
            tasks = [restored_task(document["config"], name if len(self._jobs) > 1 else None) for _, name in each.tasks]
            own = [executors[job] for job, _ in each.tasks]
            if each.is_group:
                found.append(JobGroup(each.name, tasks, own, tail_logs=each.tail_logs))
            else:
                found.append(Job(each.name, tasks[0], own[0], tail_logs=each.tail_logs))
        return found


def _as_added(job: Any, experiment: str) -> tuple[Any, Any]:
    """Return the task of a job with its executor, or the tasks of a group with theirs, as they can be added again."""
    if not hasattr(job, "tasks"):
        return job.task, unassigned(job.executor, experiment)
    given = job.executors
    executors = given if isinstance(given, list) else own_executors(given, len(job.tasks))
    return job.tasks, [unassigned(executor, experiment) for executor in executors]


def _apply(plugin: Any, experiment: str, task: Any, executor: Any) -> None:
    try:
        plugin.assign(experiment)
        plugin.setup(task, executor)
    except GitexpError:
        raise
    except Exception as fault:  # whatever it raises: it is the user's
        kind = type(plugin).__name__
        raise PluginError(
            f"the plugin {kind} raised {type(fault).__name__}: {fault}", hint="nothing was recorded", plugin=kind
        ) from fault


def run(  # noqa: PLR0913 - NeMo Run's own, and what is recorded beside
    fn_or_script: Any,
    executor: Any = None,
    plugins: Any = None,
    name: str = "",
    *,
    seed: int | None = None,
    study: str | None = None,
    purpose: str | None = None,
    direct: bool = False,
    detach: bool = False,
    tail_logs: bool = False,
    again: bool = False,
) -> Experiment:
    """Record a configured call and run exactly that through NeMo Run; return when its result is recorded.

    Args:
        fn_or_script: a `run.Partial`, or a `run.Script`.
        executor: of NeMo Run; None: `run.LocalExecutor()`.
        plugins: one, or a list of them; applied before it is recorded.
        name: of the task, and of the study; None: what is called.
        seed: a whole number from 0; None: what the configuration has at `seed`, else 42.
        study: where it is recorded; None: `name`.
        purpose: one sentence.
        direct: refused.
        detach: return as soon as Slurm has it; a local job cannot be left alone: it says so and stays.
        tail_logs: print the log while it runs.
        again: run what completed before once more.

    Returns:
        The experiment: `document` is what `show --json` says about it, `experiment` and `result` are its commits.

    Raises:
        GitexpError: nothing was recorded, or it is recorded and did not start.
    """
    task = resolved(fn_or_script)
    title = name or _default_name(task)
    experiment = Experiment(title, executor=executor or nemo_run.LocalExecutor(), **QUIET)
    experiment.seed = None if seed is None else require_seed(seed)
    experiment.study, experiment.purpose = study, purpose
    with experiment:
        experiment.add(task, name=title, plugins=plugins)
        experiment.run(detach=detach, tail_logs=tail_logs, direct=direct, again=again)
    return experiment


def _default_name(task: Any) -> str:
    if isinstance(task, nemo_run.Script):
        return str(task.get_name())
    return str(getattr(task.__fn_or_cls__, "__name__", "task"))
