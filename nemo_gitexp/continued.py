"""The one metric stream of a run that was interrupted and went on, perhaps several times. Pure.

A job that goes on from a checkpoint logs again what it had logged after that checkpoint. The later word counts: the
stream is the one that a run without interruption would have left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from nemo_gitexp.metrics import (
    STEP,
    MetricRow,
    MetricRows,
    merge_metric_rows,
    parse_metric_lines,
    read_metric_lines,
    row_metrics,
    row_step,
)


def parse_continued_lines(stream: bytes, offsets: Sequence[int]) -> tuple[MetricRows, int]:
    """Return the rows of a stream that several segments wrote, and how many lines and values had to be left out.

    Args:
        stream: all segments' lines, one after the other.
        offsets: at which byte each segment begins, in their order. What was cut off at the end of a segment that
            another followed is no damage: the process was killed while it wrote.
    """
    if len(offsets) < 2:
        return parse_metric_lines(stream)
    bounds = [0, *offsets[1:], max(len(stream), offsets[-1])]
    kept: list[MetricRow] = []
    damaged = 0
    for number, (begin, end) in enumerate(pairwise(bounds), 1):
        piece = stream[begin:end]
        rows, bad = read_metric_lines(piece)
        is_last = number == len(offsets)
        damaged += bad if is_last else bad - _is_torn(piece)
        kept = continue_rows(kept, rows)
    return merge_metric_rows(kept), damaged


def continue_rows(earlier: Sequence[MetricRow], later: Sequence[MetricRow]) -> list[MetricRow]:
    """Return the lines of a stream, as far as a later segment did not write them again, followed by that segment's.

    What a program logs whenever it starts stands once, at its beginning. Of each metric that the later segment logs,
    earlier values from its first step there on are void; so are lines without a step that stand after such a value. A
    metric that counts by steps of its own (epochs among batches) is not measured by the others'.
    """
    common = _common_length(earlier, later)
    rest = later[common:]
    firsts = _first_steps(rest or later)
    kept = [*later[:common], *_before(earlier[common:], firsts)]
    if all(row_step(row) is None for row in rest):  # it came to no step: where it began nobody can tell
        said = {frozenset(row.items()) for row in kept}
        return [*kept, *(row for row in rest if frozenset(row.items()) not in said)]
    overlap = _overlap(kept[common:], rest)
    return [*kept[: len(kept) - overlap], *rest]


def _common_length(earlier: Sequence[MetricRow], later: Sequence[MetricRow]) -> int:
    length = 0
    for one, other in zip(earlier, later, strict=False):
        if one != other:
            break
        length += 1
    return length


def _first_steps(rows: Sequence[MetricRow]) -> Mapping[str, int]:
    """Return for each metric the smallest step that it has."""
    firsts: dict[str, int] = {}
    for row in rows:
        step = row_step(row)
        if step is not None:
            for name in row_metrics(row):
                firsts[name] = min(step, firsts.get(name, step))
    return firsts


def _before(rows: Sequence[MetricRow], firsts: Mapping[str, int]) -> list[MetricRow]:
    """Return what is not void: a later segment began again somewhere among these lines.

    From the first void value on, metrics that the later segment has not come to are void too, where their step is not
    before all that it logged.
    """
    kept: list[MetricRow] = []
    least = min(firsts.values(), default=0)
    is_void = False
    for row in rows:
        step = row_step(row)
        if step is None:
            if not is_void:
                kept.append(row)
            continue
        limit = least if is_void else step + 1
        metrics = {name: value for name, value in row_metrics(row).items() if step < firsts.get(name, limit)}
        is_void = is_void or len(metrics) < len(row) - 1
        if metrics:
            kept.append({STEP: step, **metrics})
    return kept


def _overlap(kept: Sequence[MetricRow], rest: Sequence[MetricRow]) -> int:
    """Return how many lines without a step end the one and begin the other: they were written after the checkpoint."""
    leading = next((number for number, row in enumerate(rest) if row_step(row) is not None), len(rest))
    lengths = range(min(leading, len(kept)), 0, -1)
    return next((length for length in lengths if kept[-length:] == list(rest[:length])), 0)


def _is_torn(piece: bytes) -> bool:
    """Return whether the last line of a segment is no JSON object."""
    lines = piece.rstrip(b"\n").rpartition(b"\n")
    return read_metric_lines(lines[2])[1] > 0 and not lines[2].rstrip().endswith(b"}")
