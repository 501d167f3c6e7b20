"""`run` and `launch`: record an experiment, run exactly it, return when its result is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime

from nemo_gitexp.catalog import Site, document_of, list_branches, list_entries
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.entry import CommandEntry
from nemo_gitexp.errors import AlreadyFinishedError, LaunchError
from nemo_gitexp.execution import Conditions, Watcher, cancel_and_wait, finish_run, follow_run, note_launched, start_run
from nemo_gitexp.launch import Launcher
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.recording import (
    Asked,
    Plan,
    branch_note,
    find_duplicates,
    identity_for_facts,
    near_duplicate,
    plan_experiment,
    probe_interpreter,
    record_plan,
    resolve_interpreter,
)
from nemo_gitexp.result import Standing, experiment_document
from nemo_gitexp.rundir import RunPaths
from nemo_gitexp.runs import RunState
from nemo_gitexp.settings import require_executor
from nemo_gitexp.store import Tip, local_ref, read_experiments, verify_experiment

LauncherFactory = Callable[[], AbstractContextManager[Launcher]]
"""Makes a launcher before it is needed: starting its process early hides what it imports."""

ONGOING = ("launched", "running", "requeued")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `run` is to do beside running."""

    plan_only: bool = False
    record_only: bool = False
    detach: bool = False
    again: bool = False
    keep: bool = False


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """What `run` or `launch` came to.

    `outcome` is ran, duplicate, ongoing, planned, recorded or detached; `interrupted` after Ctrl-C.
    """

    outcome: str
    document: ExperimentDoc
    interrupted: bool = False


def run(
    site: Site, asked: Asked, options: RunOptions, make_launcher: LauncherFactory, watcher: Watcher, now: datetime
) -> RunAnswer:
    """Record what was asked for and run it, unless it was run before.

    Raises:
        GitexpError: nothing was recorded, or (LaunchError, WorkspaceError, MissingDataError) it was and did not start.
    """
    launches = not (options.plan_only or options.record_only)
    with make_launcher() if launches else nullcontext() as launcher:
        plan = plan_experiment(site, asked, now)
        if options.plan_only:
            return RunAnswer("planned", _planned_document(plan))
        earlier = None if options.again else _earlier(site, plan)
        if earlier is not None:
            return earlier
        for note in plan.notes:
            watcher.say(note)
        near = None if options.again else near_duplicate(site.repository, plan)
        if near is not None:
            watcher.say(f"like {near[0].name} but for: {', '.join(near[1])}")
        tip = record_plan(site, plan)
        warning = branch_note(tip, list_branches(site.repository))
        if warning:
            watcher.say(f"warning: {warning}")
        watcher.say(f"recorded {tip.record[:12]}  {tip.study}/{tip.name}")
        if launcher is None:
            return RunAnswer("recorded", document_of(site, tip))
        require_local(site, plan.record.executor)
        conditions = Conditions(plan.interpreter, plan.probe_interpreter, keep=options.keep)
        return _execute(site, tip, conditions, launcher, watcher, detach=options.detach)


def launch(
    site: Site, text: str, options: RunOptions, make_launcher: LauncherFactory, watcher: Watcher, env: Mapping[str, str]
) -> RunAnswer:
    """Run an experiment that was recorded only, or that was lost.

    Raises:
        AlreadyFinishedError: it has a result, or goes on.
    """
    tip = find_experiment(site.repository, text)
    document = document_of(site, tip)
    if document["status"] not in ("recorded", "lost"):
        raise AlreadyFinishedError(
            f"{tip.name} is {document['status']}",
            hint=f"nemo-gitexp reproduce {tip.record[:12]}",
            experiment=tip.record,
            status=document["status"],
        )
    with make_launcher() as launcher:
        (experiment,) = read_experiments(site.repository, [find_experiment(site.repository, tip.record)])
        verify_experiment(site.repository, experiment)
        entry = experiment.record.entry
        require_local(site, experiment.record.executor)
        interpreter = resolve_interpreter(site, entry, env)
        probe = probe_interpreter(entry, env, site.repository.root) if isinstance(entry, CommandEntry) else None
        conditions = Conditions(interpreter, probe, keep=options.keep)
        return _execute(site, experiment.tip, conditions, launcher, watcher, detach=options.detach)


def require_local(site: Site, name: str) -> None:
    """Check that this version can submit to an executor profile.

    Raises:
        UnknownExecutorError: no profile is called that.
        LaunchError: its type is not local.
    """
    profile = require_executor(site.settings, name)
    if profile.get("type", "local") != "local":
        raise LaunchError(
            f"executor {name} is of type {profile.get('type')}, and this version submits to local ones only",
            hint="--executor local",
            executor=name,
        )


def _execute(
    site: Site, tip: Tip, conditions: Conditions, launcher: Launcher, watcher: Watcher, *, detach: bool
) -> RunAnswer:
    (experiment,) = read_experiments(site.repository, [tip])
    paths = start_run(site, experiment, conditions, launcher, watcher)
    note_launched(site, experiment, paths, identity_for_facts(site))
    if detach:
        return RunAnswer("detached", document_of(site, tip))
    state, interrupted = follow_or_cancel(paths, watcher)
    if state.status not in ("finished", "dead"):
        return RunAnswer("ran", document_of(site, tip), interrupted=interrupted)
    return RunAnswer("ran", document_of(site, finish_run(site, tip, state)), interrupted=interrupted)


def follow_or_cancel(paths: RunPaths, watcher: Watcher) -> tuple[RunState, bool]:
    """Follow a run to its end; Ctrl-C cancels it. Return how it stands and whether it was interrupted."""
    try:
        return follow_run(paths, watcher), False
    except KeyboardInterrupt:
        watcher.say("cancelling (once more Ctrl-C leaves without waiting)")
        return cancel_and_wait(paths, watcher), True


def _earlier(site: Site, plan: Plan) -> RunAnswer | None:
    """Return the answer that an experiment of the same identity gives: completed, or still going on."""
    same = find_duplicates(plan)
    if not same:
        return None
    listed = [entry.document for entry in list_entries(site, plan.tips, only=same) if entry.document is not None]
    for wanted, outcome in ((("completed",), "duplicate"), (ONGOING, "ongoing")):
        found = [document for document in listed if document["status"] in wanted and not document["withdrawn"]]
        if found:
            document = max(found, key=lambda item: item["name"])
            document["duplicate_of"] = document["experiment"]
            return RunAnswer(outcome, document)
    return None


def _planned_document(plan: Plan) -> ExperimentDoc:
    record = plan.record
    return experiment_document(
        sha="",
        ref=local_ref(record.study, record.name),
        record=replace(record, code=replace(record.code, commit=plan.snapshot.head)),
        config=plan.config,
        result_sha=None,
        result=None,
        run=None,
        standing=Standing(status="planned", branch=None),
    )
