"""Where another tool's store lies: what is read, and what a record says about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from nemo_gitexp.errors import ImportSourceError, UnknownRunError
from nemo_gitexp.keypath import find_nearest
from nemo_gitexp.worker.publicurl import public_text, public_url


def require_place(place: Path, tool: str) -> Path:
    """Return the path of a store.

    Raises:
        ImportSourceError: nothing is there.
    """
    if not place.exists():
        raise ImportSourceError(f"there is no {place}", hint=f"nemo-gitexp import {tool} --help", source=str(place))
    return place


def recorded_place(place: Path, root: Path) -> str:
    """Return how a record names a store: relative to the repository, else by its last name: paths are private."""
    whole = place.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else whole.name


def is_url(text: str) -> bool:
    """Return whether a word names a server."""
    return text.startswith(("http://", "https://"))


def shown_url(text: str) -> str:
    """Return a server's address as records and messages name it."""
    return public_url(text).rstrip("/")


def shown_words(text: str, url: str) -> str:
    """Return what a library says of a server that was given as `url`, with addresses as messages name them."""
    query = url.partition("?")[2]
    said = text.replace(url.rstrip("/"), shown_url(url))
    said = said.replace(query, "…") if query else said  # libraries name it without the host, too
    return public_text(said)


def utc(seconds: float | None) -> datetime | None:
    """Return a moment by its seconds since the epoch, None where there is none that could be."""
    if seconds is None or not math.isfinite(seconds):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def require_known(wanted: Iterable[str], known: Iterable[str], what: str, source: str) -> None:
    """Check that all that was asked for is there.

    Raises:
        UnknownRunError: something is not; the hint names the nearest.
    """
    names = sorted(set(known))
    missing = [name for name in wanted if name not in names]
    if missing:
        near = find_nearest(missing[0], names)
        there = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise UnknownRunError(
            f"{source} has no {what} {missing[0]}",
            hint=f"did you mean {near}?" if near else f"it has: {there or 'none'}",
            runs=missing,
            source=source,
        )
