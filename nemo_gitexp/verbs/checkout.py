"""`checkout`: the exact state of an experiment as a directory to work in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.catalog import Site, find_current
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import StateDirectoryError
from nemo_gitexp.git.worktree import unlock_worktree
from nemo_gitexp.store import verify_experiment
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
        GitexpError: the state cannot be restored.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise StateDirectoryError(f"{directory} is there already", hint="choose a new directory", path=str(directory))
    found = find_current(site, text)
    experiment = found.experiment
    verify_experiment(site.repository, experiment)
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
