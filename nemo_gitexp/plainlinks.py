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

_LINKS = Path(".cache", "nemo-gitexp", "runs")


def plain_root(paths: RunPaths) -> Path:
    """Return the path of a run directory, or of a link to it where a shell would not read its own as it stands.

    Raises:
        LaunchError: no such link can be made.
    """
    if _is_plain(paths.root):
        return paths.root
    link = _link_to(paths)
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
            _link_to(paths).unlink()


def drop_dangling_links() -> None:
    """Remove links to run directories that are gone."""
    for link in (Path.home() / _LINKS).glob("*"):
        if link.is_symlink() and not link.exists():
            with suppress(OSError):  # somebody else tidies at the same moment
                link.unlink()


def _link_to(paths: RunPaths) -> Path:
    return Path.home() / _LINKS / paths.run


def _is_plain(path: Path) -> bool:
    return shlex.quote(os.fspath(path)) == os.fspath(path)
