"""`probe`: the first steps twice, and once more with one thing changed, before the whole computation is paid for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from nemo_gitexp.asked import Asked, list_studies
from nemo_gitexp.catalog import Site, find_current
from nemo_gitexp.collect import discard_workspace, read_leavings
from nemo_gitexp.destination import fitting_launcher, require_destination
from nemo_gitexp.documents import SCHEMA, DivergenceDoc, ProbeDoc, ProbeMetricDoc, ProbeVariationDoc
from nemo_gitexp.entry import require_repeatable
from nemo_gitexp.environment import available_cores
from nemo_gitexp.errors import ProbeError, UnknownExperimentError, UsageError
from nemo_gitexp.execution import Conditions, Watcher, start_run
from nemo_gitexp.interpreters import find_recorded_interpreter, probe_interpreter
from nemo_gitexp.metrics import MetricRow, row_step
from nemo_gitexp.probing import VARIATIONS, Varied, compare_prefixes, vary
from nemo_gitexp.profiles import ExecutorProfile
from nemo_gitexp.recording import holding_plan, plan_experiment
from nemo_gitexp.result import mapping
from nemo_gitexp.rundir import reserve_run
from nemo_gitexp.shipping import bring_needed
from nemo_gitexp.stages import StagesEntry
from nemo_gitexp.store import Experiment, verify_experiment
from nemo_gitexp.verbs.launch import LauncherFactory, follow_or_cancel
from nemo_gitexp.verbs.reproduce import require_started, run_outcome
from nemo_gitexp.verdict import RunOutcome, metric_rules

PATIENCE_S = 30.0
"""A job without a step for so long may never log one: whoever waits is told once."""

_LOG_STEPS = 'nemo_gitexp.log_metrics({"loss": loss}, step=step), or JSON lines with a step in the file GITEXP_METRICS'


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """How many steps, and what is varied one after the other: some of `probing.VARIATIONS`."""

    steps: int = 10
    vary: tuple[str, ...] = ()
    executor: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What came out, None when interrupted."""

    document: ProbeDoc | None


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is run: a recorded experiment (whose interpreter its executor decides), or one held while it is probed."""

    experiment: Experiment
    interpreter: Path | None
    probe: Path | None
    is_recorded: bool


def names_run(root: Path, word: str) -> bool:
    """Return whether a word starts run arguments: a study, or a recipe in a file."""
    return ".py:" in word or word in list_studies(root)


def probe(
    site: Site,
    what: str | Asked,
    options: ProbeOptions,
    make_launcher: LauncherFactory,
    watcher: Watcher,
    *,
    env: Mapping[str, str],
    now: datetime,
) -> ProbeAnswer:
    """Run the first steps twice and compare; then with each thing to vary changed. Nothing of it stays.

    Args:
        site: where.
        what: an experiment, or what `run` would record.
        options: how many steps, what to vary.
        make_launcher: starts a launcher for each run.
        watcher: told how it goes.
        env: the user's environment.
        now: dates the experiment that is never recorded.

    Raises:
        ProbeError: the job failed, or logged no step.
        GitexpError: it could not be started.
    """
    _require_sense(options)
    with _subject(site, what, env, now, watcher) as subject:
        record = subject.experiment.record
        require_repeatable(record.entry, subject.experiment.sha)
        if isinstance(record.entry, StagesEntry):
            raise UsageError("a pipeline has no first steps of its own", hint="probe the command of one stage")
        profile = require_destination(site, options.executor or record.executor, env)
        own = find_recorded_interpreter(site, record, env, profile) if subject.is_recorded else subject.interpreter
        trip = _Probe(site, replace(subject, interpreter=own), options, profile, make_launcher, watcher)
        try:
            return ProbeAnswer(trip.answer())
        except KeyboardInterrupt:
            return ProbeAnswer(None)


def _require_sense(options: ProbeOptions) -> None:
    if options.steps < 1:
        raise UsageError("--steps counts from 1", hint="nemo-gitexp probe EXP --steps 10")
    unknown = [name for name in options.vary if name not in VARIATIONS]
    if unknown:
        raise UsageError(f"--vary {unknown[0]}: no such thing", hint=f"some of {','.join(VARIATIONS)}")


@contextmanager
def _subject(
    site: Site, what: str | Asked, env: Mapping[str, str], now: datetime, watcher: Watcher
) -> Iterator[_Subject]:
    if isinstance(what, str):
        experiment = _find(site, what)
        verify_experiment(site.repository, experiment)
        bring_needed(site, experiment, watcher.say, "input")
        entry = experiment.record.entry
        probe = probe_interpreter(entry, env, site.repository.root)
        yield _Subject(experiment, None, probe, is_recorded=True)
        return
    who = site.repository.begin_identities()
    plan = plan_experiment(site, what, now)
    with holding_plan(site, plan, who) as experiment:
        yield _Subject(experiment, plan.interpreter, plan.probe_interpreter, is_recorded=False)


def _find(site: Site, text: str) -> Experiment:
    try:
        return find_current(site, text).experiment
    except UnknownExperimentError as fault:
        studies = ", ".join(list_studies(site.repository.root)) or "none"
        said = f"{text} is neither an experiment nor a study; studies: {studies}"
        raise UnknownExperimentError(said, hint=fault.hint, **fault.facts) from fault


@dataclass(frozen=True, slots=True)
class _Probe:
    """One probe: all its runs are compared with the first."""

    site: Site
    subject: _Subject
    options: ProbeOptions
    profile: ExecutorProfile
    make_launcher: LauncherFactory
    watcher: Watcher

    def answer(self) -> ProbeDoc:
        """Run and compare.

        Raises:
            KeyboardInterrupt: somebody cancelled; nothing is left.
            ProbeError: a run failed, or logged no step.
        """
        experiment, steps = self.subject.experiment, self.options.steps
        self.watcher.say(f"the first {steps} steps, as they are")
        first = self._run(experiment)
        self.watcher.say("the same once more")
        metrics, n_steps = self._compare(first, self._run(experiment))
        is_equal = all(metric["equal"] for metric in metrics)
        varied = [self._vary(name, first, is_equal=is_equal) for name in self.options.vary]
        return {
            "schema": SCHEMA,
            "experiment": experiment.sha if self.subject.is_recorded else None,
            "study": experiment.record.study,
            "asked_steps": steps,
            "steps": n_steps,
            "equal": is_equal,
            "first_divergence": _first_of(metrics),
            "metrics": metrics,
            "variations": varied,
            "depends_on": [item["vary"] for item in varied if item["equal"] is False],
            "independent_of": [item["vary"] for item in varied if item["equal"] is True],
        }

    def _vary(self, name: str, first: RunOutcome, *, is_equal: bool) -> ProbeVariationDoc:
        experiment = self.subject.experiment
        varied = vary(name, experiment.record, experiment.config, available_cores())
        if isinstance(varied, str):
            return _untried(name, varied)
        if not is_equal:
            return _untried(name, "two runs of the same differ already", varied)
        self.watcher.say(f"{name}: {varied.after} instead of {varied.before}")
        other = self._run(replace(experiment, record=varied.record, config=varied.config))
        metrics, n_steps = self._compare(first, other)
        return {
            "vary": name,
            "before": varied.before,
            "after": varied.after,
            "tried": True,
            "why": None,
            "equal": all(metric["equal"] for metric in metrics),
            "steps": n_steps,
            "first_divergence": _first_of(metrics),
            "metrics": metrics,
        }

    def _compare(self, first: RunOutcome, other: RunOutcome) -> tuple[list[ProbeMetricDoc], int]:
        rules = metric_rules(self.subject.experiment.record.metrics)
        metrics, n_steps = compare_prefixes(first, other, self.options.steps, rules.volatile)
        if not metrics:
            raise ProbeError("all metrics with a step are volatile: there is nothing to compare", hint=_LOG_STEPS)
        return metrics, n_steps

    def _run(self, experiment: Experiment) -> RunOutcome:
        """Run the first steps in a fresh place, of which nothing is left."""
        site, subject = self.site, self.subject
        paths = reserve_run(site.run_root, site.workspace_root, experiment.sha, reproduction=True)
        conditions = Conditions(
            subject.interpreter,
            subject.probe,
            reproduction=True,
            stop_after_steps=self.options.steps,
            profile=self.profile,
        )
        try:
            with self.make_launcher() as started, fitting_launcher(site, started, self.profile) as launcher:
                start_run(site, experiment, paths, conditions, launcher, self.watcher)
                state, interrupted = follow_or_cancel(site, paths, _Impatient(self.watcher))
            if interrupted:
                raise KeyboardInterrupt
            left = read_leavings(experiment, state)
            require_started(left)
            outcome = run_outcome(left)
            said = (
                paths.log.read_bytes()[-2000:].decode("utf-8", "replace").splitlines()[-5:]
                if paths.log.is_file()
                else []
            )
        finally:
            discard_workspace(site.repository, paths)
            shutil.rmtree(paths.root, ignore_errors=True)
        self._require_steps(outcome, mapping((left.worker or {}).get("error")).get("message"), said)
        return outcome

    def _require_steps(self, outcome: RunOutcome, message: object, said: Sequence[str]) -> None:
        """Check that a run came to its steps.

        Raises:
            ProbeError: it failed, or logged none.
        """
        if outcome.status not in ("stopped", "completed"):
            tail = "".join(f"\n  | {line}" for line in said)
            how = "failed" if outcome.status == "failed" else f"was {outcome.status}"
            raise ProbeError(
                f"the job {how} before step {self.options.steps}: {message or 'no reason is known'}{tail}",
                hint="mend it first; nemo-gitexp run keeps the whole log",
                status=outcome.status,
                log_tail=list(said),
            )
        steps = {step for row in outcome.metrics if (step := row_step(row)) is not None}
        if not steps:
            raise ProbeError("the job logs no steps: its first ones cannot be told", hint=_LOG_STEPS)
        if outcome.status == "completed" and len(steps) > self.options.steps:
            self.watcher.say(
                "note: the job ran to its end: it logs its steps into a tracker or a file that is read only then. "
                f"To be stopped after {self.options.steps}: {_LOG_STEPS}"
            )


class _Impatient:
    """A watcher that keeps the logs of equal runs to itself, and says so when a job has logged no step for long."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._is_told = False

    def log(self, text: bytes) -> None:
        """Drop it: a run that fails says its last lines, and those that are stopped only that they were."""

    def progress(self, elapsed_s: float, row: MetricRow | None) -> None:
        """Hand the progress on; without any for long, say what helps."""
        self._watcher.progress(elapsed_s, row)
        if row is None and elapsed_s > PATIENCE_S and not self._is_told:
            self._is_told = True
            self._watcher.say(
                f"note: no step after {PATIENCE_S:.0f} s; a job that logs none runs to its end (Ctrl-C ends it)"
            )

    def say(self, line: str) -> None:
        """Hand it on."""
        self._watcher.say(line)


def _untried(name: str, why: str, varied: Varied | None = None) -> ProbeVariationDoc:
    return {
        "vary": name,
        "before": varied.before if varied else None,
        "after": varied.after if varied else None,
        "tried": False,
        "why": why,
        "equal": None,
        "steps": 0,
        "first_divergence": None,
        "metrics": [],
    }


def _first_of(metrics: Sequence[ProbeMetricDoc]) -> DivergenceDoc | None:
    """Return the first step that differs, and there the first metric by name."""
    found = [(step, metric["name"]) for metric in metrics if (step := metric["first_divergence"]) is not None]
    if not found:
        return None
    step, name = min(found)
    return {"metric": name, "step": step}
