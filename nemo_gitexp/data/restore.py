"""Fills a workspace with exactly the pinned inputs, and tells afterwards whether a job changed them.

Everything that is linked was hashed before, now or earlier under the same inode, time and size: DVC's own checkout
serves a corrupt cache object with return code 0 (measured with DVC 3.67).
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from nemo_gitexp.data import regenerate
from nemo_gitexp.data.cache import LINK_TYPES, CacheLocation, find_cache
from nemo_gitexp.data.links import Linker
from nemo_gitexp.data.listing import Entries
from nemo_gitexp.data.manifest import find_listing, keep_listing, read_manifest
from nemo_gitexp.data.refused import NAMED_AT_MOST, commands_for, drifted, missing_output
from nemo_gitexp.data.store import ObjectStore, md5_of, object_stores, quarantine
from nemo_gitexp.data.verified import VerifiedFiles, hash_file
from nemo_gitexp.errors import (
    CorruptDataError,
    MissingDataError,
    StateDirectoryError,
    WorkspaceError,
)
from nemo_gitexp.inputpin import InputPin, OutputOrigin
from nemo_gitexp.jsontext import JsonValue

Progress: TypeAlias = Callable[[str], None]


_WORTH_SAYING_BYTES: Final = 200_000_000  # about 0.3 s


@dataclass(frozen=True, slots=True)
class RestoredFile:
    """One file as it was put in place; `path` is POSIX, relative to the workspace, `md5` empty where nobody hashed."""

    path: str
    md5: str
    size_bytes: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class RestoredInput:
    """One input in the workspace; `kinds` says how its files were made: reflink, hardlink, copy, symlink."""

    pin: InputPin
    files: tuple[RestoredFile, ...]
    kinds: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Sum over the files."""
        return sum(file.size_bytes for file in self.files)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the entry of a plan's `inputs`."""
        return {
            "path": self.pin.path,
            "pin": self.pin.pin,
            "size_bytes": self.size_bytes,
            "files": [[file.path, file.md5, file.size_bytes, file.mtime_ns, file.inode] for file in self.files],
            "kinds": list(self.kinds),
            "strength": self.pin.strength,
        }


def parse_restored_input(document: Mapping[str, JsonValue]) -> RestoredInput:
    """Return the input that `RestoredInput.to_json` rendered; the plan is our own and is not doubted."""
    pin = InputPin(str(document["path"]), str(document["pin"]), None, None, strength=str(document["strength"]))
    rows = document["files"]
    kinds = document["kinds"]
    if not isinstance(rows, list) or not isinstance(kinds, list):
        return RestoredInput(pin, (), ())
    files = tuple(RestoredFile(path, md5, size, mtime_ns, inode) for path, md5, size, mtime_ns, inode in rows)
    return RestoredInput(pin, files, tuple(str(kind) for kind in kinds))


@dataclass(frozen=True, slots=True)
class Shelves:
    """Where inputs lie that DVC knows nothing of.

    Attributes:
        own: the store with the outputs of experiments.
        listings: what manifests held when they were pinned on this machine; it says what has changed since.
        fetch_named: brings what a named pin stands for and returns its files by path below it; a single file's own
            path is the empty text.
    """

    own: ObjectStore | None = None
    listings: Path | None = None
    fetch_named: Callable[[InputPin], Mapping[str, Path]] | None = None


def restore_inputs(  # noqa: PLR0913 - what is put where, from where, and how
    workspace: Path,
    pins: Sequence[InputPin],
    *,
    repo_root: Path,
    verified: VerifiedFiles,
    cache: CacheLocation | None = None,
    main_root: Path | None = None,
    link_types: Sequence[str] = LINK_TYPES,
    shelves: Shelves = Shelves(),
    progress: Progress | None = None,
) -> tuple[RestoredInput, ...]:
    """Put every pinned input into a workspace.

    Objects are linked from the cache (reflink, else hard link, else copy); a corrupt one is moved aside and counts as
    missing; what is missing is taken from the user's work tree, asked from the DVC remotes, then made anew by its
    stage, and accepted only if it hashes to its pin. Outputs of other experiments come from our own store. Inputs of
    strength manifest are symbolic links to the user's own, after their listing was compared; named ones are links to
    the files in their cache, or copies of them.

    Args:
        workspace: a directory holding the experiment's commit.
        pins: what to put there; their paths must be free.
        repo_root: the user's work tree: where DVC is configured and manifest inputs lie.
        verified: memory of hashed files.
        cache: use this cache for all; otherwise the one nearest to each pin's pointer.
        main_root: the main work tree when `repo_root` is a linked one.
        link_types: how files may be put in place, tried in this order.
        shelves: where inputs lie that are not tracked by DVC.
        progress: told in one line what takes time.

    Raises:
        MissingDataError: with `missing` paths, all of them at once.
        WorkspaceError: a path is taken by a file of the commit, or its parent leads out of the workspace.
        DataDriftError: a manifest input that is another now.
        HubError: a named input that cannot be had.
        StateDirectoryError: the workspace cannot be written, or an object cannot be read.
    """
    job = _Restoration(workspace, repo_root, verified, cache, main_root, shelves, progress or _silent)
    contents = [pin for pin in pins if pin.strength == "content"]
    linker = Linker(tuple(link_types))
    try:
        _require_free(workspace, pins)
        sources = job.locate_all(contents)
        return tuple(
            job.link(pin, sources[pin.path], linker)
            if pin.strength == "content"
            else job.point_to(pin)
            if pin.strength == "manifest"
            else job.link_named(pin, is_copied="hardlink" not in link_types)
            for pin in pins
        )
    except OSError as fault:
        raise StateDirectoryError(f"cannot put inputs into {workspace}: {fault}", path=str(workspace)) from fault


@dataclass(slots=True)
class _Restoration:
    workspace: Path
    repo_root: Path
    verified: VerifiedFiles
    cache: CacheLocation | None
    main_root: Path | None
    shelves: Shelves
    progress: Progress
    corrupt: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    stuck: set[Path] = field(default_factory=set)

    def locate_all(self, pins: Sequence[InputPin]) -> dict[str, dict[str, Path]]:
        """Return for each pin its verified objects by path below it; a file's own path is the empty text."""
        found = {pin.path: self.locate(pin) for pin in pins}
        missing = [pin for pin in pins if found[pin.path] is None]
        if missing:
            self._recover(missing)
            found |= {pin.path: self.locate(pin) for pin in missing}
        self._require(pins, found)
        return {path: objects for path, objects in found.items() if objects is not None}

    def locate(self, pin: InputPin) -> dict[str, Path] | None:
        """Return the verified objects of a pin, None as soon as one is nowhere; corrupt ones are moved aside."""
        location = self.location(pin)
        stores = [] if location is None else object_stores(location)
        if isinstance(pin.origin, OutputOrigin) and self.shelves.own is not None:
            stores.insert(0, self.shelves.own)
        while (objects := self._find(pin, stores)) is not None:
            try:
                corrupt = self._corrupt(pin, objects)
            except FileNotFoundError:  # another restore set it aside meanwhile
                continue
            if not corrupt:
                return objects
            for path in corrupt:
                self._set_aside(pin, path)
        return None

    def location(self, pin: InputPin) -> CacheLocation | None:
        """Return the cache that belongs to a pin."""
        if self.cache is None:
            return find_cache(self.repo_root, pin.source or pin.path, main_root=self.main_root)
        return self.cache

    def link(self, pin: InputPin, objects: dict[str, Path], linker: Linker) -> RestoredInput:
        """Put the objects of one pin in place."""
        kinds: set[str] = set()
        files: list[RestoredFile] = []
        target = self.workspace / pin.path
        if pin.is_dir:
            target.mkdir(parents=True, exist_ok=True)
        chosen = Linker(("copy",)) if pin.executable else linker
        folders: set[Path] = set()
        for path, source in objects.items():
            place = target / path if path else target
            if place.parent not in folders:
                place.parent.mkdir(parents=True, exist_ok=True)
                folders.add(place.parent)
            kinds.add(chosen.place(source, place))
            if pin.executable:
                place.chmod(0o755)
            files.append(_restored(self.workspace, place, md5_of(source)))
        return RestoredInput(pin, tuple(files), tuple(sorted(kinds)))

    def point_to(self, pin: InputPin) -> RestoredInput:
        """Link to data too large to hash, after comparing their listing; the node compares their state once more."""
        here = read_manifest(self.repo_root, pin.path)
        if here.digest != pin.pin:
            raise drifted(pin, here.changes_since(find_listing(self.shelves.listings, pin.pin)))
        if self.shelves.listings is not None:
            keep_listing(self.shelves.listings, here)
        target = self.workspace / pin.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((self.repo_root / pin.path).resolve())
        places = [target / row.name if here.is_dir else target for row in here.rows if row.size_bytes is not None]
        files = tuple(_restored(self.workspace, place, "") for place in places)
        return RestoredInput(pin, files, ("symlink",))

    def link_named(self, pin: InputPin, *, is_copied: bool) -> RestoredInput:
        """Link to the files that a name stands for, one by one: their cache need not be on this file system."""
        if self.shelves.fetch_named is None:
            raise MissingDataError(f"{pin.path}: nobody here fetches {pin.pin}", missing=[pin.path])
        files = []
        for path, source in sorted(self.shelves.fetch_named(pin).items()):
            place = self.workspace / pin.path / path if path else self.workspace / pin.path
            place.parent.mkdir(parents=True, exist_ok=True)
            if is_copied:
                shutil.copyfile(source, place)
            else:
                place.symlink_to(source.resolve())
            files.append(_restored(self.workspace, place, ""))
        return RestoredInput(pin, tuple(files), ("copy" if is_copied else "symlink",))

    def _find(self, pin: InputPin, stores: Sequence[ObjectStore]) -> dict[str, Path] | None:
        entries = self._entries(pin, stores)
        objects: dict[str, Path] = {}
        for path, md5 in entries or ():
            candidates = (store.path_of(md5) for store in stores)
            found = next((place for place in candidates if place.is_file() and place not in self.stuck), None)
            if found is None:
                return None
            objects[path] = found
        return None if entries is None else objects

    def _entries(self, pin: InputPin, stores: Sequence[ObjectStore]) -> Entries | None:
        if not pin.is_dir:
            return (("", pin.pin),)
        for store in stores:
            try:
                return store.entries(pin.pin)
            except MissingDataError:
                continue
            except CorruptDataError:
                self._set_aside(pin, store.path_of(pin.pin))
        return None

    def _corrupt(self, pin: InputPin, objects: dict[str, Path]) -> list[Path]:
        """Return the objects whose content is not what their names say."""
        unique = list(dict.fromkeys(objects.values()))
        sums = self.verified.md5s(unique, announce=lambda size_bytes: self._announce(pin, size_bytes))
        return [path for path, md5 in zip(unique, sums, strict=True) if md5 != md5_of(path)]

    def _announce(self, pin: InputPin, size_bytes: int) -> None:
        if size_bytes > _WORTH_SAYING_BYTES:
            self.progress(f"verifying {pin.path} ({size_bytes / 1e9:.1f} GB), once")

    def _set_aside(self, pin: InputPin, path: Path) -> None:
        try:
            if hash_file(path) == md5_of(path).removesuffix(".dir"):
                return  # another restore has brought good content meanwhile
            aside = quarantine(path)
        except FileNotFoundError:
            return
        except StateDirectoryError:  # a read-only shared cache: pass it over, and say so
            aside = path
            self.stuck.add(path)
        if aside is not None:
            self.corrupt.append(str(aside))
            self.progress(f"the cached content of {pin.path} is corrupt, set aside: {aside}")

    def _recover(self, missing: Sequence[InputPin]) -> None:
        by_cache: dict[Path, list[InputPin]] = {}
        for pin in missing:
            location = self.location(pin)
            if location is not None and pin.origin is None:
                by_cache.setdefault(location.dvc_root, []).append(pin)
        for pins in by_cache.values():
            location = self.location(pins[0])
            if location is not None:
                self._recover_from(location, pins)

    def _recover_from(self, location: CacheLocation, pins: Sequence[InputPin]) -> None:
        """Fill one cache: first from what is near, last by what takes longest."""
        regenerate.take_from_work_tree(self.repo_root, pins, location, self.verified, self.progress)
        pins = [pin for pin in pins if self.locate(pin) is None]
        self.reasons += regenerate.fetch(self.workspace, pins, location, self.progress) if pins else []
        still = [pin for pin in pins if self.locate(pin) is None]
        if still and location.has_remote and not self.reasons:
            self.reasons.append(f"no DVC remote has {', '.join(pin.path for pin in still)}")
        self.reasons += regenerate.run_stages(self.workspace, still, location, self.verified, self.progress)

    def _require(self, pins: Sequence[InputPin], found: dict[str, dict[str, Path] | None]) -> None:
        missing = [pin for pin in pins if found[pin.path] is None]
        if not missing:
            return
        outputs = [pin.origin for pin in missing if isinstance(pin.origin, OutputOrigin)]
        if len(outputs) == len(missing) == 1:
            raise missing_output(outputs[0], corrupt=self.corrupt)
        named = ", ".join(pin.path for pin in missing[:NAMED_AT_MOST])
        corrupt = f"; corrupt copies: {', '.join(self.corrupt)}" if self.corrupt else ""
        why = "".join(f"; {reason}" for reason in self.reasons)
        raise MissingDataError(
            f"no cache, remote or stage has the recorded content of {named}{corrupt}{why}",
            hint=commands_for(missing),
            missing=[pin.path for pin in missing],
            pins={pin.path: pin.pin for pin in missing},
            corrupt=list(self.corrupt),
            reasons=list(self.reasons),
        )


def _require_free(workspace: Path, pins: Sequence[InputPin]) -> None:
    taken = [pin.path for pin in pins if _is_taken(workspace / pin.path)]
    if taken:
        said = f"{', '.join(taken[:NAMED_AT_MOST])}: in the commit itself as well as pinned data"
        hint = f"git rm -r --cached {shlex.join(taken[:NAMED_AT_MOST])}"
        raise WorkspaceError(said, hint=hint, paths=taken)
    root = os.path.realpath(workspace)
    outside = [pin.path for pin in pins if os.path.commonpath((root, _real_parent(workspace, pin))) != root]
    if outside:
        said = f"{', '.join(outside)}: a symbolic link on the way leads out of the workspace"
        raise WorkspaceError(said, hint="replace the link by a directory", paths=outside)


def _real_parent(workspace: Path, pin: InputPin) -> str:
    return os.path.realpath((workspace / pin.path).parent)


def _is_taken(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        return any(files for _, _, files in os.walk(path))
    return os.path.lexists(path)


def _restored(workspace: Path, place: Path, md5: str) -> RestoredFile:
    status = place.stat()
    path = place.relative_to(workspace).as_posix()
    return RestoredFile(path, md5, status.st_size, status.st_mtime_ns, status.st_ino)


def _silent(_: str) -> None:
    return None
