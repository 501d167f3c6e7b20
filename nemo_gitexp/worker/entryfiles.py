"""Which files of the workspace are the entry point of a plan: a run that was interrupted goes on with these alone."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .shapes import Plan


def entry_files(plan: Plan) -> set[str]:
    """Return where the entry point may lie, relative to the workspace: a module has several places that it may have."""
    top = plan["workspace"]
    return {os.path.relpath(os.path.join(top, path), top) for path in _candidates(plan)}


def _candidates(plan: Plan) -> Iterator[str]:
    entry, cwd = plan["entry"], plan["cwd"]
    kind = entry["kind"]
    if kind in ("script", "notebook"):
        yield os.path.join(cwd, entry["path"])
        yield os.path.join(cwd, entry["path"], "__main__.py")
    elif kind == "command":
        yield from (os.path.join(cwd, word) for word in entry["argv"])
    elif kind == "module":
        yield from _module_files(cwd, entry["module"])
    elif kind in ("function", "call"):
        yield from _function_files(plan)


def _function_files(plan: Plan) -> Iterator[str]:
    entry = plan["entry"]
    place, colon, _ = entry["target"].rpartition(":")
    if not colon or place.endswith(".py"):
        yield place or entry["target"]
        return
    search: object = entry.get("search") or "."
    for directory in search if isinstance(search, list) else [str(search)]:
        yield from _module_files(directory, place)
    yield from _module_files(plan["cwd"], place)


def _module_files(directory: str, name: str) -> Iterator[str]:
    """Yield what importing or running a module reads first: its own file, and those of the packages around it."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        yield os.path.join(directory, *parts[:depth], "__init__.py")
    yield os.path.join(directory, *parts, "__main__.py")
    yield os.path.join(directory, *parts) + ".py"
