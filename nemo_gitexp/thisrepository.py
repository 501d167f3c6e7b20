"""The repository that this program works in, for whoever is not told one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from nemo_gitexp.errors import NotARepositoryError
from nemo_gitexp.git.repository import Repository, open_repository
from nemo_gitexp.notebooks import find_shell, is_kernel, look_at_kernel


def find_repository(given: Path | None = None) -> Repository:
    """Return the repository to record in: the one named, else of the working directory, of the script, of the notebook.

    Raises:
        NotARepositoryError: none of them lies in one.
    """
    if given is not None:
        return open_repository(given)
    first: NotARepositoryError | None = None
    for directory in _directories():
        try:
            return open_repository(directory)
        except NotARepositoryError as fault:
            first = first or fault
    raise first or NotARepositoryError("the working directory was removed", hint="cd to the repository")


def main_file() -> Path | None:
    """Return the script that runs, None where there is none."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file) if isinstance(file, str) and file.startswith("/") else None


def _directories() -> Iterator[Path]:
    """Give the directories that may lie in it: the present one, the script's, the one that the kernel started in."""
    with contextlib.suppress(FileNotFoundError):
        yield Path.cwd()
    script = main_file()
    # A console script says nothing: its repository would be the one that happens to hold the environment.
    if script is not None and script.parent.is_dir() and not script.is_relative_to(sys.prefix):
        yield script.parent
    shell = find_shell()
    if shell is not None and is_kernel(shell):
        yield look_at_kernel(shell).directory
