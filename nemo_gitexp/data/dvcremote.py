"""Objects between this machine and the DVC remote: data of DVC at its place, outputs and logs of ours apart.

`<remote>/files/md5` holds what DVC tracks, as `dvc push` puts it there; `<remote>/gitexp/files/md5` holds our store,
which `dvc gc --cloud` would take for rubbish otherwise. Both in DVC's layout, moved by DVC's own code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from nemo_gitexp.data.cache import CacheLocation
from nemo_gitexp.data.session import dvc_session
from nemo_gitexp.data.store import ObjectStore
from nemo_gitexp.data.verified import VerifiedFiles
from nemo_gitexp.errors import CorruptDataError, DataRemoteError, MissingDataError

if TYPE_CHECKING:
    from dvc.repo import Repo

Shelf: TypeAlias = Literal["dvc", "gitexp"]
"""Where at the remote: among what DVC tracks, or in our own part."""

_SAID_AT_MOST: Final = 300


@dataclass(frozen=True, slots=True)
class DataRemote:
    """One DVC remote while DVC is open: what it has, what it is sent, what it gives."""

    name: str
    _odbs: Mapping[Shelf, Any]

    def lacking(self, md5s: Iterable[str], shelf: Shelf) -> set[str]:
        """Return which objects the remote does not have; a directory that is there has all its files.

        Raises:
            DataRemoteError: it cannot be asked.
        """
        wanted = sorted(set(md5s))
        if not wanted:
            return set()
        with self._telling():
            return set(wanted) - set(self._odbs[shelf].oids_exist(wanted))

    def send(self, md5s: Iterable[str], store: ObjectStore, shelf: Shelf) -> int:
        """Send objects that a store has, files before the directories that list them; return how many were sent.

        Raises:
            DataRemoteError: some could not be written.
        """
        there = self._odbs[shelf]
        return self._move(_local(store), there, sorted(set(md5s)), whole=True)

    def bring(self, md5s: Iterable[str], store: ObjectStore, shelf: Shelf) -> int:
        """Bring objects into a store, each checked against its name; return how many came.

        Raises:
            DataRemoteError: some could not be had.
        """
        wanted, here, there = sorted(set(md5s)), _local(store), self._odbs[shelf]
        folders = [md5 for md5 in wanted if md5.endswith(".dir") and not store.path_of(md5).is_file()]
        came = self._move(there, here, folders, whole=False)  # they say which files there are
        return came + self._move(there, here, wanted, whole=True)

    def _move(self, source: Any, target: Any, md5s: list[str], *, whole: bool) -> int:
        if not md5s:
            return 0
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.transfer import transfer

        objects = [HashInfo("md5", md5) for md5 in md5s]
        with self._telling():
            # Listings of directories are read where they are local.
            local = source if target in self._odbs.values() else target
            moved, failed = transfer(source, target, objects, verify=True, shallow=not whole, cache_odb=local)
        if failed:
            names = sorted(str(item.value) for item in failed)
            raise DataRemoteError(f"the DVC remote {self.name} failed with {names[0]}", hint=_hint(self.name))
        return len(moved)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except Exception as fault:  # every kind of remote has its library and its own errors
            said = " ".join((str(fault) or type(fault).__name__).split())[:_SAID_AT_MOST]
            raise DataRemoteError(f"the DVC remote {self.name} said: {said}", hint=_hint(self.name)) from fault


@contextlib.contextmanager
def open_data_remote(cache: CacheLocation | None) -> Iterator[DataRemote]:
    """Open the DVC remote of a repository: its default one, else the only one.

    Raises:
        DataRemoteError: there is none, several without a default, or one that is no plain store of objects.
    """
    if cache is None:
        raise DataRemoteError("there is no DVC here", hint="dvc init, then dvc remote add -d storage URL")
    with contextlib.ExitStack() as stack:
        try:
            repo = stack.enter_context(dvc_session(cache.dvc_root))
            remote = _open(repo)
        except DataRemoteError:
            raise
        except Exception as fault:  # a configuration that DVC refuses, a library that is not installed
            said = " ".join(str(fault).split())[:_SAID_AT_MOST]
            raise DataRemoteError(f"the DVC remote cannot be opened: {said}", hint="dvc remote list") from fault
        yield remote


def _open(repo: Repo) -> DataRemote:
    named = list(repo.config["remote"])
    name = repo.config["core"].get("remote") or (named[0] if len(named) == 1 else None)
    if not named:
        raise DataRemoteError("there is no DVC remote", hint="dvc remote add -d storage URL")
    if name is None:
        said = f"none of the DVC remotes is the default: {', '.join(named)}"
        raise DataRemoteError(said, hint=f"dvc remote default {named[0]}")
    remote = repo.cloud.get_remote(name)
    if remote.fs.version_aware or remote.worktree:
        hint = "dvc remote add -d storage URL, one without version_aware and worktree"
        raise DataRemoteError(f"the DVC remote {name} is cloud-versioned: it holds no objects by hash", hint=hint)
    place = remote.fs.join(remote.path, "gitexp", "files", "md5")
    apart = _odb(remote.fs, place, remote.config)
    return DataRemote(name, {"dvc": remote.odb, "gitexp": apart})


def _local(store: ObjectStore) -> Any:
    from dvc_objects.fs import local

    files: Callable[[], Any] = local.LocalFileSystem
    return _odb(files(), str(store.root / "files" / "md5"), {})


def _odb(files: Any, place: str, config: Mapping[str, Any]) -> Any:
    from dvc_data.hashfile import db

    make: Callable[..., Any] = db.get_odb
    return make(files, place, hash_name="md5", **config)


def _hint(name: str) -> str:
    return f"dvc remote list; dvc push -r {name} shows whether it can be written"


def sound_objects(store: ObjectStore, md5s: Iterable[str], verified: VerifiedFiles) -> tuple[set[str], int]:
    """Return which objects a store has whole and unharmed, and the bytes of their files: nothing corrupt may travel.

    Args:
        store: where to look.
        md5s: files and directories.
        verified: memory of hashed files.
    """
    sound: set[str] = set()
    size_bytes = 0
    for md5 in sorted(set(md5s)):
        try:
            members = [md5, *(member for _, member in store.entries(md5))] if md5.endswith(".dir") else [md5]
            paths = [store.path_of(member) for member in members]
            sums = verified.md5s(paths)
        except (OSError, MissingDataError, CorruptDataError):
            continue
        if sums == [member.removesuffix(".dir") for member in members]:
            sound.add(md5)
            size_bytes += sum(path.stat().st_size for path in paths)
    return sound, size_bytes
