"""The inputs of an experiment at record time: pinned from the snapshot, compared with what lies in the work tree."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from nemo_gitexp.data.cache import find_cache
from nemo_gitexp.data.commit import commit_data
from nemo_gitexp.data.manifest import manifest_pin
from nemo_gitexp.data.pins import InputPin, find_pin
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.data.worktree import worktree_state
from nemo_gitexp.definition import InputSpec
from nemo_gitexp.errors import DataDriftError
from nemo_gitexp.git.changes import listed_paths
from nemo_gitexp.git.objects import read_blobs
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.jsontext import MAX_DOCUMENT_BYTES
from nemo_gitexp.record import Input


def pin_inputs(repository: Repository, specs: Sequence[InputSpec], tree: str, listing: bytes) -> list[Input]:
    """Return the inputs with the content they have in a snapshot.

    Args:
        repository: where.
        specs: what the definition declares.
        tree: of the snapshot, whose DVC pointers count.
        listing: the tree's files (`git.objects.list_files`).

    Raises:
        UntrackedDataError: DVC does not track one of them.
        DataDriftError: the work tree holds other content than the pin says.
    """
    locks = listed_paths(listing, "dvc.lock")
    read = _tree_reader(repository, specs, tree, listing)
    pins = [
        manifest_pin(repository.root, spec.path)
        if spec.pin == "manifest"
        else find_pin(spec.path, read=read, lock_paths=locks)
        for spec in specs
    ]
    _require_same(repository, pins)
    return [
        Input(
            path=pin.path,
            pin=pin.pin,
            strength=pin.strength,
            size_bytes=pin.size_bytes,
            n_files=pin.n_files,
            source=pin.source,
            stage=pin.stage,
            executable=pin.executable,
        )
        for pin in pins
    ]


def commit_inputs(repository: Repository, specs: Sequence[InputSpec]) -> None:
    """Pin the present content of the inputs: the user's `.dvc` files and `dvc.lock` change."""
    paths = [spec.path for spec in specs if spec.pin == "content" and (repository.root / spec.path).exists()]
    locks = sorted(path.relative_to(repository.root).as_posix() for path in repository.root.glob("**/dvc.lock"))
    if paths and find_cache(repository.root, paths[0]) is not None:
        commit_data(repository.root, paths, lock_paths=locks)


def _tree_reader(
    repository: Repository, specs: Sequence[InputSpec], tree: str, listing: bytes
) -> Callable[[str], bytes | None]:
    """Return a reader of DVC's pointers in the snapshot; they are few, and read in one process."""
    near = {f"{parent}.dvc" for spec in specs for parent in (spec.path, *map(str, Path(spec.path).parents))}
    pointers = listed_paths(listing, "dvc.lock", "dvc.yaml")
    pointers += [path for path in listed_paths(listing, ".dvc") if path in near]
    blobs = read_blobs(repository, [f"{tree}:{path}" for path in pointers], limit_bytes=MAX_DOCUMENT_BYTES)
    content = dict(zip(pointers, blobs, strict=True))
    return content.get


def _require_same(repository: Repository, pins: Sequence[InputPin]) -> None:
    with VerifiedFiles(repository.state_dir / "verified.db") as verified:
        differing = [pin for pin in pins if worktree_state(repository.root, pin, verified) == "differs"]
    if differing:
        names = [pin.path for pin in differing]
        first = differing[0]
        path = shlex.quote(first.path)
        how = f"dvc commit {shlex.quote(first.stage)}" if first.stage else f"dvc add {path}"
        raise DataDriftError(
            f"data differs from its pin: {', '.join(names[:5])}",
            hint=f"run again with --commit-data, or {how}, or dvc checkout {path} to undo the change",
            paths=names,
        )
