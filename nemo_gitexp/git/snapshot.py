"""The state of the work tree as a tree object, without touching index, HEAD or files.

`git status` says what differs, a copy of the index (its mtime kept, or racy edits are lost: git's
racy-git.txt) takes exactly those paths, `git write-tree` makes the tree.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_gitexp.errors import GitCommandError, RepositoryError, SnapshotRefusedError
from nemo_gitexp.git.objects import list_gitlinks
from nemo_gitexp.git.repository import CommitSha, Repository, Running, TreeSha
from nemo_gitexp.git.worktree import list_worktrees
from nemo_gitexp.owners import owner_token
from nemo_gitexp.secretwords import SCAN_CHARACTERS, holds_key

MEGABYTE = 1_000_000
SECRET_NAMES = re.compile(
    r"(?:^|/)(?:\.env(?:\.(?!example|sample|template)[^/]*)?|\.netrc|\.pgpass|id_(?:rsa|dsa|ecdsa|ed25519)|[^/]*\.(?:pem|p12|pfx|key)"
    r"|credentials\.json|\.aws/credentials|\.dockercfg|\.npmrc|\.pypirc|kubeconfig)$"
)
_STATUS_CALL = (
    *("status", "--porcelain=v2", "-z", "--branch", "--untracked-files=all"),
    *("--no-renames", "--ignore-submodules=none"),
)
_INDEX_CALL = ("ls-files", "-s", "-v", "-z")
_ORDINARY = (b"H 100", b"H 120")
"""How `git ls-files -s -v` shows files and links that are simply cached."""


@dataclass(frozen=True, slots=True)
class SnapshotLimits:
    """What may enter git unasked: sizes of untracked files; `secrets_allowed` patterns (fnmatch) are not searched.

    `left_out` are paths that belong to this machine: untracked, they are never captured, ignored or not.
    """

    max_untracked_file_bytes: int = 10 * MEGABYTE
    max_untracked_total_bytes: int = 50 * MEGABYTE
    secrets_allowed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def allows(self, path: str) -> bool:
        """Return whether a file, or a key of a configuration, is not searched for secrets."""
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.secrets_allowed)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The work tree as git would commit it now.

    `tree` equals the tree of `head` when nothing differs; `untracked` are the captured files git did not track;
    `submodules` are the populated ones with their commits.
    """

    head: CommitSha
    tree: TreeSha
    dirty: bool
    untracked: tuple[str, ...]
    submodules: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Status:
    head: str
    changed: tuple[str, ...]
    untracked: tuple[str, ...]
    unmerged: tuple[str, ...]
    dirty_submodules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Index:
    """What the user's index says beyond its files: gitlinks, and paths git is told not to look at with their tags."""

    gitlinks: tuple[str, ...]
    hidden: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Look:
    """A look at work tree and index under way: git runs while its caller does something else."""

    status: Running
    index: Running


def begin_look(repository: Repository) -> Look:
    """Start looking at the work tree; `take_snapshot` takes what is found."""
    return Look(repository.begin(*_STATUS_CALL), repository.begin(*_INDEX_CALL))


def take_snapshot(repository: Repository, limits: SnapshotLimits, look: Look) -> Snapshot:
    """Return the present state of the work tree as a tree object.

    Side effects: objects are written; nothing else.

    Args:
        repository: whose work tree.
        limits: what is refused.
        look: from `begin_look`.

    Raises:
        RepositoryError: no commit yet.
        SnapshotRefusedError: unmerged paths, embedded repositories, dirty submodules, hidden changes,
            likely secrets, or untracked files that are too large; `paths` names them.
    """
    index = _parse_index(look.index.wait())
    status = _without_worktrees(repository, _parse_status(look.status.wait()))
    status = replace(status, untracked=tuple(path for path in status.untracked if path not in limits.left_out))
    if status.head == "(initial)":
        raise RepositoryError("the repository has no commit yet", hint='git add -A && git commit -m "first commit"')
    submodules = _populated_submodules(repository, index)
    _refuse(repository, status, index, limits)
    head = CommitSha(status.head)
    paths = (*status.changed, *status.untracked)
    head_tree = TreeSha(repository.text("rev-parse", f"{head}^{{tree}}"))
    tree = _write_tree(repository, paths) if paths else head_tree
    return Snapshot(head, tree, tree != head_tree, status.untracked, submodules)


def _without_worktrees(repository: Repository, status: _Status) -> _Status:
    """Leave out linked worktrees of this very repository that lie in its work tree: they are other states of it."""
    nested = [path for path in status.untracked if path.endswith("/")]
    if not nested:
        return status
    own = {directory.resolve() for directory in list_worktrees(repository)}
    left_out = {path for path in nested if (repository.root / path).resolve() in own}
    return replace(status, untracked=tuple(path for path in status.untracked if path not in left_out))


def _write_tree(repository: Repository, paths: Sequence[str]) -> TreeSha:
    listing = "".join(f"{path}\0" for path in paths).encode("utf-8", "surrogateescape")
    with _copied_index(repository) as env:
        repository.run("update-index", "-z", "--add", "--remove", "--replace", "--stdin", stdin=listing, env=env)
        return TreeSha(repository.text("write-tree", env=env))


@contextmanager
def _copied_index(repository: Repository) -> Iterator[dict[str, str]]:
    directory = repository.state_dir / "tmp"
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=f"{owner_token()}.") as copy_dir:
        copy = Path(copy_dir) / "index"
        original = repository.git_dir / "index"
        if original.exists():
            # A split index names its shared part relative to the git directory: git finds it there either way.
            shutil.copy2(original, copy)
        yield {"GIT_INDEX_FILE": str(copy), "GIT_DIR": str(repository.git_dir), "GIT_WORK_TREE": str(repository.root)}


def _parse_status(out: bytes) -> _Status:
    head, changed, untracked, unmerged, dirty = "(initial)", [], [], [], []
    for line in out.decode("utf-8", "surrogateescape").split("\0"):
        kind = line[:2]
        if line.startswith("# branch.oid "):
            head = line[13:]
        elif kind == "? ":
            untracked.append(line[2:])
        elif kind == "u ":
            unmerged.append(line.split(" ", 10)[10])
        elif kind == "1 ":
            fields = line.split(" ", 8)
            changed.append(fields[8])
            if fields[2].startswith("S") and ("M" in fields[2] or "U" in fields[2]):
                dirty.append(fields[8])
    return _Status(head, tuple(changed), tuple(untracked), tuple(unmerged), tuple(dirty))


def _parse_index(out: bytes) -> _Index:
    # 50,000 lines are common: only those that matter are decoded.
    gitlinks, hidden = [], {}
    for line in out.split(b"\0"):
        if line.startswith(_ORDINARY):
            continue
        meta, _, path = line.decode("utf-8", "surrogateescape").partition("\t")
        if meta[2:8] == "160000":
            gitlinks.append(path)
        elif meta[:1].islower() or meta[:1] == "S":
            hidden[path] = meta[:1]
    return _Index(tuple(gitlinks), hidden)


def _refuse(repository: Repository, status: _Status, index: _Index, limits: SnapshotLimits) -> None:
    _refuse_any(status.unmerged, "unmerged paths", "resolve them, then git add them: git status")
    embedded = [path for path in status.untracked if path.endswith("/")]
    embedded += [path for path in index.gitlinks if path not in _declared_submodules(repository, index)]
    _refuse_any(
        embedded,
        "a repository inside this one that is no submodule",
        f"git submodule add URL {_quoted(embedded)}, or ignore it: {_ignoring(embedded)}",
    )
    _refuse_any(
        status.dirty_submodules,
        "changes inside a submodule that are not committed there",
        f"git -C {_quoted(status.dirty_submodules)} status; commit there, then run again",
    )
    _refuse_any(
        _hidden_changes(repository, index.hidden),
        "changes that git is told not to see",
        "git update-index --no-assume-unchanged --no-skip-worktree PATH",
    )
    _refuse_large(repository.root, status.untracked, limits)
    _refuse_secrets(repository.root, (*status.changed, *status.untracked), limits)


def _refuse_any(paths: Sequence[str], what: str, hint: str) -> None:
    if paths:
        raise SnapshotRefusedError(f"the work tree holds {what}: {_named(paths)}", hint=hint, paths=list(paths))


def _named(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:5])
    return shown if len(paths) <= 5 else f"{shown} and {len(paths) - 5} more"


def _quoted(paths: Sequence[str]) -> str:
    """Return the first path as a shell takes it."""
    return shlex.quote(paths[0]) if paths else ""


def _ignoring(paths: Sequence[str]) -> str:
    return f"echo {_quoted([f'/{path}' for path in paths])} >> .gitignore"


def _declared_submodules(repository: Repository, index: _Index) -> set[str]:
    if not index.gitlinks:
        return set()
    listed = repository.find_text(
        "config", "-z", "--file", str(repository.root / ".gitmodules"), "--get-regexp", r"\.path$"
    )
    return {item.partition("\n")[2] for item in (listed or "").split("\0") if item}


def _populated_submodules(repository: Repository, index: _Index) -> tuple[tuple[str, str], ...]:
    """Return the submodules that are there with their commits, nested ones by their whole path."""
    found = []
    pending = [repository.root / path for path in reversed(index.gitlinks)]
    while pending:
        directory = pending.pop()
        if not (directory / ".git").exists():
            continue
        sha = repository.run("rev-parse", "HEAD", cwd=directory).decode().strip()
        found.append((directory.relative_to(repository.root).as_posix(), sha))
        pending += [directory / path for path, _ in reversed(list_gitlinks(repository, sha, cwd=directory))]
    return tuple(found)


def _hidden_changes(repository: Repository, hidden: Mapping[str, str]) -> list[str]:
    """Return the hidden paths (assume-unchanged, skip-worktree) whose file differs from the index."""
    root = repository.root
    # A skipped file is not there as a rule; one that is only assumed to be unchanged is.
    gone = [path for path, tag in hidden.items() if tag == "h" and not os.path.lexists(root / path)]
    there = [path for path in hidden if os.path.lexists(root / path)]
    if not there:
        return gone
    out = repository.run("--literal-pathspecs", "ls-files", "-s", "-z", "--", *there)
    recorded = {}
    for line in out.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        meta, _, path = line.partition("\t")
        recorded[path] = meta.split(" ")[1]
    found = _hashes(repository, there)
    return gone + [path for path in there if recorded.get(path) != found.get(path)]


def _hashes(repository: Repository, paths: Sequence[str]) -> dict[str, str]:
    """Return what the paths would be in git; one that cannot be told is left out."""
    links = {path for path in paths if (repository.root / path).is_symlink()}
    files = [path for path in paths if path not in links and (repository.root / path).is_file()]
    found = {}
    for path in links:
        target = os.fsencode((repository.root / path).readlink())
        blob = b"blob %d\0" % len(target) + target
        found[path] = hashlib.new(repository.object_format, blob, usedforsecurity=False).hexdigest()
    listing = "".join(f"{path}\n" for path in files).encode("utf-8", "surrogateescape")
    try:
        hashes = repository.run("hash-object", "--stdin-paths", stdin=listing).decode().split()
    except GitCommandError:
        return found
    return found | dict(zip(files, hashes, strict=True))


def require_harmless(carried: Mapping[str, bytes], limits: SnapshotLimits) -> None:
    """Check what a record is to carry itself, by name, as untracked files are checked.

    Raises:
        SnapshotRefusedError: too large, or likely a secret; `paths` names it.
    """
    large = [name for name, content in carried.items() if len(content) > limits.max_untracked_file_bytes]
    if large:
        size = max(len(carried[name]) for name in large) / MEGABYTE
        raise SnapshotRefusedError(
            f"the function refers to data too large for git ({size:.0f} MB): {_named(large)}",
            hint="let the function read its data from a file: dvc add …",
            paths=large,
        )
    suspects = [name for name, text in carried.items() if not limits.allows(name) and holds_key(text)]
    if suspects:
        raise SnapshotRefusedError(
            f"the function holds what looks like a secret: {_named(suspects)}",
            hint="let the function read it from the environment, or allow it: secrets_allowed in [tool.nemo-gitexp]",
            paths=suspects,
        )


def _refuse_large(root: Path, untracked: Sequence[str], limits: SnapshotLimits) -> None:
    sizes = {path: (root / path).lstat().st_size for path in untracked if (root / path).is_file()}
    large = [path for path, size in sizes.items() if size > limits.max_untracked_file_bytes]
    if not large and sum(sizes.values()) > limits.max_untracked_total_bytes:
        large = sorted(sizes, key=lambda path: -sizes[path])[:10]
    if large:
        total = sum(sizes.values()) / MEGABYTE
        raise SnapshotRefusedError(
            f"untracked files too large for git ({total:.0f} MB in all): {_named(large)}",
            hint=f"dvc add {_quoted(large)}, or {_ignoring(large)}, or set max_untracked_file_mb in [tool.nemo-gitexp]",
            paths=large,
        )


def _refuse_secrets(root: Path, paths: Sequence[str], limits: SnapshotLimits) -> None:
    suspects = [path for path in paths if not limits.allows(path) and _looks_secret(root / path, path)]
    if suspects:
        raise SnapshotRefusedError(
            f"these look like secrets: {_named(suspects)}",
            hint=f"{_ignoring(suspects)}, or allow it: secrets_allowed in [tool.nemo-gitexp]",
            paths=suspects,
        )


def _looks_secret(file: Path, path: str) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    if SECRET_NAMES.search(path):
        return True
    try:
        with file.open("rb") as stream:
            return holds_key(stream.read(SCAN_CHARACTERS))
    except OSError:
        return False
