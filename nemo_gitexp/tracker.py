"""The guide's `ExperimentTracker` and `ExperimentMetrics`; what they tell comes from git each time they are asked.

Inside a job, and in other ranks than the first, there is nothing to ask: there they tell of this process alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nemo_gitexp.catalog import Site, list_entries, open_site, refresh
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import (
    AlreadyFinishedError,
    ExperimentExistsError,
    InvalidNameError,
    RecordError,
    UnknownExperimentError,
    UsageError,
)
from nemo_gitexp.metriclog import is_first_rank, plain_metrics
from nemo_gitexp.metrics import as_float
from nemo_gitexp.naming import slug
from nemo_gitexp.session import Ending, Said, Session, failure, record_name, tell
from nemo_gitexp.standing import ENDED
from nemo_gitexp.tips import Tip, list_tips
from nemo_gitexp.tracking import begin

_FAILED = tuple(status for status in ENDED if status != "completed")
_SESSIONS: dict[tuple[str, str, str], Session] = {}
"""The experiments that this process runs, by repository, study and name: every tracker here knows them."""


@dataclass(slots=True)
class _Link:
    """The tracker that an `ExperimentMetrics` came from, None for one that somebody made; no field of it."""

    tracker: ExperimentTracker | None = None


@dataclass
class ExperimentMetrics:
    """One experiment: times in seconds since the epoch, duration in seconds, `config_hash` as `sha256:<64 hex>`.

    One that comes from a tracker is its experiment: `complete` and `fail` do what the tracker's methods do. Made by
    hand, it is a plain value.
    """

    experiment_name: str
    start_time: float
    end_time: float | None = None
    duration: float | None = None
    status: str = "running"
    config_hash: str = ""
    metrics: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Belong to nobody at first."""
        self._link = _Link()

    def complete(self, final_metrics: Mapping[str, float] | None = None) -> None:
        """End the experiment well.

        Raises:
            MetricValueError: a final metric that is no number; the experiment goes on then.
            AlreadyFinishedError: it has ended.
        """
        if self._link.tracker is not None:
            self._link.tracker.complete_experiment(self.experiment_name, final_metrics)
            return
        final = plain_metrics(final_metrics or {})
        self._close("completed", final)

    def fail(self, error: BaseException | str) -> None:
        """End the experiment as failed: its metrics stay, and `error` is added to them.

        Raises:
            AlreadyFinishedError: it has ended.
        """
        if self._link.tracker is not None:
            self._link.tracker.fail_experiment(self.experiment_name, error)
            return
        self._close("failed", {"error": str(error)})

    def _close(self, status: str, more: Mapping[str, object]) -> None:
        if self.status in ENDED:
            raise AlreadyFinishedError(
                f"{self.experiment_name} is {self.status} already", name=self.experiment_name, status=self.status
            )
        self.end_time = time.time()
        self.duration = self.end_time - self.start_time
        self.status = status
        self.metrics.update({name: _plain(value) for name, value in more.items()})


class ExperimentTracker:
    """Starts, completes and fails experiments by name; each is an experiment commit like any other.

    `study` is the slug of the study, None where each experiment has one of its own; `logger` says what begins and ends.

    Args:
        study: what they belong to; None: each to a study of its own name, and the summary is about those.
        repository: a directory of the repository; None: as for `track`.
    """

    def __init__(self, study: str | None = None, *, repository: str | os.PathLike[str] | None = None) -> None:
        """Keep where; nothing is read before it is asked for.

        Raises:
            InvalidNameError: a study that is no text, or blank.
        """
        text: object = study
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise InvalidNameError(f"{study!r} names no study", hint='ExperimentTracker(study="digits")', what="study")
        self.logger = logging.getLogger("nemo_gitexp.tracker")
        self.study = None if study is None else slug(study)
        self._repository = None if repository is None else Path(repository).absolute()
        self._handed: dict[str, ExperimentMetrics] = {}

    def start_experiment(
        self, experiment_name: str, config: object, *, seed: int | None = None, purpose: str | None = None
    ) -> ExperimentMetrics:
        """Record an experiment of that name in the present state of the work tree and go on as its run.

        The record has the name itself where that can stand in a git ref, else its slug. `log_metrics` writes to the
        experiment that was started last.

        Args:
            experiment_name: any text; used once.
            config: its configuration; what it has at `seed` is the seed.
            seed: the seed, where the configuration has none; without either 42, recorded as the default.
            purpose: one sentence: why does this experiment exist?

        Raises:
            ExperimentExistsError: the name was started before, whatever became of it; `suggestion` is free.
            ConflictingConfigError: two different seeds.
            UsageError: a seed, asked for or in the configuration, that is no whole number from 0.
            GitexpError: it cannot be recorded; nothing of it is left then.
        """
        said = Said(purpose=purpose, repository=self._repository)
        name = record_name(experiment_name)
        told = tell(experiment_name, config, seed, said, study=self.study or experiment_name, name=name)
        if not _is_recording() and experiment_name in self._handed:
            status = self._handed[experiment_name].status
            raise ExperimentExistsError(
                f"{experiment_name} was started before and is {status}",
                hint="another name",
                name=experiment_name,
                status=status,
                suggestion=f"{experiment_name}-2",
            )
        session = begin(told)
        _SESSIONS[self._key(experiment_name)] = session
        started = ExperimentMetrics(experiment_name, time.time(), config_hash=told.config_hash)
        started._link.tracker = self  # noqa: SLF001 - of this room
        self._handed[experiment_name] = started
        self.logger.info("Started experiment: %s (%s)", experiment_name, (session.sha or "not recorded here")[:12])
        return started

    def complete_experiment(self, experiment_name: str, final_metrics: Mapping[str, float] | None = None) -> None:
        """End an experiment well; the final metrics stand without a step.

        Raises:
            MetricValueError: a final metric that is no number; nothing is recorded, the experiment goes on.
            UnknownExperimentError: no experiment has the name.
            AlreadyFinishedError: it has ended.
            UsageError: it runs in another process.
        """
        final = plain_metrics(final_metrics or {})
        session = self._require_session(experiment_name)
        if final:
            session.log(final_metrics or {})
        self._end(experiment_name, session, Ending("completed", 0), final)
        self.logger.info("Completed experiment: %s", experiment_name)

    def fail_experiment(self, experiment_name: str, error: BaseException | str) -> None:
        """End an experiment as failed; of an exception the traceback is kept in its log.

        Raises:
            UnknownExperimentError: no experiment has the name.
            AlreadyFinishedError: it has ended.
            UsageError: it runs in another process.
        """
        session = self._require_session(experiment_name)
        ending = failure(error)
        message = (ending.error or {}).get("message", "")
        self._end(experiment_name, session, ending, {"error": message})
        self.logger.error("Failed experiment: %s: %s", experiment_name, message)

    @property
    def experiments(self) -> dict[str, ExperimentMetrics]:
        """All experiments by name, as git tells at this moment; those that ended without a word are lost."""
        if not _is_recording():
            return dict(self._handed)
        found = {}
        for name, fresh in self._read().items():
            known = self._handed.get(name)
            if known is not None:
                vars(known).update(dataclasses.asdict(fresh))
            else:
                fresh._link.tracker = self  # noqa: SLF001 - of this room
            found[name] = known or fresh
        return found

    def get_experiment_summary(self) -> dict[str, object]:
        """Return total_experiments, completed, failed, running and experiments (name to the fields of its metrics).

        `failed` counts cancelled, lost and skipped ones too, `running` all that have no result yet.
        """
        experiments = self.experiments
        statuses = [item.status for item in experiments.values()]
        completed, failed = statuses.count("completed"), sum(status in _FAILED for status in statuses)
        return {
            "total_experiments": len(statuses),
            "completed": completed,
            "failed": failed,
            "running": len(statuses) - completed - failed,
            "experiments": {name: dataclasses.asdict(item) for name, item in experiments.items()},
        }

    def _key(self, name: str) -> tuple[str, str, str]:
        return str(self._repository or ""), self.study or slug(name), name

    def _end(self, name: str, session: Session, ending: Ending, more: Mapping[str, object]) -> None:
        session.end(ending)
        for key in [key for key, other in _SESSIONS.items() if other is session]:
            del _SESSIONS[key]
        known = self._handed.get(name)
        if _is_recording():
            _ = self.experiments  # fills in the one that was handed out
        elif known is not None:
            known._close(ending.status, {**session.sink.latest, **more})  # noqa: SLF001 - of this room

    def _require_session(self, name: str) -> Session:
        own = _SESSIONS.get(self._key(name))
        if own is not None and own.pid == os.getpid():
            return own
        known = self.experiments
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"start_experiment({name!r}, config) first"
            raise UnknownExperimentError(
                f"no experiment is called {name}", hint=hint, name=name, nearest=near[0] if near else None
            )
        status = known[name].status
        for (_, study, given), session in _SESSIONS.items():  # of a tracker that spells the repository otherwise
            if (study, given, session.pid) == (*self._key(name)[1:], os.getpid()) and session.status == "running":
                return session
        if status in ENDED:
            raise AlreadyFinishedError(
                f"{name} is {status} already", hint=f"nemo-gitexp show {record_name(name)}", name=name, status=status
            )
        raise UsageError(
            f"{name} is {status} in another process, which alone can end it",
            hint=f"nemo-gitexp cancel {record_name(name)}",
            name=name,
            status=status,
        )

    def _read(self) -> dict[str, ExperimentMetrics]:
        """Return what the commits of this tracker's experiments say, oldest first."""
        site = _open(self._repository)
        tips, live = refresh(site, [tip for tip in list_tips(site.repository) if self._is_own(tip)])
        tips.sort(key=lambda tip: (tip.created, tip.name))
        names = _given_names(site, tips)
        found = {}
        for tip, entry in zip(tips, list_entries(site, tips, live), strict=True):
            if isinstance(entry, RecordError):
                self.logger.warning("%s cannot be read: %s", tip.name, entry.message)
            elif not entry.document["withdrawn"]:
                found[names[tip.name]] = _metrics_of(names[tip.name], entry.document, tip)
        return found

    def _is_own(self, tip: Tip) -> bool:
        return tip.study == (self.study or slug(tip.name))


def _open(repository: Path | None) -> Site:
    from nemo_gitexp.thisrepository import find_repository

    return open_site(find_repository(repository), os.environ)


def _given_names(site: Site, tips: list[Tip]) -> dict[str, str]:
    """Return by the record's name the one that its program gave; a name made up of time and model stays."""
    from nemo_gitexp.store import read_experiments_or_faults

    names = {tip.name: tip.name for tip in tips}
    for item in read_experiments_or_faults(site.repository, tips):
        tracked = None if isinstance(item, RecordError) else item.record.tracked
        if tracked is not None and not isinstance(item, RecordError) and item.record.name == record_name(tracked.name):
            names[item.record.name] = tracked.name
    return names


def _metrics_of(name: str, document: ExperimentDoc, tip: Tip) -> ExperimentMetrics:
    began = _seconds(document["started"] or tip.created)
    ended = _seconds(document["ended"]) if document["ended"] else None
    duration = document["duration_s"]
    if duration is None and ended is not None:
        duration = ended - began
    metrics: dict[str, object] = {key: _plain(value) for key, value in document["metrics"].items()}
    if document["error"]:
        metrics.setdefault("error", document["error"]["message"])  # a metric of that name is the program's own
    return ExperimentMetrics(name, began, ended, duration, document["status"], document["config_hash"], metrics)


def _plain(value: object) -> object:
    """Return a metric as a number, one that is not finite too; text that is none stays."""
    number = as_float(value)
    return number if isinstance(value, str) and number is not None else value


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _is_recording() -> bool:
    return "GITEXP_RUN_DIR" not in os.environ and is_first_rank()
