"""Turns import paths that lie in the user's live work tree (editable installs, PYTHONPATH) to the workspace.

The job must import the recorded code. `RedirectRule` decides for one path; nothing here looks at what is imported.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Mapping

SITE_DIRECTORIES = ("site-packages", "dist-packages")


class RedirectRule:
    """Which paths are the user's live tree, and where the same thing lies in the workspace.

    Args:
        user_root: the user's work tree, None when there is nothing to keep out.
        workspace: the restored state.
        trusted_roots: directories that may lie below the work tree without being part of it.
    """

    def __init__(self, user_root: str | None, workspace: str, trusted_roots: Iterable[str]) -> None:
        self._roots = _both_forms(user_root) if user_root else []
        self._workspace = workspace
        inside = [workspace, sys.prefix, sys.exec_prefix, sys.base_prefix, *trusted_roots]
        trusted = [form for path in inside for form in _both_forms(path)]
        self._trusted = tuple(path for path in trusted if self._below_root(path, strictly=True))

    def is_live(self, path: str) -> bool:
        """Return whether the absolute path belongs to the user's live tree."""
        if not self._below_root(path) or self._is_trusted(path):
            return False
        return not any(part in SITE_DIRECTORIES for part in path.split(os.sep))

    def counterpart(self, path: str) -> str | None:
        """Return the same path in the workspace; None when it is not live or not there."""
        if not self.is_live(path):
            return None
        for root in self._roots:
            if _is_below(path, root):
                there = os.path.normpath(os.path.join(self._workspace, os.path.relpath(path, root)))
                return there if os.path.exists(there) else None
        return None

    def _below_root(self, path: str, *, strictly: bool = False) -> bool:
        return any(_is_below(path, root) and not (strictly and path == root) for root in self._roots)

    def _is_trusted(self, path: str) -> bool:
        return any(_is_below(path, root) for root in self._trusted)


def redirect_paths(paths: Iterable[str], rule: RedirectRule) -> list[str]:
    """Return the import paths with each live one replaced, in place, by its counterpart where it has one."""
    return [rule.counterpart(path) or path if os.path.isabs(path) else path for path in paths]


def redirect_editables(targets: Mapping[str, str], rule: RedirectRule) -> list[str]:
    """Return the workspace directories from which redirected editable packages are imported.

    Args:
        targets: package name to the path that an editable finder would serve it from.
        rule: which of them are live.
    """
    found = []
    for name, target in targets.items():
        there = rule.counterpart(target)
        if there and os.path.basename(there) in (name, f"{name}.py") and os.path.dirname(there) not in found:
            found.append(os.path.dirname(there))
    return found


def editable_targets() -> dict[str, str]:
    """Return package name to source path of every setuptools editable finder of this interpreter."""
    targets: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__") and name.endswith("_finder"):
            mapping = getattr(module, "MAPPING", None)
            if isinstance(mapping, dict):
                targets.update((str(key), str(value)) for key, value in mapping.items() if "." not in str(key))
    return targets


def redirected_pythonpath(value: str, first: Iterable[str], rule: RedirectRule) -> str:
    """Return PYTHONPATH for child processes: the redirected editables, then its own entries redirected."""
    own = redirect_paths([path for path in value.split(os.pathsep) if path], rule)
    return os.pathsep.join([*(path for path in first if path not in own), *own])


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root if root.endswith(os.sep) else root + os.sep)


def _both_forms(path: str) -> list[str]:
    absolute, real = os.path.abspath(path), os.path.realpath(path)
    return [absolute] if absolute == real else [absolute, real]
