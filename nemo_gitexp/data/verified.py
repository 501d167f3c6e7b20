"""Which files were hashed before: a memory that may be lost at any time, never a truth of its own.

A file is recognised by device, inode, modification time and size. The change time is left out: linking changes it.
A file whose modification time was set back by hand is not noticed; the alternative is hashing it on every run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

RACY_NS: Final = 2_000_000_000
"""A file younger than this when it was hashed may change again within its timestamp's resolution (git's racy rule)."""

_CHUNK_BYTES: Final = 1 << 20
_POOL_FROM: Final = 4
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS verified (device INTEGER, inode INTEGER, mtime_ns INTEGER, size INTEGER, md5 TEXT,"
    " PRIMARY KEY (device, inode)) WITHOUT ROWID"
)


def hash_file(path: Path) -> str:
    """Return the md5 of a file's bytes, 32 lower-case hex."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class VerifiedFiles:
    """Remembers md5 sums of files across processes, in one SQLite file.

    Use it as a context manager, or call `flush`: what was learned is written in one transaction.
    A file that cannot be opened, written or understood costs speed, never an answer.
    """

    def __init__(self, path: Path | None) -> None:
        """Remember in `path`, or only within this object when None."""
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._opened = False
        self._fresh: dict[tuple[int, int], tuple[int, int, str]] = {}

    def md5(self, path: Path) -> str:
        """Return the md5 of a file, hashing it unless it is known and unchanged.

        Raises:
            OSError: it cannot be read.
        """
        return self.md5s((path,))[0]

    def md5s(self, paths: Sequence[Path], *, announce: Callable[[int], None] | None = None) -> list[str]:
        """Return the md5 of each file, hashing the unknown ones on all cores.

        Args:
            paths: the files.
            announce: told how many bytes are going to be read, before they are.

        Raises:
            OSError: one of them cannot be read.
        """
        states = [path.stat() for path in paths]
        known = [self.known(state) for state in states]
        unknown = [number for number, md5 in enumerate(known) if md5 is None]
        if unknown and announce is not None:
            announce(sum(states[number].st_size for number in unknown))
        sums = ["" if md5 is None else md5 for md5 in known]
        for number, (md5, status) in zip(unknown, _hash_all([paths[number] for number in unknown]), strict=True):
            self._learn(status, md5)
            sums[number] = md5
        return sums

    def known(self, status: os.stat_result) -> str | None:
        """Return the md5 of the file with this status, None when it was not hashed or has changed since."""
        key = (status.st_dev, _signed(status.st_ino))
        row = self._fresh.get(key) or self._stored(key)
        if row is None or row[:2] != (status.st_mtime_ns, status.st_size):
            return None
        return row[2]

    def flush(self) -> None:
        """Write what was learned."""
        connection = self._open() if self._fresh else None
        if connection is None:
            return
        rows = [(*key, *row) for key, row in self._fresh.items()]
        with contextlib.suppress(sqlite3.Error):
            with connection:
                connection.executemany("INSERT OR REPLACE INTO verified VALUES (?, ?, ?, ?, ?)", rows)
            self._fresh.clear()

    def close(self) -> None:
        """Write what was learned and let go of the file."""
        self.flush()
        if self._connection is not None:
            self._connection.close()
        self._connection, self._opened = None, False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, also after a fault: what was hashed stays hashed."""
        self.close()

    def _learn(self, status: os.stat_result | None, md5: str) -> None:
        if status is not None and time.time_ns() - status.st_mtime_ns > RACY_NS:
            self._fresh[status.st_dev, _signed(status.st_ino)] = (status.st_mtime_ns, status.st_size, md5)

    def _stored(self, key: tuple[int, int]) -> tuple[int, int, str] | None:
        connection = self._open()
        if connection is None:
            return None
        query = "SELECT mtime_ns, size, md5 FROM verified WHERE device = ? AND inode = ?"
        try:
            row: tuple[int, int, str] | None = connection.execute(query, key).fetchone()
        except sqlite3.Error:
            return None
        return row

    def _open(self) -> sqlite3.Connection | None:
        if not self._opened:
            self._opened = True
            self._connection = _connect(self._path)
        return self._connection


def _connect(path: Path | None) -> sqlite3.Connection | None:
    if path is None:
        return None
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=5.0)
            connection.execute(_SCHEMA)
        except sqlite3.DatabaseError as fault:
            # A damaged file is thrown away; a locked or unwritable one is left alone.
            if isinstance(fault, sqlite3.OperationalError):
                return None
            path.unlink(missing_ok=True)
        except OSError:
            return None
        else:
            return connection
    return None


def _hash_all(paths: Sequence[Path]) -> list[tuple[str, os.stat_result | None]]:
    if len(paths) < _POOL_FROM:
        return [_hash_stable(path) for path in paths]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_hash_stable, paths))


def _hash_stable(path: Path) -> tuple[str, os.stat_result | None]:
    """Return the md5, and the status it belongs to: None when the file changed meanwhile."""
    before = path.stat()
    md5 = hash_file(path)
    after = path.stat()
    return md5, after if _stamp(before) == _stamp(after) else None


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _signed(inode: int) -> int:
    """SQLite integers are signed 64-bit, inode numbers of some network file systems are not."""
    return inode - (1 << 64) if inode >= 1 << 63 else inode
