"""Dotted key paths (`optimizer.lr`): one way to write them, one way to read them. No configurations here.

A key that is empty or holds a dot or a quote stands as a JSON string: `optimizer."beta.1"`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str, ...]


def render_key(path: Sequence[str | int]) -> str:
    """Return the path in its one written form; list positions are plain numbers."""
    return ".".join(_written(str(part)) for part in path)


def parse_key(text: str) -> KeyPath:
    """Return the keys of a dotted path.

    Raises:
        ValueError: an empty key that is not quoted, or a quote that does not end.
    """
    keys, rest = split_key(text)
    if rest:
        raise ValueError(f"unexpected {rest[0]!r}")
    return keys


def split_key(text: str) -> tuple[KeyPath, str]:
    """Return the path that `text` begins with, and what follows it from the first `=` on.

    Raises:
        ValueError: an empty key that is not quoted, or a quote that does not end.
    """
    keys: list[str] = []
    position = 0
    while True:
        key, position = _one_key(text, position)
        keys.append(key)
        if text[position : position + 1] != ".":
            return tuple(keys), text[position:]
        position += 1


def find_nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was probably meant to be, or None."""
    names = list(known)
    folded = {candidate.casefold(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def _written(key: str) -> str:
    if not key or "." in key or '"' in key:
        return json.dumps(key, ensure_ascii=False)
    return key


def _one_key(text: str, start: int) -> tuple[str, int]:
    if text.startswith('"', start):
        try:
            key, end = json.JSONDecoder(strict=False).raw_decode(text, start)
        except json.JSONDecodeError as fault:
            raise ValueError("a quoted key does not end") from fault
        if text[end : end + 1] not in {"", ".", "="}:
            raise ValueError(f"unexpected {text[end]!r} after a quoted key")
        return str(key), end
    end = min((at for at in (text.find(".", start), text.find("=", start)) if at >= 0), default=len(text))
    if end == start:
        raise ValueError("an empty key")
    return text[start:end], end
