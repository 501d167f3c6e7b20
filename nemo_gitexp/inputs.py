"""The inputs of an experiment at record time: pinned from the snapshot, from other experiments, or by the hub.

What DVC tracks is compared with what lies in the work tree.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from nemo_gitexp.addresses import EXPERIMENT
from nemo_gitexp.catalog import Site
from nemo_gitexp.data.cache import find_cache
from nemo_gitexp.data.commit import commit_data
from nemo_gitexp.data.manifest import keep_listing, listings_below, read_manifest
from nemo_gitexp.data.pins import find_pin
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.data.worktree import worktree_state
from nemo_gitexp.definition import InputSpec
from nemo_gitexp.errors import DataDriftError, UsageError
from nemo_gitexp.git.changes import listed_paths
from nemo_gitexp.git.objects import read_blobs
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.inputpin import InputPin
from nemo_gitexp.jsontext import MAX_DOCUMENT_BYTES


def pin_inputs(
    site: Site, specs: Sequence[InputSpec], tree: str, listing: bytes, env: Mapping[str, str]
) -> list[InputPin]:
    """Return the inputs with the content they have in a snapshot, or now, where they are no data of this repository.

    Args:
        site: where.
        specs: what the definition declares.
        tree: of the snapshot, whose DVC pointers count.
        listing: the tree's files (`git.objects.list_files`).
        env: the user's environment, which may hold a token of the hub.

    Side effects: listings of manifests are remembered on this machine.

    Raises:
        UntrackedDataError: DVC does not track one of them.
        DataDriftError: the work tree holds other content than the pin says.
        UpstreamError, MissingDataError: an output of another experiment cannot be used.
        HubError: the hub does not have it, or cannot be reached.
        UsageError: two inputs would lie in the same place, or one where git tracks files.
    """
    repository = site.repository
    locks = listed_paths(listing, "dvc.lock")
    read = _tree_reader(repository, [spec.path for spec in specs if not spec.address], tree, listing)
    pins = []
    for spec in specs:
        if spec.address.startswith(EXPERIMENT):
            from nemo_gitexp.upstream import pin_output  # reading other experiments is not everybody's need

            pins.append(pin_output(site, spec))
        elif spec.address:
            from nemo_gitexp.hub import resolve_hub

            pins.append(resolve_hub(spec, env))
        elif spec.pin == "manifest":
            manifest = read_manifest(repository.root, spec.path)
            keep_listing(listings_below(repository.state_dir), manifest)
            pins.append(manifest.pin)
        else:
            pins.append(find_pin(spec.path, read=read, lock_paths=locks))
    _require_apart(pins)
    _require_not_code(pins, listing)
    _require_same(repository, [pin for pin in pins if pin.origin is None and pin.strength == "content"])
    return pins


def commit_inputs(repository: Repository, specs: Sequence[InputSpec]) -> None:
    """Pin the present content of the inputs: the user's `.dvc` files and `dvc.lock` change."""
    tracked = [spec.path for spec in specs if spec.pin == "content" and not spec.address]
    paths = [path for path in tracked if (repository.root / path).exists()]
    locks = sorted(path.relative_to(repository.root).as_posix() for path in repository.root.glob("**/dvc.lock"))
    if paths and find_cache(repository.root, paths[0]) is not None:
        commit_data(repository.root, paths, lock_paths=locks)


def _tree_reader(
    repository: Repository, paths: Sequence[str], tree: str, listing: bytes
) -> Callable[[str], bytes | None]:
    """Return a reader of DVC's pointers in the snapshot; they are few, and read in one process."""
    near = {f"{parent}.dvc" for path in paths for parent in (path, *map(str, Path(path).parents))}
    pointers = listed_paths(listing, "dvc.lock", "dvc.yaml")
    pointers += [path for path in listed_paths(listing, ".dvc") if path in near]
    blobs = read_blobs(repository, [f"{tree}:{path}" for path in pointers], limit_bytes=MAX_DOCUMENT_BYTES)
    content = dict(zip(pointers, blobs, strict=True))
    return content.get


def _require_apart(pins: Sequence[InputPin]) -> None:
    paths = [pin.path for pin in pins]
    shared = [path for path in paths if paths.count(path) > 1 or any(path.startswith(f"{one}/") for one in paths)]
    if shared:
        raise UsageError(
            f"two inputs would lie in {shared[0]}",
            hint="say where one of them is to lie: {from: exp://…, path: models/other.pt}",
            paths=shared,
        )


def _require_not_code(pins: Sequence[InputPin], listing: bytes) -> None:
    """Refuse inputs that would lie among the code; of DVC's own pointers only DVC knows where they may lie."""
    for pin in pins:
        path = pin.path.encode("utf-8", "surrogateescape")
        above = [parent for parent in PurePosixPath(pin.path).parents if str(parent) != "."]
        whole = [path, *(str(parent).encode("utf-8", "surrogateescape") for parent in above)]
        is_code = b"\t" + path + b"/" in listing or any(b"\t" + name + b"\0" in listing for name in whole)
        if is_code and not pin.source:
            hint = "say where it is to lie: {from: …, path: models/other}"
            raise UsageError(
                f"git tracks files where the input {pin.path} would lie",
                hint=hint if pin.origin else f"git rm -r --cached {shlex.quote(pin.path)}, and name it in .gitignore",
                paths=[pin.path],
            )


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
