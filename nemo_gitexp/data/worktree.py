"""Whether the user's work tree holds what its pins say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias

from nemo_gitexp.data.listing import Entries, hash_bytes, hash_tree, render_entries
from nemo_gitexp.data.manifest import read_manifest
from nemo_gitexp.data.pins import Reader
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.errors import UntrackedDataError
from nemo_gitexp.inputpin import InputPin

DataState: TypeAlias = Literal["match", "absent", "differs"]


def worktree_state(root: Path, pin: InputPin, verified: VerifiedFiles) -> DataState:
    """Return whether the content below `root` is the pinned one, absent (not checked out), or another.

    Raises:
        OSError: it cannot be read.
    """
    place = root / pin.path
    if not os.path.lexists(place):
        return "absent"
    if pin.strength == "manifest":
        return _manifest_state(root, pin)
    if place.is_dir() != pin.is_dir or not place.exists():
        return "differs"
    if not pin.is_dir:
        same_size = pin.size_bytes is None or place.stat().st_size == pin.size_bytes
        return "match" if same_size and verified.md5(place) == pin.pin else "differs"
    found, entries = hash_tree(place, verified)
    if found == pin.pin or _without_ignored(root, pin, entries) == pin.pin:
        return "match"
    return "differs"


def worktree_reader(root: Path) -> Reader:
    """Return a reader of the files below a directory, as `find_pin` wants it."""

    def read(path: str) -> bytes | None:
        try:
            return (root / path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    return read


def _manifest_state(root: Path, pin: InputPin) -> DataState:
    try:
        return "match" if read_manifest(root, pin.path).digest == pin.pin else "differs"
    except UntrackedDataError:
        return "absent"


def _without_ignored(root: Path, pin: InputPin, entries: Entries) -> str | None:
    """Return the directory's hash without what `.dvcignore` leaves out; None where no such file could matter."""
    if not any((folder / ".dvcignore").is_file() for folder in (root / pin.path, *(root / pin.path).parents)):
        return None
    from dvc.fs import localfs  # 350 ms, only for a suspected change
    from dvc.ignore import DvcIgnoreFilter

    ignores = DvcIgnoreFilter(localfs, str(root))
    kept = tuple((path, md5) for path, md5 in entries if not ignores.is_ignored_file(str(root / pin.path / path)))
    return f"{hash_bytes(render_entries(kept))}.dir"
