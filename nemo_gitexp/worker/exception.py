"""What is recorded of an exception: its type, message and traceback, none of them without end."""

from __future__ import annotations

MOST_MESSAGE = 2000
MOST_TRACEBACK = 20000


def describe_exception(error: BaseException) -> dict[str, str]:
    """Return type, message (of a long one the beginning) and traceback (of a long one the end) of an exception."""
    import traceback  # a job imports next to nothing before it fails

    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - its type is worth recording all the same
        message = "it has no message: its __str__ fails"
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return {"type": type(error).__name__, "message": message[:MOST_MESSAGE], "traceback": text[-MOST_TRACEBACK:]}
