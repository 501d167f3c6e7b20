"""Puts a workspace's data in place from a DVC cache of the site: a program, run there before the job is submitted.

Reads `{"cache", "workspace", "files": [[path, md5, size, mode], …]}` from stdin and prints `{"missing": [path, …]}`.
Nothing is hashed here: the worker compares every file with its pin before the job starts. Self-contained.
"""

from __future__ import annotations

import json
import os
import shutil
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, List, Optional, Tuple

    File = Tuple[str, str, int, int]

FICLONE = 0x40049409


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    missing = link_files(request["cache"], request["workspace"], request["files"])
    json.dump({"missing": missing}, sys.stdout)


def link_files(cache: str, workspace: str, files: Iterable[File]) -> List[str]:
    """Make each file from its object in the cache; return the paths whose object is not there, or not of that size."""
    missing = []
    for path, md5, size, mode in files:
        source = find_object(cache, md5, size)
        if source is None:
            missing.append(path)
            continue
        target = os.path.join(workspace, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.lexists(target):
            os.unlink(target)
        _place(source, target, mode)
    return missing


def find_object(cache: str, md5: str, size: int) -> Optional[str]:
    """Return the file of an object: in DVC 3's layout, in our own store beside it, or in DVC 2's layout."""
    name = os.path.join(md5[:2], md5[2:])
    for below in ("files/md5", "gitexp/files/md5", ""):
        path = os.path.join(cache, below, name)
        try:
            if os.stat(path).st_size == size:
                return path
        except OSError:
            continue
    return None


def _place(source: str, target: str, mode: int) -> None:
    """Share the blocks, else the file (read-only, as DVC keeps its objects), else copy it.

    What must be executable is a file of its own: the mode belongs to the file, not to its name.
    """
    if _share_blocks(source, target):
        os.chmod(target, mode)
        return
    if not mode & 0o111:
        try:
            os.link(os.path.realpath(source), target)
        except OSError:
            pass
        else:
            return
    shutil.copyfile(source, target)
    os.chmod(target, mode)


def _share_blocks(source: str, target: str) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        with open(source, "rb") as reading, open(target, "xb") as writing:
            fcntl.ioctl(writing.fileno(), FICLONE, reading.fileno())
    except OSError:
        if os.path.exists(target):
            os.unlink(target)
        return False
    return True


if __name__ == "__main__":
    main()
