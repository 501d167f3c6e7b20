"""A cache of listed experiments as JSON, by commit and ref; it may be deleted at any time.

What is cached is the text that `log --json` prints, with the standing that it shows: while nothing has changed, a
listing neither reads nor writes JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias, cast
from zlib import crc32

from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import RecordError
from nemo_gitexp.standing import Standing, stand

TABLE = "entries_5"
"""Its number changes with the columns and with what a document says."""

MOST_MARKS = 200
"""SQLite takes a limited number of parameters (999 in old builds); a longer selection reads all rows."""

Reader: TypeAlias = Callable[[Sequence[str]], Mapping[str, ExperimentDoc | RecordError]]


class Entry:
    """One experiment of a listing: its document, as text until somebody looks into it.

    Args:
        document: as its commits tell, or a text of it with some standing filled in.
        standing: how it stands now.
    """

    __slots__ = ("_document", "_text", "standing")

    def __init__(self, document: ExperimentDoc | None, standing: Standing, text: bytes | None = None) -> None:
        """Start with either form."""
        self.standing = standing
        self._text = text
        self._document = None if document is None else stand(document, standing)

    @property
    def document(self) -> ExperimentDoc:
        """The document."""
        if self._document is None:
            self._document = cast("ExperimentDoc", json.loads(self._text or b"null"))
        return self._document

    @property
    def text(self) -> bytes:
        """The document on one line, UTF-8."""
        if self._text is None:
            # A lone surrogate stands for a byte that is no UTF-8; its escape is what JSON has for it.
            self._text = json.dumps(self._document, ensure_ascii=False).encode("utf-8", "backslashreplace")
        return self._text


def list_documents(path: Path, standings: Mapping[str, Standing], read: Reader) -> dict[str, Entry | RecordError]:
    """Return experiments by key, from the cache where it has them.

    Args:
        path: the cache.
        standings: how each experiment stands now, by a key that says which commit of which ref it is.
        read: returns the documents of some keys as their commits tell, or why they cannot be read.

    Side effects: what was read, and what stands otherwise than before, is put into the cache.
    """
    found: dict[str, Entry | RecordError] = {}
    news: dict[str, Entry] = {}
    for key, stood, text in _read_rows(path, standings):
        standing = standings[key]
        at_rest = standing if standing.is_at_rest else standing.at_rest()
        if stood == str(at_rest):
            found[key] = Entry(None, standing, text) if standing.is_at_rest else Entry(_parsed(text), standing)
        else:
            document = _parsed(text)
            found[key], news[key] = Entry(document, standing), Entry(document, at_rest)
    missing = [key for key in standings if key not in found]
    for key, item in read(missing).items() if missing else ():
        if isinstance(item, RecordError):
            found[key] = item
        else:
            found[key], news[key] = Entry(item, standings[key]), Entry(item, standings[key].at_rest())
    if news:
        _write_rows(path, news)
    return found


def _parsed(text: bytes) -> ExperimentDoc:
    return cast("ExperimentDoc", json.loads(text))


def _write_rows(path: Path, entries: Mapping[str, Entry]) -> None:
    import sqlite3

    rows = [(key, str(entry.standing), crc32(entry.text), entry.text) for key, entry in entries.items()]
    layout = "key TEXT PRIMARY KEY, standing TEXT, crc INT, document BLOB"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=1)) as database, database:
            database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} ({layout})")
            database.executemany(f"INSERT OR REPLACE INTO {TABLE} VALUES (?, ?, ?, ?)", rows)  # noqa: S608
    except (sqlite3.OperationalError, OSError):
        # A cache that cannot be written (read-only, full disk, in use) costs time, never an answer.
        return
    except sqlite3.DatabaseError:  # damaged: the next listing makes a new one
        path.unlink(missing_ok=True)


def _read_rows(path: Path, keys: Collection[str]) -> list[tuple[str, str, bytes]]:
    """Return (key, standing, text) of the keys that are there; what is damaged is not."""
    if not path.exists():
        return []
    import sqlite3  # 2 ms, for those who list

    query = f"SELECT key, standing, crc, document FROM {TABLE}"  # noqa: S608 - our own words
    some = list(keys) if len(keys) <= MOST_MARKS else []
    if some:
        query += f" WHERE key IN ({','.join('?' * len(some))})"
    try:
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute(query, some).fetchall()
    except sqlite3.Error:
        return []
    return [
        (key, stood, text)
        for key, stood, crc, text in rows
        if key in keys and isinstance(text, bytes) and crc32(text) == crc
    ]
