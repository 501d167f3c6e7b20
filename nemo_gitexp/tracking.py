"""`track`: the experiment of a program that nemo-gitexp did not launch, as a block of that program."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from nemo_gitexp.errors import AlreadyFinishedError, GitexpError, UsageError
from nemo_gitexp.metriclog import is_first_rank
from nemo_gitexp.session import Said, Session, Told, ending_of, tell


def track(  # noqa: PLR0913 - as much as there is to say
    study: str,
    *,
    config: object = None,
    seed: int | None = None,
    determinism: str | None = None,
    determinism_reason: str | None = None,
    purpose: str | None = None,
    expected: str | None = None,
    model: str | None = None,
    dataset: str | None = None,
    data: Sequence[str | os.PathLike[str]] | None = None,
    notebook: str | os.PathLike[str] | None = None,
    repository: str | os.PathLike[str] | None = None,
) -> Block:
    """Record what a block of this program does as an experiment.

        with gitexp.track("digits", config=cfg, seed=1) as exp:
            exp.log({"loss": loss}, step=step)

    The code is the work tree as it is when the block begins; the result is recorded when the block is left, as
    completed, failed (any exception, which goes on unchanged) or cancelled (Ctrl-C, SIGTERM). Where the study has an
    `experiments/<study>/experiment.yaml`, what is not said here comes from there. Inside a job of nemo-gitexp nothing
    new is recorded: the block writes into the job's own result.

    Side effects, when the block begins: this process is seeded (`ReproducibilityManager.set_seed`), commits and refs
    are made; a SIGTERM that nobody else handles ends the block.

    Args:
        study: what it belongs to; slugged.
        config: its configuration: a mapping, dataclass, `run.Config`, … (what `config_hash` takes).
        seed: a whole number from 0; None: `config["seed"]`, else the definition's, else 42, which is recorded as the
            default.
        determinism: off (nothing is seeded; needs `determinism_reason`), seeded or bitwise; None: the definition's,
            else seeded.
        determinism_reason: why off.
        purpose: one sentence: why does this experiment exist?
        expected: what would surprise you?
        model: stands in its name.
        dataset: stands in its name.
        data: inputs that DVC tracks, relative to the root of the repository or absolute.
        notebook: the notebook that runs, where it cannot be found.
        repository: a directory of the repository; None: the one that holds the working directory, else the
            script or the notebook.

    Raises:
        UsageError, InvalidNameError, CanonicalFormError: at once, for what is said wrongly.
        ConflictingConfigError: at once, for a configuration that names another seed.
        GitexpError: when the block begins: NotARepositoryError, SnapshotRefusedError, IdentityMissingError,
            NotebookError, UntrackedDataError, StateDirectoryError, …; nothing is recorded then.
    """
    if isinstance(data, str):
        raise UsageError("data is a list of paths", hint=f"data=[{data!r}]")
    said = Said(
        determinism=determinism,
        determinism_reason=determinism_reason,
        purpose=purpose,
        expected=expected,
        model=model,
        dataset=dataset,
        data=None if data is None else tuple(os.fspath(path) for path in data),
        notebook=None if notebook is None else os.fspath(notebook),
        repository=None if repository is None else Path(repository),
    )
    return Block(tell(study, config, seed, said))


def begin(told: Told) -> Session:
    """Begin an experiment: in git, in the job around this process, or, in other ranks than the first, nowhere.

    Raises:
        GitexpError: it cannot be recorded; nothing of it is left then.
    """
    run_dir = os.environ.get("GITEXP_RUN_DIR")
    if run_dir is None and is_first_rank():
        from nemo_gitexp.livesession import begin_live

        return begin_live(told)
    if run_dir is None:
        from nemo_gitexp.livesession import begin_apart

        return begin_apart(told)
    from nemo_gitexp.jobsession import begin_in_job

    return begin_in_job(told, Path(run_dir))


class Block:
    """What `track` returns: entered once, it gives the running experiment."""

    def __init__(self, told: Told) -> None:
        """Keep what was said until the block begins."""
        self._told = told
        self._session: Session | None = None

    def __enter__(self) -> Session:
        """Begin the experiment.

        Raises:
            UsageError: it was begun before.
            GitexpError: it cannot be recorded.
        """
        if self._session is not None:
            raise UsageError("this block was entered before", hint="with track(…) as exp: each time anew")
        self._session = begin(self._told)
        return self._session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the experiment; what went wrong in the block goes on as it is.

        Raises:
            StateDirectoryError: nothing went wrong in the block, and its result cannot be written.
        """
        del kind, trace
        session = self._session
        if session is None or os.getpid() != session.pid or session.status != "running":
            return
        try:
            session.end(ending_of(error))
        except AlreadyFinishedError:  # it did not stop when it was asked to, and was ended for that meanwhile
            return
        except (GitexpError, OSError) as fault:
            if error is None:
                raise
            said = f"the result of {session.name} could not be recorded: {fault}"
            with contextlib.suppress(Exception):
                error.add_note(f"{said}\nwhen that is mended: nemo-gitexp collect")
