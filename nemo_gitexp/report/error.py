"""An error as a reader sees it: what happened, the facts, what to type next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

from nemo_gitexp.documents import SCHEMA
from nemo_gitexp.errors import GitexpError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.report.terminal import Style, safe_text

_LISTED_FACTS = ("faults", "paths", "missing", "candidates", "changed", "nearest")
_SHOWN = 20


def render_error(error: GitexpError, *, style: Style) -> str:
    """Return `error: …`, the things it is about one a line, and `hint: …`."""
    lines = [f"{style.paint('error:', 'bold red')} {safe_text(error.message, multiline=True)}"]
    lines += _fact_lines(error)
    if error.hint:
        lines.append(f"{style.paint('hint:', 'bold')} {safe_text(error.hint, multiline=True)}")
    return "\n".join(lines) + "\n"


def error_document(error: GitexpError) -> dict[str, JsonValue]:
    """Return the answer of a failed call under `--json`: type, message, hint and the facts of the error."""
    told: dict[str, JsonValue] = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    facts = {key: _plain(value) for key, value in error.facts.items() if key not in told}
    return {"schema": SCHEMA, "error": {**told, **facts}}


def _fact_lines(error: GitexpError) -> list[str]:
    """Return the listed facts that the message does not name already."""
    lines: list[str] = []
    for key in _LISTED_FACTS:
        value = error.facts.get(key)
        if not isinstance(value, (list, tuple)):
            continue
        items = [text for item in value if not _names(error.message, text := str(item))]
        lines += [f"  {safe_text(text)}" for text in items[:_SHOWN]]
        if len(items) > _SHOWN:
            lines.append(f"  … and {len(items) - _SHOWN} more")
    return lines


def _names(message: str, text: str) -> bool:
    return re.search(rf"(?<![\w./-]){re.escape(text)}(?![\w/-])", message) is not None


def _plain(value: object) -> JsonValue:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(str(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.as_posix() if isinstance(value, PurePath) else str(value)
