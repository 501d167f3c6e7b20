"""`run.SlurmExecutor` as programs give it: what of it is not honoured, which cluster it leads to, how it submits.

Shape belongs to the experiment, all else to the site: it is used as it stands, and not recorded. Variables are not
among what NeMo Run is handed: it changes their names, lets a shell read their values, and traces them (measured).
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nemo_run

from nemo_gitexp.errors import ExecutorError, LaunchError, UsageError
from nemo_gitexp.launchers.submit import (
    job_line,
    job_prefix,
    require_reachable,
    say_submitted,
    say_submitting,
    submission_words,
    withdraw,
)
from nemo_gitexp.relocation import NEMO_MOUNT
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import read_state_file
from nemo_gitexp.submission import Submission, Tunnel

KIND = "slurm"
NAME = "slurm"
"""What the record calls such an executor: the profile of this name serves where the program does not run."""

_REFUSED: Mapping[str, tuple[Any, str, str]] = {
    "container_image": (None, "a container", "nemo-gitexp run --executor NAME, with an image in its profile"),
    "array": (None, "an array of jobs", "a task for each: exp.add([…], name=…)"),
    "heterogeneous": (False, "a heterogeneous job", "a task with an executor of its own for each part"),
    "het_group_indices": (None, "a heterogeneous job", "a task with an executor of its own for each part"),
    "retries": (0, "retries", "leave retries out; run it again"),
    "dependencies": ([], "jobs to wait for", "exp.add(…, dependencies=[…])"),
    "dependency_type": ("afterok", "a dependency type", "leave it out: a task is skipped when what it needs failed"),
}
"""By field of the executor: the value that says nothing, what any other asks for, and what to do instead."""

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


def is_scheduled(executor: Any) -> bool:
    """Whether a scheduler will have what this executor of NeMo Run runs."""
    return isinstance(executor, nemo_run.SlurmExecutor)


def require_supported(executor: Any) -> None:
    """Check that an executor asks for nothing that a job of ours would not get.

    Raises:
        ExecutorError: it does; `option` is the field.
    """
    kind = type(executor).__name__
    for option, (nothing, what, hint) in _REFUSED.items():
        value = getattr(executor, option)
        if value != nothing and value not in (None, []):
            raise ExecutorError(
                f"{kind} has {option}={value!r}, and {what} is not supported here",
                hint=hint,
                executor=kind,
                option=option,
            )
    if type(executor.tunnel) not in (nemo_run.LocalTunnel, nemo_run.SSHTunnel):
        what = type(executor.tunnel).__name__
        raise ExecutorError(
            f"{kind} has a {what}", hint="tunnel=run.LocalTunnel(job_dir=''), or run.SSHTunnel(…)", executor=kind
        )
    for option in ("nodes", "ntasks_per_node"):
        if not isinstance(getattr(executor, option), int):
            raise ExecutorError(f"{kind} has {option}={getattr(executor, option)!r}", hint=f"{option}=1", executor=kind)


def devices_of(executor: Any, launcher: str | None) -> int | None:
    """Return how many GPUs an executor asks for on a node; None: it does not say."""
    if executor.gpus_per_node is not None or executor.gpus_per_task is None:
        return None if executor.gpus_per_node is None else int(executor.gpus_per_node)
    return int(executor.gpus_per_task * (1 if launcher else executor.ntasks_per_node))  # torchrun is one task


def tunnel_of(executor: Any) -> Tunnel:
    """Return the way to an executor's cluster."""
    way = executor.tunnel
    if isinstance(way, nemo_run.LocalTunnel):
        return Tunnel()
    identity = None if way.identity is None else str(Path(way.identity).expanduser())
    return Tunnel(str(way.host), str(way.user or ""), way.port, identity, getattr(way, "pre_command", None))


def find_cluster(executors: Sequence[Any]) -> Tunnel | None:
    """Return the way to the one cluster that all tasks of an experiment go to; None: they run on this machine.

    Raises:
        ExecutorError: they go to several places.
    """
    places = {tunnel_of(each) if is_scheduled(each) else None for each in executors}
    if len(places) > 1:
        said = sorted(_said(place) for place in places)
        raise ExecutorError(
            f"the tasks of one experiment go to one place, and these go to {', '.join(said)}",
            hint="an Experiment for each of them",
            executor=", ".join(sorted({type(each).__name__ for each in executors})),
        )
    return places.pop()


def _said(place: Tunnel | None) -> str:
    if place is None:
        return "this machine"
    port = f":{place.port}" if place.port else ""
    return f"Slurm of {f'{place.user}@' if place.user else ''}{place.host}{port}" if place.host else "this Slurm"


def require_cluster(tunnel: Tunnel) -> None:
    """Check, before anything is recorded, that a cluster takes jobs from here.

    Raises:
        ExecutorError: there is no sbatch.
        LaunchError: ssh does not get there without a password.
    """
    if not tunnel.host and shutil.which("sbatch") is None:
        raise ExecutorError(
            "there is no sbatch here", hint="tunnel=run.SSHTunnel(…), or run it on a login node", executor=NAME
        )
    require_reachable(tunnel, hint=f"ssh -o BatchMode=yes {tunnel.host} true; keys only, and the host known")


def require_plain(directory: str, names: Iterable[str]) -> None:
    """Check that NeMo Run's scripts for Slurm, which quote nothing, can name their files.

    Args:
        directory: of NeMo Run, where its files of the experiment go.
        names: of the tasks.

    Raises:
        UsageError: a shell would read something else, or NeMo Run itself would.
    """
    if NEMO_MOUNT in directory:
        raise UsageError(
            f"NeMo Run cannot work below a path that contains {NEMO_MOUNT}: {directory}",
            hint="NEMORUN_HOME=DIRECTORY, elsewhere; another title",
        )
    for text in (directory, *names):
        if not _PLAIN.fullmatch(text):
            raise UsageError(
                f"NeMo Run puts {text!r} unquoted into what Slurm's shell reads",
                hint="letters, digits, - _ and . in titles and names of tasks",
            )


def own_executors(main: Any, count: int) -> list[Any]:
    """Return an executor for each task of a group: NeMo Run has made one of what was given for them."""
    if not is_scheduled(main):
        return [main] * count
    requests = main.resource_group
    return [_own_executor(main, request) for request in requests] if len(requests) == count else [main] * count


def _own_executor(main: Any, request: Any) -> Any:
    own = main.clone()
    for name in ("nodes", "ntasks_per_node", "gpus_per_node", "gpus_per_task", "container_image", "srun_args"):
        setattr(own, name, getattr(request, name))
    own.packager = request.packager
    own.env_vars = {**main.env_vars, **request.env_vars}
    return own


def worker_executor(executor: Any, experiment: str) -> Any:
    """Return what submits our worker in place of a task: all of the site's as given, nothing that NeMo Run spoils.

    Args:
        executor: of the task.
        experiment: NeMo Run's id of the experiment that the task was added to.
    """
    own = unassigned(executor.clone(), experiment)
    own.packager = nemo_run.Packager()  # nothing: the run directory is on the shared file system
    own.env_vars = {}
    own.poll_estimated_start_time = False
    own.dependency_type = "afterany"  # after a failure, too: its worker is to say that it was skipped
    return own


def kept_executor(executor: Any, experiment: str, variables: Mapping[str, str]) -> Any:
    """Return what NeMo Run may keep of a task's executor, to be found again by its id: with these variables alone."""
    own = unassigned(executor.clone(), experiment)
    own.env_vars = dict(variables)
    return own


def unassigned(executor: Any, experiment: str) -> Any:
    """Return an executor as it was before it was given to the experiment of this id: NeMo Run appends to directories.

    Side effects: it is changed.
    """
    if not is_scheduled(executor):
        return executor
    way, appended = executor.tunnel, f"/{experiment.rpartition('_')[0]}/{experiment}"
    # A local one finds its own script with no other directory (measured).
    way.job_dir = "" if isinstance(way, nemo_run.LocalTunnel) else way.job_dir.removesuffix(appended)
    way.packaging_jobs.clear()
    return executor


def submit_workers(
    paths: RunPaths, jobs: Mapping[str, Any], needs: Mapping[str, Iterable[str]], launch: Callable[[], None]
) -> None:
    """Have a cluster take the workers of a run as jobs of NeMo Run, and write `submitted.json`.

    Args:
        paths: the prepared run.
        jobs: of NeMo Run, by part of the run, `""` the run itself; each becomes one that starts the part's worker.
        needs: names of the parts that each waits for, however they end.
        launch: has NeMo Run submit them all.

    Raises:
        LaunchError: it was not accepted; jobs of it that were are cancelled.
    """
    plan = read_state_file(paths.plan)
    tunnel, python = tunnel_of(next(iter(jobs.values())).executor), str(plan.get("interpreter") or sys.executable)
    for name, job in jobs.items():
        job.task = nemo_run.Script(inline=job_line(python, paths, paths.stage(name) if name else paths))
        job.dependencies = [jobs[before].id for before in needs.get(name, ())]
    for job in jobs.values():
        job.executor.job_name_prefix = job_prefix(paths, job.executor.job_name_prefix)
    names = {name: (f"{job.executor.job_name_prefix}{job.id}",) for name, job in jobs.items()}
    say_submitting(paths, Submission(NAME, KIND, tunnel, names))
    try:
        launch()
    except BaseException as fault:
        left = withdraw(KIND, tunnel, jobs.values())
        if isinstance(fault, (Exception, SystemExit)):  # an ssh that fails makes NeMo Run leave
            hint = "sinfo; account, partition, time and what else the executor asks for"
            if left:
                hint = "scancel, with their ids"
            said = f"Slurm: {submission_words(fault)}{f'; {left}' if left else ''}"
            raise LaunchError(said, hint=hint) from fault
        raise
    ids = {name: (str(job.handle).rpartition("/")[2],) for name, job in jobs.items()}
    say_submitted(paths, Submission(NAME, KIND, tunnel, ids))
