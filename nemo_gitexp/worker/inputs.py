"""Compares a run's data files with their pins: by their state where nothing was touched, by md5 otherwise."""

from __future__ import annotations

import hashlib
import os

from .manifest import CHUNK_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator, Mapping

    from .shapes import FileState, InputPlan


def find_wrong_inputs(workspace: str, inputs: Iterable[InputPlan]) -> dict[str, str]:
    """Return the data files that are missing or differ from their pin, each with the reason."""
    wrong = {}
    for path, md5, state in _pinned_files(inputs):
        here = input_state(os.path.join(workspace, path))
        if here is None:
            wrong[path] = "missing"
        elif here != state and not _is_equal(os.path.join(workspace, path), md5):
            wrong[path] = "changed"
    return wrong


def input_states(workspace: str, inputs: Iterable[InputPlan]) -> dict[str, FileState | None]:
    """Return the state of each data file as it is now."""
    return {path: input_state(os.path.join(workspace, path)) for path, _, _ in _pinned_files(inputs)}


def find_changed_inputs(
    workspace: str, inputs: Iterable[InputPlan], before: Mapping[str, FileState | None]
) -> list[str]:
    """Return the data files whose content is no longer what their pin says, looking only into touched ones."""
    changed = []
    for path, md5, _ in _pinned_files(inputs):
        file = os.path.join(workspace, path)
        here = input_state(file)
        if here is None or (here != before.get(path) and not _is_equal(file, md5)):
            changed.append(path)
    return sorted(changed)


def input_state(path: str) -> FileState | None:
    """Return size, mtime and inode, following links; None when there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _pinned_files(inputs: Iterable[InputPlan]) -> Iterator[tuple[str, str, FileState]]:
    for item in inputs:
        for path, md5, size, mtime_ns, inode in item["files"]:
            yield path, md5, (size, mtime_ns, inode)


def _is_equal(path: str, md5: str) -> bool:
    """Return whether a touched file has its content still; of data that nobody hashed the state is all there is."""
    return bool(md5) and _file_md5(path) == md5


def _file_md5(path: str) -> str | None:
    digest = hashlib.md5()  # noqa: S324 - DVC's content address, no secret
    try:
        with open(path, "rb", buffering=0) as file:
            for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()
