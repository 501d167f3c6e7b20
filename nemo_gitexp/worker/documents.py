"""Reads and writes the small JSON files of a run directory; every write is beside, then renamed."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Mapping

    from .shapes import JsonValue


def write_document(path: str, value: Mapping[str, object], *, durable: bool = False) -> None:
    """Write the value as JSON so that a reader sees the old file, the whole new one, or none."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), durable=durable)


def write_bytes(path: str, content: bytes, *, durable: bool = False) -> None:
    """Write the content beside the path and rename it into place; nothing stays after a failure.

    Args:
        path: where it goes.
        content: all of it.
        durable: wait until the disk has it (milliseconds), so that it is whole after a power cut too.
    """
    write_pieces(path, (content,), durable=durable)


def write_pieces(path: str, pieces: Iterable[bytes], *, durable: bool = False) -> None:
    """Write a content that is never in memory as a whole, as `write_bytes` does."""
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        with open(beside, "wb") as file:
            file.writelines(pieces)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        if os.path.exists(beside):
            os.unlink(beside)
        raise


def read_document(path: str) -> dict[str, JsonValue] | None:
    """Return the JSON object in the file; None when it is absent, torn or something else."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read().decode("utf-8", "surrogateescape"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
