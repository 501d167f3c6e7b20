"""Submits prepared runs to a scheduler through NeMo Run: one process, one import, any number of runs.

Run as a module, in a process that never imports user code. Each line on stdin is an order, each line on stdout the
answer. Nothing that must be exact stands in NeMo Run's fields (it splits arguments, and lets a shell read values): the
one line that a job executes is made here of three paths.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from nemo_gitexp.errors import GitexpError, LaunchError
from nemo_gitexp.launchers.executors import build_executor
from nemo_gitexp.launchers.nemo import QUIET, import_nemo_run, move_home, nemo_home, redirect_output, take_run
from nemo_gitexp.placing import line_in_container, place_in_job_dir
from nemo_gitexp.plainlinks import plain_root
from nemo_gitexp.profiles import ExecutorProfile, parse_profile
from nemo_gitexp.profileshape import submission_fault
from nemo_gitexp.relocation import NEMO_MOUNT, find_relocation, require_plain_paths
from nemo_gitexp.rundir import RunPaths, write_beside
from nemo_gitexp.runs import read_state_file
from nemo_gitexp.scheduler import cancel_jobs
from nemo_gitexp.shells import shell_of
from nemo_gitexp.submission import Backend, Submission, Tunnel, render_submission
from nemo_gitexp.worker.machine import host_digest

SHARED_MOUNT = "/gitexp"
"""Where containers see a run that several jobs share."""

BOXED = ("slurm", "docker")
"""Kinds whose containers see what we mount; those of the others see a file system that the profile calls shared."""

DAEMON_VARIABLES = ("DOCKER_CERT_PATH", "DOCKER_HOST", "DOCKER_TLS_VERIFY")
"""What says which daemon has the containers."""


def main() -> int:
    """Import NeMo Run, then submit what is asked for until there is nothing more to come."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # NeMo Run prints what it likes
    with nemo_home(Path(sys.argv[1])) as home:
        nemo_run = import_nemo_run(home)
        for line in sys.stdin.buffer:
            _answer(answers, nemo_run, json.loads(line))
    return 0


def _answer(answers: BinaryIO, nemo_run: Any, order: Mapping[str, Any]) -> None:
    try:
        answer: dict[str, object] = {"jobs": _take(nemo_run, order)}
    except GitexpError as fault:
        answer = {"error": fault.message, "hint": fault.hint}
    except (Exception, SystemExit) as fault:  # noqa: BLE001 - whatever NeMo Run raises; an ssh that fails makes it leave
        answer = {"error": submission_words(fault), "hint": f"nemo-gitexp doctor --executor {order['executor']}"}
    with contextlib.suppress(BrokenPipeError):  # whoever gave the order is gone; the jobs are not
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _take(nemo_run: Any, order: Mapping[str, Any]) -> list[str]:
    """Take one run over, submit it, and say which jobs it is.

    Raises:
        LaunchError: it was given up or taken meanwhile, or cannot be submitted.
    """
    paths = RunPaths(Path(order["run_dir"]))
    if not take_run(paths):
        raise LaunchError("the run was given up, or taken by another process, before it was submitted", run=paths.run)
    redirect_output(paths)
    submission = submit_run(nemo_run, paths, order["executor"], order["table"])
    return list(submission.job_ids)


def submit_run(nemo_run: Any, paths: RunPaths, name: str, table: Mapping[str, Any]) -> Submission:
    """Submit the workers of a run as jobs of their own and write `submitted.json`.

    Each stage is a job that starts once those it depends on have ended, however they did: its worker looks at how. Each
    further job of a chain starts once the one before has ended, and leaves at once where that had a result.

    Args:
        nemo_run: the package.
        paths: a prepared run directory, which the nodes must see under the same path.
        name: of the executor profile.
        table: the profile, references replaced.

    Raises:
        LaunchError: it was not accepted; jobs of it that were are cancelled.
    """
    profile = _with_job_dir(parse_profile(name, table), paths)
    plan = read_state_file(paths.plan)
    _require_served(profile, plan)
    if not _is_boxed(profile, plan) and find_relocation(paths) is None:
        require_plain_paths({"run_root": str(paths.root), "workspace_root": str(plan.get("workspace"))})
    home = (plain_root(paths) if profile.kind == "slurm" else paths.root) / "nemo"
    tunnel = _tunnel(profile)
    require_reachable(tunnel, hint=f"nemo-gitexp doctor --executor {profile.name}")
    home.mkdir(mode=0o700, exist_ok=True)
    move_home(home)
    place = _place(nemo_run, paths, plan, profile, home)
    with nemo_run.Experiment("gitexp", executor=nemo_run.LocalExecutor(), **QUIET) as experiment:
        experiment._save_jobs = _save_nothing  # noqa: SLF001 - see there
        prefix = ""
        if profile.kind == "slurm":
            prefix = job_prefix(paths, cast("str | None", profile.options.get("job_name_prefix")))
        executor_of = functools.partial(_executor, profile, place=place, prefix=prefix)
        tasks = _add_tasks(nemo_run, experiment, paths, plan, place, executor_of)
        if profile.kind == "slurm":
            names = {part: tuple(f"{prefix}{task}" for task in ids) for part, ids in tasks.items()}
            say_submitting(paths, Submission(name, profile.kind, tunnel, names))
        try:
            experiment.run(detach=True)
        except (Exception, SystemExit) as fault:
            left = withdraw(profile.kind, tunnel, experiment.jobs)
            if profile.kind != "slurm":
                _withdraw_by_handle(experiment)
            if left:
                raise LaunchError(f"{submission_words(fault)}; {left}", hint="scancel, with their ids") from fault
            raise
        _leave_alone(experiment)
        handles = {job.id: str(job.handle).rpartition("/")[2] for job in experiment.jobs}
        schedulers = [str(job.handle).partition(":")[0] for job in experiment.jobs]
    submission = Submission(
        executor=name,
        kind=profile.kind,
        tunnel=tunnel,
        jobs={part: tuple(handles[task] for task in ids) for part, ids in tasks.items()},
        backend=None if profile.kind == "slurm" else _backend(schedulers[0], home),
    )
    say_submitted(paths, submission)
    return submission


def job_prefix(paths: RunPaths, own: str | None) -> str:
    """Return what the names of a run's jobs begin with, and those of no other's.

    Args:
        paths: the run directory.
        own: what the site wants them to begin with.
    """
    return f"{own or 'gitexp-'}{paths.run.rpartition('.')[2]}-"


def say_submitting(paths: RunPaths, meant: Submission) -> None:
    """Write down the names of a run's jobs before there are any: who is killed now leaves what finds them."""
    write_beside(paths.submitting, render_submission(meant), private=True)


def say_submitted(paths: RunPaths, submission: Submission) -> None:
    """Write `submitted.json`, from where on a scheduler has the run."""
    write_beside(paths.submitted, render_submission(submission), private=True)
    paths.submitting.unlink(missing_ok=True)


def _save_nothing() -> None:
    """Stand for what keeps NeMo Run's list of tasks: nobody reads it, and it is a third of a submission (measured)."""


def _require_served(profile: ExecutorProfile, plan: Mapping[str, Any]) -> None:
    """Check that a kind can run what is asked for.

    Raises:
        LaunchError: nothing of this kind is submitted, or no pipelines are.
    """
    if fault := submission_fault(profile):
        raise LaunchError(fault[0], hint=fault[1])
    if profile.kind not in BOXED and plan.get("stages"):
        raise LaunchError(
            f"{profile.kind} has no jobs that wait for each other, and this is a pipeline",
            hint="--executor NAME, of type slurm, docker or local",
        )


def _leave_alone(experiment: Any) -> None:
    """Let jobs outlive this process: NeMo Run would wait for those of docker, and remove the containers on closing.

    They run in the daemon, which needs nobody to watch them; what becomes of them is asked from outside.
    """
    experiment.detach = True
    for scheduler in experiment._runner._scheduler_instances.values():  # noqa: SLF001 - there is no other way
        if hasattr(scheduler, "_scheduled_reqs"):
            scheduler._scheduled_reqs.clear()  # noqa: SLF001


def _withdraw_by_handle(experiment: Any) -> None:
    for job in experiment.jobs:
        if getattr(job, "handle", None):
            with contextlib.suppress(Exception):  # what was refused is what is to be told
                experiment._runner.cancel(job.handle)  # noqa: SLF001


def _backend(scheduler: str, home: Path) -> Backend:
    variables = {name: os.environ[name] for name in DAEMON_VARIABLES if name in os.environ}
    return Backend(scheduler, str(home), host_digest(), variables)


@functools.cache
def require_reachable(tunnel: Tunnel, *, hint: str) -> None:
    """Check that ssh needs no password: NeMo Run would ask for one, where nobody is there to type it.

    Once for each host and process.

    Raises:
        LaunchError: it does, or the host cannot be reached.
    """
    if not tunnel.host:
        return
    done = shell_of(tunnel)(["true"])
    if done.returncode:
        said = done.said.splitlines()
        raise LaunchError(
            f"ssh to {tunnel.host} failed: {said[-1] if said else f'exit code {done.returncode}'}", hint=hint
        )


def _with_job_dir(profile: ExecutorProfile, paths: RunPaths) -> ExecutorProfile:
    """Return the profile with a directory on the other host for NeMo Run's files, where it names none."""
    way = profile.tunnel
    if way is None or way.kind != "ssh" or way.job_dir is not None:
        return profile
    relocation = find_relocation(paths)
    # Where it goes away with the run; what jobs print there comes back with it.
    place = f"{relocation.run_at}/nemo" if relocation else f"{plain_root(paths)}/tunnel"
    if shlex.quote(place) != place:  # it hands this to a shell as it is (measured)
        raise LaunchError(
            f"NeMo Run cannot copy its files into a directory that a shell would read differently: {place}",
            hint="a path of letters, digits and -_./ as root in the executor's table, or as job_dir of its tunnel",
        )
    if relocation is None:  # seen there under the same name; its scripts hold what the profile's options do
        (paths.root / "tunnel").mkdir(mode=0o700, exist_ok=True)
    return replace(profile, tunnel=replace(way, job_dir=place))


@dataclass(frozen=True, slots=True)
class _Seen:
    """How nodes see a run: the line that starts a worker, what a container has to mount, and who packs the code."""

    line: Callable[[str], str]
    packager: Any
    mounts: Sequence[str] = ()


def _place(nemo_run: Any, paths: RunPaths, plan: Mapping[str, Any], profile: ExecutorProfile, home: Path) -> _Seen:
    """Put a run where its nodes will find it, unless they see this side's own paths or it has been carried to them.

    Containers see the job directory. Several jobs have one each, but share a run: that lies beside, and each mounts it.
    """
    relocation = find_relocation(paths)
    plain, python = nemo_run.Packager(), profile.place.python
    opened = _opened if profile.kind == "docker" else lambda line, _: line
    if relocation is None and not _is_boxed(profile, plan):
        own = str(plan.get("interpreter") or python or sys.executable)
        return _Seen(lambda name: job_line(own, paths, paths.stage(name) if name else paths), plain)
    if relocation is None and _is_one_job(paths, plan):
        from nemo_gitexp.launchers.packing import RunPackager

        line = line_in_container(paths, python=python)
        inside = f"{NEMO_MOUNT}/{paths.run}"
        return _Seen(lambda _: opened(line, inside), RunPackager(run_dir=str(paths.root), python=python))
    if relocation is None:
        (home / "placed").mkdir()
        relocation = place_in_job_dir(paths, home / "placed", python=python, seen=SHARED_MOUNT)
    there = relocation
    return _Seen(
        lambda name: opened(
            there.worker_line(name or None), f"{there.run_dir}/stages/{name}" if name else there.run_dir
        ),
        plain,
        there.mounts if _image(plan) else (),
    )


def _opened(line: str, inside: str) -> str:
    """Return a script after which this side can read and remove what a container's root wrote.

    All of it lies below a directory that nobody else may enter.

    Args:
        line: starts the worker.
        inside: the run directory, or that of its stage, as the container sees it.
    """
    outputs = shlex.quote(f"{inside}/outputs")
    return f"umask 0\n({line.strip()})\ncode=$?\nchmod -R a+rwX {outputs}\nexit $code\n"


def _image(plan: Mapping[str, Any]) -> str | None:
    image = (plan.get("topology") or {}).get("image")
    return str(image) if image else None


def _is_boxed(profile: ExecutorProfile, plan: Mapping[str, Any]) -> bool:
    return profile.kind in BOXED and _image(plan) is not None


def _is_one_job(paths: RunPaths, plan: Mapping[str, Any]) -> bool:
    return paths.parts() == [paths] and _chain_length(plan) == 1


def _chain_length(plan: Mapping[str, Any]) -> int:
    return int((plan.get("scheduled") or {}).get("chain") or 1)


def _add_tasks(
    nemo_run: Any, experiment: Any, paths: RunPaths, plan: Mapping[str, Any], place: _Seen, executor_of: Any
) -> dict[str, list[str]]:
    """Add a task for each worker; return the ids of the tasks by part, in the order of its chain.

    A plan has its stages in an order in which each comes after those that it depends on.
    """
    stages = [stage for stage in plan.get("stages") or () if not paths.stage(stage["name"]).result.exists()]
    length = _chain_length(plan)
    is_ordered = (plan.get("scheduled") or {}).get("kind") == "slurm"
    tasks: dict[str, list[str]] = {}
    for name, needs in [(stage["name"], stage["dependencies"]) for stage in stages] or [("", [])]:
        part = paths.stage(name) if name else paths
        script = nemo_run.Script(inline=place.line(name))
        # Only Slurm's jobs wait for each other; elsewhere workers do.
        before = [tasks[need][-1] for need in needs if need in tasks] if is_ordered else []
        tasks[name] = []
        for number in range(length):
            title = (name or str(plan["study"])) + (f"-{number + 1}" if number else "")
            task = experiment.add(script, executor_of(part), name=title, dependencies=before or None, tail_logs=False)
            before = [task]
            tasks[name].append(task)
    return tasks


def job_line(python: str, run: RunPaths, part: RunPaths) -> str:
    """Return the script that a scheduler's job becomes a worker by; ssh passes no environment on that could hold it.

    Args:
        python: what runs the worker.
        run: the prepared run directory.
        part: of the worker: the same, or one of its stages.
    """
    line = shlex.join([python, str(run.worker), str(part.plan)])
    # It replaces that in the text of scripts (measured); to a shell, empty quotes within a word are nothing.
    kept = line.replace(NEMO_MOUNT, f"/''{NEMO_MOUNT[1:]}")
    return f"exec {kept}\n"


def _executor(profile: ExecutorProfile, part: RunPaths, *, place: _Seen, prefix: str) -> Any:
    """Return the executor of one worker: of the recorded shape, on the site of the profile."""
    topology = read_state_file(part.plan).get("topology")
    executor = build_executor(profile, topology if isinstance(topology, Mapping) else {})
    executor.packager = place.packager
    if profile.kind == "slurm":
        executor.container_mounts = [*executor.container_mounts, *place.mounts]
        executor.dependency_type = "afterany"  # after a failure, too: its worker is to say that it was skipped
        executor.job_name_prefix = prefix
    elif profile.kind == "docker":
        executor.volumes = [*executor.volumes, *place.mounts]
    return executor


def _tunnel(profile: ExecutorProfile) -> Tunnel:
    way = profile.tunnel
    if way is None or way.kind != "ssh":
        return Tunnel()
    return Tunnel(way.host or "", way.user or "", way.port, way.identity, way.pre_command)


def withdraw(kind: str, tunnel: Tunnel, jobs: Iterable[Any]) -> str:
    """Cancel those of NeMo Run's jobs that were submitted before something else of the run was refused.

    Returns:
        What is to be told of those that could not be cancelled; empty when all were.
    """
    ids = [str(job.handle).rpartition("/")[2] for job in jobs if getattr(job, "handle", None)]
    if kind != "slurm" or not ids:
        return ""
    try:
        cancel_jobs(shell_of(tunnel), ids)
    except GitexpError as fault:
        where = f" of {tunnel.host}" if tunnel.host else ""
        return f"accepted before that, and still in the queue{where}: {', '.join(ids)} ({fault.message})"
    return ""


def submission_words(fault: BaseException) -> str:
    """Return what a failed submission comes down to: the scheduler's own last line where there is one."""
    result = getattr(fault, "result", None)  # of invoke, which runs sbatch
    said = str(getattr(result, "stderr", "") or "").strip().splitlines()
    text = said[-1] if said else " ".join(str(fault).split())
    return f"it was not accepted: {text or type(fault).__name__}"


if __name__ == "__main__":
    sys.exit(main())
