"""JSON as the machine writes it: one writer, one strict reader, no files.

Sorted keys, one key a line, UTF-8, a newline at the end, non-finite numbers as the strings
"NaN", "Infinity", "-Infinity", so that plain `git diff` reads well and every reader accepts it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from nemo_gitexp.errors import DocumentError

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"

MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
"""A record larger than this is refused before it is parsed (a hostile blob must not fill memory)."""

MAX_DEPTH = 100


def render_json(value: JsonValue) -> bytes:
    """Return the document's one byte form: indent 1, sorted keys, UTF-8, final newline."""
    return _encoded(json.dumps(finite(value), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False))


def render_json_line(value: JsonValue) -> bytes:
    """Return the value on one line, sorted keys, compact separators, final newline."""
    text = json.dumps(finite(value), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _encoded(text)


def _encoded(text: str) -> bytes:
    """Return JSON as bytes. Lone surrogates, which stand for the bytes of names that are no UTF-8, become escapes."""
    return (text + "\n").encode("utf-8", "backslashreplace")


def finite(value: JsonValue) -> JsonValue:
    """Return the value with non-finite numbers replaced by their names."""
    if isinstance(value, float):
        return value if math.isfinite(value) else non_finite_name(value)
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def non_finite_name(number: float) -> str:
    """Return "NaN", "Infinity" or "-Infinity"."""
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def parse_json(text: bytes, source: str, *, limit_bytes: int = MAX_DOCUMENT_BYTES) -> JsonValue:
    """Return the document, refusing what two readers could understand differently.

    Args:
        text: UTF-8 JSON.
        source: where it came from, for the message.
        limit_bytes: longer text is refused unread.

    Raises:
        DocumentError: too long, not UTF-8, truncated, duplicate keys, NaN literals, too deep.
    """
    if len(text) > limit_bytes:
        raise DocumentError(f"{source} is {len(text)} bytes long, more than {limit_bytes}", source=source)
    try:
        value: JsonValue = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError) as fault:
        raise DocumentError(f"{source} is no valid JSON: {fault}", source=source) from fault
    except RecursionError as fault:
        raise DocumentError(f"{source} is nested too deeply", source=source) from fault
    if _depth_over(value, MAX_DEPTH):
        raise DocumentError(f"{source} is nested deeper than {MAX_DEPTH}", source=source)
    return value


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    document = dict(pairs)
    if len(document) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = sorted(key for key, count in counts.items() if count > 1)
        raise ValueError(f"duplicate keys: {', '.join(twice[:5])}")
    return document


def _no_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is no JSON number")


def _depth_over(value: JsonValue, left: int) -> bool:
    if isinstance(value, Mapping):
        return left == 0 or any(_depth_over(item, left - 1) for item in value.values())
    if isinstance(value, list):
        return left == 0 or any(_depth_over(item, left - 1) for item in value)
    return False
