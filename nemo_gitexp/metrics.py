"""Metric streams as values: parsing what jobs write, statistics. No files, no clock. Their byte form: `metricform`.

A stream is a tuple of rows; a row maps `step` (int or None) and metric names to numbers. Non-finite numbers are the
names of `jsontext` ("NaN", "Infinity", "-Infinity").
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TypeAlias

from nemo_gitexp.documents import MetricStats
from nemo_gitexp.errors import DocumentError
from nemo_gitexp.jsontext import JsonValue, non_finite_name, parse_json

MetricRow: TypeAlias = Mapping[str, JsonValue]
MetricRows: TypeAlias = tuple[MetricRow, ...]
Number: TypeAlias = float | str
"""A finite number, or the name of a non-finite one."""

STEP = "step"
_BLANK = " \t\n\r\v\f"
MAX_METRICS_FILE_BYTES = 64 * 1024 * 1024
EXACT_INTEGERS = 2**53
_NAMES = {"nan": "NaN", "inf": "Infinity", "infinity": "Infinity", "-inf": "-Infinity", "-infinity": "-Infinity"}


def parse_metric_lines(text: bytes) -> tuple[MetricRows, int]:
    """Return the rows of a JSON-lines stream, and how many lines and values had to be left out.

    Jobs write this file by hand and may be killed while writing, so nothing in it is an error: a broken line is
    skipped, a value that is no number dropped, both counted. Lines of one step become one row at the place of the
    first, later values winning (a resumed job logs its last steps again); lines without a step stay rows of their own.
    """
    return _merge_rows(_load_line(line) for line in _lines(text.removeprefix(b"\xef\xbb\xbf")) if line.strip(_BLANK))


def read_metric_lines(text: bytes) -> tuple[MetricRows, int]:
    """Return the lines of a stream one by one, before `parse_metric_lines` joins those of one step."""
    rows: list[MetricRow] = []
    bad = 0
    for line in _lines(text.removeprefix(b"\xef\xbb\xbf")):
        record = _load_line(line) if line.strip(_BLANK) else {}
        if record is None:
            bad += 1
            continue
        step, metrics, dropped = _read_record(record)
        bad += dropped
        if metrics:
            rows.append({STEP: step, **metrics})
    return tuple(rows), bad


def merge_metric_rows(rows: Iterable[MetricRow]) -> MetricRows:
    """Return rows with those of one step joined, as `parse_metric_lines` does."""
    return _merge_rows(rows)[0]


def parse_metrics_file(text: bytes, suffix: str) -> MetricRows:
    """Return the rows of a declared metrics file; values that are no numbers are left out.

    Args:
        text: the file, UTF-8.
        suffix: `.json` (a mapping, a list of mappings, or a mapping of columns), `.jsonl`, `.yaml`, `.yml`
            (as JSON), `.csv` or `.tsv` (a header line; `step` is the step column).

    Raises:
        DocumentError: an unknown suffix, text that cannot be parsed, or a document of another shape.
    """
    kind = suffix.lower()
    if kind in {".jsonl", ".ndjson"}:
        return parse_metric_lines(text)[0]
    if kind in {".csv", ".tsv"}:
        return _merge_rows(_csv_records(text, "\t" if kind == ".tsv" else ","))[0]
    if kind == ".json":
        return _document_rows(_finite_json(text))
    if kind in {".yaml", ".yml"}:
        # PyYAML costs 20 ms, and nearly no metrics file needs it.
        from nemo_gitexp.yaml12 import parse_yaml

        return _document_rows(parse_yaml(text, "the metrics file"))
    raise DocumentError(
        f"a metrics file cannot end in {suffix!r}",
        hint="write .json, .jsonl, .yaml or .csv, or append JSON lines to the file named by GITEXP_METRICS",
    )


def metric_stats(rows: Iterable[MetricRow]) -> dict[str, MetricStats]:
    """Return last, min, max and n of every metric, sorted by name.

    NaN counts in n and can be the last value, but is never min or max unless every value is NaN.
    """
    values: dict[str, list[Number]] = {}
    for row in rows:
        for name, value in row_metrics(row).items():
            values.setdefault(name, []).append(value)
    return {name: _stats(values[name]) for name in sorted(values)}


def row_metrics(row: MetricRow) -> dict[str, Number]:
    """Return the metrics of one row, without its step."""
    return {name: value for name, value in row.items() if name != STEP and isinstance(value, (int, float, str))}


def row_step(row: MetricRow) -> int | None:
    """Return the step of one row."""
    step = row.get(STEP)
    return step if isinstance(step, int) else None


def split_volatile(rows: Iterable[MetricRow], volatile: Collection[str]) -> tuple[MetricRows, MetricRows]:
    """Return the rows with the metrics that are compared, and those with the volatile ones; empty rows vanish."""
    if not volatile:
        return tuple(row for row in rows if len(row) > 1 or STEP not in row), ()
    compared: list[MetricRow] = []
    shown: list[MetricRow] = []
    for row in rows:
        metrics = row_metrics(row)
        for part, wanted in ((compared, False), (shown, True)):
            kept = {name: value for name, value in metrics.items() if (name in volatile) is wanted}
            if kept:
                part.append({STEP: row_step(row), **kept})
    return tuple(compared), tuple(shown)


def as_float(value: object) -> float | None:
    """Return a metric as a float, names of non-finite numbers included; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    return float(value) if isinstance(value, str) and value in _NAMES.values() else None


def _stats(values: Sequence[Number]) -> MetricStats:
    ordered = [value for value in values if value != "NaN"]
    if not ordered:
        return {"last": "NaN", "min": "NaN", "max": "NaN", "n": len(values)}
    return {
        "last": values[-1],
        "min": min(ordered, key=float),
        "max": max(ordered, key=float),
        "n": len(values),
    }


def _merge_rows(records: Iterable[Mapping[str, object] | None]) -> tuple[MetricRows, int]:
    rows: list[dict[str, JsonValue]] = []
    by_step: dict[int, dict[str, JsonValue]] = {}
    bad = 0
    for record in records:
        if record is None:
            bad += 1
            continue
        step, metrics, dropped = _read_record(record)
        bad += dropped
        if not metrics:
            continue
        row: dict[str, JsonValue] = {STEP: step}
        if step is not None:
            row = by_step.setdefault(step, row)
        if len(row) == 1:
            rows.append(row)
        row.update(metrics)
    return tuple(rows), bad


def _lines(text: bytes) -> Iterator[str]:
    """Yield the lines of a stream; one that is no UTF-8 becomes one that is no JSON."""
    try:
        whole = text.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        whole = b"\n".join(line if _is_utf8(line) else b"?" for line in text.split(b"\n")).decode(
            "utf-8", "surrogatepass"
        )
    return iter(io.StringIO(whole, newline="\n"))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _load_line(line: str) -> Mapping[str, object] | None:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_record(record: Mapping[str, object]) -> tuple[int | None, dict[str, Number], int]:
    """Return step, metrics and how many values were no numbers."""
    plain = _plain_record(record)
    if plain is not None:
        return plain
    dropped = 0
    step: int | None = None
    metrics: dict[str, Number] = {}
    for name, value in _leaves(record):
        if name == STEP:
            step = _step(value)
            dropped += step is None and value is not None
            continue
        number = _number(value)
        if number is None or not _is_name(name):
            dropped += 1
        else:
            metrics[name] = number
    return step, metrics, dropped


def _plain_record(record: Mapping[str, object]) -> tuple[int | None, dict[str, Number], int] | None:
    """Return a flat record of finite numbers, which nearly every line is, without looking at its values one by one."""
    step: object = None
    metrics: dict[str, Number] = {}
    for name, value in record.items():
        if name == STEP:
            step = value
        elif type(value) is float and value - value == 0.0 and _is_name(name):
            metrics[name] = value
        else:
            return None
    return (step, metrics, 0) if step is None or type(step) is int else None


def _leaves(record: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield every value with its dotted name; an explicit stack, since jobs may nest as deep as JSON allows."""
    stack: list[tuple[str, object]] = [(str(name), value) for name, value in reversed(list(record.items()))]
    while stack:
        name, value = stack.pop()
        if isinstance(value, Mapping):
            stack.extend((f"{name}.{key}", item) for key, item in reversed(list(value.items())))
        else:
            yield name, value


@cache
def _is_name(name: str) -> bool:
    """A lone surrogate, which JSON escapes can carry, has no UTF-8 form and could never be written."""
    return bool(name) and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _step(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def _number(value: object) -> Number | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return _NAMES.get(value.strip().lower().removeprefix("+"))
    if isinstance(value, int):
        return value if abs(value) <= EXACT_INTEGERS else _wide(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else non_finite_name(value)
    return None


def _wide(value: int) -> Number:
    """Return an integer that no float holds exactly as the nearest float."""
    try:
        return float(value)
    except OverflowError:
        return "Infinity" if value > 0 else "-Infinity"


def _finite_json(text: bytes) -> JsonValue:
    """Parse JSON strictly, but for the NaN and Infinity literals that `json.dump` writes for a diverged loss."""
    try:
        return parse_json(text, "the metrics file", limit_bytes=MAX_METRICS_FILE_BYTES)
    except DocumentError:
        try:
            value: JsonValue = json.loads(text, parse_constant=lambda name: name)
        except (ValueError, RecursionError):
            value = None
        if value is None:
            raise
        return value


def _document_rows(document: JsonValue) -> MetricRows:
    if isinstance(document, Mapping):
        return _merge_rows(_mapping_records(document))[0]
    if isinstance(document, Sequence) and not isinstance(document, str):
        return _merge_rows(item if isinstance(item, Mapping) else None for item in document)[0]
    raise DocumentError("the metrics file holds neither a mapping nor a list of mappings")


def _mapping_records(document: Mapping[str, JsonValue]) -> Iterator[Mapping[str, object]]:
    """Yield one record, and one a step for columns (`{"loss": [0.3, 0.2]}`, as Keras histories are)."""
    columns = {key: value for key, value in document.items() if isinstance(value, list)}
    length = max((len(column) for column in columns.values()), default=0)
    for place in range(length):
        cells = {name: column[place] for name, column in columns.items() if place < len(column)}
        yield {STEP: place, **cells}
    yield {key: value for key, value in document.items() if key not in columns}


def _csv_records(text: bytes, delimiter: str) -> Iterator[Mapping[str, object]]:
    import csv

    try:
        lines = io.StringIO(text.decode("utf-8-sig"), newline="")
        for record in csv.DictReader(lines, delimiter=delimiter, restkey="", skipinitialspace=True):
            yield {name.strip(): _cell(cell) for name, cell in record.items() if name and isinstance(cell, str)}
    except (UnicodeDecodeError, csv.Error) as fault:
        raise DocumentError(f"the metrics file is no valid CSV: {fault}") from fault


def _cell(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
