"""The stream of a run that was interrupted and went on is the one that it would have left without."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.continued import parse_continued_lines
from nemo_gitexp.metricform import render_metric_rows
from nemo_gitexp.metrics import parse_metric_lines


def lines(*rows: dict) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def joined(*segments: bytes) -> tuple[list[dict], int]:
    offsets = [sum(map(len, segments[:number])) for number in range(len(segments))]
    rows, bad = parse_continued_lines(b"".join(segments), offsets)
    return [dict(row) for row in rows], bad


def losses(*steps: int, value: float = 1.0) -> list[dict]:
    return [{"step": step, "loss": value} for step in steps]


def test_the_later_segments_word_on_a_step_counts() -> None:
    assert joined(lines(*losses(0, 1, 2, 3)), lines(*losses(2, 3, 4, value=0.5)))[0] == [
        *losses(0, 1),
        *losses(2, 3, 4, value=0.5),
    ]


def test_steps_that_the_later_segment_never_came_to_are_void() -> None:
    assert joined(lines(*losses(0, 1, 2, 3, 4)), lines(*losses(2, value=0.5)))[0] == [
        *losses(0, 1),
        *losses(2, value=0.5),
    ]
    assert joined(lines(*losses(0, 1, 2, 3)), lines(*losses(0, 1)))[0] == losses(0, 1)


def test_a_metric_with_steps_of_its_own_is_not_cut_at_anothers() -> None:
    first = lines(*losses(100, 200, 300), {"step": 1, "epoch": 0.1}, {"step": 2, "epoch": 0.2}, *losses(400))
    later = lines(*losses(400), {"step": 3, "epoch": 0.3})
    assert joined(first, later)[0] == [
        *losses(100, 200, 300),
        {"step": 1, "epoch": 0.1},
        {"step": 2, "epoch": 0.2},
        *losses(400),
        {"step": 3, "epoch": 0.3},
    ]


def test_what_a_program_says_whenever_it_starts_stands_once() -> None:
    start = [{"step": None, "parameters": 7}, {"step": 0, "size": 3}]
    assert joined(lines(*start, *losses(1, 2)), lines(*start), lines(*start, *losses(2, 3)))[0] == [
        *start,
        *losses(1, 2, 3),
    ]


def test_a_line_that_a_kill_cut_off_is_no_damage_and_one_in_between_is() -> None:
    torn = lines(*losses(0, 1)) + b'{"step": 2, "lo\n'
    assert joined(torn, lines(*losses(1, 2))) == (losses(0, 1, 2), 0)
    assert joined(lines(*losses(0)) + b"{\n" + lines(*losses(1)), lines(*losses(2))) == (losses(0, 1, 2), 1)


@st.composite
def interrupted_runs(draw: st.DrawFn) -> tuple[list[dict], list[list[dict]]]:
    """Return the lines of a run, and what its segments would log, each going on from where a checkpoint was."""
    whole: list[dict] = []
    for step in range(draw(st.integers(0, 8))):
        names = draw(st.lists(st.sampled_from("abc"), unique=True, max_size=3))
        whole += [{"step": step, name: float(step)} for name in names]
        if draw(st.booleans()):
            whole.append({"step": None, "note": len(whole)})
    start = draw(
        st.sampled_from([[], [{"step": None, "parameters": 7}], [{"step": None, "x": 1}, {"step": 0, "p": 1}]])
    )
    segments, reached = [], 0
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, reached))
        stop = draw(st.integers(begin, len(whole)))
        segments.append([*start, *whole[begin:stop]])
        reached = max(begin, stop)
    segments.append([*start, *whole[draw(st.integers(0, reached)) :]])
    return [*start, *whole], segments


@given(interrupted_runs())
def test_interrupted_and_not_give_the_same_stream(run: tuple[list[dict], list[list[dict]]]) -> None:
    whole, segments = run
    rows, _ = joined(*(lines(*segment) for segment in segments))
    assert render_metric_rows(rows) == render_metric_rows(parse_metric_lines(lines(*whole))[0])
