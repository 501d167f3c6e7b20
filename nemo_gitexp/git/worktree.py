"""Exact states as directories: linked worktrees with their submodules, and the proof that they are exact."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_gitexp.errors import GitCommandError, StateDirectoryError, WorkspaceError
from nemo_gitexp.git.objects import TreeEntry, list_files, list_gitlinks, parse_tree
from nemo_gitexp.git.repository import Repository

CHECKOUT_CONFIG = (
    # The same bytes on every machine: only what the repository's own attributes say converts line ends.
    "core.autocrlf=false",
    "core.eol=lf",
    # A sparse work tree of the user must not make a sparse workspace.
    "core.sparseCheckout=false",
    "core.sparseCheckoutCone=false",
    "checkout.workers=2",
)
_CHUNK_BYTES = 1 << 20
LOCK_REASON = "nemo-gitexp workspace"


@dataclass(frozen=True, slots=True)
class DiskFile:
    """One file of a workspace: git's `mode`, the size and sha256 (hex) of its bytes on disk (a link: of its target)."""

    path: str
    mode: str
    size_bytes: int
    sha256: str


def add_worktree(repository: Repository, directory: Path, commit: str, *, with_submodules: bool) -> None:
    """Check a commit out into a new directory, hooks off, on request with the submodules that the user has populated.

    Raises:
        StateDirectoryError: the directory cannot be made.
        WorkspaceError: a submodule of the commit is not in the user's work tree.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        repository.run(*_configured("worktree", "add", "--quiet", "--detach", "--lock", "--reason", LOCK_REASON),
                       "--", str(directory), commit)  # fmt: skip
    except (OSError, GitCommandError) as fault:
        remove_worktree(repository, directory)
        if isinstance(fault, OSError):
            raise StateDirectoryError(f"cannot make {directory}: {fault.strerror}", path=str(directory)) from fault
        raise
    if with_submodules:
        _populate_submodules(repository, repository.root, directory, commit)


def list_worktrees(repository: Repository) -> list[Path]:
    """Return the directories of all worktrees that git knows of, whether they are still there or not."""
    lines = repository.run("worktree", "list", "--porcelain", "-z").decode("utf-8", "surrogateescape").split("\0")
    return [Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")]


def remove_worktree(repository: Repository, directory: Path) -> None:
    """Remove a worktree of ours and all that was in it; nothing happens when it is gone already."""
    for nested in reversed(_nested_worktrees(directory)):
        # By its own repository, which keeps a note of it; what git refuses is removed all the same.
        with suppress(GitCommandError):
            repository.run("worktree", "remove", "--force", "--force", "--", str(nested), cwd=nested)
        shutil.rmtree(nested, ignore_errors=True)
    try:
        repository.run("worktree", "remove", "--force", "--force", "--", str(directory))
    except GitCommandError:
        _make_writable(directory)
        shutil.rmtree(directory, ignore_errors=True)
        # Once more, for git's note of it; `worktree prune` would drop the notes of the user's own missing ones too.
        with suppress(GitCommandError):
            repository.run("worktree", "remove", "--force", "--force", "--", str(directory))


def unlock_worktree(repository: Repository, directory: Path) -> None:
    """Hand a worktree over to the user: `git worktree remove` and prune treat it as any other."""
    repository.run("worktree", "unlock", "--", str(directory))


def verify_worktree(
    repository: Repository, directory: Path, listing: bytes, *, populated: Collection[str]
) -> list[DiskFile]:
    """Return every file of a worktree after comparing it with a listing, submodules included.

    Bytes are compared with the blob directly, and where they differ through the clean filter that made it
    (line ends, ident, LFS).

    Args:
        repository: its repository.
        directory: the worktree.
        listing: what it must hold, from `list_files`.
        populated: submodules that were there when the commit was recorded.

    Raises:
        WorkspaceError: `paths` differ.
    """
    files: list[DiskFile] = []
    wrong: list[str] = []
    doubtful: list[TreeEntry] = []
    for entry in parse_tree(listing):
        if entry.kind == "commit":
            files += _submodule_files(repository, directory, entry, populated)
            continue
        found = _read_file(f"{directory}/{entry.path}", entry, repository.object_format)
        if found is None:
            wrong.append(entry.path)
            continue
        file, is_exact = found
        files.append(file)
        if not is_exact:
            doubtful.append(entry)
    wrong += _not_cleaned(repository, directory, doubtful)
    if wrong:
        raise WorkspaceError(
            f"the workspace is not what was recorded: {', '.join(wrong[:5])}",
            hint="a filter of this machine changes files on checkout (git lfs install?); git check-attr -a PATH",
            paths=wrong,
        )
    return files


def _configured(*args: str) -> list[str]:
    return [*(word for item in CHECKOUT_CONFIG for word in ("-c", item)), *args]


def _populate_submodules(repository: Repository, source: Path, directory: Path, commit: str, prefix: str = "") -> None:
    """Check each submodule out as a worktree of the user's own clone: unpushed commits work, nothing is fetched."""
    for path, sha in list_gitlinks(repository, commit, cwd=source):
        clone = source / path
        if not (clone / ".git").exists():
            continue
        target = directory / path
        try:
            shutil.rmtree(target, ignore_errors=True)
            repository.run(
                *_configured("worktree", "add", "--quiet", "--force", "--detach"), "--", str(target), sha, cwd=clone
            )
        except GitCommandError as fault:
            raise WorkspaceError(
                f"submodule {prefix}{path} does not have commit {sha}",
                hint=f"git -C {prefix}{path} fetch, or git submodule update --init --recursive",
                paths=[f"{prefix}{path}"],
            ) from fault
        _populate_submodules(repository, clone, target, sha, f"{prefix}{path}/")


def _submodule_files(
    repository: Repository, directory: Path, entry: TreeEntry, populated: Collection[str]
) -> Iterator[DiskFile]:
    place = directory / entry.path
    if not (place / ".git").exists():
        if entry.path not in populated:
            return
        raise WorkspaceError(
            f"submodule {entry.path} was there when the experiment was recorded, and is missing here",
            hint=f"git submodule update --init --recursive -- {entry.path}",
            paths=[entry.path],
        )
    head = repository.run("rev-parse", "HEAD", cwd=place).decode().strip()
    status = repository.run(*_configured("status", "--porcelain", "-z"), cwd=place)
    if head != entry.sha or status:
        raise WorkspaceError(f"submodule {entry.path} is not at {entry.sha}", paths=[entry.path])
    for inner in parse_tree(list_files(repository, entry.sha, cwd=place)):
        path = f"{entry.path}/{inner.path}"
        if inner.kind == "commit":
            yield from _submodule_files(repository, directory, replace(inner, path=path), populated)
            continue
        found = _read_file(f"{place}/{inner.path}", inner, repository.object_format)
        if found is None:
            raise WorkspaceError(f"submodule {entry.path} is not what was recorded: {inner.path}", paths=[path])
        yield replace(found[0], path=path)


def _read_file(path: str, entry: TreeEntry, object_format: str) -> tuple[DiskFile, bool] | None:
    """Return the file and whether its raw bytes are the blob, None when it is missing or of another mode."""
    try:
        status = os.lstat(path)
        if entry.mode == "120000":
            return _digested(entry, len(target := os.fsencode(os.readlink(path))), [target], object_format)  # noqa: PTH115
        if not stat.S_ISREG(status.st_mode) or bool(status.st_mode & 0o100) != (entry.mode == "100755"):
            return None
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a Path for each of 50,000 files takes a second
            return _digested(entry, status.st_size, iter(lambda: file.read(_CHUNK_BYTES), b""), object_format)
    except OSError:
        return None


def _digested(entry: TreeEntry, size: int, chunks: Iterable[bytes], object_format: str) -> tuple[DiskFile, bool]:
    """Return what is on disk, and whether it is the blob: both hashes in one read."""
    blob = hashlib.new(object_format, b"blob %d\0" % size, usedforsecurity=False)
    whole = hashlib.sha256()
    for chunk in chunks:
        blob.update(chunk)
        whole.update(chunk)
    return DiskFile(entry.path, entry.mode, size, whole.hexdigest()), blob.hexdigest() == entry.sha


def _not_cleaned(repository: Repository, directory: Path, entries: Sequence[TreeEntry]) -> list[str]:
    """Return the paths whose content does not become the recorded blob through the clean filter either."""
    wrong = []
    for entry in entries:
        call = [*_configured("hash-object", "--path", entry.path, "--stdin")]
        content = (directory / entry.path).read_bytes() if entry.mode != "120000" else b""
        sha = repository.run(*call, stdin=content, cwd=directory).decode().strip()
        if sha != entry.sha:
            wrong.append(entry.path)
    return wrong


def _nested_worktrees(directory: Path) -> list[Path]:
    """Return directories below that are worktrees of submodules, outer ones first; git removes nothing around them."""
    found = []
    for base, _, files in os.walk(directory):
        if ".git" in files and base != str(directory):
            found.append(Path(base))
    return found


def _make_writable(directory: Path) -> None:
    for base, _, _ in os.walk(directory):
        try:
            Path(base).chmod(0o700)
        except OSError:
            continue
