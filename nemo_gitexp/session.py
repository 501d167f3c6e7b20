"""An experiment that a running program declares: what it says about it, the handle that it gets, and how it ends.

Knows neither git nor jobs: where things go is decided in `livesession` and `jobsession`. Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp.errors import AlreadyFinishedError, InvalidNameError, UsageError
from nemo_gitexp.metriclog import Discard, MetricLog, enter, leave
from nemo_gitexp.naming import MAX_NAME, require_name, slug
from nemo_gitexp.seeds import agreed_seed
from nemo_gitexp.termination import TERMINATOR, TerminatedError
from nemo_gitexp.versioning import config_hash, plain_config
from nemo_gitexp.worker.exception import MOST_MESSAGE, describe_exception

if TYPE_CHECKING:
    from nemo_gitexp.definition import StudyDefinition
    from nemo_gitexp.jsontext import JsonValue

DETERMINISM = ("off", "seeded", "bitwise")
_STARTS: Counter[tuple[str, str, str, int]] = Counter()


@dataclass(frozen=True, slots=True)
class Said:
    """What a program may say about its experiment beside name, configuration and seed; None: nothing."""

    determinism: str | None = None
    determinism_reason: str | None = None
    purpose: str | None = None
    expected: str | None = None
    model: str | None = None
    dataset: str | None = None
    data: tuple[str, ...] | None = None
    notebook: str | None = None
    repository: Path | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a program says about its experiment.

    `given` is the name it gives, as written, `study` the slug of the study; `name` is set where the record is to have
    a certain name. `config` is in plain form. None everywhere means: not said.
    """

    given: str
    study: str
    config: Mapping[str, JsonValue]
    config_hash: str
    seed: int | None = None
    said: Said = Said()
    name: str | None = None

    def tracked_definition(self, root: Path) -> StudyDefinition:
        """Return what this says, and for the rest what the study's `experiment.yaml` says.

        Raises:
            DefinitionError: that one has faults.
        """
        from nemo_gitexp.asked import tracked_definition

        return tracked_definition(
            root,
            self.study,
            purpose=self.said.purpose,
            expected=self.said.expected,
            model=self.said.model,
            dataset=self.said.dataset,
            data=self.said.data,
        )

    def decided(self, definition: StudyDefinition) -> tuple[int, str]:
        """Return seed and determinism: as the program says, else as the study's definition, else the defaults.

        Raises:
            UsageError: determinism off without a reason.
        """
        from nemo_gitexp.definition import DEFAULT_SEED

        seed = next(value for value in (self.seed, definition.seed, DEFAULT_SEED) if value is not None)
        determinism = self.said.determinism or definition.determinism
        if determinism == "off" and not (self.said.determinism_reason or definition.determinism_reason):
            hint = 'determinism="off", determinism_reason="why"'
            raise UsageError("determinism off needs a reason", hint=hint)
        return seed, determinism


def tell(
    given: str, config: object, seed: object, said: Said, *, study: str | None = None, name: str | None = None
) -> Told:
    """Return what a program says, checked before anything is done.

    Args:
        given: the name it gives.
        config: anything that has a plain form; None is an empty one.
        seed: a whole number from 0; None: the one at `config["seed"]`, else nobody chose.
        said: the rest.
        study: the study, where it is not the one named by `given`.
        name: of the record, where it is not to be made up.

    Raises:
        InvalidNameError: a name that is no text, or blank.
        UsageError: no seed, no profile of determinism.
        ConflictingConfigError: the configuration names another seed.
        CanonicalFormError: a configuration without a stable form.
    """
    texts: tuple[object, ...] = (given, given if study is None else study)
    for text in texts:
        if not (isinstance(text, str) and text.strip()):
            raise InvalidNameError(f"{text!r} names no experiment", hint='track("digits")', what="study")
    plain = plain_config({} if config is None else config)
    if said.determinism not in (None, *DETERMINISM):
        raise UsageError(f"determinism {said.determinism!r}: no such profile", hint=f"one of {', '.join(DETERMINISM)}")
    return Told(
        given=given,
        study=slug(given if study is None else study),
        config=plain,
        config_hash=config_hash(plain),
        seed=agreed_seed(seed, plain),
        said=said,
        name=name,
    )


def record_name(given: object) -> str:
    """Return the name of the record of an experiment that a program named: the same where a git ref can hold it.

    Raises:
        InvalidNameError: it is no text.
    """
    if not isinstance(given, str):
        raise InvalidNameError(f"an experiment's name is text, not {given!r}", hint='"baseline"', suggestion="baseline")
    try:
        return require_name(given, "experiment", limit=MAX_NAME)
    except InvalidNameError:
        return slug(given)


@contextlib.contextmanager
def counted_start(told: Told, seed: int) -> Iterator[int]:
    """Give the how manieth start of the same name, configuration and seed this is in this process, from 1.

    A start that fails is none: a reproduction, in which nothing has to be recorded, would not know it.
    """
    key = (told.study, told.given, told.config_hash, seed)
    _STARTS[key] += 1
    try:
        yield _STARTS[key]
    except BaseException:
        _STARTS[key] -= 1
        raise


def is_child_process() -> bool:
    """Return whether `multiprocessing` started this process: another one tells it what to run."""
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and processes.parent_process() is not None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session ended: `status` completed, failed or cancelled; `cancelled` by which signal.

    `exit_code` is the one that its process leaves with, None where that is not decided. `error` has type, message and
    traceback.
    """

    status: str
    exit_code: int | None = None
    error: Mapping[str, str] | None = None
    cancelled: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return what tracked.json holds."""
        error = None if self.error is None else dict(self.error)
        return {"status": self.status, "exit_code": self.exit_code, "error": error, "cancelled": self.cancelled}


def ending_of(error: BaseException | None) -> Ending:
    """Return how a block ended that an exception left, None: none."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return Ending("completed", 0)
    if isinstance(error, KeyboardInterrupt):
        return Ending("cancelled", 128 + signal.SIGINT, describe_exception(error), "SIGINT")
    if isinstance(error, TerminatedError):
        return Ending("cancelled", 128 + signal.SIGTERM, describe_exception(error), "SIGTERM")
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        said = f"exit code {code}" + ("" if isinstance(error.code, int) else f": {error.code}")
        return Ending("failed", code, {**describe_exception(error), "type": "ExitCodeError", "message": said})
    return Ending("failed", 1, describe_exception(error))


def failure(error: BaseException | str) -> Ending:
    """Return the end of an experiment whose program says that it failed, and goes on itself."""
    if isinstance(error, BaseException):
        return Ending("failed", None, describe_exception(error))
    return Ending("failed", None, {"type": "ExperimentFailure", "message": str(error)[:MOST_MESSAGE], "traceback": ""})


@dataclass(eq=False, slots=True)
class Session:
    """An experiment while it goes on: what `with track(…) as exp` gives.

    `name` and `study` are the record's, `sha` its commit (None where this process records nothing), `config` the
    configuration in plain form, `seed` the recorded seed, `outputs` the directory whose content is kept.
    """

    study: str
    name: str
    config: Mapping[str, JsonValue]
    config_hash: str
    seed: int
    outputs: Path
    sink: MetricLog | Discard = field(repr=False)
    sha: str | None = None
    status: str = "running"
    pid: int = field(default_factory=os.getpid, repr=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        """Let `log_metrics` write here, and a SIGTERM that nobody else handles end it."""
        enter(self.sink)
        TERMINATOR.listen(self, self.terminate)

    @property
    def experiment(self) -> str | None:
        """The record commit: THE experiment."""
        return self.sha

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers of one step; they are on their way to the disk when this returns.

        Args:
            metrics: name to number (numpy and torch scalars too).
            step: what the numbers belong to; None for a single result.

        Raises:
            MetricValueError: a value or a step that is no number; nothing is recorded then.
            AlreadyFinishedError: the experiment has ended.
            StateDirectoryError: the line cannot be written.
        """
        if self.status != "running":
            raise self.already_finished()
        self.sink.log(metrics, step)

    def output(self, name: str | os.PathLike[str]) -> Path:
        """Return the path of an output; the directory that it goes to is made.

        Args:
            name: relative to `outputs`: `model.pt`, `plots/loss.png`.

        Raises:
            UsageError: a name that leads out of `outputs`.
        """
        path = posixpath.normpath(os.fspath(name))
        if path.startswith(("/", "../")) or path in (".", ".."):
            raise UsageError(f"{path} is no output: it lies outside of outputs", hint='output("model.pt")', path=path)
        place = self.outputs / path
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def end(self, ending: Ending) -> None:
        """End the experiment; in a forked child of the process that started it, do nothing.

        Raises:
            AlreadyFinishedError: it has ended before.
            StateDirectoryError: its result cannot be written.
            TerminatedError: SIGTERM came meanwhile; it has ended.
        """
        if os.getpid() != self.pid:
            return
        with self._turn, TERMINATOR.ending(self):
            if self.status != "running":
                raise self.already_finished()
            leave(self.sink)
            try:
                self.status = self._record_end(ending)
            finally:
                if self.status == "running":
                    self.status = ending.status
                self.sink.close()

    def terminate(self) -> None:
        """End the experiment as cancelled, if it has not ended: its program leaves, or does not stop.

        Raises:
            StateDirectoryError: its result cannot be written.
        """
        with contextlib.suppress(AlreadyFinishedError):
            self.end(ending_of(TerminatedError()))

    def _record_end(self, ending: Ending) -> str:
        """Record how it ended and return the status; here nothing is recorded."""
        return ending.status

    def already_finished(self) -> AlreadyFinishedError:
        """Return the error that says that it has ended."""
        return AlreadyFinishedError(
            f"{self.name} is {self.status} already",
            hint=f"nemo-gitexp show {self.name}",
            experiment=self.sha,
            name=self.name,
            status=self.status,
        )
