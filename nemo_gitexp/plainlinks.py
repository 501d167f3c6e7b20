"""Plain names for run directories: links in the user's home, for paths that a shell would read differently.

NeMo Run puts the paths of its files unquoted into what a shell reads: a space ends them, and what follows a semicolon
is executed (measured with 0.11.1). Nodes that share the home follow the link.
"""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path

from nemo_gitexp.errors import LaunchError
from nemo_gitexp.rundir import RunPaths

_PLACE = Path(".cache", "nemo-gitexp", "runs")


def plain_root(paths: RunPaths) -> Path:
    """Return the path of a run directory, or of a link to it where a shell would not read its own as it stands.

    Raises:
        LaunchError: no such link can be made.
    """
    if _is_plain(paths.root):
        return paths.root
    link = _links() / paths.run
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(paths.root)
        is_there = _is_plain(link) and link.resolve() == paths.root.resolve()
    except OSError:
        is_there = False
    if not is_there:
        raise LaunchError(
            f"NeMo Run puts a path unquoted into what a shell reads: {paths.root}",
            hint="git config gitexp.run-root DIRECTORY, one of letters, digits and -_./",
        )
    return link


def drop_link(paths: RunPaths) -> None:
    """Remove the link to a run directory, if there is one."""
    if not _is_plain(paths.root):
        with suppress(OSError):
            (_links() / paths.run).unlink()


def drop_dangling_links() -> None:
    """Remove links to run directories that are gone."""
    for link in _links().glob("*"):
        if link.is_symlink() and not link.exists():
            with suppress(OSError):  # somebody else tidies at the same moment
                link.unlink()


def _links() -> Path:
    """Return where links lie; of a user without a home a path that is nowhere, at which nothing can be made."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - `Path.home` raises where there is none
    return (home if home.is_absolute() else Path(os.devnull)) / _PLACE


def _is_plain(path: Path) -> bool:
    return shlex.quote(os.fspath(path)) == os.fspath(path)
