"""Content that no cache has: taken from the user's work tree, asked from DVC's remotes, made anew by its stage."""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nemo_gitexp.data.cache import CacheLocation, configure_workspace
from nemo_gitexp.data.listing import hash_tree
from nemo_gitexp.data.pins import Reader, find_pin, list_stage_deps
from nemo_gitexp.data.session import dvc_session, run_dvc
from nemo_gitexp.data.store import ObjectStore, object_stores
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.data.worktree import worktree_reader, worktree_state
from nemo_gitexp.errors import DataError, StateDirectoryError, UntrackedDataError
from nemo_gitexp.inputpin import InputPin

if TYPE_CHECKING:
    from dvc.repo import Repo

_SAID_AT_MOST: Final = 300


def fetch(
    workspace: Path, pins: Sequence[InputPin], cache: CacheLocation, progress: Callable[[str], None]
) -> list[str]:
    """Bring missing objects from the DVC remotes into the cache; return why it failed, in one line each.

    Imports (`dvc import`, `import-url`) are fetched from where they came even without a remote.
    """
    wanted = [pin for pin in pins if cache.has_remote or _is_import(workspace, pin)]
    if not wanted or configure_workspace(workspace, cache) is None:
        return []
    progress(f"asking the DVC remotes for {', '.join(pin.path for pin in wanted)}")
    # Outputs, never pointer files: DVC 3.67 fetches only some of the targets when both are named (tried).
    targets = [str(workspace / pin.path) for pin in wanted]
    store = ObjectStore(cache.cache_dir, cache.is_shared)
    reasons: list[str] = []
    try:
        with dvc_session(workspace / cache.relative) as repo:
            # Without a name: the remote that each output or the configuration chooses. Then all others.
            for remote in (None, *repo.config["remote"]):
                reasons += _fetch_from(repo, targets, remote)
                if all(store.has(pin.pin) for pin in wanted):
                    return []
    except Exception as fault:  # noqa: BLE001 - a DVC configuration that DVC itself refuses
        reasons.append(_said(fault))
    return list(dict.fromkeys(reasons))


def _fetch_from(repo: Repo, targets: list[str], remote: str | None) -> list[str]:
    try:
        repo.fetch(targets=targets, remote=remote)
    except Exception as fault:  # noqa: BLE001 - every kind of remote has its library and its own errors
        return [_said(fault)]
    return []


def _said(fault: Exception) -> str:
    return f"the DVC remote said: {_one_line(str(fault) or type(fault).__name__)}"


def take_from_work_tree(
    root: Path, pins: Sequence[InputPin], cache: CacheLocation, verified: VerifiedFiles, progress: Callable[[str], None]
) -> None:
    """Store what the user's own work tree still has, where it hashes to its pin (a cache that was emptied or damaged).

    Args:
        root: the user's work tree.
        pins: what is missing.
        cache: where to store it.
        verified: memory of hashed files.
        progress: told what was found.
    """
    for pin in pins:
        with contextlib.suppress(OSError, DataError, StateDirectoryError):  # changed meanwhile; a read-only cache
            if worktree_state(root, pin, verified) == "match" and _keep(root, pin, cache, verified) is None:
                progress(f"{pin.path} is in no cache, taken from {root / pin.path}")


def run_stages(
    workspace: Path,
    pins: Sequence[InputPin],
    cache: CacheLocation,
    verified: VerifiedFiles,
    progress: Callable[[str], None],
    pending: frozenset[str] = frozenset(),
) -> list[str]:
    """Run the stages that made the missing inputs, in a copy of the workspace, and store what equals its pin.

    The workspace stays as it is: a stage may write anything. Inputs of the stage that are missing in turn are made
    first.

    Returns:
        Why a stage did not help, in one line each.
    """
    reasons: list[str] = []
    stages = {(pin.source, pin.stage): pin.stage for pin in pins if pin.stage is not None}
    for (source, _), stage in stages.items():
        wanted = [pin for pin in pins if (pin.source, pin.stage) == (source, stage)]
        if f"{source}:{stage}" in pending:
            continue
        progress(f"running the DVC stage {stage}, which makes {', '.join(pin.path for pin in wanted)}")
        try:
            with _scratch_copy(workspace, cache) as scratch:
                deps = _absent_deps(scratch, source, stage)
                reasons += _provide(scratch, deps, cache, verified, progress, pending | {f"{source}:{stage}"})
                absent = [pin.path for pin in deps if not os.path.lexists(scratch / pin.path)]
                failed = _starved(stage, absent) if absent else _run_stage(scratch, source, stage)
                reasons += failed or [said for pin in wanted if (said := _keep(scratch, pin, cache, verified))]
        except (OSError, DataError) as fault:
            reasons.append(f"stage {stage}: {_one_line(str(fault))}")
    return reasons


def _is_import(workspace: Path, pin: InputPin) -> bool:
    return pin.stage is None and b"deps:" in (worktree_reader(workspace)(pin.source) or b"")


def _starved(stage: str, absent: Sequence[str]) -> list[str]:
    return [f"the DVC stage {stage} needs {', '.join(absent)}"]


def _run_stage(scratch: Path, source: str, stage: str) -> list[str]:
    arguments = ["repro", "--single-item", "--force", "--no-commit", "--", stage]
    said = run_dvc(arguments, scratch / posixpath.dirname(source))
    return [] if said is None else [f"the DVC stage {stage} failed: {_one_line(said)}"]


def _keep(scratch: Path, pin: InputPin, cache: CacheLocation, verified: VerifiedFiles) -> str | None:
    """Store what a stage made if it is the pinned content; say what it is otherwise."""
    place = scratch / pin.path
    if not place.exists():
        return f"the DVC stage {pin.stage} did not make {pin.path}"
    store = ObjectStore(cache.cache_dir, cache.is_shared)
    if not pin.is_dir:
        found = verified.md5(place)
        if place.is_file() and found == pin.pin:
            store.add_file(place, pin.pin)
            return None
    else:
        found, entries = hash_tree(place, verified)
        if found == pin.pin:
            for path, md5 in entries:
                store.add_file(place / path, md5)
            store.add_dir(entries)
            return None
    return f"the DVC stage {pin.stage} now makes another {pin.path} (md5 {found}, recorded {pin.pin})"


def _absent_deps(scratch: Path, source: str, stage: str) -> list[InputPin]:
    read = worktree_reader(scratch)
    locks = [path.relative_to(scratch).as_posix() for path in scratch.rglob("dvc.lock")]
    paths = [path for path in list_stage_deps(source, stage, read) if not os.path.lexists(scratch / path)]
    pins = [_find_dep(path, read, locks) for path in paths]
    return list({pin.path: pin for pin in pins}.values())


def _find_dep(path: str, read: Reader, locks: Sequence[str]) -> InputPin:
    try:
        return find_pin(path, read=read, lock_paths=locks)
    except UntrackedDataError as fault:
        above = fault.facts.get("tracked")
        if not isinstance(above, str):
            raise
        return find_pin(above, read=read, lock_paths=locks)


def _provide(
    scratch: Path,
    deps: Sequence[InputPin],
    cache: CacheLocation,
    verified: VerifiedFiles,
    progress: Callable[[str], None],
    pending: frozenset[str],
) -> list[str]:
    """Copy the inputs of a stage into the scratch directory, making them first where they are missing too."""
    stores = object_stores(cache)
    missing = [pin for pin in deps if not any(store.has(pin.pin) for store in stores)]
    reasons = fetch(scratch, missing, cache, progress)
    missing = [pin for pin in missing if not stores[0].has(pin.pin)]
    reasons += run_stages(scratch, missing, cache, verified, progress, pending)
    for pin in deps:
        store = next((store for store in stores if store.has(pin.pin)), None)
        if store is not None:
            store.checkout(pin.pin, scratch / pin.path)
    return reasons


@contextlib.contextmanager
def _scratch_copy(workspace: Path, cache: CacheLocation) -> Iterator[Path]:
    """Give a copy of the workspace with its own DVC state; of a clone's `.git` directory nothing is copied."""
    folder = Path(tempfile.mkdtemp(prefix="stage-", dir=workspace.parent))
    scratch = folder / workspace.name
    own = {str(workspace / cache.relative / ".dvc" / name) for name in ("tmp", "cache")} | {str(workspace / ".git")}

    def left_out(base: str, names: list[str]) -> list[str]:
        paths = [(name, Path(base) / name) for name in names]
        return [name for name, path in paths if str(path) in own and path.is_dir()]

    try:
        shutil.copytree(workspace, scratch, symlinks=True, ignore=left_out)
        configure_workspace(scratch, cache)
        yield scratch
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SAID_AT_MOST else line[:_SAID_AT_MOST] + "…"
