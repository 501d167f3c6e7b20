"""What killed processes left behind goes: only things of ours, and only when their owner is provably gone.

Runs that are not collected, kept workspaces and everything of a living process stay.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp.catalog import Site, drop_void
from nemo_gitexp.collect import discard_run, discard_workspace, output_store
from nemo_gitexp.data.manifest import drop_old_listings, listings_below
from nemo_gitexp.errors import GitCommandError
from nemo_gitexp.git.objects import TEMPORARY_REFS, delete_ref, list_refs
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.git.worktree import list_worktrees, remove_worktree
from nemo_gitexp.owners import is_left_behind
from nemo_gitexp.plainlinks import drop_dangling_links
from nemo_gitexp.rundir import UNDROPPED, RunPaths
from nemo_gitexp.runs import GOES_ON, inspect_run, is_cut_short, is_reproduction, list_run_directories, read_state_file
from nemo_gitexp.tips import BRANCH_PREFIX, Tip, branch_name, list_tips, move_branch, remove_stale_locks
from nemo_gitexp.worker.machine import process_lives

if TYPE_CHECKING:
    from nemo_gitexp.remote import RemoteHost

STALE_LOCK_S = 600.0
"""No git process of ours holds a lock on a ref for that long."""


def tidy(site: Site) -> None:
    """Remove what processes of ours left when they were killed.

    Side effects: refs below `refs/gitexp-tmp/`, temporary files and directories, workspaces and run directories of runs
    that never started go, copies of runs on machines that did not answer before, and listings of data that nobody
    needed for months; a branch that a killed process did not move along follows its experiment.
    """
    repository = site.repository
    remove_stale_locks(repository, STALE_LOCK_S, time.time())
    for ref, sha in list_refs(repository, TEMPORARY_REFS):
        if is_left_behind(ref.removeprefix(TEMPORARY_REFS)):
            with suppress(GitCommandError):  # somebody else tidies at the same moment
                delete_ref(repository, ref, sha)
    for path in _left_behind(site):
        _remove(path)
    drop_old_listings(listings_below(repository.state_dir), time.time())
    _drop_crash_reports(repository)
    drop_dangling_links()
    tips = list_tips(repository, remotes=False)
    finished: set[str] = {tip.record for tip in tips if tip.status is not None}
    silent: set[RemoteHost] = set()
    for paths in list_run_directories(site.run_root):
        _tidy_run(repository, paths, finished, silent)
    if next(site.run_root.glob(f"{UNDROPPED}*"), None) is not None:
        from nemo_gitexp.transfer import drop_undropped  # hardly ever needed

        drop_undropped(site.run_root, silent)
    _drop_missing_worktrees(site)
    _catch_up_branches(repository, tips)


def _left_behind(site: Site) -> Iterator[Path]:
    state = site.repository.state_dir
    outputs = output_store(site.repository).root
    for root in (state / "tmp", state / "nemo", state / "results", listings_below(state), outputs / "tmp"):
        yield from _without_owner(root, "*")
    yield from _without_owner(site.run_root, ".*")
    yield from _without_owner(site.workspace_root, "*.restored")
    yield from _without_owner(Path(tempfile.gettempdir()), "*.gitexp")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # somebody else tidies at the same moment
        path.unlink()


def _without_owner(root: Path, pattern: str) -> Iterator[Path]:
    for path in root.glob(pattern):
        try:
            changed = path.lstat().st_mtime
        except FileNotFoundError:
            continue
        if is_left_behind(path.name.removeprefix("."), changed):
            yield path


def _drop_crash_reports(repository: Repository) -> None:
    """Remove the reports that git's fast-import writes when whoever feeds it is killed; others' stay."""
    for report in repository.common_dir.glob("fast_import_crash_*"):
        with suppress(OSError):  # somebody else tidies at the same moment, or it is somebody else's
            if b"refs/gitexp" in report.read_bytes():
                report.unlink()


def _tidy_run(repository: Repository, paths: RunPaths, finished: set[str], silent: set[RemoteHost]) -> None:
    if is_cut_short(paths):
        from nemo_gitexp.scheduled import settle_submissions  # hardly ever needed

        if settle_submissions([paths], _unheard, adopt=not is_reproduction(paths)):
            return
    state = inspect_run(paths)
    if state.status in GOES_ON:
        return
    if state.status == "void":
        drop_void(repository, paths)
    elif not state.is_reproduction:
        if state.record in finished:
            discard_workspace(repository, paths, silent=silent)
    elif _is_orphaned_reproduction(paths):
        discard_run(repository, paths)


def _unheard(_: str) -> None:
    return None


def _is_orphaned_reproduction(paths: RunPaths) -> bool:
    """Return whether nobody waits for the verdict any more; one kept on purpose has no workspace, or says so."""
    launching = read_state_file(paths.launching)
    is_kept = read_state_file(paths.plan).get("keep_workspace") or not Path(str(launching.get("workspace"))).exists()
    return not is_kept and not process_lives(launching)


def _drop_missing_worktrees(site: Site) -> None:
    """Forget worktrees of ours whose directory went, but not git's note of it."""
    for directory in list_worktrees(site.repository):
        if directory.parent == site.workspace_root and not directory.exists():
            remove_worktree(site.repository, directory)


def _catch_up_branches(repository: Repository, tips: list[Tip]) -> None:
    """Move branches that stayed at the record although the result is there."""
    branches = dict(list_refs(repository, f"refs/heads/{BRANCH_PREFIX}"))
    for tip in tips:
        if tip.result is not None and branches.get(f"refs/heads/{branch_name(tip.study, tip.name)}") == tip.record:
            move_branch(repository, tip, tip.record, tip.sha)
