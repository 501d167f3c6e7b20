"""Every error that a user can cause, and nothing else.

GitexpError                       exit 3: could not answer
├── UsageError                    exit 2: the call itself is wrong
│   ├── InvalidNameError          a name that cannot stand in a git ref
│   ├── OverrideError             a key=value that cannot be applied
│   ├── UnknownKeyError           names the nearest key
│   ├── UnknownStudyError         names the nearest study
│   ├── UnknownExecutorError      names the nearest executor
│   ├── InsideJobError            a job that would launch experiments itself
│   ├── PipelineError             stages that make no DAG
│   ├── DuplicateTaskError        two tasks of one name
│   ├── ConflictingConfigError    a configuration that already says something else
│   ├── ExperimentExistsError     a tracked name that was started before
│   ├── MetricValueError          a metric that is no number (also a TypeError)
│   ├── NotebookError             which notebook runs cannot be told
│   └── CostLimitError            more device-hours than are spent without asking
├── CanonicalFormError            a config value without a stable form
├── UnbuildableConfigError        a config object that a job would get differently
├── UnportableFunctionError       a function that no job can be given
├── RecipeError                   a recipe, or a configured call, that cannot be resolved in the recorded state
│   └── MissingModuleError        something to import that the recorded state or the job's environment has not
├── PluginError                   a plugin that raised
├── ExecutorError                 an executor that cannot be recorded, or that nothing can be submitted to
├── DocumentError                 JSON or YAML text that cannot be accepted
│   ├── DefinitionError           experiment.yaml
│   └── RecordError               a record or result that is damaged, too large or too new
├── SettingsError                 a setting with a wrong value
├── RepositoryError               the repository is in no state to work with
│   ├── NotARepositoryError
│   ├── GitVersionError
│   ├── IdentityMissingError      no user.name / user.email
│   ├── SnapshotRefusedError      unmerged, embedded repository, secret, too large, dirty submodule
│   ├── RemoteError               which remote is meant cannot be told, or it cannot be reached
│   └── GitCommandError           git itself said no
├── UnknownExperimentError        nothing has this name
├── AmbiguousExperimentError      several things have this name
├── DataError
│   ├── DataPointerError          a `.dvc` or `dvc.lock` that cannot be read
│   ├── UntrackedDataError        an input that DVC does not track
│   ├── DataDriftError            workspace content that differs from its pin
│   ├── MissingDataError          content that no cache, remote or stage has
│   ├── CorruptDataError          content whose hash is not its name
│   ├── DataRemoteError           no DVC remote, or one that cannot be used
│   ├── UpstreamError             an output of another experiment that cannot be an input
│   └── HubError                  the Hugging Face hub did not give what was asked for
│       ├── HubNotFoundError      no such repository, revision or file
│       ├── HubAccessError        a private or gated repository
│       └── HubUnreachableError   the network, or the hub itself
├── MissingPackageError           an optional package that is not installed
├── EnvironmentCaptureError       the job's interpreter cannot be asked
├── WorkspaceError                the restored state is not the recorded one
├── LaunchError                   the launcher refused or died before the job started
├── RemoteHostError               another machine that cannot be reached, or that refuses
├── SchedulerError                a scheduler that does not answer
├── NotRepeatableError            an experiment that no command runs again
├── ImportSourceError             runs of another tool that cannot be read
│   └── UnknownRunError           a run that is not there
├── AlreadyFinishedError          an experiment that has its result already
├── SharingError                  experiments that a remote did not get, or that differ there
├── ProbeError                    a job whose first steps cannot be compared
└── StateDirectoryError           a directory of ours that cannot be written (read-only, full disk)
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING


class GitexpError(Exception):
    """Something a user can mend. Says what happened, to what, and what to type next.

    Args:
        message: one sentence; a sha or a path is never followed by a full stop.
        hint: a command or an edit that helps; may be empty.
        facts: JSON values a caller can act on (paths, keys, shas).
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        """Keep the facts as fields of the error."""
        super().__init__(message)
        self.message = message
        self.facts: Mapping[str, object] = MappingProxyType(facts)
        self.hint = hint or self._usual_hint()

    if not TYPE_CHECKING:  # a checker shall go on finding misspelt names

        def __getattr__(self, name: str) -> object:
            """Return a fact by its name: `error.key` is `error.facts["key"]`."""
            facts = self.__dict__.get("facts", {})
            if name in facts:
                return facts[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> tuple[object, ...]:
        """Be the same error in another process: a pool's worker, a DataLoader's."""
        notes = {"__notes__": list(self.__notes__)} if hasattr(self, "__notes__") else None
        return _made_again, (type(self), self.message, self.hint, dict(self.facts)), notes

    def _usual_hint(self) -> str:
        """Return what helps against this kind of error when the raiser knows nothing better."""
        source = self.facts.get("source")
        return f"change {source}" if source else ""


def _made_again(kind: type[GitexpError], message: str, hint: str, facts: Mapping[str, object]) -> GitexpError:
    return kind(message, hint=hint, **facts)


class UsageError(GitexpError):
    """The call itself is wrong."""

    exit_code = 2


class InvalidNameError(UsageError):
    """A study, experiment or tag name that cannot stand in a git ref."""


class OverrideError(UsageError):
    """A key=value override that cannot be parsed or applied."""


class UnknownKeyError(UsageError):
    """A key that is not there; `nearest` names the likeliest one."""


class UnknownStudyError(UsageError):
    """A study without a directory `experiments/<study>/`."""


class UnknownExecutorError(UsageError):
    """An executor profile that no setting defines."""


class InsideJobError(UsageError):
    """A job that would launch experiments itself, most often by importing an unguarded script."""


class ConflictingConfigError(UsageError):
    """A configuration that already says something else; `key` is where."""


class PipelineError(UsageError, RuntimeError):
    """Stages that make no DAG; `missing` names dependencies that are no stages. A RuntimeError, as the guide has it."""


class DuplicateTaskError(UsageError):
    """Two tasks of one name; `task` is the name."""


class ExperimentExistsError(UsageError):
    """A tracked name that was started before; `name`, `status` (how that one stands) and a free `suggestion`."""


class MetricValueError(UsageError, TypeError):
    """A metric that is no number, or a step that is none; `key` names it."""


class NotebookError(UsageError):
    """Which notebook a session runs cannot be told; `candidates` lists those that may be meant."""


class CostLimitError(UsageError):
    """More device-hours than are spent without asking; `device_hours` and `limit` say how many."""


class CanonicalFormError(GitexpError):
    """A config value without a stable form; `key` is its dotted path."""


class UnbuildableConfigError(GitexpError):
    """A configuration object that a job cannot make again as it was given; `key` is its dotted path."""


class UnportableFunctionError(GitexpError):
    """A function that no job can be given; `function` is its name."""


class RecipeError(GitexpError):
    """A recipe or a configured call that cannot be resolved in the recorded state; `recipe` says which."""


class MissingModuleError(RecipeError):
    """Something to import that the recorded state, or the job's environment, has not; `module` names it."""


class PluginError(GitexpError):
    """A plugin that raised; `plugin` is its class."""


class ExecutorError(GitexpError):
    """An executor that cannot be recorded, or that nothing can be submitted to; `executor` is its class."""


class DocumentError(GitexpError):
    """JSON or YAML text that cannot be accepted."""


class DefinitionError(DocumentError):
    """An `experiment.yaml` with faults; `faults` lists all of them."""


class RecordError(DocumentError):
    """A committed record that is damaged, too large, too new or disagrees with its tree."""

    def _usual_hint(self) -> str:
        return "git fsck; nemo-gitexp log shows the others"


class SettingsError(GitexpError):
    """A setting with a wrong value; `setting` and `source` say which and where."""


class RepositoryError(GitexpError):
    """The repository is in no state to work with."""


class NotARepositoryError(RepositoryError):
    """No git work tree here."""


class GitVersionError(RepositoryError):
    """Git is missing or older than 2.38."""


class IdentityMissingError(RepositoryError):
    """Neither user.name nor user.email is known to git."""


class SnapshotRefusedError(RepositoryError):
    """The work tree holds something that must not be recorded; `paths` names it."""


class RemoteError(RepositoryError):
    """Which remote is meant cannot be told (`remotes` lists them), or it cannot be reached."""


class GitCommandError(RepositoryError):
    """Git itself refused; `stderr` is what it said."""


class UnknownExperimentError(GitexpError):
    """Nothing recorded has this name."""


class AmbiguousExperimentError(GitexpError):
    """Several experiments have this name; `candidates` lists them."""


class DataError(GitexpError):
    """Something about DVC-tracked data."""


class DataPointerError(DataError):
    """A `.dvc` file or `dvc.lock` that cannot be read as one content pin."""


class UntrackedDataError(DataError):
    """An input that DVC does not track."""


class DataDriftError(DataError):
    """Data in the work tree that differs from its pin."""


class MissingDataError(DataError):
    """Content that no cache, remote or stage has; `missing` lists all of it."""


class CorruptDataError(DataError):
    """Content whose hash is not its name."""


class DataRemoteError(DataError):
    """There is no DVC remote, or it cannot be used."""


class UpstreamError(DataError):
    """An output of another experiment that cannot be an input; `experiment` and `why` say which and why."""


class HubError(DataError):
    """The Hugging Face hub did not give what was asked for; `address` names it."""


class HubNotFoundError(HubError):
    """The hub has no such repository, revision or file, or does not show it to everybody."""


class HubAccessError(HubError):
    """The repository is private or gated, and the token in the environment does not open it."""


class HubUnreachableError(HubError):
    """The hub cannot be reached, and its cache on this machine does not have the files."""


class MissingPackageError(GitexpError):
    """An optional package that is not installed; `package` names it."""


class EnvironmentCaptureError(GitexpError):
    """The interpreter that is to run the job cannot be asked."""


class WorkspaceError(GitexpError):
    """The restored state is not the recorded one; `paths` names what differs."""


class LaunchError(GitexpError):
    """The launcher refused, or died before the job started."""


class RemoteHostError(GitexpError):
    """Another machine that cannot be reached, or a program there that failed; `host` says which."""


class SchedulerError(GitexpError):
    """A scheduler, or the way to it, that does not answer: what has become of its jobs is not known now."""


class NotRepeatableError(GitexpError):
    """An experiment whose entry point no command line starts again; `why` says what it ran in, or where it is from."""


class ImportSourceError(GitexpError):
    """Runs of another tool that cannot be read; `source` is where they were looked for."""


class UnknownRunError(ImportSourceError):
    """A run, or a group of runs, that the other tool does not have; `runs` names them."""


class AlreadyFinishedError(GitexpError):
    """The experiment has its result already."""


class SharingError(GitexpError):
    """Experiments that a remote did not get; `refused` says which and why, `pushed` what it did get."""


class ProbeError(GitexpError):
    """A job whose first steps cannot be compared: it fails, or logs no steps."""


class StateDirectoryError(GitexpError):
    """A directory of ours that cannot be written (read-only, full disk)."""

    def _usual_hint(self) -> str:
        path = shlex.quote(str(self.facts.get("path") or "."))
        return f"df -h {path}; ls -ld {path}"
