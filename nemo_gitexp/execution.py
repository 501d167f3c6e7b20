"""One execution of a recorded experiment: restore, prepare, submit, follow, and the result commit.

One path for `run`, `launch` and `reproduce`.
"""

from __future__ import annotations

import functools
import gc
import os
import shlex
import stat
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from nemo_gitexp.catalog import Site, current_tip
from nemo_gitexp.collect import collect_run, discard_run, log_heading, read_pieces, tail_lines
from nemo_gitexp.environment import capture_environment
from nemo_gitexp.errors import GitexpError, LaunchError, SchedulerError
from nemo_gitexp.interpreters import as_recorded, find_site_interpreter, is_known_there_only
from nemo_gitexp.launch import RunRequest, prepare_run
from nemo_gitexp.metrics import MetricRow, parse_metric_lines
from nemo_gitexp.moments import iso_now
from nemo_gitexp.progress import write_progress
from nemo_gitexp.reuse import reuse_stages, stage_keys
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import (
    GOES_ON,
    RunState,
    give_up,
    inspect_run,
    leave_cancelled,
    request_cancel,
    stage_states,
)
from nemo_gitexp.stages import StagesEntry, python_of
from nemo_gitexp.store import Experiment, read_experiments
from nemo_gitexp.submitters import Launcher
from nemo_gitexp.tidy import tidy
from nemo_gitexp.tips import Tip
from nemo_gitexp.workspace import restore

if TYPE_CHECKING:
    from nemo_gitexp.profiles import ExecutorProfile

POLL_S = 0.03
LOOK_S = 1.0
ASK_S = 3.0
"""Who follows one run asks its scheduler so often."""

CANCEL_PATIENCE_S = 30.0


class Talk(Protocol):
    """Whoever is told what is being done."""

    def say(self, line: str) -> None:
        """Take one line about it."""


class Watcher(Talk, Protocol):
    """Whoever looks on while a job runs; every method is called from one thread."""

    def log(self, text: bytes) -> None:
        """Take new bytes of the job's log."""

    def progress(self, elapsed_s: float, row: MetricRow | None) -> None:
        """Take the time since submission and the latest metrics."""


class Silence:
    """A watcher that looks away."""

    def log(self, text: bytes) -> None:
        """Drop it."""

    def progress(self, elapsed_s: float, row: MetricRow | None) -> None:
        """Drop it."""

    def say(self, line: str) -> None:
        """Drop it."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """How an experiment is to be executed this time.

    `reuse`: stages of a pipeline whose results are known are not run; in a reproduction all are. `profile` is the
    executor's, with this machine's values in it; `chain` the number of jobs of a scheduler that follow each other;
    `scheduler` and `variables` stand for an executor that a program brings (`RunRequest`).
    """

    interpreter: Path | None
    probe_interpreter: Path | None = None
    reproduction: bool = False
    stop_after_steps: int | None = None
    keep: bool = False
    reuse: bool = True
    profile: ExecutorProfile | None = None
    chain: int = 1
    scheduler: str | None = None
    variables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def start_run(
    site: Site, experiment: Experiment, paths: RunPaths, conditions: Conditions, launcher: Launcher, watcher: Watcher
) -> None:
    """Restore the experiment's state and hand it to the launcher; on failure nothing of the run is left.

    Interrupted, a run is left as cancelled, or as cancelling once the launcher may have taken it; a reproduction not
    at all.

    Args:
        site: the repository on this machine.
        experiment: what is to be run.
        paths: its run directory, reserved.
        conditions: how.
        launcher: who is to run it.
        watcher: told what takes time.

    Raises:
        WorkspaceError: the state cannot be restored exactly.
        MissingDataError: data that is nowhere.
        LaunchError: the launcher did not take it, or its executor would run other processes than the recorded ones.
    """
    try:
        _require_runnable(experiment, conditions, watcher)
        _prepare(site, experiment, paths, conditions, watcher)
    except KeyboardInterrupt:
        if conditions.reproduction:
            discard_run(site.repository, paths)
        else:
            leave_cancelled(paths)
        raise
    except BaseException:
        discard_run(site.repository, paths)
        raise
    try:
        launcher.submit(paths)
    except KeyboardInterrupt:
        request_cancel(paths, iso_now())
        raise
    except BaseException:
        if paths.submitting.exists():
            from nemo_gitexp.scheduled import settle_submissions  # for what a scheduler may have

            settle_submissions([paths], lambda text: watcher.say(f"warning: {text}"), adopt=False)
        discard_run(site.repository, paths)
        raise


def _require_runnable(experiment: Experiment, conditions: Conditions, watcher: Watcher) -> None:
    record = experiment.record
    if conditions.profile is not None and record.tracked is None:
        from nemo_gitexp.profileshape import require_runnable

        note = require_runnable(conditions.profile, record.topology)
        if note is not None:
            watcher.say(note)


def _prepare(site: Site, experiment: Experiment, paths: RunPaths, conditions: Conditions, watcher: Watcher) -> None:
    repository = site.repository
    workspace = restore(
        repository,
        experiment.sha,
        experiment.record,
        site.workspace_root / paths.run,
        progress=watcher.say,
    )
    keys = _stage_keys(site, experiment, conditions)
    interpreter, probe = _site_interpreters(site, experiment, conditions)
    prepare_run(
        paths,
        RunRequest(
            sha=experiment.sha,
            record=experiment.record,
            config=experiment.config,
            workspace=workspace,
            user_root=repository.root,
            common_dir=repository.common_dir,
            interpreter=interpreter,
            probe_interpreter=probe,
            reproduction=conditions.reproduction,
            stop_after_steps=conditions.stop_after_steps,
            keep_workspace=conditions.keep,
            site=site.settings.site,
            keys=keys,
            profile=conditions.profile,
            chain=conditions.chain,
            scheduler=conditions.scheduler,
            variables=conditions.variables,
        ),
    )
    if conditions.reuse and not conditions.reproduction:
        for name, made_by in reuse_stages(site, experiment.record, paths, keys).items():
            watcher.say(f"stage {name}: unchanged, its result is the one of {made_by[:12]}")
    if conditions.profile is not None and conditions.profile.kind != "local" and not conditions.profile.place.shared:
        from nemo_gitexp.remote import host_of  # what most runs need not pay
        from nemo_gitexp.transfer import carry_run

        host, place = host_of(conditions.profile.tunnel), conditions.profile.place
        is_boxed = experiment.record.topology.get("image") is not None
        carry_run(paths, workspace, host, place, in_container=is_boxed, progress=watcher.say)


def _site_interpreters(site: Site, experiment: Experiment, conditions: Conditions) -> tuple[Path | None, Path | None]:
    """Return the job's interpreter and the one to ask inside the job: the site's, where it names one of its own.

    What is seen from here is among the conditions already: an environment that is made again is stronger.
    """
    profile = conditions.profile
    if profile is None or profile.kind == "local" or profile.place.python is None:
        return conditions.interpreter, conditions.probe_interpreter
    seen = as_recorded(profile, experiment.record.topology)
    if not is_known_there_only(seen):
        return conditions.interpreter, conditions.interpreter or find_site_interpreter(site, seen, os.environ)
    python = Path(profile.place.python)
    return conditions.interpreter and python, python


def _stage_keys(site: Site, experiment: Experiment, conditions: Conditions) -> dict[str, str | None]:
    """Return what the results of a pipeline's stages depend on; nothing for anything else."""
    record = experiment.record
    if not isinstance(record.entry, StagesEntry):
        return {}
    key, python = record.environment_key, python_of(record.entry)
    profile = conditions.profile
    is_elsewhere = profile is not None and is_known_there_only(as_recorded(profile, record.topology))
    # Without a key a command among the stages has another environment.
    if key is None and conditions.interpreter is not None and not is_elsewhere:
        environment = capture_environment(
            conditions.interpreter,
            root=site.repository.root,
            cache_dir=site.repository.state_dir / "cache",
            flags=python.flags if python else (),
        )
        key = environment.key
    return stage_keys(site.repository, record, experiment.config, key)


def after_start(site: Site, experiment: Experiment, paths: RunPaths, watcher: Talk) -> None:
    """Do what can wait until the job is on its way: tell other clones by a fact, tidy up.

    The job goes on whatever comes of it, and so does whoever follows it.
    """
    announce(site, [(experiment, paths)], watcher)
    try:
        tidy(site)
    except (GitexpError, OSError) as fault:
        watcher.say(f"warning: what killed processes left was not tidied up: {fault}")


def announce(site: Site, started: Sequence[tuple[Experiment, RunPaths]], watcher: Talk) -> None:
    """Tell other clones by a fact each that runs are on their way."""
    runs = [(experiment.sha, inspect_run(paths), experiment.record.executor) for experiment, paths in started]
    try:
        write_progress(site.repository, runs, datetime.now(UTC))
    except GitexpError as fault:
        watcher.say(f"warning: other clones cannot see what runs: {fault.message}")


def follow_run(paths: RunPaths, watcher: Watcher) -> RunState:
    """Wait until a run has ended, handing its log and metrics on as they come."""
    gc.enable()  # it may take weeks
    begun = time.monotonic()
    look = _Look(paths, watcher)
    next_look = begun + LOOK_S
    while not paths.result.exists():
        now = time.monotonic()
        look.hand_on(now - begun)
        if now > next_look:
            next_look = now + _look_at(paths, watcher)
            state = inspect_run(paths)
            if state.status in ("dead", "void"):
                look.hand_on_the_rest()
                return state
        time.sleep(POLL_S)
    look.hand_on_the_rest()
    return inspect_run(paths)


def _look_at(paths: RunPaths, watcher: Watcher) -> float:
    """Ask the scheduler that has the run, if one has; return after how many seconds to look again."""
    if not paths.submitted.exists():
        return LOOK_S
    from nemo_gitexp.scheduled import look_at_runs

    look_at_runs([paths], lambda text: watcher.say(f"warning: {text}"))
    return ASK_S


def _cancel_with_scheduler(paths: RunPaths, *, waiting_only: bool) -> None:
    if paths.submitted.exists() or paths.relocated.exists():
        from nemo_gitexp.scheduled import cancel_submitted

        cancel_submitted(paths, waiting_only=waiting_only)


class _Look:
    """What somebody who follows a run is shown: its log, its latest metrics, and which stages have ended."""

    def __init__(self, paths: RunPaths, watcher: Watcher) -> None:
        self._paths = paths
        self._watcher = watcher
        self._logs = RunLogs(paths)
        self._rows: dict[str, LatestRow] = {}
        self._ended = {part.run for part in paths.parts() if part.result.exists()}

    def hand_on(self, elapsed_s: float) -> None:
        """Show what is new."""
        self._logs.forward(self._watcher.log)
        self._name_ended()
        found = [self._row(part) for part in self._paths.parts()]
        rows = [row for row in found if row is not None]
        self._watcher.progress(elapsed_s, rows[-1] if rows else None)

    def hand_on_the_rest(self) -> None:
        """Show the end of the log."""
        self._logs.forward(self._watcher.log)
        self._name_ended()

    def _row(self, part: RunPaths) -> MetricRow | None:
        return self._rows.setdefault(part.run, LatestRow(part.metrics)).row()

    def _name_ended(self) -> None:
        for name, state in stage_states(self._paths).items():
            if name not in self._ended and state["status"] not in GOES_ON:
                self._ended.add(name)
                self._watcher.say(f"stage {name}: {state['status']}")


def finish_run(site: Site, tip: Tip, run: RunState) -> Tip:
    """Make the result commit of a run that has ended and return the tip as it is now."""
    repository = site.repository
    for _ in range(5):
        now = current_tip(repository, tip)
        if now.status not in (None, "lost"):
            return now
        (experiment,) = read_experiments(repository, [replace(now, sha=now.record, status=None)])
        if collect_run(repository, replace(experiment, tip=now), run) is not None:
            break
    return current_tip(repository, tip)


def require_start(site: Site, state: RunState) -> None:
    """Check that a run that has ended was started at all; one that was not is discarded.

    Raises:
        LaunchError: the launcher did not get it started, or its directory is gone.
    """
    paths = state.paths
    if not paths.root.exists():
        raise LaunchError(
            f"the run's directory was removed while it ran: {paths.root}",
            hint="nothing of this run can be recorded; run it again and keep below GITEXP_OUTPUTS",
            run=paths.run,
        )
    if state.status == "finished" or paths.is_begun or paths.submitted.exists() or not give_up(paths):
        return
    said = tail_lines(paths.supervisor_log.read_bytes()) if paths.supervisor_log.exists() else []
    discard_run(site.repository, paths)
    raise LaunchError(
        f"the job could not be started: {state.reason}",
        hint=f"{shlex.quote(sys.executable)} -c 'import nemo_run' shows whether NeMo Run works",
        run=paths.run,
        log_tail=said,
    )


def cancel_and_wait(paths: RunPaths, watcher: Watcher) -> RunState:
    """Ask the worker to stop and wait, but not for ever, until it has; a job that only waits is taken back.

    A worker that has begun stops by file, whether its scheduler answers or not.

    Raises:
        SchedulerError: the scheduler that has it does not answer, and it did not stop by itself.
    """
    request_cancel(paths, iso_now())
    try:
        _cancel_with_scheduler(paths, waiting_only=True)
    except SchedulerError as fault:
        if paths.relocated.exists() or inspect_run(paths).status not in ("running", "finished"):
            raise
        watcher.say(f"warning: {fault.message}; waiting for the job to stop by itself")
    tail = RunLogs(paths, at_end=True)
    begun = time.monotonic()
    next_look = begun
    while time.monotonic() < begun + CANCEL_PATIENCE_S:
        if time.monotonic() > next_look:
            next_look = time.monotonic() + _look_at(paths, watcher) / 3
        state = inspect_run(paths)
        if state.status in ("finished", "dead"):
            tail.forward(watcher.log)
            return state
        if state.status == "running":
            request_cancel(paths, iso_now())
        time.sleep(POLL_S * 5)
    _cancel_with_scheduler(paths, waiting_only=False)
    return inspect_run(paths)


class RunLogs:
    """What all workers of a run have written since last time; stages say who speaks.

    A run may be followed while it is still prepared: its workers are looked up each time.

    Args:
        paths: the run.
        at_end: start at what will be written from now on.
        only: names of the stages to listen to, or of the one job, whatever it is called; None: all.
    """

    def __init__(self, paths: RunPaths, *, at_end: bool = False, only: Collection[str] | None = None) -> None:
        self._paths = paths
        self._only = only
        self._tails = {part.run: LogTail(part.log, at_end=at_end) for part in paths.parts()}
        self._speaker = paths.run

    def forward(self, take: Callable[[bytes], None]) -> None:
        """Hand on what is new."""
        if self._only is not None and not self._only:
            return
        for part in self._paths.parts():
            if self._only is not None and part != self._paths and part.run not in self._only:
                continue
            tail = self._tails.setdefault(part.run, LogTail(part.log))
            tail.forward(functools.partial(self._spoken, part.run, take))

    def _spoken(self, name: str, take: Callable[[bytes], None], text: bytes) -> None:
        if name != self._speaker:
            self._speaker = name
            take(log_heading(name))
        take(text)


class LogTail:
    """Reads what a growing file has gained since last time."""

    def __init__(self, path: Path, *, at_end: bool = False) -> None:
        self._path = path
        self._at = path.stat().st_size if at_end and path.exists() else 0

    def forward(self, take: Callable[[bytes], None]) -> None:
        """Hand on what is new."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return
        if found.st_size <= self._at or not stat.S_ISREG(found.st_mode):
            return
        for piece in read_pieces(self._open):
            self._at += len(piece)
            take(piece)

    def _open(self) -> BinaryIO:
        file = self._path.open("rb")
        file.seek(self._at)
        return file


class LatestRow:
    """The last whole line of a metrics stream, read again only when the file has grown."""

    def __init__(self, path: Path) -> None:
        self._tail = LogTail(path)
        self._row: MetricRow | None = None

    def row(self) -> MetricRow | None:
        """Return the latest metrics, None before the first."""
        self._tail.forward(self._take)
        return self._row

    def _take(self, text: bytes) -> None:
        rows, _ = parse_metric_lines(text)
        if rows:
            self._row = rows[-1]
