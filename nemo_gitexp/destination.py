"""Where runs go: the profile of an executor with this machine's values in it, and the launcher that serves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from nemo_gitexp.catalog import Site
from nemo_gitexp.errors import LaunchError, UsageError
from nemo_gitexp.extras import missing_extra
from nemo_gitexp.handover import Background
from nemo_gitexp.interpreters import with_home
from nemo_gitexp.profileparts import ExecutorProfile
from nemo_gitexp.profileshape import submission_fault
from nemo_gitexp.settings import require_executor, require_profile
from nemo_gitexp.submitters import Launcher, Submitter, Supervisor


def require_destination(site: Site, name: str, env: Mapping[str, str]) -> ExecutorProfile:
    """Return an executor's profile, bound to this machine: it holds secrets, and is neither recorded nor shown.

    Raises:
        UnknownExecutorError: there is none of this name.
        SettingsError: it is wrong, or this machine lacks a value that it refers to.
        LaunchError: nothing is submitted to its kind, or an extra of NeMo Run is not installed.
    """
    if require_executor(site.settings, name) == {"type": "local"}:
        return ExecutorProfile(name, "local")
    from nemo_gitexp.profiles import bind_profile  # 6 ms, for those who have profiles

    profile = require_profile(site.settings, name)
    fault = submission_fault(profile)
    if fault is None and (extra := missing_extra(profile.kind)):
        fault = f"executor {name}: {profile.kind} needs the extra {extra.name} of nemo_run", extra.command
    if fault:
        raise LaunchError(fault[0], hint=fault[1], executor=name)
    return with_home(bind_profile(profile, site.settings.site, env))


def require_chain(length: int, profile: ExecutorProfile | None) -> None:
    """Check that a run may be a chain of jobs, each going on where the one before was cut off.

    Raises:
        UsageError: nothing cuts a run off there, or no jobs follow each other there.
    """
    if length == 1 or profile is None or profile.kind == "slurm":
        return
    if profile.kind == "local":
        raise UsageError("a local run needs no chain", hint="leave --chain out, or name a cluster with --executor")
    raise UsageError(f"a run on {profile.name} is no chain: {profile.kind} has no jobs that follow each other")


def start_launcher(site: Site, profile: ExecutorProfile) -> Supervisor | Submitter:
    """Start the process that launches runs with this executor: it imports NeMo Run while its starter works."""
    if profile.kind == "local":
        return Supervisor(site.repository.state_dir)
    from nemo_gitexp.profiles import find_references, render_profile

    references = find_references(require_profile(site.settings, profile.name))
    hidden = {item.name for item in references if item.source == "env" and item.key.startswith("env.")}
    return Submitter(site.repository.state_dir, profile.name, render_profile(profile), hidden)


@contextmanager
def fitting_launcher(site: Site, started: Launcher | Background | None, profile: ExecutorProfile) -> Iterator[Launcher]:
    """Yield what launches with this executor: what was started already where it does, else another.

    An early start is a guess: which executor a study names is known only when its definition has been read.
    """
    fits = started.executor == profile.name if isinstance(started, Submitter) else profile.kind == "local"
    if fits and started is not None and not isinstance(started, Background):
        yield started
        return
    with start_launcher(site, profile) as launcher:
        yield launcher


def require_local(site: Site, name: str) -> None:
    """Check that an executor is this machine.

    Raises:
        UnknownExecutorError: no profile is called that.
        LaunchError: it is another one.
    """
    kind = require_profile(site.settings, name).kind
    if kind != "local":
        raise LaunchError(
            f"executor {name} is of type {kind}, and from a Python process only local ones are submitted to",
            hint=f"nemo-gitexp run STUDY --executor {name}",
            executor=name,
        )
