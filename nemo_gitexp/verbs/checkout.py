"""`checkout`: the exact state of an experiment as a directory to work in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.catalog import Site, find_current
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import NotRepeatableError, StateDirectoryError
from nemo_gitexp.git.worktree import unlock_worktree
from nemo_gitexp.store import Experiment, verify_experiment
from nemo_gitexp.workspace import restore


@dataclass(frozen=True, slots=True)
class CheckoutAnswer:
    """Where the state lies now."""

    document: ExperimentDoc
    directory: Path


def checkout(site: Site, text: str, directory: Path, progress: Callable[[str], None]) -> CheckoutAnswer:
    """Make a directory with exactly the state of an experiment: a linked worktree, its data as copies.

    Raises:
        StateDirectoryError: the directory exists and is not empty.
        NotRepeatableError: it was imported, and its code is not known.
        GitexpError: the state cannot be restored.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise StateDirectoryError(f"{directory} is there already", hint="choose a new directory", path=str(directory))
    found = find_current(site, text)
    experiment = found.experiment
    verify_experiment(site.repository, experiment)
    _require_code(experiment)
    # People edit what they check out: a hard link would carry the edit into the shared cache.
    restore(
        site.repository,
        experiment.sha,
        experiment.record,
        directory,
        copy_data=True,
        progress=progress,
    )
    unlock_worktree(site.repository, directory)
    return CheckoutAnswer(found.document, directory)


def _require_code(experiment: Experiment) -> None:
    imported = experiment.record.imported
    if imported is not None and not imported.knows_code:
        raise NotRepeatableError(
            f"nobody knows the code of {experiment.sha[:12]}: {imported.title} names no commit that is here",
            hint=f"nemo-gitexp show {experiment.sha[:12]}",
            experiment=experiment.sha,
            why="its code is not known",
        )
