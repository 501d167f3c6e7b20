"""Metric streams: what jobs write, however badly, becomes rows; rows have one byte form."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.errors import DocumentError, GitexpError
from nemo_gitexp.jsontext import render_json_line
from nemo_gitexp.metricform import exact_form, render_metric_rows, stream_digest
from nemo_gitexp.metrics import metric_stats, parse_metric_lines, parse_metrics_file, split_volatile


def rows(*lines: dict) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def test_lines_of_one_step_become_one_row_and_the_later_value_wins():
    parsed, bad = parse_metric_lines(
        rows({"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 1, "loss": 3, "acc": 0})
    )
    assert parsed == ({"step": 1, "loss": 3, "acc": 0}, {"step": 2, "loss": 1.0})
    assert bad == 0


def test_rows_without_a_step_stay_apart():
    assert parse_metric_lines(rows({"loss": 1}, {"loss": 2}, {"step": None, "loss": 3}))[0] == (
        {"step": None, "loss": 1},
        {"step": None, "loss": 2},
        {"step": None, "loss": 3},
    )


@pytest.mark.parametrize(
    "line",
    [b"{", b"[1]", b'"text"', b"\xff\xfe\x00", b'{"step":1,"loss":', b"[" * 100_000, b"1" * 5000, b'{"a":1}{"a":2}'],
)
def test_a_broken_line_is_skipped_and_counted(line):
    parsed, bad = parse_metric_lines(b'{"step":1,"loss":2}\n' + line + b'\n{"step":2,"loss":1}\n')
    assert [row["step"] for row in parsed] == [1, 2]
    assert bad == 1


@pytest.mark.parametrize("value", [True, "0.5", "text", None, [1]])
def test_a_value_that_is_no_number_is_dropped_and_counted(value):
    assert parse_metric_lines(rows({"step": 1, "loss": 1.5, "other": value})) == (({"step": 1, "loss": 1.5},), 1)


def test_a_step_that_is_no_whole_number_is_dropped_and_the_row_kept():
    parsed, bad = parse_metric_lines(rows({"step": "x", "a": 1}, {"step": True, "a": 2}, {"step": 4.0, "a": 3}))
    assert [row["step"] for row in parsed] == [None, None, 4]
    assert bad == 2


def test_non_finite_numbers_become_their_names():
    text = b'{"a":NaN,"b":Infinity,"c":-Infinity,"d":"nan","e":"-Infinity","f":1e999}\n'
    assert parse_metric_lines(text) == (
        ({"step": None, "a": "NaN", "b": "Infinity", "c": "-Infinity", "d": "NaN", "e": "-Infinity", "f": "Infinity"},),
        0,
    )


def test_an_integer_beyond_any_float_is_infinite_and_a_name_without_utf8_is_dropped():
    assert parse_metric_lines(b'{"a":1' + b"0" * 400 + b',"\\ud800":1}\n') == (({"step": None, "a": "Infinity"},), 1)


def test_nested_metrics_are_flattened():
    assert parse_metric_lines(b'{"step":1,"train":{"loss":0.5,"acc":1}}')[0] == (
        {"step": 1, "train.loss": 0.5, "train.acc": 1},
    )


def test_windows_line_ends_and_a_byte_order_mark_are_accepted():
    assert parse_metric_lines(b'\xef\xbb\xbf{"a":1}\r\n\r\n{"a":2}') == (
        ({"step": None, "a": 1}, {"step": None, "a": 2}),
        0,
    )


@pytest.mark.parametrize(
    "suffix, text, expected",
    [
        (".json", b'{"accuracy": 0.5, "note": "x"}', [{"step": None, "accuracy": 0.5}]),
        (".json", b'{"step": 7, "accuracy": NaN}', [{"step": 7, "accuracy": "NaN"}]),
        (".json", b'[{"step": 0, "a": 1}, {"step": 1, "a": 2}]', [{"step": 0, "a": 1}, {"step": 1, "a": 2}]),
        (
            ".json",
            b'{"loss": [3, 2], "acc": 0.5}',
            [{"step": 0, "loss": 3}, {"step": 1, "loss": 2}, {"step": None, "acc": 0.5}],
        ),
        (".YAML", b"accuracy: 5e-1\nloss: .nan\n", [{"step": None, "accuracy": 0.5, "loss": "NaN"}]),
        (".yml", b"- {step: 1, a: 2}\n", [{"step": 1, "a": 2}]),
        (
            ".csv",
            b"step,loss,acc\n1,0.5,\n1,,0.7\n2,nan,x\n",
            [{"step": 1, "loss": 0.5, "acc": 0.7}, {"step": 2, "loss": "NaN"}],
        ),
        (".csv", b"loss\n0.5\n", [{"step": None, "loss": 0.5}]),
        (".tsv", b"step\tloss\n1\t2\n", [{"step": 1, "loss": 2}]),
        (".jsonl", b'{"a":1}\nbroken\n', [{"step": None, "a": 1}]),
        (".csv", b"", []),
    ],
)
def test_declared_metrics_files(suffix, text, expected):
    assert list(parse_metrics_file(text, suffix)) == expected


@pytest.mark.parametrize(
    "suffix, text",
    [(".json", b"{"), (".json", b"3"), (".json", b""), (".pkl", b"x"), (".csv", b"\xff\xfe"), (".yaml", b"a: [")],
)
def test_a_metrics_file_nobody_can_read_is_a_document_error(suffix, text):
    with pytest.raises(DocumentError):
        parse_metrics_file(text, suffix)


def test_stats_leave_nan_out_of_min_and_max_but_not_out_of_last():
    parsed, _ = parse_metric_lines(
        b'{"step":1,"a":2,"b":NaN}\n{"step":2,"a":-1}\n{"step":3,"a":NaN}\n{"step":4,"c":Infinity}\n'
    )
    assert metric_stats(parsed) == {
        "a": {"last": "NaN", "min": -1, "max": 2, "n": 3},
        "b": {"last": "NaN", "min": "NaN", "max": "NaN", "n": 1},
        "c": {"last": "Infinity", "min": "Infinity", "max": "Infinity", "n": 1},
    }


def test_volatile_metrics_are_no_part_of_the_digest():
    one, _ = parse_metric_lines(rows({"step": 1, "loss": 0.5, "speed": 11}, {"step": 2, "speed": 12}))
    two, _ = parse_metric_lines(rows({"step": 1, "loss": 0.5, "speed": 99}))
    assert stream_digest(one, {"speed"}) == stream_digest(two, {"speed"})
    assert stream_digest(one) != stream_digest(two)
    assert stream_digest(one, {"speed", "loss"}) is None
    assert split_volatile(one, {"speed"}) == (
        ({"step": 1, "loss": 0.5},),
        ({"step": 1, "speed": 11}, {"step": 2, "speed": 12}),
    )


def test_the_digest_tells_bits_apart_but_not_the_spelling_of_a_number():
    def digest(value: float) -> str | None:
        return stream_digest([{"step": 0, "a": value}])

    assert digest(0.0) != digest(-0.0)
    assert digest(0.1) != digest(math.nextafter(0.1, 1))
    assert digest(1) == digest(1.0)


NUMBERS = st.floats() | st.integers()
LINES = st.lists(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), NUMBERS | st.text() | st.none() | st.booleans())
)


@given(LINES)
def test_rendered_rows_read_back_as_themselves(lines):
    parsed, _ = parse_metric_lines(rows(*lines))
    assert parse_metric_lines(render_metric_rows(parsed)) == (parsed, 0)


NAMES = st.sampled_from(["loss", "acc", "a%sb", 'quo"te', "ü", "step2", "zz"])
ROWS = st.lists(st.fixed_dictionaries({"step": st.none() | st.integers()}).flatmap(
    lambda head: st.dictionaries(NAMES, NUMBERS | st.sampled_from(["NaN", "-Infinity"])).map(lambda rest: head | rest)
))  # fmt: skip


@given(ROWS)
def test_a_stream_has_the_byte_form_of_each_of_its_rows(stream):
    assert render_metric_rows(stream) == b"".join(render_json_line(row) for row in stream)


@given(ROWS)
def test_the_digest_is_over_the_exact_form_of_each_row(stream):
    kept = [row for row in stream if len(row) > 1]
    exact = [
        {"step": row["step"], "metrics": {name: exact_form(value) for name, value in row.items() if name != "step"}}
        for row in kept
    ]
    digest = hashlib.sha256(b"".join(render_json_line(row) for row in exact)).hexdigest()
    assert stream_digest(stream) == (f"sha256:{digest}" if kept else None)


@given(st.binary())
def test_no_bytes_break_the_stream_reader(text):
    parsed, _ = parse_metric_lines(text)
    render_metric_rows(parsed)
    metric_stats(parsed)
    stream_digest(parsed)


@given(st.binary(), st.sampled_from([".json", ".jsonl", ".yaml", ".csv", ".tsv"]))
def test_no_bytes_break_the_file_reader_but_by_a_typed_error(text, suffix):
    try:
        render_metric_rows(parse_metrics_file(text, suffix))
    except GitexpError:
        return
