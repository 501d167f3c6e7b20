"""What a job did to its inputs: a write through a hard link damages the cache object behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.data.restore import RestoredFile, RestoredInput
from nemo_gitexp.data.store import ObjectStore
from nemo_gitexp.data.verified import VerifiedFiles, hash_file


@dataclass(frozen=True, slots=True)
class ChangedInput:
    """An input file a job changed; `damaged_cache`: it wrote through a hard link into the cache object `md5`."""

    path: str
    md5: str
    damaged_cache: bool


def changed_after_run(workspace: Path, inputs: Sequence[RestoredInput]) -> tuple[ChangedInput, ...]:
    """Return the input files a job changed, removed or wrote through; an equal rewrite is no change."""
    return tuple(
        changed
        for restored in inputs
        if restored.pin.strength == "content"
        for file in restored.files
        if (changed := _changed(workspace, file, restored.kinds)) is not None
    )


def quarantine_damaged(stores: Sequence[ObjectStore], changed: Sequence[ChangedInput]) -> tuple[Path, ...]:
    """Move the objects that a job wrote through aside and return where they went."""
    memory = VerifiedFiles(None)
    damaged = {item.md5 for item in changed if item.damaged_cache}
    moved: list[Path] = []
    for md5 in sorted(damaged):
        for store in stores:
            if store.path_of(md5).is_file() and not store.verify(md5, memory):
                aside = store.quarantine(md5)
                moved += [] if aside is None else [aside]
    return tuple(moved)


def _changed(workspace: Path, file: RestoredFile, kinds: Sequence[str]) -> ChangedInput | None:
    path = workspace / file.path
    try:
        status = path.stat()
    except OSError:
        return ChangedInput(file.path, file.md5, damaged_cache=False)
    if (status.st_size, status.st_mtime_ns, status.st_ino) == (file.size_bytes, file.mtime_ns, file.inode):
        return None
    if path.is_file() and hash_file(path) == file.md5:
        return None
    return ChangedInput(file.path, file.md5, damaged_cache="hardlink" in kinds and status.st_ino == file.inode)
