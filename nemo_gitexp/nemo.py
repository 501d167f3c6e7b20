"""The doors for programs that use NeMo Run: an `Experiment` that records, `run`, and a plugin that does the same.

What is given to NeMo Run is taken as it stands when it is submitted, plugins applied. Imports NeMo Run: nobody imports
this room before it is needed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import nemo_run
from nemo_run.run.experiment import _current_experiment
from nemo_run.run.job import Job

from nemo_gitexp.asked import Asked, Defined, tracked_definition
from nemo_gitexp.attempt import Attempt, Intent, this_environment
from nemo_gitexp.catalog import open_site, read_current
from nemo_gitexp.collect import log_pieces, read_log, section_of
from nemo_gitexp.definition import StudyDefinition
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import DuplicateTaskError, GitexpError, PluginError, RecipeError, UsageError
from nemo_gitexp.execution import iso_now
from nemo_gitexp.launchers.inprocess import users_logging
from nemo_gitexp.launchers.nemo import QUIET, START_VARIABLE, worker_line
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.naming import slug
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import inspect_run, list_run_directories, request_cancel, request_stage_cancel
from nemo_gitexp.seeds import require_seed
from nemo_gitexp.stages import Stage, StagesEntry, order_stages, require_stage_name
from nemo_gitexp.submitted import SubmittedExperiment
from nemo_gitexp.tasks import TaskParts, read_shape, read_task, wants_clean_tree
from nemo_gitexp.thisrepository import find_repository
from nemo_gitexp.topology import TaskShape

NOTE_FILE = "_GITEXP"
"""Beside NeMo Run's own files of an experiment: which one of ours it is."""

_LOGGER = logging.getLogger("nemo_gitexp")


@dataclass(frozen=True, slots=True)
class _Task:
    """One task as it was added; `name` can stand in a record, `job` is what NeMo Run calls it."""

    name: str
    job: str
    given: Any
    executor: Any
    dependencies: tuple[str, ...]
    group: str | None
    tail_logs: bool


class Experiment(SubmittedExperiment):
    """`nemo_run.Experiment`, whose tasks are recorded as one experiment of the repository when it is run.

    Constructor, `add`, `run`, `status`, `logs`, `cancel` and `from_id` are NeMo Run's. `run()` takes the tasks as they
    are then, plugins applied; records them with their configuration, environment variables, processes, dependencies
    and groups; restores that state in a workspace, replaces each task by a worker and submits through NeMo Run. A task
    whose dependency fails is skipped. The study is the title; `study`, `seed` and `purpose` can be set before.
    """

    study: str | None = None
    seed: int | None = None
    purpose: str | None = None
    _is_bound = False
    _is_within = True
    _enable_goodbye_message: bool
    _skip_status_at_exit: bool

    def __init__(self, title: str, *args: Any, **kwargs: Any) -> None:
        """Start as NeMo Run's own does; the repository is the one of the working directory or of the script."""
        with users_logging():
            super().__init__(title, *args, **kwargs)
        self.bind()

    def bind(self) -> None:
        """Become ready to record; what was added before counts."""
        if self._is_bound:
            return
        note = self._read_note()
        repository = find_repository(Path(note["root"]) if note else None)
        self._begin(open_site(repository, os.environ))
        self._is_bound = True
        self._workdir = "." if note else _workdir(repository.root)
        self._given_names: set[str] = set()

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
            UsageError: a dependency that was not added.
        """
        self._require_new_name(name)
        unknown = [each for each in dependencies or () if each not in {job.id for job in self._jobs}]
        if unknown:
            raise UsageError(f"{name or 'a task'} depends on {unknown[0]}, which is no task", hint="add that one first")
        added: str = super().add(
            _resolved(task), executor, name=name, tail_logs=tail_logs, dependencies=dependencies or None
        )
        job = self._jobs[-1]
        try:
            for plugin in [] if plugins is None else plugins if isinstance(plugins, list) else [plugins]:
                for given, own in _pairs(job):
                    _apply(plugin, self._id, given, own)
        except BaseException:
            self._jobs.remove(job)
            raise
        return added

    def _validate_task(self, task_info: str, task: Any) -> None:
        """Let a task in that NeMo Run's own serializer cannot hold: it is described, and checked, when it is run."""

    def _require_new_name(self, name: str) -> None:
        if name and name in self._given_names:
            raise DuplicateTaskError(
                f"there is a task {name} already", hint="give each task a name of its own", task=name
            )
        if name:
            self._given_names.add(name)

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

        Args:
            sequential: each task waits for the one before.
            detach: local jobs cannot be left alone: it says so and stays.
            tail_logs: print the logs of the jobs while they run.
            direct: refused: it would run the state of this process instead of the recorded one.
            again: run what completed before once more.

        Raises:
            GitexpError: nothing was recorded, or it is recorded and did not start.
        """
        if not self._is_recorded and not direct and not os.environ.get("GITEXP_RUN_DIR"):
            self._prepare_tasks(sequential=sequential)
        super().run(False, detach, tail_logs, direct, again=again)
        if not self._is_left:
            self._write_note()
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
        tasks = self._read_tasks(sequential=sequential)
        if not tasks:
            raise UsageError(f"{self._title} has no tasks", hint="exp.add(task, executor=…)")
        intent = self._intent(tasks)
        attempt = Attempt(intent)
        self._attempts, self._tasks = [attempt], [(attempt, task.name) for task in tasks]
        self._jobs = [self._worker_job(number, task) for number, task in enumerate(tasks)]

    def _read_tasks(self, *, sequential: bool) -> list[_Task]:
        found: list[_Task] = []
        members: dict[str, list[str]] = {}
        for job in self._jobs:
            waits = [name for each in job.dependencies for name in members[each]]
            if sequential and found:
                waits = [found[-1].name]
            pairs = _pairs(job)
            is_group = hasattr(job, "tasks")
            for position, (given, executor) in enumerate(pairs):
                name = f"{job.id}-{position}" if is_group else job.id
                members.setdefault(job.id, []).append(slug(name))
                found.append(
                    _Task(
                        name=require_stage_name(slug(name)),
                        job=name,
                        given=given,
                        executor=executor,
                        dependencies=tuple(dict.fromkeys(waits)),
                        group=job.id if is_group else None,
                        tail_logs=job.tail_logs,
                    )
                )
        return found

    def _intent(self, tasks: Sequence[_Task]) -> Intent:
        """Return what is to be recorded: of a single task its own configuration, of several one below each name."""
        root, head = self._site.repository.root, self._site.repository.text("rev-parse", "HEAD")
        study = self.study or slug(self._title)
        parts = [read_task(each.given, each.name, root=root, workdir=self._workdir, study=study) for each in tasks]
        shapes = [read_shape(each.executor, part.env, each.group) for each, part in zip(tasks, parts, strict=True)]
        is_clean = any(wants_clean_tree(each.executor, head) for each in tasks)
        self._say_left_out(tasks, shapes)
        purpose = self.purpose or f"{self._title}: {', '.join(each.name for each in tasks)}"
        base = tracked_definition(root, study, purpose=purpose, model=slug(self._title))
        kind = "nemo" if base.type == "tracked" else base.type
        definition = replace(base, type=kind, workdir=self._workdir)
        env = this_environment()
        asked = Asked(cwd=root / self._workdir, env=env, study=study, seed=self.seed, require_clean=is_clean)
        return Intent(tasks[0].name, asked, _defined(study, definition, tasks, parts, shapes), datetime.now(UTC))

    def _say_left_out(self, tasks: Sequence[_Task], shapes: Sequence[TaskShape]) -> None:
        left: set[str] = set()
        for task, shape in zip(tasks, shapes, strict=True):
            left |= set(map(str, task.executor.env_vars)) - {name for name, _ in shape.env}
        if left:
            _LOGGER.warning("not recorded, for they look like secrets: %s", ", ".join(sorted(left)))

    def _worker_job(self, number: int, task: _Task) -> Any:
        executor = task.executor.clone()
        executor.assign(self._id, self._exp_dir, task_id=task.job, task_dir=task.job)
        executor.packager = nemo_run.Packager()
        script = nemo_run.Script(inline=worker_line(f"{START_VARIABLE}{number}"))
        return Job(
            id=task.job,
            task=script,
            executor=executor,
            tail_logs=False,
            dependencies=list(task.dependencies),
        )

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the jobs, record their results, leave."""
        super().__exit__(kind, value, trace)
        if self._is_recorded:
            self._write_note()

    # ------------------------------------------------------------------------------------------------- looking back

    def _write_note(self) -> None:
        """Keep beside NeMo Run's files which experiment this is, for `from_id`."""
        if self.document is None or not Path(self._exp_dir).is_dir():
            return
        note = {
            "experiment": self.document["experiment"],
            "root": str(self._site.repository.root),
            "tasks": {job.id: name for job, (_, name) in zip(self._jobs, self._tasks, strict=True)},
        }
        Path(self._exp_dir, NOTE_FILE).write_text(json.dumps(note))

    def _read_note(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(Path(self._exp_dir, NOTE_FILE).read_bytes()))
        except (OSError, ValueError):
            return None

    def _current(self) -> ExperimentDoc | None:
        """Return the experiment as it is now, also when another process ran it."""
        if not self._reconstruct:
            return self.document
        note = self._read_note()
        if note is None:
            return None
        tip = find_experiment(self._site.repository, note["experiment"])
        return read_current(self._site, tip).document

    def status(self, return_dict: bool = False) -> Any:  # noqa: FBT001, FBT002 - NeMo Run's own signature
        """Return or print the state of each task; of an experiment from an earlier process as it is recorded."""
        if not self._reconstruct:
            return super().status(return_dict=return_dict)
        document = self._current()
        if document is None:
            return super().status(return_dict=return_dict)
        note = self._read_note() or {}
        rows = {job.id: self._row_of(job, document, str(note["tasks"].get(job.id, job.id))) for job in self._jobs}
        return rows if return_dict else self._print_rows(rows)

    def logs(self, job_id: str, regex: str | None = None) -> None:
        """Print what a task has written so far, or wrote in an earlier process.

        Raises:
            UsageError: there is no such task, or it has no log here.
        """
        lines = self._log_lines(self._task_name(job_id))
        pattern = re.compile(regex or "")
        sys.stderr.writelines(f"{job_id} {line}\n" for line in lines if pattern.search(line))

    def cancel(self, job_id: str) -> None:
        """Stop a task if it still runs; what depends on it is skipped.

        Raises:
            UsageError: there is no such task.
        """
        name = self._task_name(job_id)
        paths = self._live_paths()
        if paths is None:
            _LOGGER.warning("%s does not run any more", job_id)
            return
        parts = [part for part in paths.parts() if part.run == name]
        if len(paths.parts()) == 1:
            request_cancel(paths, iso_now())
        for part in parts:
            request_stage_cancel(part)

    def _task_name(self, job_id: str) -> str:
        note = self._read_note() or {"tasks": {}}
        known = {job.id: name for job, (_, name) in zip(self._jobs, self._tasks, strict=False)} or note["tasks"]
        if job_id not in known:
            raise UsageError(f"there is no task {job_id}", hint=f"the tasks are {', '.join(known) or 'not run yet'}")
        return str(known[job_id])

    def _live_paths(self) -> RunPaths | None:
        """Return the directory of the run as long as it goes on."""
        if not self._reconstruct:
            paths = self._attempts[0].paths if self._attempts else None
            return None if paths is None or self._is_left else paths
        note = self._read_note() or {}
        runs = list_run_directories(self._site.run_root, str(note.get("experiment")))
        live = [paths for paths in runs if inspect_run(paths).status in ("launched", "running")]
        return live[-1] if live else None

    def _log_lines(self, name: str) -> list[str]:
        """Return the lines of one task from the live run, or from the log that was kept."""
        paths = self._live_paths()
        document = self._current()
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


def _workdir(root: Path) -> str:
    """Return where jobs run, relative to the root: NeMo Run's local jobs run where they are launched."""
    here, top = Path.cwd().resolve(), root.resolve()
    return here.relative_to(top).as_posix() if here.is_relative_to(top) else "."


def _resolved(task: Any) -> Any:
    if isinstance(task, list):
        return [_resolved(each) for each in task]
    return task.resolve() if getattr(task, "is_lazy", False) else task


def _pairs(job: Any) -> list[tuple[Any, Any]]:
    """Return each task of a job or a job group with its executor."""
    if not hasattr(job, "tasks"):
        return [(job.task, job.executor)]
    executors = job.executors if isinstance(job.executors, list) else [job.executors] * len(job.tasks)
    return list(zip(job.tasks, executors, strict=True))


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


def _defined(
    study: str,
    definition: StudyDefinition,
    tasks: Sequence[_Task],
    parts: Sequence[TaskParts],
    shapes: Sequence[TaskShape],
) -> Defined:
    """Return the tasks as one entry point: the one there is, or a graph of them."""
    carried = {name: text for part in parts for name, text in part.files.items()}
    if len(tasks) == 1:
        (part,), calls = parts, tuple(part.call for part in parts if part.call)
        return Defined(
            study, definition, part.entry, part.config, ad_hoc=True, workdir=definition.workdir, unresolved=calls,
            carried=carried, shape=shapes[0],
        )  # fmt: skip
    stages = [
        Stage(task.name, part.entry, task.dependencies, config=None if part.call else (), shape=shape)
        for task, part, shape in zip(tasks, parts, shapes, strict=True)
    ]
    calls = tuple(replace(part.call, task=task.name) for task, part in zip(tasks, parts, strict=True) if part.call)
    config = {task.name: dict(part.config) for task, part in zip(tasks, parts, strict=True) if not part.call}
    entry = StagesEntry(order_stages(stages))
    return Defined(
        study, definition, entry, config, ad_hoc=True, workdir=definition.workdir, unresolved=calls, carried=carried
    )


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
        detach: local jobs cannot be left alone: it says so and stays.
        tail_logs: print the log while it runs.
        again: run what completed before once more.

    Returns:
        The experiment: `document` is what `show --json` says about it, `experiment` and `result` are its commits.

    Raises:
        GitexpError: nothing was recorded, or it is recorded and did not start.
    """
    task = _resolved(fn_or_script)
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
    function = getattr(task, "__fn_or_cls__", None)
    if function is None:
        raise RecipeError(f"a {type(task).__name__} is no task", hint="run.Partial(function, …)")
    return str(getattr(function, "__name__", "task"))


@dataclass(kw_only=True)
class Plugin(nemo_run.Plugin):  # type: ignore[misc]  # NeMo Run ships no types
    """Makes the NeMo Run experiment that it is given to one that records: all of its tasks, as `Experiment` does.

    For scripts that use `run.run(…, plugins=[gitexp.Plugin()])` or `nemo_run.Experiment`. Where NeMo Run asks no plugin
    (`direct=True`, no executor) that is said as soon as this object is let go of.

    Args:
        study: where the experiment is recorded; None: its title.
        seed: a whole number from 0.
        purpose: one sentence.
    """

    study: str | None = None
    seed: int | None = None
    purpose: str | None = None

    def __post_init__(self) -> None:
        """Watch whether NeMo Run ever asks."""
        self._was_asked = {"yes": False}
        weakref.finalize(self, _say_unasked, self._was_asked, os.getpid())

    def setup(self, task: Any, executor: Any) -> None:
        """Turn the live experiment into one that records.

        Raises:
            UsageError: no experiment is being made.
        """
        del task, executor
        live = _current_experiment.get(None)
        if live is None:
            raise UsageError("no experiment is being made", hint="run.run(…, executor=…, plugins=[gitexp.Plugin()])")
        self._was_asked["yes"] = True
        if not isinstance(live, SubmittedExperiment):
            kind = type(live)
            live.__class__ = Experiment if kind is nemo_run.Experiment else type(kind.__name__, (Experiment, kind), {})
            live._is_within = False  # noqa: SLF001 - a `with` block that began before leaves by NeMo Run's own way
            live.bind()
        for field_name in ("study", "seed", "purpose"):
            if getattr(self, field_name) is not None:
                setattr(live, field_name, getattr(self, field_name))


def _say_unasked(was_asked: Mapping[str, bool], process: int) -> None:
    if not was_asked["yes"] and os.getpid() == process:
        _LOGGER.warning(
            "nothing was recorded: NeMo Run asks no plugin when it runs directly (direct=True, or no executor); "
            "nemo_gitexp.Plugin() needs an executor, for instance executor=run.LocalExecutor()"
        )
