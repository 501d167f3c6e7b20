"""Moments in our files: one spelling, whatever time zone they come from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from nemo_gitexp.moments import iso_exact, iso_now, iso_second

MOMENT = datetime(2026, 1, 31, 1, 30, 0, 250000, tzinfo=timezone(timedelta(hours=2)))


def test_a_moment_is_written_in_utc_to_the_second_or_to_the_microsecond():
    assert iso_second(MOMENT) == "2026-01-30T23:30:00Z"
    assert iso_exact(MOMENT) == "2026-01-30T23:30:00.250000Z"


def test_what_is_written_is_read_back_as_the_same_moment():
    assert datetime.fromisoformat(iso_exact(MOMENT)) == MOMENT
    before = datetime.now(UTC).replace(microsecond=0)
    assert before <= datetime.fromisoformat(iso_now()) <= datetime.now(UTC)
