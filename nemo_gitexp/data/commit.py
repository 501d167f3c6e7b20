"""Pins changed data, as `--commit-data` promises: it changes `.dvc` files, `dvc.lock` and `.gitignore` of the user."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from nemo_gitexp.data.cache import find_cache
from nemo_gitexp.data.pins import Reader, find_pin
from nemo_gitexp.data.session import run_dvc
from nemo_gitexp.data.worktree import worktree_reader
from nemo_gitexp.errors import DataError, DataPointerError, UntrackedDataError
from nemo_gitexp.inputpin import InputPin


def commit_data(repo_root: Path, paths: Sequence[str], *, lock_paths: Sequence[str] = ()) -> tuple[InputPin, ...]:
    """Store the present content of inputs in DVC's cache and write their new pins into the user's pointer files.

    A path that DVC tracks is committed (`dvc commit --force`), any other is added (`dvc add`).

    Args:
        repo_root: the user's work tree.
        paths: inputs, POSIX, relative to it.
        lock_paths: as for `find_pin`.

    Returns:
        The pins that hold now, in the order of `paths`.

    Raises:
        DataError: no DVC here, or DVC refused.
    """
    read = worktree_reader(repo_root)
    for path in paths:
        cache = find_cache(repo_root, path)
        if cache is None:
            raise DataError(f"{path} cannot be pinned: no DVC in {repo_root}", hint="dvc init", path=path)
        _commit(cache.dvc_root, repo_root, path, _target(repo_root, path, read, lock_paths))
    return tuple(find_pin(path, read=read, lock_paths=lock_paths) for path in paths)


def _target(repo_root: Path, path: str, read: Reader, lock_paths: Sequence[str]) -> str | None:
    """Return DVC's name of what tracks the path; None when nothing does."""
    try:
        pin = find_pin(path, read=read, lock_paths=lock_paths)
    except UntrackedDataError as fault:
        if "tracked" in fault.facts:
            raise
        return None
    except DataPointerError:
        return str(repo_root / f"{path}.dvc")
    if pin.stage is None:
        return str(repo_root / pin.source)
    definition = (repo_root / pin.source).with_name("dvc.yaml")
    return f"{definition}:{pin.stage}"


def _commit(dvc_root: Path, repo_root: Path, path: str, target: str | None) -> None:
    if target is None:
        said = run_dvc(["add", "--", str(repo_root / path)], dvc_root)
    else:
        said = run_dvc(["commit", "--force", "--", target], dvc_root)
    if said is not None:
        line = " ".join(said.split())
        raise DataError(f"DVC cannot pin {path}: {line}", hint=f"dvc add {shlex.quote(path)}", path=path)
