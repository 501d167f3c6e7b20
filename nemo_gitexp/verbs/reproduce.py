"""`reproduce`: the recorded state again, in a fresh place, with a verdict."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from nemo_gitexp.catalog import Site, find_current
from nemo_gitexp.collect import discard_workspace, keep_outputs, output_store, read_leavings
from nemo_gitexp.destination import fitting_launcher, require_destination
from nemo_gitexp.documents import ExperimentDoc, VerdictDoc
from nemo_gitexp.entry import require_repeatable
from nemo_gitexp.errors import CostLimitError, GitexpError, UnknownExecutorError, UsageError, WorkspaceError
from nemo_gitexp.execution import Conditions, Watcher, start_run
from nemo_gitexp.facts import write_fact
from nemo_gitexp.git.worktree import remove_worktree
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.moments import iso_now
from nemo_gitexp.owners import owner_token
from nemo_gitexp.profiles import ExecutorProfile
from nemo_gitexp.profileshape import needed_elsewhere
from nemo_gitexp.report.verdict import cost_words
from nemo_gitexp.result import (
    RunLeavings,
    input_documents,
    mapping,
    mappings,
    output_document,
    reported_missing,
    reported_outputs,
    sequence,
)
from nemo_gitexp.rundir import RunPaths, reserve_run
from nemo_gitexp.runs import RunState
from nemo_gitexp.shipping import bring_needed
from nemo_gitexp.sitevalues import bind_text
from nemo_gitexp.stages import StagesEntry
from nemo_gitexp.store import Experiment, verify_experiment
from nemo_gitexp.streams import recorded_rows
from nemo_gitexp.submitters import Launcher
from nemo_gitexp.surroundings import ENVIRONMENT_MODES, Surroundings, compare_surroundings, find_surroundings
from nemo_gitexp.topology import count_devices
from nemo_gitexp.verbs.launch import LauncherFactory, follow_or_cancel
from nemo_gitexp.verdict import (
    LEVELS,
    Circumstances,
    RunOutcome,
    judge,
    metric_rules,
    require_level,
    weakest_input,
)
from nemo_gitexp.workspace import restore

NOT_COMPARED = RunOutcome("recorded", None)
"""Stands for the recorded run where only its state is restored."""


@dataclass(frozen=True, slots=True)
class ReproduceOptions:
    """How an experiment is to be reproduced."""

    require: str = "metrics"
    executor: str | None = None
    env_mode: str = "check"
    steps: int | None = None
    plan_only: bool = False
    confirmed: bool = False
    keep: bool = False
    times: int = 1


@dataclass(frozen=True, slots=True)
class ReproduceAnswer:
    """The verdict (of several runs the worst), how many runs it rests on, and where a run was kept.

    `verdict` is None for a plan; `cost_device_hours` is what the recorded run took, None when unknown.
    """

    document: ExperimentDoc
    verdict: VerdictDoc | None
    runs: int
    cost_device_hours: float | None
    kept: Path | None = None
    interrupted: bool = False


def reproduce(
    site: Site,
    text: str,
    options: ReproduceOptions,
    make_launcher: LauncherFactory,
    watcher: Watcher,
    env: Mapping[str, str],
) -> ReproduceAnswer:
    """Restore an experiment's state, run it again with fresh output roots, and judge.

    Side effects: a fact for each verdict, where one can be written; a run that missed the level asked for is kept,
    others only on request.

    Raises:
        GitexpError: it could not be tried.
    """
    level = require_level(options.require)
    if options.env_mode not in ENVIRONMENT_MODES:
        raise UsageError(f"--env {options.env_mode}: no such mode", hint=f"one of {', '.join(ENVIRONMENT_MODES)}")
    if options.times < 1 or (options.steps is not None and options.steps < 1):
        raise UsageError("--times and --steps count from 1", hint="nemo-gitexp reproduce EXP --times 2")
    found = find_current(site, text)
    experiment, document = found.experiment, found.document
    verify_experiment(site.repository, experiment)
    cost = _cost(document)
    if level != "restored" or experiment.record.imported is not None:  # of an import not even the state is whole
        require_repeatable(experiment.record.entry, experiment.sha)
    if options.plan_only:
        return ReproduceAnswer(document, None, 0, cost)
    _require_confirmed(site, options, document, cost, watcher.say)
    profile = _require_destination(site, experiment, options, env)
    if options.steps is not None and isinstance(experiment.record.entry, StagesEntry):
        raise UsageError("a pipeline is reproduced whole: which steps are its first ones?", hint="leave --steps out")
    _require_fresh_roots(experiment, site.settings.site)
    bring_needed(site, experiment, watcher.say, "input", "stream")
    around = find_surroundings(site, experiment, options.env_mode, env, watcher.say, profile)
    if level == "restored":
        return _restored_only(site, _Trial(experiment, document, options, around, profile, NOT_COMPARED), watcher)
    # Read before anything runs: what cannot be compared with is no reason to compute for hours.
    recorded = recorded_outcome(site, experiment)
    return _run_times(site, _Trial(experiment, document, options, around, profile, recorded), make_launcher, watcher)


def _require_destination(
    site: Site, experiment: Experiment, options: ReproduceOptions, env: Mapping[str, str]
) -> ExecutorProfile:
    """Return the profile of the executor that was asked for, else of the recorded one.

    Raises:
        UnknownExecutorError: the recorded one is not known here; says what can take its place.
        GitexpError: as `require_destination`.
    """
    name, topology = experiment.record.executor, experiment.record.topology
    try:
        return require_destination(site, options.executor or name, env)
    except UnknownExecutorError as fault:
        if options.executor is not None:
            raise
        known = ", ".join(sorted(site.settings.executors))
        needs = needed_elsewhere(topology)
        needed = f"; it needs {needs}" if needs else ""
        define = f"[tool.nemo-gitexp.executors.{name}], or --executor NAME of another that can"
        raise UnknownExecutorError(
            f"recorded with executor {name}, which this machine has no profile for (there are: {known}){needed}",
            hint=define if needs else "--executor local",
            executor=name,
            nearest=fault.facts.get("nearest"),
        ) from fault


@dataclass(frozen=True, slots=True)
class _Trial:
    """What is run again, how and in which surroundings, and what the recorded run came to."""

    experiment: Experiment
    document: ExperimentDoc
    options: ReproduceOptions
    around: Surroundings
    profile: ExecutorProfile
    recorded: RunOutcome


def _run_times(site: Site, trial: _Trial, make_launcher: LauncherFactory, watcher: Watcher) -> ReproduceAnswer:
    cost, times = _cost(trial.document), trial.options.times
    worst: VerdictDoc | None = None
    kept: Path | None = None
    for number in range(1, times + 1):
        if times > 1:
            watcher.say(f"run {number} of {times}")
        with make_launcher() as started, fitting_launcher(site, started, trial.profile) as launcher:
            verdict, place, interrupted = _run_once(site, trial, launcher, watcher)
        if verdict is None:
            return ReproduceAnswer(trial.document, None, number - 1, cost, interrupted=interrupted)
        kept = place or kept
        if worst is None or LEVELS.index(require_level(verdict["verdict"])) < LEVELS.index(
            require_level(worst["verdict"])
        ):
            worst = verdict
    return ReproduceAnswer(trial.document, worst, times, cost, kept)


def _run_once(
    site: Site, trial: _Trial, launcher: Launcher, watcher: Watcher
) -> tuple[VerdictDoc | None, Path | None, bool]:
    """Run once; return the verdict (None when interrupted), the kept run directory, and whether interrupted."""
    experiment, around, keep = trial.experiment, trial.around, trial.options.keep
    conditions = Conditions(
        around.interpreter,
        around.probe,
        reproduction=True,
        stop_after_steps=trial.options.steps,
        keep=keep,
        profile=trial.profile,
    )
    paths = reserve_run(site.run_root, site.workspace_root, experiment.sha, reproduction=True)
    start_run(site, experiment, paths, conditions, launcher, watcher)
    try:
        state, interrupted = follow_or_cancel(site, paths, watcher)
        if interrupted:
            return None, None, True
        left = read_leavings(experiment, state)
        require_started(left)
        verdict = _judge(trial, left)
        keep = keep or not verdict["met"]
        verdict = _with_fact(site, experiment, verdict, state, watcher)
        _refill_store(site, experiment, left)
        return verdict, paths.root if keep else None, False
    finally:
        discard_workspace(site.repository, paths)
        if not keep:
            shutil.rmtree(paths.root, ignore_errors=True)


def _judge(trial: _Trial, left: RunLeavings | None) -> VerdictDoc:
    """Return the verdict of a run by what it left; None: the state was restored and nothing run."""
    experiment, options, around = trial.experiment, trial.options, trial.around
    named, drift = around.named, around.drift
    if left is not None:
        named, drift = compare_surroundings(experiment, around, left, options.env_mode)
    return judge(
        trial.recorded,
        None if left is None else run_outcome(left),
        experiment=experiment.sha,
        required=require_level(options.require),
        rules=metric_rules(experiment.record.metrics),
        circumstances=Circumstances(
            environment=named,
            drift=drift,
            weakest_input=weakest_input(input_documents(experiment.record)),
        ),
        steps=None if left is None else options.steps,
    )


def run_outcome(left: RunLeavings) -> RunOutcome:
    """Return what a run came to, by what it left."""
    worker = left.worker or {}
    return RunOutcome(
        status=str(worker.get("status", "lost")),
        exit_code=_exit_code(worker),
        metrics=left.rows,
        outputs=tuple(output_document(item) for item in reported_outputs(left)),
        missing_outputs=tuple(reported_missing(left)),
    )


def _refill_store(site: Site, experiment: Experiment, left: RunLeavings) -> None:
    """Keep outputs that came out the same as recorded: their content may be on no machine any more."""
    recorded = {(item.get("path"), item.get("md5")) for item in mappings((experiment.result or {}).get("outputs"))}
    made = mappings((left.worker or {}).get("outputs"))
    same = [item for item in made if (item.get("path"), item.get("md5")) in recorded]
    keep_outputs(output_store(site.repository), RunPaths(site.run_root / left.run), {"outputs": same})


def recorded_outcome(site: Site, experiment: Experiment) -> RunOutcome:
    """Return what the recorded run came to, its stream from git or from the store."""
    result = experiment.result or {}
    return RunOutcome(
        status=str(result.get("status", "recorded")),
        exit_code=_exit_code(result),
        metrics=recorded_rows(site.repository, experiment),
        outputs=tuple(output_document(item) for item in mappings(result.get("outputs"))),
        missing_outputs=tuple(str(path) for path in sequence(result.get("missing_outputs"))),
    )


def _restored_only(site: Site, trial: _Trial, watcher: Watcher) -> ReproduceAnswer:
    experiment = trial.experiment
    directory = site.workspace_root / f"{owner_token()}.{uuid.uuid4().hex[:8]}.restored"
    restore(site.repository, experiment.sha, experiment.record, directory, progress=watcher.say)
    remove_worktree(site.repository, directory)
    verdict = _with_fact(site, experiment, _judge(trial, None), None, watcher)
    return ReproduceAnswer(trial.document, verdict, 1, _cost(trial.document))


def _with_fact(
    site: Site, experiment: Experiment, verdict: VerdictDoc, state: RunState | None, watcher: Watcher
) -> VerdictDoc:
    """Store the verdict as a fact and return it with the fact's ref; an answer that took hours stands without one."""
    # A state that was only restored is no re-run, and is not counted as one.
    kind = "reproduced" if state else "verified"
    word = verdict["verdict"] if verdict["scope"] == "whole" else f"{verdict['verdict']}[{verdict['scope']}]"
    try:
        who = site.repository.committer()
        content: dict[str, JsonValue] = {
            "at": iso_now(),
            "by": who.name,
            "run": state.paths.run if state else None,
            "verdict": cast("JsonValue", verdict),
        }
        verdict["reproduction"] = write_fact(site.repository, experiment.sha, kind, content, who, word=word)
    except GitexpError as fault:
        watcher.say(f"warning: the verdict is not kept beside the experiment: {fault.message}")
    return verdict


def require_started(left: RunLeavings) -> None:
    """Refuse to judge a run whose job never started.

    Raises:
        WorkspaceError: the worker found another state than the recorded one, or the launcher was lost.
    """
    worker = left.worker
    if worker is None:
        raise WorkspaceError(f"the reproduction was lost: {left.lost_reason}", hint="nemo-gitexp reproduce again")
    if not worker.get("job_started", True):
        error = mapping(worker.get("error"))
        raise WorkspaceError(
            f"the job was not started: {error.get('message')}",
            paths=list(sequence(error.get("paths"))),
            reason=error.get("type"),
        )


def _require_confirmed(
    site: Site, options: ReproduceOptions, document: ExperimentDoc, cost: float | None, say: Callable[[str], None]
) -> None:
    """Say what the recorded run cost, where that is much, and refuse to spend it unasked.

    Raises:
        CostLimitError: it is above the limit, and nobody said yes; a prefix or the state alone cost next to nothing.
    """
    limit = site.settings.reproduce_cost_limit
    whole = None if cost is None else cost * options.times
    if whole is None or whole <= limit or options.require == "restored" or options.steps is not None:
        return
    again = f", {options.times} times that are {whole:.1f}" if options.times > 1 else ""
    said = f"the recorded run took {cost:.1f} device-hours ({cost_words(document)}){again}"
    if not options.confirmed:
        raise CostLimitError(
            f"{said}, more than {limit:g} (reproduce_cost_limit)",
            hint=f"nemo-gitexp reproduce {document['experiment'][:12]} --yes, or --steps N for a part of it",
            device_hours=whole,
            limit=limit,
        )
    say(said)


def _require_fresh_roots(experiment: Experiment, site_values: Mapping[str, str]) -> None:
    """Refuse external output directories that hold something: a resumed run is no reproduction."""
    filled = []
    for output in experiment.record.outputs:
        place = Path(bind_text(output.path, site_values))
        if place.is_absolute() and place.exists() and (place.is_file() or any(place.iterdir())):
            filled.append(output.path)
    if filled:
        raise WorkspaceError(
            f"an output of the original is in the way: {', '.join(filled)}",
            hint="move it away; a reproduction never loads what the original wrote",
            paths=filled,
        )


def _cost(document: ExperimentDoc) -> float | None:
    """Return what a run took in device-hours: its time on every device that it had, None when nobody knows."""
    duration = document["duration_s"]
    nodes, devices = count_devices(document["topology"])
    return None if duration is None else duration / 3600 * nodes * devices


def _exit_code(document: Mapping[str, JsonValue]) -> int | None:
    code = document.get("exit_code")
    return code if isinstance(code, int) else None
