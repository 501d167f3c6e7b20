"""From an experiment commit to a verified directory that holds exactly its state, data included."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.data.cache import LINK_TYPES, CacheLocation, configure_workspace, find_cache
from nemo_gitexp.data.manifest import listings_below
from nemo_gitexp.data.restore import RestoredInput, Shelves, restore_inputs
from nemo_gitexp.data.store import own_store
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.filtered import look_at_filtered, require_filtered
from nemo_gitexp.git.objects import list_files
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.git.worktree import DiskFile, add_worktree, remove_worktree, verify_worktree
from nemo_gitexp.inputpin import InputPin
from nemo_gitexp.jsontext import JsonValue, render_json_line
from nemo_gitexp.record import ExperimentRecord

DVC_OWN_FILES = (".dvc/config.local", ".dvc/tmp", ".dvc/cache", ".dvcignore")
"""What DVC or we put below `.dvc` in a workspace without it being part of the experiment."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A restored and verified state."""

    path: Path
    files: tuple[DiskFile, ...]
    inputs: tuple[RestoredInput, ...]
    dvc_roots: tuple[str, ...]

    def manifest(self) -> bytes:
        """Return the manifest that the node checks: path, mode, size, sha256 of each file on disk."""
        rows: list[JsonValue] = [[file.path, file.mode, file.size_bytes, file.sha256] for file in self.files]
        return render_json_line({"files": rows})

    def allowed_extras(self) -> list[str]:
        """Return the paths that may be there beyond manifest and inputs."""
        return [f"{root}/{name}".lstrip("/") for root in self.dvc_roots for name in DVC_OWN_FILES]


def restore(
    repository: Repository,
    sha: str,
    record: ExperimentRecord,
    directory: Path,
    *,
    copy_data: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Workspace:
    """Make the directory hold exactly the state of an experiment commit; nothing is left behind on failure.

    Args:
        repository: where the commit lies.
        sha: the record commit.
        record: its experiment.json.
        directory: must not exist yet.
        copy_data: copy inputs instead of linking them to the cache.
        progress: told in one line what takes time.

    Raises:
        WorkspaceError: a file is not what was recorded, a submodule is missing, a filter is another one.
        MissingDataError: data that no cache, remote, stage or store has; all of it at once.
        HubError: files of the hub that cannot be had.
        StateDirectoryError: the directory cannot be written.
    """
    try:
        populated = {path for path, _ in record.code.submodules}
        add_worktree(repository, directory, sha, with_submodules=bool(populated))
        listing = list_files(repository, sha)
        files = verify_worktree(repository, directory, listing, populated=populated)
        found = look_at_filtered(repository, directory, listing, record.code.submodules)
        require_filtered(record.code.filtered, found)
        pins = list(record.inputs)
        with VerifiedFiles(repository.state_dir / "verified.db") as verified:
            inputs = restore_inputs(
                directory,
                pins,
                repo_root=repository.root,
                verified=verified,
                main_root=repository.main_root,
                shelves=_shelves(repository, progress or _silent),
                link_types=("copy",) if copy_data else LINK_TYPES,
                progress=progress,
            ) if pins else ()  # fmt: skip
        caches = _caches(repository, pins)
        for cache in caches:
            # Somebody works in a copy: there DVC links as it does at home.
            configure_workspace(directory, cache, cache.link_types if copy_data else LINK_TYPES)
    except BaseException:
        remove_worktree(repository, directory)
        raise
    return Workspace(directory, tuple(files), inputs, tuple(cache.relative for cache in caches))


def _shelves(repository: Repository, progress: Callable[[str], None]) -> Shelves:
    def fetch(pin: InputPin) -> Mapping[str, Path]:
        from nemo_gitexp.hub import fetch_hub  # imports a package that not everybody has

        return fetch_hub(pin, os.environ, progress)

    own = own_store(repository.root, repository.main_root, repository.state_dir)
    return Shelves(own, listings_below(repository.state_dir), fetch)


def _silent(_: str) -> None:
    return None


def _caches(repository: Repository, pins: list[InputPin]) -> list[CacheLocation]:
    nears = [pin.source or pin.path for pin in pins] or [""]
    found = [find_cache(repository.root, near, main_root=repository.main_root) for near in nears]
    unique = {cache.dvc_root: cache for cache in found if cache is not None}
    return list(unique.values())
