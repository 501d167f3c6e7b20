"""What a typed command means in its repository: where it runs, and whether a job will find its script.

Looks at files, starts nothing.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nemo_gitexp.entry import CallEntry, CommandEntry, Entry, FunctionEntry, NotebookEntry, ScriptEntry
from nemo_gitexp.errors import UsageError


def find_workdir(root: Path, cwd: Path, entry: Entry) -> str:
    """Return where a typed command runs, relative to the root.

    That is "." unless the script is to be found only from the directory where the command was typed.
    """
    words = (entry.path,) if isinstance(entry, ScriptEntry) else entry.argv if isinstance(entry, CommandEntry) else ()
    here = Path(os.path.realpath(cwd))
    top = Path(os.path.realpath(root))
    if here == top or not here.is_relative_to(top):
        return "."
    files = [
        word for word in words if not word.startswith("-") and (here / word).is_file() and not (top / word).is_file()
    ]
    return here.relative_to(top).as_posix() if files else "."


def find_file(root: Path, cwd: Path, typed: str) -> str:
    """Return a file that was typed, relative to the root: from where it was typed if it is there, else from the root.

    Raises:
        UsageError: it lies outside of the repository.
    """
    top, here = Path(os.path.realpath(root)), Path(os.path.realpath(cwd))
    place = Path(os.path.normpath(here / typed if (here / typed).is_file() else top / typed))
    if not place.is_relative_to(top):
        raise UsageError(f"{typed} lies outside the repository", hint=f"{top} is its root", path=typed)
    return place.relative_to(top).as_posix()


def anchor_script(entry: Entry, root: Path, workdir: str) -> Entry:
    """Return the entry with a script or notebook of this work tree named relative to the working directory.

    By its absolute path a job would run the live file instead of the recorded one.
    """
    if not isinstance(entry, (ScriptEntry, NotebookEntry)) or not entry.path.startswith("/"):
        return entry
    top = os.path.realpath(root)
    real = os.path.join(os.path.realpath(os.path.dirname(entry.path)), os.path.basename(entry.path))  # noqa: PTH118, PTH119, PTH120 - the last part may be a link
    if not real.startswith(top + os.sep):
        return entry
    return replace(entry, path=os.path.relpath(real, os.path.join(top, workdir)))  # noqa: PTH118


def live_paths(entry: Entry, root: Path) -> list[str]:
    """Return the absolute paths among the arguments that name files of the live work tree."""
    top = os.path.realpath(root)
    words = entry.argv if isinstance(entry, CommandEntry) else entry.arguments
    values = [word.partition("=")[2] if word.startswith("-") and "=" in word else word for word in words]
    return [value for value in values if value.startswith((f"{top}/", f"{root}/")) and os.path.lexists(value)]


def require_workdir(workdir: str, listing: bytes, inputs: Sequence[str]) -> None:
    """Check that the directory where the job starts will be there: git keeps none without a file in it.

    Args:
        workdir: relative to the root.
        listing: the snapshot's files (`git.objects.list_files`).
        inputs: paths of the declared data, which are there, too.

    Raises:
        UsageError: it will not.
    """
    place = posixpath.normpath(workdir)
    above = [place, *(posixpath.join(*place.split("/")[:size]) for size in range(1, place.count("/") + 1))]
    # A submodule, a link to a directory or an input may stand at the directory or above it.
    is_there = f"\t{place}/".encode("utf-8", "surrogateescape") in listing or any(
        path in inputs or _is_recorded(path, listing) for path in above
    )
    if place != "." and not is_there and not any(path.startswith(f"{place}/") for path in inputs):
        raise UsageError(
            f"git has no file in the working directory {place}",
            hint=f"git add -f {shlex.quote(place)}/FILE, or start from another directory",
            path=place,
        )


def require_script(entry: Entry, root: Path, workdir: str, listing: bytes, inputs: Sequence[str]) -> None:
    """Check that a script, or the file of a function or recipe, will be there when the job looks for it.

    Args:
        entry: what runs.
        root: the work tree.
        workdir: where it runs, relative to the root.
        listing: the snapshot's files (`git.objects.list_files`).
        inputs: paths of the declared data, which may hold scripts too.

    Raises:
        UsageError: there is no such file, or git ignores it.
    """
    if isinstance(entry, FunctionEntry) and (entry.file or "").endswith(".py"):
        path = posixpath.normpath(entry.file or "")
    elif isinstance(entry, CallEntry) and entry.recipe is not None:
        path = posixpath.normpath(entry.recipe.rpartition(":")[0])
    elif isinstance(entry, (ScriptEntry, NotebookEntry)) and not entry.path.startswith("/"):
        path = posixpath.normpath(posixpath.join(workdir, entry.path))
    else:
        return
    if _is_recorded(path, listing) or any(path == data or path.startswith(f"{data}/") for data in inputs):
        return
    place = root / path
    if place.exists():
        _refuse_unrecorded(path, place, root, listing)
        return
    names = [_name(line) for line in listing.split(b"\0") if line.endswith(b".py")]
    near = difflib.get_close_matches(path, names, n=1)
    raise UsageError(
        f"there is no script {path}",
        hint=f"did you mean {near[0]}?" if near else "paths are relative to the root of the repository",
        path=path,
        nearest=near[0] if near else None,
    )


def _refuse_unrecorded(path: str, place: Path, root: Path, listing: bytes) -> None:
    real, top = Path(os.path.realpath(place)), Path(os.path.realpath(root))
    if not real.is_relative_to(top):
        if path.startswith("../"):
            raise UsageError(
                f"{path} lies outside the repository, where a job cannot find it by this name",
                hint=f"its absolute path: {real}",
                path=path,
            )
        return  # reached through a recorded link that leads out
    if not _is_recorded(real.relative_to(top).as_posix(), listing):
        raise UsageError(
            f"git ignores {path}, so a job would not have it", hint=f"git add -f {shlex.quote(path)}", path=path
        )


def _is_recorded(path: str, listing: bytes) -> bool:
    name = b"\t" + os.fsencode(path)
    if name + b"\0" in listing or name + b"/" in listing:
        return True
    parents = [os.fsencode(str(parent)) for parent in Path(path).parents]
    return any(
        line.startswith(b"160000 ") and line.endswith(b"\t" + parent)
        for parent in parents
        if b"\t" + parent + b"\0" in listing
        for line in listing.split(b"\0")
    )


def _name(line: bytes) -> str:
    return os.fsdecode(line.partition(b"\t")[2])
