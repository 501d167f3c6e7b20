"""A tracked experiment of a program that nemo-gitexp did not launch: this process records it and is its own worker.

The run directory looks as a launched one does, so that `status`, `cancel` and `collect` need not know the difference;
a process that dies leaves a run that whoever looks next records as lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nemo_gitexp.asked import Asked, Defined
from nemo_gitexp.catalog import Site, open_site
from nemo_gitexp.collect import discard_run
from nemo_gitexp.definition import DEFAULT_SEED, StudyDefinition
from nemo_gitexp.entry import CommandEntry
from nemo_gitexp.environment import capture_environment
from nemo_gitexp.errors import ExperimentExistsError, GitexpError, UsageError
from nemo_gitexp.execution import Silence, after_start, finish_run
from nemo_gitexp.git.objects import delete_ref
from nemo_gitexp.git.repository import Identities, RefName
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.metriclog import Discard, MetricLog
from nemo_gitexp.origin import Origin, find_origin, find_repository, imported_late, started_with
from nemo_gitexp.owners import owner_token, taking_turns
from nemo_gitexp.record import Tracked
from nemo_gitexp.recording import Plan, plan_defined, record_plan
from nemo_gitexp.reproducibility import ReproducibilityManager
from nemo_gitexp.rundir import RunPaths, reserve_run, unwritable, write_beside
from nemo_gitexp.runs import inspect_run
from nemo_gitexp.session import Ending, Session, Told, count_start, ending_of
from nemo_gitexp.sitevalues import site_words
from nemo_gitexp.store import Experiment
from nemo_gitexp.tips import branch_name, list_tips
from nemo_gitexp.topology import running_topology
from nemo_gitexp.worker.documents import write_bytes, write_document
from nemo_gitexp.worker.finish import iso_time, write_result
from nemo_gitexp.worker.machine import HEARTBEAT_S, started_document
from nemo_gitexp.worker.outputs import declared_outputs, find_undeclared, hash_output
from nemo_gitexp.worker.readback import JobReport
from nemo_gitexp.worker.redirect import RedirectRule
from nemo_gitexp.worker.remains import NOTHING_LEFT
from nemo_gitexp.worker.seeding import NUMPY_MODULUS, Seeding, process_seed

if TYPE_CHECKING:
    from nemo_gitexp.jsontext import JsonValue
    from nemo_gitexp.worker.shapes import JobEnd
    from nemo_gitexp.worker.shapes import Plan as WorkerPlan

_LOGGER = logging.getLogger("nemo_gitexp.tracking")
RESERVE_BYTES = 64 * 1024
"""Set aside for the result, should the disk fill up."""


class _Talk(Silence):
    """Says what is worth a warning in the program's own log."""

    def say(self, line: str) -> None:
        """Take one line."""
        _LOGGER.warning("%s", line.removeprefix("warning: "))


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A recorded experiment that this process runs."""

    site: Site
    experiment: Experiment
    paths: RunPaths
    remarks: tuple[str, ...]
    determinism: str
    began: float
    clock: float
    modules: frozenset[str]


@dataclass(eq=False, slots=True)
class LiveSession(Session):
    """A tracked experiment of this very process."""

    recorded: _Recorded = field(kw_only=True, repr=False)
    ended: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        """Show from now on that this process lives."""
        Session.__post_init__(self)
        arguments = (str(self.recorded.paths.started), self.ended)
        threading.Thread(target=_keep_fresh, args=arguments, daemon=True, name="gitexp-heartbeat").start()

    def _record_end(self, ending: Ending) -> str:
        """Write the result as a worker does and collect it at once; return the recorded status."""
        run = self.recorded
        self.ended.set()
        try:
            _leave_result(run, self.outputs, self.seed, ending)
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
    repository = find_repository(told.repository)
    site = open_site(repository, os.environ)
    who = repository.begin_identities()
    definition = told.tracked_definition(repository.root)
    seed, determinism = decided(told, definition)
    ordinal = count_start(told, seed)
    origin = find_origin(site, told.notebook)
    plan = _plan(site, told, definition, origin, Tracked(told.given, ordinal))
    if determinism != "off":
        ReproducibilityManager.set_seed(seed, bitwise=determinism == "bitwise")
    experiment, paths = _record(site, told, plan, who)
    try:
        recorded = _start(site, experiment, paths, origin, determinism)
        session = LiveSession(
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
        root = find_repository(told.repository).root
    except GitexpError:
        root = Path.cwd()  # it is for the first rank to say so
    seed, determinism = decided(told, told.tracked_definition(root))
    count_start(told, seed)
    if determinism != "off":
        ReproducibilityManager.set_seed(seed, bitwise=determinism == "bitwise")
    return Session(
        study=told.study,
        name=told.name or told.given,
        config=dict(told.config),
        config_hash=told.config_hash,
        seed=seed,
        outputs=Path(tempfile.mkdtemp(prefix=f"{owner_token()}.", suffix=".gitexp")),
        sink=Discard(),
    )


def decided(told: Told, definition: StudyDefinition) -> tuple[int, str]:
    """Return seed and determinism: as the program says, else as the study's definition, else the defaults.

    Raises:
        UsageError: determinism off without a reason.
    """
    seed = next(value for value in (told.seed, definition.seed, DEFAULT_SEED) if value is not None)
    determinism = told.determinism or definition.determinism
    if determinism == "off" and not (told.determinism_reason or definition.determinism_reason):
        hint = 'determinism="off", determinism_reason="why"'
        raise UsageError("determinism off needs a reason", hint=hint)
    return seed, determinism


def _plan(site: Site, told: Told, definition: StudyDefinition, origin: Origin, tracked: Tracked) -> Plan:
    asked = Asked(
        cwd=Path.cwd(),
        env=os.environ,
        seed=told.seed,
        executor="local",
        determinism=told.determinism,
        message=told.determinism_reason,
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
    from nemo_gitexp.catalog import document_of

    tips = list_tips(site.repository)
    there = next((tip for tip in tips if (tip.study, tip.name) == (study, name)), None)
    if there is None:
        return
    taken = {tip.name for tip in tips if tip.study == study}
    suggestion = next(f"{given}-{number}" for number in range(2, 10_000) if f"{name}-{number}" not in taken)
    status = document_of(site, there)["status"]
    raise ExperimentExistsError(
        f"{given} was started before and is {status}",
        hint=f"start_experiment({suggestion!r}, …), or: nemo-gitexp show {there.record[:12]}",
        name=given,
        status=status,
        experiment=there.record,
        suggestion=suggestion,
    )


def _start(site: Site, experiment: Experiment, paths: RunPaths, origin: Origin, determinism: str) -> _Recorded:
    """Fill the run directory and say that this process is the worker."""
    began, clock = time.time(), time.monotonic()
    repository = site.repository
    owner = started_document(iso_time(began))
    document: JsonValue = {
        "schema": 1,
        "kind": "session",
        "experiment": experiment.sha,
        "study": experiment.record.study,
        "name": experiment.record.name,
        "run": paths.run,
        "run_dir": str(paths.root),
        "workspace": str(site.workspace_root / paths.run),
        "keep_workspace": False,
        "user_root": str(repository.root),
        "site": site_words(site.settings.site, []),
        "home": os.path.expanduser("~"),  # noqa: PTH111 - text to be recognised in messages, no path to open
        "interpreter": sys.executable,
        "outputs_dir": str(paths.outputs),
        "inputs": [],
    }
    try:
        paths.outputs.mkdir()
        write_beside(paths.config, render_json(experiment.config))
        write_beside(paths.plan, render_json(document))
        paths.log.touch()
        write_bytes(str(paths.root / "reserve.bin"), os.urandom(RESERVE_BYTES))
        if isinstance(origin.entry, CommandEntry):
            captured = replace(capture_environment(root=repository.root), captured="job")
            write_document(str(paths.root / "job-environment.json"), captured.to_json())
        write_beside(paths.supervisor, render_json(owner))
        write_beside(paths.started, render_json(owner))
    except OSError as fault:
        raise unwritable(paths, fault) from fault
    return _Recorded(site, experiment, paths, origin.remarks, determinism, began, clock, frozenset(sys.modules))


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


def _leave_result(run: _Recorded, outputs: Path, seed: int, ending: Ending) -> None:
    """Write what a worker writes at the end of its job: error, log, settings, and last of all the result.

    Raises:
        OSError: the disk is full, the directory is gone.
        KeyboardInterrupt: Ctrl-C while outputs were read, which may be long; the result is there, as cancelled.
    """
    paths = run.paths
    left, interruption = dict(NOTHING_LEFT), None
    left["remarks"] = [*run.remarks, *imported_late(run.site.repository.root, run.modules, run.began)]
    try:
        left |= _made(str(outputs))
    except (OSError, KeyboardInterrupt) as fault:
        ending = ending_of(fault) if ending.status == "completed" else ending
        interruption = fault if isinstance(fault, KeyboardInterrupt) else None
    _leave_error(paths, ending)
    hash_seed = started_with().get("PYTHONHASHSEED")
    rule = RedirectRule(None, str(paths.root), ())
    JobReport(str(paths.job), _seeds(seed, run.determinism), rule, hash_seed).write()
    plan = cast("WorkerPlan", {"run_dir": str(paths.root)})
    write_result(plan, _job_end(ending), left, run.began, time.monotonic() - run.clock)
    if interruption is not None:
        raise interruption


def _made(outputs: str) -> dict[str, object]:
    """Return the outputs with their hashes, and what is no output although it is there."""
    made = [hash_output(outputs, item) for item in declared_outputs(outputs, [])]
    return {
        "outputs": [output for output in made if output is not None],
        "undeclared_outputs": find_undeclared(outputs, [], []),
    }


def _leave_error(paths: RunPaths, ending: Ending) -> None:
    """Write why it did not end well, with the traceback in the log; without room for them the result must do."""
    if ending.error is None:
        return
    with contextlib.suppress(OSError):
        write_document(str(paths.root / "error.json"), ending.error)
        with paths.log.open("ab") as log:
            log.write(ending.error["traceback"].encode("utf-8", "backslashreplace"))


def _job_end(ending: Ending) -> JobEnd:
    """Return the ending as a worker sees its job's."""
    error = None
    if ending.error is not None and ending.status == "failed":
        error = {"type": ending.error["type"], "message": ending.error["message"]}
    return {
        "started": True,
        "exit_code": ending.exit_code,
        "signal": None,
        "cancelled": ending.cancelled,
        "stopped": False,
        "error": cast("None", error),
    }


def _seeds(seed: int, determinism: str) -> Seeding:
    """Return what was seeded, as a job says it."""
    own = process_seed(seed, os.environ)
    seeding = Seeding(own, determinism)
    values = {"python": ("random", own), "numpy": ("numpy.random", own % NUMPY_MODULUS), "torch": ("torch", own)}
    for name, (module, value) in values.items():
        if determinism != "off" and module in sys.modules:
            seeding.seeds[name] = value
    return seeding


def _keep_fresh(path: str, ended: threading.Event) -> None:
    """Touch the file as long as the session goes on: on another host nothing else tells whether it lives."""
    while not ended.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)
