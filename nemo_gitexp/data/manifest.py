"""Data too large to hash: pinned by names, sizes, modification times and the hashes of small index files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from nemo_gitexp.data.listing import walk_files
from nemo_gitexp.data.pins import InputPin, normal_path
from nemo_gitexp.data.verified import hash_file
from nemo_gitexp.errors import UntrackedDataError
from nemo_gitexp.jsontext import JsonValue, render_json_line

_INDEX_SUFFIXES: Final = frozenset({".idx", ".index"})
_INDEX_AT_MOST_BYTES: Final = 64 << 20


def manifest_pin(root: Path, path: str) -> InputPin:
    """Return the manifest pin of a file or directory below `root`; its strength is manifest.

    Index files (`*.idx`, `*.index`, `*index*.json`, `*manifest*.json*` up to 64 MB) are hashed: they decide which
    records of the large files are read. Of the large ones only name, size and modification time count.

    Raises:
        UntrackedDataError: nothing is there.
    """
    path = normal_path(path)
    place = root / path
    if place.is_dir():
        rows = [_row(place / name, name) for name in walk_files(place)]
    elif place.is_file():
        rows = [_row(place, place.name)]
    else:
        raise UntrackedDataError(f"{path} does not exist", hint=f"bring {path} here", path=path)
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda row: str(row[0])):
        digest.update(render_json_line(row))
    sizes = [row[1] for row in rows]
    total = sum(size for size in sizes if isinstance(size, int))
    return InputPin(path, f"sha256:{digest.hexdigest()}", total, len(rows), strength="manifest")


def _row(place: Path, name: str) -> list[JsonValue]:
    try:
        status = place.stat()
    except OSError:  # a dangling link is content too: where it points
        return [name, None, None, os.readlink(place)]  # noqa: PTH115 - the text itself
    return [name, status.st_size, status.st_mtime_ns, hash_file(place) if _is_index(name, status.st_size) else None]


def _is_index(name: str, size_bytes: int) -> bool:
    lower = Path(name).name.lower()
    is_listing = ("index" in lower or "manifest" in lower) and ".json" in lower
    return size_bytes <= _INDEX_AT_MOST_BYTES and (is_listing or Path(lower).suffix in _INDEX_SUFFIXES)
