"""A tracked experiment of a program that nemo-gitexp did not launch: this process records it and is its own worker.

The run directory looks as a launched one does, so that `status`, `cancel` and `collect` need not know the difference;
a process that dies leaves a run that whoever looks next records as lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from nemo_gitexp.asked import Asked, Defined
from nemo_gitexp.catalog import Site, document_of, open_site
from nemo_gitexp.collect import discard_run
from nemo_gitexp.definition import StudyDefinition
from nemo_gitexp.errors import ExperimentExistsError, GitexpError
from nemo_gitexp.execution import Silence, after_start, finish_run
from nemo_gitexp.git.objects import delete_ref
from nemo_gitexp.git.repository import Identities, RefName
from nemo_gitexp.metriclog import Discard, MetricLog
from nemo_gitexp.origin import Origin, find_origin, started_with
from nemo_gitexp.owners import owner_token, taking_turns
from nemo_gitexp.ownworker import OwnRun, begin_run, keep_fresh, leave_result
from nemo_gitexp.record import Tracked
from nemo_gitexp.recording import Plan, plan_defined, record_plan
from nemo_gitexp.reproducibility import apply_determinism
from nemo_gitexp.rundir import RunPaths, reserve_run, unwritable
from nemo_gitexp.runs import inspect_run
from nemo_gitexp.session import Ending, Session, Told, counted_start, ending_of, record_name
from nemo_gitexp.store import Experiment
from nemo_gitexp.thisrepository import find_repository
from nemo_gitexp.tips import branch_name, list_tips
from nemo_gitexp.topology import running_topology

_LOGGER = logging.getLogger("nemo_gitexp.tracking")


class _Talk(Silence):
    """Says what is worth a warning in the program's own log."""

    def say(self, line: str) -> None:
        """Take one line."""
        _LOGGER.warning("%s", line.removeprefix("warning: "))


@dataclass(eq=False, slots=True)
class LiveSession(Session):
    """A tracked experiment of this very process."""

    recorded: OwnRun = field(kw_only=True, repr=False)
    ended: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        """Show from now on that this process lives."""
        Session.__post_init__(self)
        arguments = (self.recorded.paths, self.ended, self.terminate)
        threading.Thread(target=keep_fresh, args=arguments, daemon=True, name="gitexp-heartbeat").start()

    def _record_end(self, ending: Ending) -> str:
        """Write the result as a worker does and collect it at once; return the recorded status."""
        run = self.recorded
        self.ended.set()
        try:
            leave_result(run, self.outputs, self.seed, ending)
        except OSError as fault:
            raise unwritable(run.paths, fault) from fault
        try:
            tip = finish_run(run.site, run.experiment.tip, inspect_run(run.paths))
        except (GitexpError, OSError) as fault:
            why = str(fault)
        else:
            if tip.status not in (None, "lost"):
                return tip.status
            why = f"{tip.ref} cannot be moved"
        _LOGGER.warning("the result of %s is not recorded yet: %s; then: nemo-gitexp collect", self.name, why)
        return ending.status


def begin_live(told: Told) -> LiveSession:
    """Record the experiment in the present state of the work tree and go on as its run.

    Side effects: the experiment's commits and refs; a run directory; this process is seeded.

    Raises:
        ExperimentExistsError: the record is to have a name that was used before.
        GitexpError: it cannot be recorded; nothing of it is left then.
    """
    repository = find_repository(told.said.repository)
    site = open_site(repository, os.environ)
    who = repository.begin_identities()
    definition = told.tracked_definition(repository.root)
    seed, determinism = told.decided(definition)
    origin = find_origin(site, told.said.notebook)
    with counted_start(told, seed) as ordinal:
        plan = _plan(site, told, definition, origin, Tracked(told.given, ordinal))
        apply_determinism(seed, determinism)
        experiment, paths = _record(site, told, plan, who)
        try:
            session = _session(told, begin_run(site, experiment, paths, origin, determinism), seed)
        except BaseException:
            _forget(site, experiment, paths)
            raise
    try:
        _say(experiment, plan, origin)
        after_start(site, experiment, paths, _Talk())
    except BaseException as error:  # Ctrl-C: from here on it is an experiment
        session.end(ending_of(error))
        raise
    return session


def begin_apart(told: Told) -> Session:
    """Go on in a process that records nothing: another rank than the first.

    Side effects: the process is seeded; what goes to `outputs` is a scratch directory.
    """
    try:
        root = find_repository(told.said.repository).root
    except GitexpError:
        root = Path.cwd()  # it is for the first rank to say so
    seed, determinism = told.decided(told.tracked_definition(root))
    apply_determinism(seed, determinism)
    return Session(
        study=told.study,
        name=told.name or told.given,
        config=dict(told.config),
        config_hash=told.config_hash,
        seed=seed,
        outputs=Path(tempfile.mkdtemp(prefix=f"{owner_token()}.", suffix=".gitexp")),
        sink=Discard(),
    )


def _session(told: Told, recorded: OwnRun, seed: int) -> LiveSession:
    experiment, paths = recorded.experiment, recorded.paths
    return LiveSession(
        study=experiment.record.study,
        name=experiment.record.name,
        config=dict(experiment.config),
        config_hash=told.config_hash,
        seed=seed,
        outputs=paths.outputs,
        sink=MetricLog(str(paths.metrics)),
        sha=experiment.sha,
        recorded=recorded,
    )


def _plan(site: Site, told: Told, definition: StudyDefinition, origin: Origin, tracked: Tracked) -> Plan:
    asked = Asked(
        cwd=Path.cwd(),
        env=os.environ,
        seed=told.seed,
        executor="local",
        determinism=told.said.determinism,
        message=told.said.determinism_reason,
    )
    defined = Defined(
        told.study,
        definition,
        origin.entry,
        told.config,
        ad_hoc=True,
        workdir=origin.workdir,
        tracked=tracked,
        topology=running_topology(os.environ, started_with()),
        name=told.name,
    )
    return plan_defined(site, asked, defined, datetime.now(UTC))


def _record(site: Site, told: Told, plan: Plan, who: Identities) -> tuple[Experiment, RunPaths]:
    with taking_turns(site.turns):
        if told.name is not None:
            require_new_name(site, told.study, told.name, told.given)
        experiment, _ = record_plan(site, plan, who)
        try:
            return experiment, reserve_run(site.run_root, site.workspace_root, experiment.sha)
        except BaseException:
            _forget(site, experiment, None)
            raise


def require_new_name(site: Site, study: str, name: str, given: str) -> None:
    """Check that no experiment of the study has that name, whatever became of it, here or on a remote.

    Raises:
        ExperimentExistsError: one has.
    """
    tips = list_tips(site.repository)
    there = next((tip for tip in tips if (tip.study, tip.name) == (study, name)), None)
    if there is None:
        return
    taken = {tip.name for tip in tips}
    numbered = (f"{given}-{number}" for number in range(2, len(taken) + 3))
    suggestion = next(other for other in numbered if record_name(other) not in taken)
    status = document_of(site, there)["status"]
    raise ExperimentExistsError(
        f"{given} was started before and is {status}",
        hint=f"start_experiment({suggestion!r}, …), or: nemo-gitexp show {there.record[:12]}",
        name=given,
        status=status,
        experiment=there.record,
        suggestion=suggestion,
    )


def _say(experiment: Experiment, plan: Plan, origin: Origin) -> None:
    record = experiment.record
    _LOGGER.info("recorded %s  %s/%s", experiment.sha[:12], record.study, record.name)
    for note in plan.notes:
        _LOGGER.info("%s", note)
    for remark in origin.remarks:
        _LOGGER.warning("%s %s", record.name, remark)


def _forget(site: Site, experiment: Experiment, paths: RunPaths | None) -> None:
    """Take back what was recorded a moment ago: an experiment that never began is none."""
    tip = experiment.tip
    with contextlib.suppress(GitexpError, OSError):
        if paths is not None:
            discard_run(site.repository, paths)
        delete_ref(site.repository, RefName(tip.ref), tip.sha)
        delete_ref(site.repository, RefName(f"refs/heads/{branch_name(tip.study, tip.name)}"), tip.sha)
