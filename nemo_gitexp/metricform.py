"""The one byte form of a metric stream, and the digest over its exact values. Pure.

What equal runs have in common is compared by these bytes: a change here changes recorded results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

from nemo_gitexp.jsontext import JsonValue, render_json_line
from nemo_gitexp.metrics import EXACT_INTEGERS, STEP, MetricRow, Number, row_metrics, row_step, split_volatile

_Layout: TypeAlias = tuple[Sequence[str], str]
_CHUNK_LINES = 10_000


def render_metric_rows(rows: Iterable[MetricRow]) -> bytes:
    """Return the stream as canonical JSON lines, `step` always there; `parse_metric_lines` reads it back."""
    return b"".join(_rendered(rows, _flat_layout, lambda row: {STEP: row_step(row), **row_metrics(row)}, _number_text))


def stream_digest(rows: Iterable[MetricRow], volatile: Collection[str] = ()) -> str | None:
    """Return `sha256:…` over the rows without volatile metrics; None when nothing is left to compare.

    Equal digests mean equal bits: 0.0 is not -0.0, and 1 is 1.0 (a CSV file does not tell them apart).
    """
    compared, _ = split_volatile(rows, volatile)
    if not compared:
        return None
    digest = hashlib.sha256()
    for lines in _rendered(compared, _exact_layout, _exact_document, _exact_text):
        digest.update(lines)
    return f"sha256:{digest.hexdigest()}"


def _exact_document(row: MetricRow) -> dict[str, JsonValue]:
    exact: dict[str, JsonValue] = {name: exact_form(value) for name, value in row_metrics(row).items()}
    return {STEP: row_step(row), "metrics": exact}


def _rendered(
    rows: Iterable[MetricRow],
    layout: Callable[[Sequence[str]], _Layout],
    document: Callable[[MetricRow], JsonValue],
    value_text: Callable[[JsonValue], str | None],
) -> Iterator[bytes]:
    """Yield `render_json_line(document(row))` of every row, many lines at a time.

    Rows with the same keys share one layout, which their values fill: a million lines in seconds. A row with a value
    that has no text here (`value_text` gives None) is rendered the long way.
    """
    layouts: dict[tuple[str, ...], _Layout] = {}
    lines: list[str] = []
    for row in rows:
        keys = tuple(row)
        found = layouts.get(keys)
        if found is None:
            found = layouts[keys] = layout(keys)
        names, form = found
        texts = tuple([_step_text(row.get(STEP)) if name == STEP else value_text(row[name]) for name in names])
        lines.append(render_json_line(document(row)).decode() if None in texts else form % texts)
        if len(lines) == _CHUNK_LINES:
            yield _joined(lines)
            lines.clear()
    yield _joined(lines)


def _joined(lines: Sequence[str]) -> bytes:
    return "".join(lines).encode("utf-8", "backslashreplace")


def _flat_layout(keys: Sequence[str]) -> _Layout:
    names = sorted({*keys, STEP})
    return names, "{" + ",".join(f"{_quoted(name)}:%s" for name in names) + "}\n"


def _exact_layout(keys: Sequence[str]) -> _Layout:
    names = sorted({*keys} - {STEP})
    return [*names, STEP], '{"metrics":{' + ",".join(f"{_quoted(name)}:%s" for name in names) + '},"step":%s}\n'


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False).replace("%", "%%")


def _step_text(step: JsonValue) -> str | None:
    if step is None:
        return "null"
    return repr(step) if type(step) is int else None


def _number_text(value: JsonValue) -> str | None:
    if type(value) is float and value - value == 0.0:  # finite, and fast
        return repr(value)
    return repr(value) if type(value) is int else None


def _exact_text(value: JsonValue) -> str | None:
    return f'"{value!r}"' if type(value) is float and value - value == 0.0 else None


def exact_form(value: Number) -> str:
    """Return a text that two numbers share exactly when they have the same bits as floats."""
    if isinstance(value, int) and abs(value) > EXACT_INTEGERS:
        return str(value)
    return value if isinstance(value, str) else repr(float(value))
