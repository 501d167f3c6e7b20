"""Data too large to hash: pinned by names, sizes, modification times and the hashes of small index files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nemo_gitexp.data.pins import normal_path
from nemo_gitexp.data.verified import hash_file
from nemo_gitexp.errors import DataDriftError, DataError, DocumentError, UntrackedDataError
from nemo_gitexp.inputpin import InputPin
from nemo_gitexp.jsontext import JsonValue, parse_json, render_json_line
from nemo_gitexp.owners import owner_token

_INDEX_SUFFIXES: Final = frozenset({".idx", ".index"})
_INDEX_AT_MOST_BYTES: Final = 64 << 20
LISTING_DAYS: Final = 90
"""A listing that nobody needed for that long goes: all that is lost is which files changed since."""

_NOT_DATA: Final = frozenset({".git", ".hg", ".dvc"})
_READABLE: Final = os.R_OK
_EFFECTIVELY: Final = os.access in os.supports_effective_ids


@dataclass(frozen=True, slots=True)
class Row:
    """One file: `index` is the md5 of an index file; of a dangling link (no size, no time) where it points."""

    name: str
    size_bytes: int | None
    mtime_ns: int | None
    index: str | None

    def to_json(self) -> JsonValue:
        """Return the row as the digest has it."""
        return [self.name, self.size_bytes, self.mtime_ns, self.index]


@dataclass(frozen=True, slots=True)
class Change:
    """How one file differs from a listing: its state there and here, None where it is not; `words` for people."""

    name: str
    recorded: str | None
    here: str | None
    words: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The listing of a file or directory, sorted by name."""

    path: str
    is_dir: bool
    rows: tuple[Row, ...]

    @property
    def listing(self) -> bytes:
        """One JSON line a file."""
        return b"".join(render_json_line(row.to_json()) for row in self.rows)

    @property
    def digest(self) -> str:
        """`sha256:…` of the listing."""
        return f"sha256:{hashlib.sha256(self.listing).hexdigest()}"

    @property
    def pin(self) -> InputPin:
        """The pin; its strength is manifest."""
        total = sum(row.size_bytes or 0 for row in self.rows)
        return InputPin(self.path, self.digest, total, len(self.rows), strength="manifest")

    def changes_since(self, listing: bytes | None) -> tuple[Change, ...]:
        """Return what differs from an earlier listing, by name; nothing where that is not known any more."""
        if listing is None:
            return ()
        before = {row.name: row for row in _parse_listing(listing)}
        now = {row.name: row for row in self.rows}
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        return tuple(_change(name, before.get(name), now.get(name)) for name in names)


def read_manifest(root: Path, path: str) -> Manifest:
    """Return the listing of a file or directory below `root`. Of large files no byte is read.

    Index files (`*.idx`, `*.index`, `*index*.json`, `*manifest*.json*` up to 64 MB) are hashed: they decide which
    records of the large files are read. Of the others only name, size and modification time count. Links are followed,
    as a job follows them.

    Raises:
        UntrackedDataError: nothing is there, or an empty directory, which is what a missing mount looks like.
        DataDriftError: files vanish while they are listed.
        DataError: something cannot be read.
    """
    path = normal_path(path)
    place = root / path
    try:
        if place.is_dir():
            rows = [_row(file, name) for name, file in _walk(str(place))]
        elif place.exists():
            rows = [_row(str(place), place.name)]
        else:
            raise UntrackedDataError(f"{path} does not exist", hint=f"bring {path} here", path=path)
    except FileNotFoundError as fault:
        said = f"{path} changes while it is listed: {fault.filename} is gone"
        raise DataDriftError(said, hint="run again when nobody writes there", path=path, paths=[path]) from fault
    except OSError as fault:
        said = f"{path} cannot be listed: {fault.filename}: {fault.strerror}"
        raise DataError(said, hint=f"ls -ld {fault.filename}", path=path) from fault
    if not rows:
        raise UntrackedDataError(f"{path} is an empty directory", hint=f"is it mounted? ls -ld {path}", path=path)
    return Manifest(path, place.is_dir(), tuple(sorted(rows, key=lambda row: row.name)))


def listings_below(state_dir: Path) -> Path:
    """Return where a machine remembers what manifests held; `state_dir` is what is ours below the git directory."""
    return state_dir / "manifests"


def keep_listing(folder: Path, manifest: Manifest) -> None:
    """Remember what a manifest holds: a later refusal can then say which files changed. May be lost at any time."""
    target = _listing_path(folder, manifest.digest)
    beside = target.with_name(f".{owner_token()}.{target.name}")
    with contextlib.suppress(OSError):
        if target.exists():
            os.utime(target)  # still needed: see `drop_old_listings`
        else:
            folder.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(manifest.listing)
            beside.replace(target)


def drop_old_listings(folder: Path, now_s: float) -> None:
    """Forget the listings of pins that were not looked at for `LISTING_DAYS` days."""
    for path in folder.glob("*.jsonl"):
        with contextlib.suppress(OSError):  # somebody else tidies at the same moment
            if not path.name.startswith(".") and now_s - path.stat().st_mtime > LISTING_DAYS * 86400:
                path.unlink()


def find_listing(folder: Path | None, pin: str) -> bytes | None:
    """Return the remembered listing of a pin, None where it is not known or damaged."""
    if folder is None:
        return None
    path = _listing_path(folder, pin)
    try:
        listing = path.read_bytes()
    except OSError:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return listing if f"sha256:{hashlib.sha256(listing).hexdigest()}" == pin else None


def _listing_path(folder: Path, pin: str) -> Path:
    return folder / f"{pin.removeprefix('sha256:')}.jsonl"


def _walk(top: str) -> Iterator[tuple[str, str]]:
    """Yield (name below the top, path) of every file; links to directories are followed, but not in circles.

    Raises:
        OSError: a directory cannot be read, or vanishes.
    """
    pending: list[tuple[str, str, frozenset[tuple[int, int]]]] = [("", top, frozenset())]
    while pending:
        below, folder, above = pending.pop()
        status = os.stat(folder)  # noqa: PTH116 - 10,000 times; a Path each is measurable
        own = (status.st_dev, status.st_ino)
        if own in above:
            raise OSError(0, "a link leads back to a directory above it", folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir():
                    yield below + entry.name, entry.path
                elif entry.name not in _NOT_DATA:
                    pending.append((f"{below}{entry.name}/", entry.path, above | {own}))


def _row(path: str, name: str) -> Row:
    try:
        status = os.stat(path)  # noqa: PTH116 - as above
    except FileNotFoundError:  # a dangling link is content too: where it points
        if not os.path.islink(path):  # noqa: PTH114 - as above
            raise
        return Row(name, None, None, os.readlink(path))  # noqa: PTH115 - the text itself
    if not os.access(path, _READABLE, effective_ids=_EFFECTIVELY):
        raise PermissionError(13, "no permission to read it", path)
    index = hash_file(Path(path)) if _is_index(name, status.st_size) else None
    return Row(name, status.st_size, status.st_mtime_ns, index)


def _is_index(name: str, size_bytes: int) -> bool:
    lower = name.rpartition("/")[2].lower()
    is_listing = ("index" in lower or "manifest" in lower) and ".json" in lower
    return size_bytes <= _INDEX_AT_MOST_BYTES and (is_listing or Path(lower).suffix in _INDEX_SUFFIXES)


def _parse_listing(listing: bytes) -> Sequence[Row]:
    rows = []
    for line in listing.splitlines():
        try:
            row = parse_json(line, "a listing")
        except DocumentError:
            continue
        if isinstance(row, list) and len(row) == 4:
            name, size, mtime, index = row
            rows.append(Row(str(name), _number(size), _number(mtime), index if isinstance(index, str) else None))
    return rows


def _number(value: JsonValue) -> int | None:
    return value if isinstance(value, int) else None


def _change(name: str, before: Row | None, now: Row | None) -> Change:
    if before is None or now is None:
        words = "new" if before is None else "gone"
    elif before.size_bytes != now.size_bytes:
        words = f"{before.size_bytes} -> {now.size_bytes} bytes"
    else:
        words = "another modification time" if before.mtime_ns != now.mtime_ns else "another content"
    return Change(name, None if before is None else _state(before), None if now is None else _state(now), words)


def _state(row: Row) -> str:
    return render_json_line([row.size_bytes, row.mtime_ns, row.index]).decode().strip()
