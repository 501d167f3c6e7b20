"""One attempt at an experiment that a program defines: recorded unless it was made before, started, collected.

What `run` does for a person who types. Who submits and waits is somebody else: the rooms of the Python API.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nemo_gitexp.asked import Asked, Defined
from nemo_gitexp.catalog import Site, read_current, recorded_document
from nemo_gitexp.claims import Claim, claim_plans
from nemo_gitexp.collect import discard_run
from nemo_gitexp.destination import require_local
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.duplicates import find_earlier
from nemo_gitexp.entry import Python
from nemo_gitexp.execution import Conditions, Silence, after_start, finish_run, require_start, start_run
from nemo_gitexp.owners import taking_turns
from nemo_gitexp.recording import Plan, plan_defined, plan_many, record_plan
from nemo_gitexp.report.remarks import experiment_remarks
from nemo_gitexp.rundir import RunPaths, reserve_run
from nemo_gitexp.runs import RunState
from nemo_gitexp.scheduled import settle_submissions
from nemo_gitexp.stages import StagesEntry
from nemo_gitexp.store import Experiment
from nemo_gitexp.submitters import Launcher

_LOGGER = logging.getLogger("nemo_gitexp")


@dataclass(frozen=True, slots=True)
class Intent:
    """What a program wants to have run.

    Args:
        task: what the task is called.
        asked: seed, executor, environment, sweep.
        defined: entry point, definition and resolved configuration.
        now: dates the experiment's name.
        within_study: an equal experiment counts as made before in this study alone.
        scheduler: kind of what will have it, where the program brings an executor; None: this process.
        variables: what the jobs get beside what is recorded, by task, `""` for the one there is.
    """

    task: str
    asked: Asked
    defined: Defined
    now: datetime
    within_study: bool = False
    scheduler: str | None = None
    variables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Its tasks of NeMo Run by name, with those that must end before: one, or the stages of a pipeline."""
        entry = self.defined.entry
        if isinstance(entry, StagesEntry):
            return {stage.name: stage.dependencies for stage in entry.stages}
        return {self.task: ()}


def this_python() -> Python:
    """Return how the job's interpreter is called: as the one that runs now, which leads `this_environment`'s PATH."""
    here = Path(sys.executable)
    return Python() if (here.parent / "python").exists() else Python(here.name)


def this_environment() -> dict[str, str]:
    """Return the environment of this process, its interpreter's directory first on the PATH."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {**os.environ, "PATH": path}


def record_sweep(site: Site, attempts: Sequence[Attempt], *, again: bool) -> list[bool]:
    """Record the experiments of one sweep together: one snapshot, one commit of code, one look at the environment.

    Return for each what `Attempt.record` says.

    Raises:
        GitexpError: nothing was recorded.
    """
    who = site.repository.begin_identities()
    intents = [attempt.intent for attempt in attempts]
    plans = plan_many(site, [(intent.asked, intent.defined) for intent in intents], intents[0].now)
    for plan in plans:
        require_local(site, plan.record.executor)
    claims = claim_plans(site, plans, who, again=again, within_study=False)
    return [attempt.take(plan, claim) for attempt, plan, claim in zip(attempts, plans, claims, strict=True)]


class LoggingWatcher(Silence):
    """A watcher that passes on to `logging` what is said; warnings as such."""

    def say(self, line: str) -> None:
        """Log one line."""
        text = line.removeprefix("warning: ")
        _LOGGER.log(logging.WARNING if text != line else logging.INFO, "%s", text)


class Attempt:
    """One intent on its way to a result. Fields are None until they are known.

    Args:
        intent: what is wanted.
    """

    def __init__(self, intent: Intent) -> None:
        self.intent = intent
        self.paths: RunPaths | None = None
        self.document: ExperimentDoc | None = None
        self._plan: Plan | None = None
        self._experiment: Experiment | None = None
        self._watcher = LoggingWatcher()

    def record(self, site: Site, *, again: bool) -> bool:
        """Record the experiment and reserve its run; return False when an equal one completed or goes on.

        Side effects: `document` is that of the experiment, or of the earlier one.

        Raises:
            GitexpError: nothing was recorded.
        """
        who = site.repository.begin_identities()
        plan = plan_defined(site, self.intent.asked, self.intent.defined, self.intent.now)
        if not self.intent.scheduler:
            require_local(site, plan.record.executor)
        with taking_turns(site.turns):  # two of the same at once must not both run
            earlier = (
                None if again else find_earlier(site, plan, self._watcher.say, within_study=self.intent.within_study)
            )
            if earlier is not None:
                return self._leave_to(*earlier)
            experiment, branch = record_plan(site, plan, who)
            paths = reserve_run(site.run_root, site.workspace_root, experiment.sha)
        if branch is None and plan.record.sweep is None:
            self._watcher.say(
                f"warning: no branch for it: a branch named exp is in the way; it is {experiment.tip.ref}"
            )
        return self._take(plan, experiment, paths, branch)

    def take(self, plan: Plan, claim: Claim) -> bool:
        """Go on from a claim that was made for several at once; the answer is that of `record`."""
        if claim.experiment is None or claim.paths is None:
            if claim.earlier is None:
                raise RuntimeError("a claim is an experiment or an earlier one")
            return self._leave_to(claim.outcome, claim.earlier)
        return self._take(plan, claim.experiment, claim.paths, None)

    def _leave_to(self, outcome: str, earlier: ExperimentDoc) -> bool:
        self.document = earlier
        did = "completed before" if outcome == "duplicate" else "is running"
        _LOGGER.warning("%s %s and is not run again; again=True runs it", earlier["name"], did)
        return False

    def _take(self, plan: Plan, experiment: Experiment, paths: RunPaths, branch: str | None) -> bool:
        for note in plan.notes:
            self._watcher.say(note)
        _LOGGER.info("recorded %s  %s/%s", experiment.sha[:12], experiment.tip.study, experiment.tip.name)
        self._plan, self._experiment, self.paths = plan, experiment, paths
        self.document = recorded_document(experiment, branch)
        return True

    def part(self, task: str) -> RunPaths | None:
        """Return the directory of the worker that is one of its tasks; None before there is a run."""
        if self.paths is None:
            return None
        return self.paths.stage(task) if isinstance(self.intent.defined.entry, StagesEntry) else self.paths

    def start(self, site: Site, launcher: Launcher) -> None:
        """Restore the recorded state and hand the run to the launcher.

        Raises:
            WorkspaceError, MissingDataError, LaunchError: it did not start; the experiment stays recorded.
        """
        plan, experiment, paths = self._recorded()
        intent = self.intent
        conditions = Conditions(
            plan.interpreter, plan.probe_interpreter, scheduler=intent.scheduler, variables=intent.variables
        )
        start_run(site, experiment, paths, conditions, launcher, self._watcher)

    def give_back(self, site: Site) -> None:
        """Remove what was prepared for a run that nothing took; the experiment stays recorded."""
        _, _, paths = self._recorded()
        if paths.submitting.exists():  # what refused some of its jobs may have others
            settle_submissions([paths], site.warn, adopt=False)
        discard_run(site.repository, paths)

    def announce(self, site: Site) -> None:
        """Do what can wait until the job is on its way."""
        _, experiment, paths = self._recorded()
        after_start(site, experiment, paths, self._watcher)

    def finish(self, site: Site, state: RunState) -> None:
        """Make the result commit of a run that has ended; `document` is the experiment's from then on.

        Raises:
            LaunchError: the job was never started; the experiment stays recorded.
        """
        _, experiment, _ = self._recorded()
        require_start(site, state)
        found = read_current(site, finish_run(site, experiment.tip, state))
        self.document = found.document
        for remark in experiment_remarks(experiment.record, found.document, found.experiment.run or {}):
            self._watcher.say(f"the job {remark}")

    def _recorded(self) -> tuple[Plan, Experiment, RunPaths]:
        if self._plan is None or self._experiment is None or self.paths is None:
            raise RuntimeError("nothing was recorded for this attempt yet")
        return self._plan, self._experiment, self.paths
