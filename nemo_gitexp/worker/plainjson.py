"""Renders JSON without importing anything: in the job process, what is imported must stay the user's choice."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

    from .shapes import JsonValue

ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def write_plain(path: str, value: Mapping[str, JsonValue]) -> None:
    """Write the value as one JSON file, beside and then renamed."""
    beside = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        left = render_plain(dict(value)).encode()
        while left:
            left = left[os.write(descriptor, left) :]
    except BaseException:
        os.unlink(beside)
        raise
    finally:
        os.close(descriptor)
    os.replace(beside, path)


def render_plain(value: JsonValue) -> str:  # noqa: PLR0911 - one line a kind of value
    """Return the value as ASCII JSON; non-finite numbers become the strings NaN, Infinity, -Infinity."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _number(float(value))
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(str(key))}:{render_plain(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(render_plain(item) for item in value) + "]"


def _number(number: float) -> str:
    if number != number:  # noqa: PLR0124 - the test for NaN that needs no import
        return '"NaN"'
    if number in (float("inf"), float("-inf")):
        return '"Infinity"' if number > 0 else '"-Infinity"'
    return float.__repr__(number)


def _quoted(text: str) -> str:
    return '"' + "".join(ESCAPES.get(char) or _escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    code = ord(char)
    if 0x20 <= code < 0x7F:
        return char
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
