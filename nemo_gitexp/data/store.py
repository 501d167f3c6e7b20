"""Objects by md5 in DVC's layout: DVC's own cache and our store beside it. Never imports dvc.

A file is `files/md5/<2>/<30>`, a directory the same with `.dir`: a JSON list of its files. Source: DVC 3 cache layout;
objects written like this pass `dvc status`, `push`, `fetch` and `checkout` (measured with DVC 3.67).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nemo_gitexp.data.cache import CacheLocation, find_cache
from nemo_gitexp.data.links import READ_ONLY, try_link
from nemo_gitexp.data.listing import Entries, hash_bytes, hash_tree, parse_entries, render_entries
from nemo_gitexp.data.verified import VerifiedFiles, hash_file
from nemo_gitexp.errors import CorruptDataError, MissingDataError, StateDirectoryError
from nemo_gitexp.owners import owner_token

_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A directory of objects named by their md5.

    Attributes:
        root: the directory above `files/md5`.
        is_shared: new directories are group-writable with the group kept (DVC's cache.shared = group).
    """

    root: Path
    is_shared: bool = False

    def path_of(self, md5: str) -> Path:
        """Return where the object lies, whether it exists or not."""
        return self.root / "files" / "md5" / md5[:2] / md5[2:]

    def has(self, md5: str) -> bool:
        """Whether the object is there; for a directory: with all of its files. Hashes nothing."""
        if not self.path_of(md5).is_file():
            return False
        if not md5.endswith(".dir"):
            return True
        try:
            return all(self.path_of(member).is_file() for _, member in self.entries(md5))
        except CorruptDataError:
            return False

    def read(self, md5: str) -> bytes:
        """Return the bytes of one object, checked against its name.

        Raises:
            MissingDataError: it is not there.
            CorruptDataError: its content is another.
        """
        try:
            content = self.path_of(md5).read_bytes()
        except FileNotFoundError as fault:
            raise MissingDataError(f"{md5} is not in {self.root}", missing=[md5]) from fault
        if hash_bytes(content) != md5.removesuffix(".dir"):
            raise CorruptDataError(f"the content of {self.path_of(md5)} is not what its name says", md5=md5)
        return content

    def entries(self, md5: str) -> Entries:
        """Return the files of a directory object.

        Raises:
            MissingDataError: it is not there.
            CorruptDataError: its content is another, or no listing, or names files outside the directory.
        """
        return parse_entries(self.read(md5), str(self.path_of(md5)))

    def add_bytes(self, content: bytes) -> str:
        """Store bytes and return their md5."""
        md5 = hash_bytes(content)
        self._add_content(content, md5)
        return md5

    def add_file(self, path: Path, md5: str, *, link: bool = False) -> None:
        """Store a file that is said to have this md5; does nothing when the object is there and intact.

        Args:
            path: the file.
            md5: what it must hash to.
            link: share the file's blocks and inode where the file system can: it becomes read-only.

        Raises:
            CorruptDataError: it hashes to something else; nothing was stored.
            StateDirectoryError: the store cannot be written.
            OSError: the file cannot be read.
        """
        if self._is_intact(md5):
            return
        with self._temporary(md5) as temporary:
            found = hash_file(temporary) if link and try_link(path, temporary) else _copy_hashed(path, temporary)
            if found != md5:
                raise CorruptDataError(f"{path} has md5 {found}, not {md5}", path=str(path), md5=md5)

    def add_dir(self, files: Iterable[tuple[str, str]]) -> str:
        """Store the listing of a directory whose files are stored already, and return its md5, ending in `.dir`.

        Args:
            files: POSIX path below the directory and md5 of each file.

        Raises:
            MissingDataError: one of the files is not stored.
        """
        entries = tuple(sorted(files))
        missing = [path for path, md5 in entries if not self.path_of(md5).is_file()]
        if missing:
            raise MissingDataError(f"{missing[0]} is not in {self.root}", missing=missing)
        content = render_entries(entries)
        md5 = f"{hash_bytes(content)}.dir"
        self._add_content(content, md5)
        return md5

    def verify(self, md5: str, verified: VerifiedFiles) -> bool:
        """Whether the object is there and its content is what its name says (a directory's listing only)."""
        path = self.path_of(md5)
        return path.is_file() and verified.md5(path) == md5.removesuffix(".dir")

    def quarantine(self, md5: str) -> Path | None:
        """Move an object aside as `quarantine` does."""
        return quarantine(self.path_of(md5))

    def checkout(self, md5: str, target: Path) -> None:
        """Copy an object to a path that does not exist: a file, or a directory with all its files; each is verified.

        Raises:
            MissingDataError: an object is not there.
            CorruptDataError: an object's content is another; nothing is left at `target`.
            StateDirectoryError: the target cannot be written.
        """
        try:
            if md5.endswith(".dir"):
                self._checkout_dir(md5, target)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._checkout_file(md5, target)
        except OSError as fault:
            raise StateDirectoryError(f"cannot write {target}: {fault.strerror}", path=str(target)) from fault

    def _checkout_dir(self, md5: str, target: Path) -> None:
        entries = self.entries(md5)
        target.mkdir(parents=True)
        try:
            for path, member in entries:
                place = target / path
                place.parent.mkdir(parents=True, exist_ok=True)
                self._checkout_file(member, place)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise

    def _checkout_file(self, md5: str, target: Path) -> None:
        source = self.path_of(md5)
        if not source.is_file():
            raise MissingDataError(f"{md5} is not in {self.root}", missing=[md5])
        if _copy_hashed(source, target) != md5:
            target.unlink()
            raise CorruptDataError(f"the content of {source} is not what its name says", md5=md5)

    def _is_intact(self, md5: str) -> bool:
        """Whether a good object is there; a bad one is moved aside to make room."""
        path = self.path_of(md5)
        if not path.is_file():
            return False
        if hash_file(path) == md5.removesuffix(".dir"):
            return True
        self.quarantine(md5)
        return False

    def _add_content(self, content: bytes, md5: str) -> None:
        if not self._is_intact(md5):
            with self._temporary(md5) as temporary:
                temporary.write_bytes(content)

    @contextlib.contextmanager
    def _temporary(self, md5: str) -> Iterator[Path]:
        """Give a path to fill; it becomes the object by rename, read-only, or goes away after a fault."""
        folder, final = self.root / "tmp", self.path_of(md5)
        try:
            self._make(folder)
            self._make(final.parent)
            own = Path(tempfile.mkdtemp(prefix=f"{owner_token()}.", dir=folder))
        except OSError as fault:
            raise _unwritable(self.root, fault) from fault
        try:
            temporary = own / final.name
            yield temporary
            temporary.chmod(READ_ONLY)
            temporary.replace(final)
        except OSError as fault:
            if fault.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
                raise _unwritable(self.root, fault) from fault
            raise
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        if self.is_shared:
            folder.chmod(0o2775)


def copy_verified(source: Path, md5: str, target: Path) -> None:
    """Copy a file or directory to a path that does not exist, if it is what the hash says.

    Raises:
        CorruptDataError: it is another by now; nothing is left at `target`.
        OSError: it cannot be read, or the target not be written.
    """
    found = None
    try:
        found = _copy_tree_hashed(source, target) if source.is_dir() else _copy_hashed(source, target)
    finally:
        if found != md5:
            shutil.rmtree(target, ignore_errors=True) if target.is_dir() else target.unlink(missing_ok=True)
    if found != md5:
        raise CorruptDataError(f"{source} has changed since it was recorded", path=str(source), md5=md5)


def own_store(root: Path, main_root: Path, state_dir: Path) -> ObjectStore:
    """Return where outputs and logs go: beside DVC's cache, or below the git directory without DVC.

    Args:
        root: the work tree.
        main_root: the main work tree, when `root` is a linked one.
        state_dir: what is ours below the git directory.
    """
    cache = find_cache(root, main_root=main_root)
    if cache is None:
        return ObjectStore(state_dir / "store")
    main = find_cache(main_root) if main_root != root else cache
    return ObjectStore((main or cache).cache_dir / "gitexp")


def object_stores(cache: CacheLocation) -> list[ObjectStore]:
    """Return every store that may hold an object of this cache, the cache itself first."""
    return [ObjectStore(root, cache.is_shared) for root in (cache.cache_dir, *cache.alternates)]


def md5_of(path: Path) -> str:
    """Return the md5 that an object's path names."""
    return path.parent.name + path.name


def quarantine(path: Path) -> Path | None:
    """Move an object aside as `<object>.corrupt-<n>`, so that nobody takes it again; None if it is not there.

    Raises:
        StateDirectoryError: its directory cannot be written.
    """
    numbers = (path.with_name(f"{path.name}.corrupt-{number}") for number in range(1, 1_000_000))
    aside = next(name for name in numbers if not name.exists())
    try:
        path.rename(aside)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise _unwritable(path, fault) from fault
    return aside


def _copy_hashed(source: Path, target: Path) -> str:
    """Copy a file and return the md5 of what was written."""
    digest = hashlib.md5(usedforsecurity=False)
    with source.open("rb", buffering=0) as reading, target.open("xb") as writing:
        while chunk := reading.read(_CHUNK_BYTES):
            digest.update(chunk)
            writing.write(chunk)
    return digest.hexdigest()


def _copy_tree_hashed(source: Path, target: Path) -> str:
    shutil.copytree(source, target)
    return hash_tree(target, VerifiedFiles(None))[0]


def _unwritable(path: Path, fault: OSError) -> StateDirectoryError:
    return StateDirectoryError(f"cannot write below {path}: {fault.strerror}", path=str(path))
