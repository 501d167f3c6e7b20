"""The jobs of a live NeMo Run experiment: read as the tasks of one experiment of ours, and made from such a one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nemo_run

from nemo_gitexp.asked import Asked, Defined, tracked_definition
from nemo_gitexp.attempt import Intent, this_environment
from nemo_gitexp.clusters import KIND, find_cluster, own_executors, require_cluster
from nemo_gitexp.clusters import NAME as CLUSTER
from nemo_gitexp.described import restore_call
from nemo_gitexp.errors import DuplicateTaskError, PipelineError, RecordError, UsageError
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.handles import Added
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.naming import require_name, slug
from nemo_gitexp.packagers import require_honoured
from nemo_gitexp.seeds import require_seed
from nemo_gitexp.stages import Stage, StagesEntry, find_graph_faults, find_interpreter_faults, order_stages
from nemo_gitexp.tasks import TaskParts, read_shape, read_task, require_task
from nemo_gitexp.topology import TaskShape
from nemo_gitexp.worker.rebuild import TARGET


@dataclass(frozen=True, slots=True)
class Task:
    """One task as it was added.

    Args:
        name: in the record.
        job: what NeMo Run calls it.
        given: a `run.Partial` or `run.Script`, as plugins left it.
        executor: of NeMo Run.
        dependencies: names in the record.
        group: what the list that it belongs to was called.
    """

    name: str
    job: str
    given: Any
    executor: Any
    dependencies: tuple[str, ...] = ()
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What is said beside the tasks.

    None: the study is the title, the seed that of the configuration, the purpose made up, and jobs run where they are
    launched, as NeMo Run's local ones do.
    """

    title: str
    study: str | None = None
    seed: int | None = None
    purpose: str | None = None
    workdir: str | None = None


def resolved(task: Any) -> Any:
    """Return a task, or each of a list, as NeMo Run can take it.

    Raises:
        RecipeError: it is none.
    """
    return [require_task(each) for each in task] if isinstance(task, list) else require_task(task)


def pairs_of(job: Any) -> list[tuple[Any, Any]]:
    """Return each task of a job or a job group with its executor."""
    if not hasattr(job, "tasks"):
        return [(job.task, job.executor)]
    executors = job.executors if isinstance(job.executors, list) else [job.executors] * len(job.tasks)
    return list(zip(job.tasks, executors, strict=True))


def read_added(jobs: Sequence[Any]) -> tuple[Added, ...]:
    """Return what was added, in order.

    Raises:
        UsageError: nothing was.
        DuplicateTaskError: two of one name.
        PipelineError: what they wait for is not there, or they wait for each other.
    """
    if not jobs:
        raise UsageError("the experiment has no tasks", hint="exp.add(task, executor=…)")
    added = tuple(_added(job) for job in jobs)
    names = [name for each in added for name in (each.name, *(job for job, _ in each.tasks if each.is_group))]
    slugs = [name for each in added for _, name in each.tasks]
    for name in (*names, *slugs):
        if names.count(name) > 1 or slugs.count(name) > 1:
            raise duplicate(name)
    faults = find_graph_faults([(each.name, each.dependencies) for each in added], "task")
    if faults:
        raise PipelineError("; ".join(faults), hint="dependencies=[…] names what exp.add returned", faults=faults)
    return added


def duplicate(name: str) -> DuplicateTaskError:
    """Return the error of a second task of one name."""
    return DuplicateTaskError(f"there is a task {name} already", hint="give each task a name of its own", task=name)


def _added(job: Any) -> Added:
    is_group = hasattr(job, "tasks")
    names = [f"{job.id}-{position}" for position in range(len(job.tasks))] if is_group else [job.id]
    tasks = tuple((name, require_name(slug(name), "task")) for name in names)
    return Added(job.id, tasks, tuple(dict.fromkeys(job.dependencies)), is_group, bool(job.tail_logs))


def read_tasks(jobs: Sequence[Any], added: Sequence[Added], *, sequential: bool) -> list[Task]:
    """Return the tasks of jobs; `sequential`: each also waits for what was added before it."""
    names = {each.name: [name for _, name in each.tasks] for each in added}
    found: list[Task] = []
    before: list[str] = []
    for job, each in zip(jobs, added, strict=True):
        needed = [name for other in each.dependencies for name in names[other]]
        waits = tuple(dict.fromkeys((*needed, *(before if sequential else ()))))
        before = names[each.name]
        pairs = pairs_of(job)
        executors = own_executors(job.executors, len(pairs)) if _is_merged(job) else [each for _, each in pairs]
        for (own, name), (given, _), executor in zip(each.tasks, pairs, executors, strict=True):
            found.append(Task(name, own, given, executor, waits, each.name if each.is_group else None))
    return found


def _is_merged(job: Any) -> bool:
    """Whether NeMo Run has made one executor of those that a group was given."""
    return hasattr(job, "tasks") and not isinstance(job.executors, list)


def read_intent(repository: Repository, tasks: Sequence[Task], told: Told) -> tuple[Intent, tuple[str, ...]]:
    """Return what is to be recorded of tasks, and the names of variables that must not be.

    Of a single task that is its own configuration, of several one below each name.

    Raises:
        GitexpError: a task or an executor that cannot be recorded, or that would run something else.
    """
    root, workdir = repository.root, told.workdir or _here(repository.root)
    study = slug(told.title) if told.study is None else require_name(told.study, "study")
    seed = None if told.seed is None else require_seed(told.seed)
    parts = [read_task(each.given, each.name, root=root, workdir=workdir, study=study) for each in tasks]
    shapes = [read_shape(each.executor, part.env, each.group) for each, part in zip(tasks, parts, strict=True)]
    cluster = find_cluster([each.executor for each in tasks])
    if cluster is not None:
        require_cluster(cluster)
    for each in tasks:
        require_honoured(each.executor, repository, workdir)
    purpose = told.purpose or f"{told.title}: {', '.join(each.name for each in tasks)}"
    base = tracked_definition(root, study, purpose=purpose, model=slug(told.title))
    definition = replace(base, type="nemo" if base.type == "tracked" else base.type, workdir=workdir)
    asked = Asked(
        cwd=root / workdir,
        env=this_environment(),
        study=study,
        seed=seed,
        executor=None if cluster is None else CLUSTER,
        brings_executor=cluster is not None,
    )
    carried = {name: text for part in parts for name, text in part.files.items()}
    empty = Defined(study, definition, parts[0].entry, {}, ad_hoc=True, workdir=workdir, carried=carried)
    defined = _of_one(empty, parts[0], shapes[0]) if len(tasks) == 1 else _of_several(empty, tasks, parts, shapes)
    secrets = _left_out(tasks, shapes)
    names = tuple(sorted({name for values in secrets.values() for name in values}))
    intent = Intent(tasks[0].name, asked, defined, datetime.now(UTC))
    if cluster is None:  # NeMo Run gives them to the job
        return intent, names
    given = {"": secrets[tasks[0].name]} if len(tasks) == 1 else secrets
    return replace(intent, scheduler=KIND, variables=given), names


def _here(root: Path) -> str:
    """Return the working directory relative to the root; the root from outside."""
    here, top = Path.cwd().resolve(), root.resolve()
    return here.relative_to(top).as_posix() if here.is_relative_to(top) else "."


def _of_one(empty: Defined, part: TaskParts, shape: TaskShape) -> Defined:
    calls = (part.call,) if part.call else ()
    return replace(empty, config=part.config, unresolved=calls, shape=shape)


def _of_several(
    empty: Defined, tasks: Sequence[Task], parts: Sequence[TaskParts], shapes: Sequence[TaskShape]
) -> Defined:
    stages = [
        Stage(task.name, part.entry, task.dependencies, config=None if part.call else (), shape=shape)
        for task, part, shape in zip(tasks, parts, shapes, strict=True)
    ]
    for fault in find_interpreter_faults(stages, "tasks"):
        raise UsageError(fault, hint="entrypoint='python' is the one that runs now")
    pairs = list(zip(tasks, parts, strict=True))
    calls = tuple(replace(part.call, task=task.name) for task, part in pairs if part.call)
    config = {task.name: dict(part.config) for task, part in pairs if not part.call}
    return replace(empty, entry=StagesEntry(order_stages(stages)), config=config, unresolved=calls)


def variables_of(task: Task) -> dict[str, str]:
    """Return the variables of a task as NeMo Run sets them: a script's own over the executor's."""
    own = task.given.env if isinstance(task.given, nemo_run.Script) else {}
    return {str(name): str(value) for name, value in (*task.executor.env_vars.items(), *own.items())}


def _left_out(tasks: Sequence[Task], shapes: Sequence[TaskShape]) -> dict[str, dict[str, str]]:
    """Return by task the variables that are not recorded."""
    kept = [{name for name, _ in shape.env} for shape in shapes]
    return {
        task.name: {name: value for name, value in variables_of(task).items() if name not in known}
        for task, known in zip(tasks, kept, strict=True)
    }


def restored_task(config: Mapping[str, JsonValue], name: str | None) -> Any:
    """Return a task as it was recorded: `run.Partial`, `run.Config` or `run.Script`; `name`: of one of several.

    Raises:
        MissingModuleError, UnbuildableConfigError: this process has not what it calls.
    """
    own = config if name is None else config[name]
    if not isinstance(own, Mapping):
        raise RecordError(f"the recorded configuration of {name} is damaged")
    return restore_call(own) if TARGET in own else nemo_run.Script(**own)
