"""What files that go through git filters hold on disk: recorded with an experiment, required where it is restored.

A clone without the filter (no `git lfs install`) holds the filtered form, and git calls it clean.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from nemo_gitexp.errors import WorkspaceError
from nemo_gitexp.git.filters import find_filtered
from nemo_gitexp.git.objects import list_files
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.record import FilteredFiles


def look_at_filtered(
    repository: Repository, root: Path, listing: bytes, submodules: Iterable[tuple[str, str]]
) -> FilteredFiles | None:
    """Return what the filtered files of a work tree hold, None when no file has a filter.

    Args:
        repository: whose work tree.
        root: its directory.
        listing: its files, from `list_files`.
        submodules: its populated submodules and their commits.
    """
    found = find_filtered(repository, root, listing)
    found = {path: driver for path, driver in found.items() if not _RECORDS.match(path)}
    for place, commit in submodules:
        inner = list_files(repository, commit, cwd=root / place)
        named = find_filtered(repository, root / place, inner)
        found.update((f"{place}/{path}", driver) for path, driver in named.items())
    if not found:
        return None
    return FilteredFiles(tuple(sorted({*found.values()})), len(found), _digest(repository, root, sorted(found)))


def require_filtered(recorded: FilteredFiles | None, found: FilteredFiles | None) -> None:
    """Check that the filtered files of a restored state are those that were recorded.

    Raises:
        WorkspaceError: another filter, or none, was at work.
    """
    before, now = recorded or _NONE, found or _NONE
    is_known = before.md5 is not None
    if (before.drivers, before.n_files) == (now.drivers, now.n_files) and (not is_known or before.md5 == now.md5):
        return
    drivers = ", ".join(dict.fromkeys((*before.drivers, *now.drivers)))
    raise WorkspaceError(
        f"files that go through the git filter {drivers} do not hold what they held when the experiment was recorded",
        hint="git lfs install && git lfs pull"
        if "lfs" in (*before.drivers, *now.drivers)
        else f"configure filter.{drivers}.smudge as it was there: git config --get-regexp '^filter'",
        filters=[*before.drivers],
    )


_RECORDS = re.compile(r"experiments/[^/]+/record/")
"""What the machine writes is in the commits alone, and differs between the work tree and an experiment's commit."""

_NONE = FilteredFiles((), 0, None)


def _digest(repository: Repository, root: Path, paths: list[str]) -> str | None:
    """Return the md5 over `<md5>  <path>` lines; None when one is not there (a sparse work tree)."""
    from nemo_gitexp.data.verified import VerifiedFiles  # most repositories have no filter

    with VerifiedFiles(repository.state_dir / "verified.db") as verified:
        try:
            sums = verified.md5s([root / path for path in paths])
        except OSError:
            return None
    lines = "".join(f"{md5}  {path}\n" for md5, path in zip(sums, paths, strict=True))
    return hashlib.md5(lines.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
