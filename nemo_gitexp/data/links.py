"""Puts a file in place by the cheapest way the file systems allow: shared blocks, a hard link, a copy."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

READ_ONLY: Final = 0o444
"""The mode of objects and of everything linked to them."""

_FICLONE: Final = 0x40049409
_NEVER_HERE: Final = frozenset({errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS})


class Linker:
    """Puts files in place by the cheapest way the file systems allow, and remembers what they do not."""

    def __init__(self, kinds: Iterable[str]) -> None:
        """Try these kinds in order: reflink, hardlink, copy."""
        self._kinds = [kind for kind in kinds if kind != "copy"]

    def place(self, source: Path, target: Path) -> str:
        """Make `target` (which does not exist) from `source` and return the kind that worked.

        Raises:
            OSError: even copying failed.
        """
        for kind in tuple(self._kinds):
            try:
                (_reflink if kind == "reflink" else _hardlink)(source, target)
            except OSError as fault:
                # EPERM (another owner's file) and EMLINK (too many links) concern this file alone.
                if fault.errno in _NEVER_HERE:
                    self._kinds.remove(kind)
                elif fault.errno not in {errno.EPERM, errno.EACCES, errno.EMLINK}:
                    raise
            else:
                return kind
        shutil.copyfile(source, target)
        return "copy"


def try_link(source: Path, target: Path) -> bool:
    """Make `target` share what `source` holds, without copying; False (and nothing made) where that cannot be."""
    for make in (_reflink, _hardlink):
        try:
            make(source, target)
        except OSError:
            target.unlink(missing_ok=True)
        else:
            return True
    return False


def _hardlink(source: Path, target: Path) -> None:
    state = source.lstat()
    if stat.S_ISLNK(state.st_mode):  # a cache of links: never pass the link itself on
        source = source.resolve()
        state = source.stat()
    os.link(source, target)
    if state.st_mode & 0o222:
        with contextlib.suppress(OSError):
            target.chmod(READ_ONLY)


def _reflink(source: Path, target: Path) -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "no reflink here")
    import fcntl  # only on POSIX

    with source.open("rb") as reading, target.open("xb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
        except OSError:
            target.unlink()
            raise
