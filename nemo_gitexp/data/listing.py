"""Directories as DVC hashes them: a JSON list of their files, whose md5 with `.dir` is the directory's."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.errors import CorruptDataError

Entries: TypeAlias = "tuple[tuple[str, str], ...]"
"""The files of a directory object: (POSIX path below it, md5), sorted by path."""

_MD5: Final = re.compile(r"[0-9a-f]{32}")


def hash_bytes(content: bytes) -> str:
    """Return the md5 of bytes, 32 lower-case hex."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def render_entries(entries: Entries) -> bytes:
    """Return the bytes of a directory object exactly as DVC writes them: its hash depends on them.

    Source: `dvc_data.hashfile.tree.Tree.as_bytes`.
    """
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(entries)]
    return json.dumps(listing, sort_keys=True).encode()


def parse_entries(content: bytes, source: str) -> Entries:
    """Return the files a directory object lists.

    Raises:
        CorruptDataError: no such listing, or a path that leaves the directory.
    """
    try:
        listing = json.loads(content)
        entries = tuple((str(entry["relpath"]), str(entry["md5"])) for entry in listing)
    except (ValueError, KeyError, TypeError) as fault:
        raise CorruptDataError(f"{source} is no listing of a directory", path=source) from fault
    for path, md5 in entries:
        if not _stays_inside(path) or not _MD5.fullmatch(md5):
            raise CorruptDataError(f"{source} lists a file that cannot be: {path!r}", path=source)
    return tuple(sorted(entries))


def hash_tree(folder: Path, verified: VerifiedFiles) -> tuple[str, Entries]:
    """Return the md5 (ending in `.dir`) and the files of a directory as DVC would track it."""
    paths = list(walk_files(folder))
    sums = verified.md5s([folder / path for path in paths])
    entries = tuple(sorted(zip(paths, sums, strict=True)))
    return f"{hash_bytes(render_entries(entries))}.dir", entries


def walk_files(folder: Path) -> Iterator[str]:
    """Yield the files below a directory, POSIX, relative to it, sorted within each directory."""
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in {".git", ".hg", ".dvc"})
        inner = Path(base).relative_to(folder)
        yield from ((inner / name).as_posix() for name in sorted(names))


def _stays_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts and "\0" not in path
