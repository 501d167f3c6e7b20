"""Safe text, tables and human units."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.report.terminal import (
    Cell,
    Style,
    Table,
    human_duration,
    human_number,
    human_size,
    human_time,
    log_line,
    number_pair,
    render_table,
    safe_text,
    shorten,
    sparkline,
    text_width,
    value_text,
)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain – ü 漢", "plain – ü 漢"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;cm0gLXJm\x07", ""),
        ("\x9b2Jx", "x"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("a\x1b", "a\\x1b"),
        ("a\x07\x00\x7f\x85", "a\\x07\\x00\\x7f\\x85"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("evil\u202egpj.exe", "evil\\u202egpj.exe"),
        ("a\u2028b\ufeff", "a\\u2028b\\ufeff"),
        ("\ud800", "\\ud800"),
        ("👩\u200d💻", "👩\u200d💻"),
    ],
)
def test_untrusted_text_cannot_command_the_terminal(text, shown):
    assert safe_text(text) == shown


@given(st.text(st.characters()) | st.text("\x1b[]0;m\x07\x9b\\PX1a", max_size=12), st.booleans())
def test_no_text_leaves_a_control_character(text, multiline):
    shown = safe_text(text, multiline=multiline)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert multiline or "\n" not in shown
    shown.encode()


def test_newlines_stay_where_they_are_wanted():
    assert safe_text("a\r\nb\n\tc", multiline=True) == "a\nb\n        c"


def test_a_progress_bar_shows_its_last_state():
    assert log_line("\r 10%|#\r100%|###\r\n") == "100%|###"


def test_widths_count_columns_not_characters():
    assert text_width("漢字") == 4
    assert text_width("e\u0301") == 1
    assert shorten("漢字漢字漢字", 6) == "漢…字"


@given(st.text(), st.integers(3, 30))
def test_a_shortened_text_fits(text, width):
    assert text_width(shorten(text, width)) <= max(width, 0)


def test_a_table_is_aligned_has_no_trailing_blanks_and_gives_way_in_one_column():
    rows = [("a" * 40, "1.5", Cell("ok", "green")), ("b", "12", "")]
    text = render_table(Table(("name", "value", "mark"), rows, "lr", shrink=0), Style(width=30))
    assert text == "name               value  mark\naaaaaaaa…aaaaaaaa    1.5  ok\nb                     12\n"


def test_colours_do_not_move_columns():
    rows = [(Cell("failed", "red"), "x"), ("ok", Cell("y", "bold cyan"))]
    table = Table(("status", "name"), rows)
    plain, coloured = render_table(table, Style()), render_table(table, Style(color=True))
    assert coloured != plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_a_table_without_rows_is_nothing():
    assert render_table(Table(("a",), []), Style()) == ""


@pytest.mark.parametrize(
    "size, text",
    [
        (None, "?"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12.3 kB"),
        (999_999, "1.0 MB"),
        (123_456_789, "123 MB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(size, text):
    assert human_size(size) == text


@pytest.mark.parametrize(
    "seconds, text",
    [
        (None, "-"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (6.54, "6.5 s"),
        (59.99, "1 min"),
        (65, "1 min 5 s"),
        (7380, "2 h 3 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert human_duration(seconds) == text


def test_times_are_utc_to_the_second():
    assert human_time("2025-01-01T12:00:03.120000Z") == "2025-01-01 12:00:03"


@pytest.mark.parametrize(
    "value, text",
    [(None, "-"), (0.1, "0.1"), (0.123456789, "0.123457"), (1e-12, "1e-12"), (3, "3"), ("NaN", "NaN"), (1e6, "1e+06")],
)
def test_numbers(value, text):
    assert human_number(value) == text


def test_two_numbers_get_the_digits_that_tell_them_apart():
    assert number_pair(0.1, 0.10000001) == ("0.1", "0.10000001")
    assert number_pair(0.123456789, 0.123456789) == ("0.123457", "0.123457")


@pytest.mark.parametrize(
    "value, text",
    [
        ("adam", "adam"),
        ("1", '"1"'),
        ("true", '"true"'),
        ("", '""'),
        ("a b", '"a b"'),
        (1, "1"),
        (1.0, "1.0"),
        (None, "null"),
        ([1, "x"], '[1,"x"]'),
    ],
)
def test_values_show_their_type(value, text):
    assert value_text(value) == text


def test_sparklines():
    assert sparkline([0, 1, 2, 3]) == "▁▃▆█"
    assert sparkline([1, 1]) == "▅▅"
    assert sparkline([0, "NaN", 1]) == "▁×█"
    assert sparkline(["NaN"]) == "×"
    assert sparkline([]) == ""
    assert len(sparkline(list(range(1000)))) == 20
