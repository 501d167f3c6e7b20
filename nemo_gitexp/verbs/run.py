"""`run`: record an experiment, run exactly it, return when its result is recorded."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nemo_gitexp.asked import Asked
from nemo_gitexp.catalog import Site, recorded_document
from nemo_gitexp.destination import require_chain, require_destination
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.handover import Background
from nemo_gitexp.owners import taking_turns
from nemo_gitexp.recording import Plan, plan_experiment, record_plan
from nemo_gitexp.result import experiment_document
from nemo_gitexp.rundir import reserve_run
from nemo_gitexp.tips import Tip, local_ref

if TYPE_CHECKING:
    from datetime import datetime

    from nemo_gitexp.execution import Watcher
    from nemo_gitexp.git.snapshot import Look
    from nemo_gitexp.verbs.launch import StarterFactory


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `run` is to do beside running."""

    plan_only: bool = False
    record_only: bool = False
    detach: bool = False
    again: bool = False
    keep: bool = False
    reuse: bool = True
    chain: int = 1


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """What `run` or `launch` came to.

    `outcome` is ran, duplicate, ongoing, planned, recorded or detached; `interrupted` after Ctrl-C.
    """

    outcome: str
    document: ExperimentDoc
    interrupted: bool = False


def run(
    site: Site,
    asked: Asked,
    options: RunOptions,
    make_launcher: StarterFactory,
    watcher: Watcher,
    *,
    now: datetime,
    look: Look | None = None,
) -> RunAnswer:
    """Record what was asked for and run it, unless it was run before.

    Args:
        site: where.
        asked: what.
        options: how far.
        make_launcher: starts the launcher, before it is needed.
        watcher: told how it goes.
        now: dates the experiment's name.
        look: a look at the work tree under way, if one was started earlier.

    Raises:
        GitexpError: nothing was recorded, or (LaunchError, WorkspaceError, MissingDataError) it was and did not start.
    """
    launches = not (options.plan_only or options.record_only)
    with make_launcher() if launches else nullcontext() as launcher:
        who = site.repository.begin_identities()
        plan = plan_experiment(site, asked, now, look)
        profile = require_destination(site, plan.record.executor, asked.env) if launches else None
        require_chain(options.chain, profile)
        if options.plan_only:
            return RunAnswer("planned", _planned_document(site, plan, reuse=options.reuse))
        with taking_turns(site.turns):  # two of the same at once must not both run
            earlier = None if options.again else _earlier(site, plan, watcher)
            if earlier is not None:
                return earlier
            experiment, branch = record_plan(site, plan, who)
            tip = experiment.tip
            reserved = reserve_run(site.run_root, site.workspace_root, tip.record) if launches else None
        _say_recorded(plan, tip, branch, watcher)
        if profile is None or reserved is None:
            return RunAnswer("recorded", recorded_document(experiment, branch))
        if isinstance(launcher, Background) and profile.kind == "local":
            launcher.take(reserved, plan.interpreter, plan.probe_interpreter, keep=options.keep, reuse=options.reuse)
            return RunAnswer("detached", recorded_document(experiment, branch, "launched"))
        from nemo_gitexp.verbs.launch import execute  # 30 ms that recording alone need not pay

        return execute(
            site,
            experiment,
            reserved,
            options,
            started=launcher,
            profile=profile,
            interpreters=(plan.interpreter, plan.probe_interpreter),
            watcher=watcher,
        )


def _say_recorded(plan: Plan, tip: Tip, branch: str | None, watcher: Watcher) -> None:
    for note in plan.notes:
        watcher.say(note)
    if branch is None:
        watcher.say(f"warning: no branch for it: a branch named exp is in the way; the experiment is {tip.ref}")
    watcher.say(f"recorded {tip.record[:12]}  {tip.study}/{tip.name}")


def _earlier(site: Site, plan: Plan, watcher: Watcher) -> RunAnswer | None:
    """Return the answer that an experiment of the same identity gives: completed, or still going on."""
    from nemo_gitexp.duplicates import find_earlier

    earlier = find_earlier(site, plan, watcher.say)
    return None if earlier is None else RunAnswer(*earlier)


def _planned_document(site: Site, plan: Plan, *, reuse: bool) -> ExperimentDoc:
    """Return the experiment as it would be recorded; stages whose results are there say whose they are."""
    record = plan.record
    document = experiment_document(
        sha="",
        ref=local_ref(record.study, record.name),
        record=replace(record, code=replace(record.code, commit=plan.snapshot.head)),
        config=plan.config,
        status="planned",
    )
    if document["tasks"] and reuse:
        from nemo_gitexp.reuse import find_made, stage_keys

        made = find_made(site, record, stage_keys(site.repository, record, plan.config, record.environment_key))
        document["tasks"] = [
            {**task, "reused_from": made[name].made_by} if (name := str(task["name"])) in made else task
            for task in document["tasks"]
        ]
    return document
