"""Which files git ignores."""

from __future__ import annotations

from collections.abc import Iterable

from nemo_gitexp.errors import GitCommandError
from nemo_gitexp.git.repository import Repository


def find_ignored(repository: Repository, paths: Iterable[str]) -> list[str]:
    """Return those of some paths that git ignores; one that it tracks all the same is not.

    Args:
        repository: whose rules.
        paths: relative to its root, without links on their way, as many as there are; those in a submodule are left
            out, for git cannot say.
    """
    modules = tuple(f"{path}/" for path in _gitlinks(repository))
    # Led by ./ a name that looks like magic of a pathspec is a name.
    listing = "".join(f"./{path}\0" for path in paths if not path.startswith(modules))
    if not listing:
        return []
    try:
        out = repository.run("check-ignore", "-z", "--stdin", stdin=listing.encode("utf-8", "surrogateescape"))
    except GitCommandError as refusal:
        if refusal.facts["exit_code"] != 1:  # 1: none is
            raise
        return []
    return [name.removeprefix("./") for name in out.decode("utf-8", "surrogateescape").split("\0")[:-1]]


def _gitlinks(repository: Repository) -> list[str]:
    lines = repository.run("ls-files", "-s", "-z").split(b"\0")
    return [line.partition(b"\t")[2].decode("utf-8", "surrogateescape") for line in lines if line.startswith(b"160000")]
