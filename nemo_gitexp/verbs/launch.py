"""`launch`: run an experiment that is recorded; and the way from a record to its result that `run` goes too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from nemo_gitexp.catalog import Site, document_of, read_current
from nemo_gitexp.destination import fitting_launcher, require_chain, require_destination
from nemo_gitexp.entry import require_repeatable
from nemo_gitexp.errors import AlreadyFinishedError, LaunchError
from nemo_gitexp.execution import (
    Conditions,
    Watcher,
    after_start,
    cancel_and_wait,
    finish_run,
    follow_run,
    require_start,
    start_run,
)
from nemo_gitexp.handover import Background
from nemo_gitexp.interpreters import find_recorded_interpreter, probe_interpreter
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.owners import taking_turns
from nemo_gitexp.profileparts import ExecutorProfile
from nemo_gitexp.report.remarks import experiment_remarks
from nemo_gitexp.rundir import RunPaths, reserve_run
from nemo_gitexp.runs import RunState
from nemo_gitexp.store import Experiment, read_experiments, verify_experiment
from nemo_gitexp.submitters import Launcher
from nemo_gitexp.tips import Tip, adopt, local_ref
from nemo_gitexp.verbs.run import RunAnswer, RunOptions

LauncherFactory = Callable[[], AbstractContextManager[Launcher]]
"""Makes a launcher before it is needed: starting its process early hides what it imports."""

StarterFactory = Callable[[], AbstractContextManager[Launcher | Background]]
"""The same for a run that may be detached: then, if it is a local one, a background process takes it whole."""


def launch(
    site: Site, text: str, options: RunOptions, make_launcher: StarterFactory, watcher: Watcher, env: Mapping[str, str]
) -> RunAnswer:
    """Run an experiment that was recorded only, or that was lost; one that was fetched gets a ref of its own here.

    Raises:
        AlreadyFinishedError: it has a result, or goes on.
        NotRepeatableError: it ran in a session that no command starts again.
        LaunchError: another experiment has its name here.
    """
    tip = find_experiment(site.repository, text)
    (recorded,) = read_experiments(site.repository, [tip])
    require_repeatable(recorded.record.entry, tip.record)
    profile = require_destination(site, recorded.record.executor, env)
    require_chain(options.chain, profile)
    with make_launcher() as launcher:
        if recorded.record.parents:
            from nemo_gitexp.shipping import bring_needed  # few experiments are made from others

            bring_needed(site, recorded, watcher.say, "input")
        with taking_turns(site.turns):
            _require_unfinished(site, tip)
            _require_ref(site, tip)
            reserved = reserve_run(site.run_root, site.workspace_root, tip.record)
        (experiment,) = read_experiments(site.repository, [find_experiment(site.repository, tip.record)])
        verify_experiment(site.repository, experiment)
        entry = experiment.record.entry
        interpreter = find_recorded_interpreter(site, experiment.record, env, profile)
        probe = probe_interpreter(entry, env, site.repository.root)
        if isinstance(launcher, Background) and profile.kind == "local":
            launcher.take(reserved, interpreter, probe, keep=options.keep, reuse=options.reuse)
            return RunAnswer("detached", document_of(site, tip))
        return execute(
            site,
            experiment,
            reserved,
            options,
            started=launcher,
            profile=profile,
            interpreters=(interpreter, probe),
            watcher=watcher,
        )


def _require_unfinished(site: Site, tip: Tip) -> None:
    status = document_of(site, tip)["status"]
    if status not in ("recorded", "lost"):
        raise AlreadyFinishedError(
            f"{tip.name} is {status}",
            hint=f"nemo-gitexp reproduce {tip.record[:12]}",
            experiment=tip.record,
            status=status,
        )


def _require_ref(site: Site, tip: Tip) -> None:
    if not adopt(site.repository, tip):
        raise LaunchError(
            f"another experiment is called {tip.study}/{tip.name} here",
            hint=f"git log {local_ref(tip.study, tip.name)}",
            experiment=tip.record,
        )


def execute(
    site: Site,
    experiment: Experiment,
    reserved: RunPaths,
    options: RunOptions,
    *,
    started: Launcher | Background | None,
    profile: ExecutorProfile,
    interpreters: tuple[Path | None, Path | None],
    watcher: Watcher,
) -> RunAnswer:
    """Run a recorded experiment and return when its result is recorded; detached, when it is on its way.

    Args:
        site: where.
        experiment: what.
        reserved: its run directory.
        options: how far.
        started: a launcher that was started early; another takes its place where it does not serve the profile.
        profile: of the executor.
        interpreters: what runs the job, and what tells about the environment where the job is no Python.
        watcher: told how it goes.

    Raises:
        LaunchError: it was not started: it stays recorded.
        WorkspaceError: its state cannot be restored exactly.
    """
    conditions = Conditions(*interpreters, keep=options.keep, reuse=options.reuse, profile=profile, chain=options.chain)
    with fitting_launcher(site, started, profile) as launcher:
        return _carry_out(site, experiment, reserved, launcher, conditions, watcher, detach=options.detach)


def _carry_out(
    site: Site,
    experiment: Experiment,
    reserved: RunPaths,
    launcher: Launcher,
    conditions: Conditions,
    watcher: Watcher,
    *,
    detach: bool,
) -> RunAnswer:
    tip = experiment.tip
    try:
        start_run(site, experiment, reserved, conditions, launcher, watcher)
        after_start(site, experiment, reserved, watcher)
        if detach:
            return RunAnswer("detached", document_of(site, tip))
        state, interrupted = follow_run(reserved, watcher), False
    except KeyboardInterrupt:
        state, interrupted = _cancel(reserved, watcher), True
    if not interrupted:
        require_start(site, state)
    if state.status not in ("finished", "dead"):
        return RunAnswer("ran", document_of(site, tip), interrupted=interrupted)
    found = read_current(site, finish_run(site, tip, state))
    for remark in experiment_remarks(experiment.record, found.document, found.experiment.run or {}):
        watcher.say(f"note: the job {remark}")
    return RunAnswer("ran", found.document, interrupted=interrupted)


def follow_or_cancel(site: Site, paths: RunPaths, watcher: Watcher) -> tuple[RunState, bool]:
    """Follow a run to its end; Ctrl-C cancels it. Return how it stands and whether it was interrupted.

    Raises:
        LaunchError: the launcher did not get it started.
    """
    try:
        state = follow_run(paths, watcher)
    except KeyboardInterrupt:
        return _cancel(paths, watcher), True
    require_start(site, state)
    return state, False


def _cancel(paths: RunPaths, watcher: Watcher) -> RunState:
    watcher.say("cancelling (once more Ctrl-C leaves without waiting)")
    return cancel_and_wait(paths, watcher)
