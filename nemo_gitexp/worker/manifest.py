"""Compares a workspace with its manifest: every file by mode, size and sha256, and no file that is not named."""

from __future__ import annotations

import hashlib
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, Mapping

    from .shapes import FileState, ManifestRow

CHUNK_BYTES = 1 << 20
LINK = "120000"
UNEXPECTED = "unexpected"


class Verification:
    """What the comparison found: `faults` by path (changed, missing, unexpected, …), `states` of what is there.

    `tolerated` are faults that the run itself is to blame for.
    """

    __slots__ = ("faults", "states", "tolerated")

    def __init__(self) -> None:
        """Start with nothing found."""
        self.faults: dict[str, str] = {}
        self.tolerated: dict[str, str] = {}
        self.states: dict[str, FileState] = {}


def verify_workspace(root: str, rows: Iterable[ManifestRow], is_allowed: Callable[[str], bool]) -> Verification:
    """Compare every file below the root with the manifest.

    Args:
        root: the workspace.
        rows: the manifest.
        is_allowed: whether a relative path may exist without being named.
    """
    expected = {row[0]: row for row in rows}
    found = Verification()
    for path, entry in walk_files(root):
        row = expected.pop(path, None)
        if row is None:
            if not is_allowed(path):
                found.faults[path] = UNEXPECTED
            continue
        status = entry.stat(follow_symlinks=False)
        fault = _fault(entry.path, status, row)
        if fault:
            found.faults[path] = fault
        found.states[path] = (status.st_size, status.st_mtime_ns, status.st_ino)
    found.faults.update((path, "missing") for path in expected)
    return found


def walk_files(root: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (relative path, entry) of everything below the root that is no directory; git's own `.git` is left out.

    A directory that is gone, be it the root, holds nothing: a job may clear away what it likes.
    """
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            directory = os.scandir(os.path.join(root, below))
        except FileNotFoundError:
            continue
        with directory as entries:
            for entry in entries:
                if entry.name == ".git":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{below}{entry.name}/")
                else:
                    yield below + entry.name, entry


def is_compiled(path: str) -> bool:
    """Return whether a file is what Python makes of a source when it imports it."""
    return "__pycache__/" in path or path.endswith(".pyc")


def find_changed(root: str, states: Mapping[str, FileState]) -> list[str]:
    """Return the manifest's files that were touched or deleted since they were verified, sorted."""
    return sorted(path for path, state in states.items() if file_state(os.path.join(root, path)) != state)


def file_state(path: str) -> FileState | None:
    """Return size, mtime and inode of the path itself; None when it is gone."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def tree_states(path: str) -> dict[str, FileState | None]:
    """Return the state of a file (under the empty name) or of every file below a directory; empty when it is gone."""
    path = os.path.realpath(path)
    if os.path.isdir(path):
        return {name: file_state(os.path.join(path, name)) for name, _ in walk_files(path)}
    return {"": file_state(path)} if os.path.lexists(path) else {}


def allowance(exact: Iterable[str], prefixes: Iterable[str]) -> Callable[[str], bool]:
    """Return the test whether a path is one of the exact ones, or one of the prefixes or below it."""
    named = set(exact)
    bare = [prefix.rstrip("/") for prefix in prefixes]
    named.update(bare)
    heads = tuple(f"{prefix}/" for prefix in bare)
    return lambda path: path in named or path.startswith(heads)


def _fault(path: str, status: os.stat_result, row: ManifestRow) -> str | None:
    _, mode, size, sha256 = row
    if stat.S_ISLNK(status.st_mode):
        if mode != LINK:
            return "is a link"
        return None if hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest() == sha256 else "changed"
    if mode == LINK or not stat.S_ISREG(status.st_mode):
        return "is another kind of file"
    if status.st_size != size:
        return "changed"
    if bool(status.st_mode & 0o100) != (mode == "100755"):
        return "has another mode"
    return None if file_sha256(path) == sha256 else "changed"


def file_sha256(path: str) -> str | None:
    """Return the sha256 of the file's bytes in hex; None when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    digest = hashlib.sha256()
    try:
        while True:
            chunk = os.read(descriptor, CHUNK_BYTES)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)
    except OSError:
        return None
    finally:
        os.close(descriptor)
