"""Moments as our files write them: ISO 8601 in UTC, ending in Z. The worker has its own: it imports nothing of ours."""

from __future__ import annotations

from datetime import UTC, datetime


def iso_now() -> str:
    """Return the present moment, to the second."""
    return iso_second(datetime.now(UTC))


def iso_second(moment: datetime) -> str:
    """Return a moment of any time zone as `2026-01-31T12:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_exact(moment: datetime) -> str:
    """Return a moment of any time zone as `2026-01-31T12:00:00.000000Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
