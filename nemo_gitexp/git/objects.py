"""Git's objects and refs: reading many at once, writing commits, moving refs by compare-and-swap.

Only fixed paths are written (fast-import checks none), and only full hex shas are read as objects.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO, cast

from nemo_gitexp.errors import GitCommandError
from nemo_gitexp.git.repository import FULL_SHA, CommitSha, Identity, RefName, Repository, TreeSha

TEMPORARY_REFS = "refs/gitexp-tmp/"
"""Where a commit waits until its ref moves; what a killed process leaves here means nothing."""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One line of `git ls-tree`: `mode` six octal digits, `kind` blob, tree or commit, `sha`, `path`."""

    mode: str
    kind: str
    sha: str
    path: str


@dataclass(frozen=True, slots=True)
class CommitObject:
    """A commit as it stands in the object store; `author_line` is `name <email> seconds zone`."""

    tree: TreeSha
    parents: tuple[CommitSha, ...]
    author_line: str
    message: str


@dataclass(frozen=True, slots=True)
class NewCommit:
    """A commit to write: starts from `tree` (or its parent's), drops `removed` paths, then writes `files`."""

    message: str
    author: Identity
    committer: Identity
    parent: str | None = None
    tree: str | None = None
    removed: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


def read_blobs(repository: Repository, names: Sequence[str], *, limit_bytes: int) -> list[bytes | None]:
    """Return the content of each blob, None for one that is not there.

    Args:
        repository: where to read.
        names: full shas or `<full sha>:<path>`.
        limit_bytes: a larger blob is returned cut to `limit_bytes` + 1, so that its reader refuses it.
    """
    return _read_objects(repository, names, b"blob", limit_bytes)


def _read_objects(repository: Repository, names: Sequence[str], kind: bytes, limit_bytes: int) -> list[bytes | None]:
    if not names:
        return []
    found: list[bytes | None] = []
    with _feeding(repository, ["cat-file", "--batch", "--buffer"], names) as stream:
        for _ in names:
            header = stream.readline().rsplit(b" ", 2)
            if len(header) != 3 or header[1] != kind:
                if len(header) == 3 and header[2][:-1].isdigit():
                    _skip(stream, int(header[2]) + 1)
                found.append(None)
                continue
            size = int(header[2])
            found.append(stream.read(min(size, limit_bytes + 1)))
            _skip(stream, size - min(size, limit_bytes + 1) + 1)
    return found


def find_objects(repository: Repository, names: Sequence[str]) -> list[str | None]:
    """Return the full sha of each object, None for one that is not there; `names` as for `read_blobs`."""
    if not names:
        return []
    with _feeding(repository, ["cat-file", "--batch-check=%(objectname)", "--buffer"], names) as stream:
        lines = [stream.readline().decode("utf-8", "replace").rstrip("\n") for _ in names]
    return [line if FULL_SHA.fullmatch(line) else None for line in lines]


def read_commit(repository: Repository, sha: str) -> CommitObject:
    """Return one commit.

    Raises:
        GitCommandError: it is not there, or is no commit.
    """
    return _parse_commit(repository.run("cat-file", "commit", sha))


def read_commits(repository: Repository, shas: Sequence[str]) -> list[CommitObject]:
    """Return many commits, all in one process.

    Raises:
        GitCommandError: one of them is not there, or is no commit.
    """
    found = []
    for sha, content in zip(shas, _read_objects(repository, shas, b"commit", sys.maxsize), strict=True):
        if content is None:
            raise GitCommandError(f"{sha[:12]} is no commit of this repository", hint="git fsck", stderr="")
        found.append(_parse_commit(content))
    return found


def _parse_commit(content: bytes) -> CommitObject:
    text = content.decode("utf-8", "replace")
    head, _, message = text.partition("\n\n")
    fields: dict[str, list[str]] = {}
    for line in head.split("\n"):
        key, _, value = line.partition(" ")
        fields.setdefault(key, []).append(value)
    return CommitObject(
        tree=TreeSha(fields["tree"][0]),
        parents=tuple(CommitSha(parent) for parent in fields.get("parent", [])),
        author_line=fields["author"][0],
        message=message,
    )


def read_changes(repository: Repository, sha: str) -> tuple[tuple[CommitSha, ...], tuple[str, ...]]:
    """Return a commit's parents (as far as this clone has them) and the paths it changes against the first.

    Raises:
        GitCommandError: it is not there, or is no commit.
    """
    call = ["diff-tree", "--stdin", "--always", "-r", "-z", "--root", "-m", "--first-parent"]
    call += ["--no-renames", "--name-only", "--format=%P"]
    out = repository.run(*call, stdin=f"{sha}\n".encode()).decode("utf-8", "surrogateescape")
    if not out:
        raise GitCommandError(f"{sha[:12]} is no commit of this repository", hint="git fsck", stderr="")
    parents, _, rest = out.partition("\0")
    paths = tuple(path for path in rest.lstrip("\n").split("\0") if path)
    return tuple(CommitSha(parent) for parent in parents.split()), paths


def list_files(repository: Repository, tree: str, *, cwd: Path | None = None) -> bytes:
    """Return `git ls-tree -r -z` of a tree, in the submodule at `cwd` if given, as `parse_tree` and others read it."""
    return repository.run("ls-tree", "-r", "-z", "--full-tree", tree, cwd=cwd)


def list_many_files(repository: Repository, trees: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield each tree (full sha) with its listing, the bytes of `list_files`.

    One git a level of directories, however many trees there are; what they share is read once.

    Raises:
        GitCommandError: one of them is not whole in this repository.
    """
    known: dict[str, list[tuple[bytes, str, bytes]]] = {}
    wanted = sorted(set(trees))
    while wanted:
        for sha, content in zip(wanted, _read_objects(repository, wanted, b"tree", sys.maxsize), strict=True):
            if content is None:
                raise GitCommandError(f"the tree {sha} is not in this repository", hint="git fsck", stderr="")
            known[sha] = _tree_entries(content, len(repository.zero_sha) // 2)
        below = {sha for tree in wanted for mode, sha, _ in known[tree] if mode == _TREE_MODE}
        wanted = sorted(below - known.keys())
    flat: dict[str, list[tuple[bytes, bytes]]] = {}
    for tree in dict.fromkeys(trees):
        yield tree, b"".join(b"%s\t%s\0" % line for line in _flat_tree(tree, known, flat))
        flat.pop(tree)  # a root is listed once; of many commits theirs would fill the memory


_TREE_MODE = b"40000"


def _tree_entries(content: bytes, sha_bytes: int) -> list[tuple[bytes, str, bytes]]:
    """Return mode, sha and name of what a tree object holds."""
    entries, at = [], 0
    while at < len(content):
        space, end = content.index(b" ", at), content.index(b"\0", at)
        stop = end + 1 + sha_bytes
        entries.append((content[at:space], content[end + 1 : stop].hex(), content[space + 1 : end]))
        at = stop
    return entries


def _flat_tree(
    tree: str, known: Mapping[str, list[tuple[bytes, str, bytes]]], flat: dict[str, list[tuple[bytes, bytes]]]
) -> list[tuple[bytes, bytes]]:
    """Return `mode kind sha` and path of all files below a tree, as `git ls-tree -r` orders them."""
    if tree not in flat:
        lines: list[tuple[bytes, bytes]] = []
        for mode, sha, name in known[tree]:
            if mode == _TREE_MODE:
                lines += [(head, b"%s/%s" % (name, path)) for head, path in _flat_tree(sha, known, flat)]
            else:
                kind = b"commit" if mode == b"160000" else b"blob"
                lines.append((b"%s %s %s" % (mode, kind, sha.encode()), name))
        flat[tree] = lines
    return flat[tree]


def list_tree(repository: Repository, tree: str, *paths: str, recursive: bool = True) -> list[TreeEntry]:
    """Return the entries of a tree, all levels when recursive, restricted to literal `paths` if any."""
    options = ["-r"] if recursive else []
    return parse_tree(
        repository.run("--literal-pathspecs", "ls-tree", "-z", "--full-tree", *options, tree, "--", *paths)
    )


def parse_tree(listing: bytes) -> list[TreeEntry]:
    """Return the entries of a listing."""
    entries = []
    for line in listing.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        meta, _, path = line.partition("\t")
        mode, kind, sha = meta.split(" ")
        entries.append(TreeEntry(mode, kind, sha, path))
    return entries


def list_gitlinks(repository: Repository, commit: str, *, cwd: Path) -> list[tuple[str, str]]:
    """Return the submodules of a commit, path and sha, in the repository that `cwd` lies in."""
    entries = parse_tree(list_files(repository, commit, cwd=cwd))
    return [(entry.path, entry.sha) for entry in entries if entry.kind == "commit"]


def list_refs(
    repository: Repository, *prefixes: str, fields: Sequence[str] = ("refname", "objectname")
) -> list[list[str]]:
    """Return for each ref below the prefixes its fields (names of `git for-each-ref`), in git's order.

    A field may hold anything but NUL and the byte 0x01, which no ref name or trailer value of ours holds.
    """
    layout = "%01".join(f"%({name})" for name in fields) + "%00"
    out = repository.run("for-each-ref", f"--format={layout}", *prefixes).decode("utf-8", "replace")
    return [line.lstrip("\n").split("\x01") for line in out.split("\0")[:-1]]


def find_ref(repository: Repository, ref: str) -> CommitSha | None:
    """Return what a full ref name points to, None when there is none."""
    sha = repository.find_text("rev-parse", "--verify", "--quiet", "--end-of-options", ref)
    return CommitSha(sha) if sha else None


def move_ref(repository: Repository, ref: RefName, new: str, old: str | None) -> bool:
    """Move a ref if it still is what it was; `old` None means it must not exist yet.

    Returns:
        Whether it moved; False when somebody else was faster (or a name stands in the way).
    """
    before = old or repository.zero_sha
    try:
        repository.run("update-ref", "--create-reflog", "-m", "nemo-gitexp", "--", ref, new, before)
    except GitCommandError:
        return find_ref(repository, ref) == new
    return True


def create_refs(repository: Repository, refs: Mapping[RefName, str]) -> None:
    """Create refs in one transaction: all or none.

    Raises:
        GitCommandError: one of them is there already, or a name stands in its way.
    """
    lines = "".join(f"create {ref}\0{sha}\0" for ref, sha in refs.items())
    repository.run("update-ref", "--create-reflog", "-m", "nemo-gitexp", "--stdin", "-z", stdin=lines.encode())


def delete_ref(repository: Repository, ref: str, old: str) -> None:
    """Delete a ref if it still is what it was.

    Raises:
        GitCommandError: it is something else by now.
    """
    repository.run("update-ref", "-d", "--", ref, old)


def temporary_ref() -> RefName:
    """Return a ref for a commit that waits; it is named after this process, should it be killed."""
    import uuid

    from nemo_gitexp.owners import owner_token  # reading needs no owner

    return RefName(f"{TEMPORARY_REFS}{owner_token()}.{uuid.uuid4().hex}")


def import_commit(repository: Repository, ref: str, commit: NewCommit) -> CommitSha:
    """Write a commit with its files and create a ref of ours on it, both or neither; return its sha.

    One `git fast-import`, the fastest way to write several files and a commit (no index, one pack).

    Raises:
        GitCommandError: git refused (a parent or tree that is not there, a ref that stands elsewhere, a full disk).
    """
    return import_commits(repository, [(ref, commit)])[0]


def import_commits(repository: Repository, commits: Sequence[tuple[str, NewCommit]]) -> list[CommitSha]:
    """Write commits in one `git fast-import`, then create the refs; return their shas in order.

    A ref named several times is created on its last commit.

    Raises:
        GitCommandError: git refused one of them; what stood at a ref before stands there still.
    """
    parts = [_commit_stream(ref, commit, mark) for mark, (ref, commit) in enumerate(commits, 1)]
    parts += [b"get-mark :%d\n" % mark for mark in range(1, len(commits) + 1)]
    out = repository.run("fast-import", "--quiet", "--done", "--date-format=raw", stdin=b"".join([*parts, b"done\n"]))
    return [CommitSha(sha) for sha in out.decode().split()]


def write_commit(repository: Repository, ref: RefName, commit: NewCommit, old: str | None) -> CommitSha | None:
    """Write a commit and move a ref to it by compare-and-swap, whatever the ref's history was.

    Returns:
        The new sha, or None when the ref was not `old` any more (the commit is then unreferenced).
    """
    waiting = temporary_ref()
    sha = import_commit(repository, waiting, commit)
    try:
        return sha if move_ref(repository, ref, sha, old) else None
    finally:
        delete_ref(repository, waiting, sha)


def commit_tree(repository: Repository, commit: NewCommit, tree: str, *, sign: bool) -> CommitSha:
    """Write the commit over a tree that exists, with the user's signature if asked; no ref moves."""
    env = {
        "GIT_AUTHOR_NAME": commit.author.name,
        "GIT_AUTHOR_EMAIL": commit.author.email,
        "GIT_AUTHOR_DATE": f"@{commit.author.date}",
        "GIT_COMMITTER_NAME": commit.committer.name,
        "GIT_COMMITTER_EMAIL": commit.committer.email,
        "GIT_COMMITTER_DATE": f"@{commit.committer.date}",
    }
    parents = ["-p", commit.parent] if commit.parent else []
    signing = ["-S"] if sign else []
    sha = repository.text("commit-tree", *signing, *parents, tree, stdin=_message(commit), env=env)
    return CommitSha(sha)


def _message(commit: NewCommit) -> bytes:
    """Return a commit's message as UTF-8, whatever bytes of a command line it quotes."""
    return commit.message.encode("utf-8", "backslashreplace")


def _commit_stream(ref: str, commit: NewCommit, mark: int) -> bytes:
    message = _message(commit)
    parts = [
        f"commit {ref}\nmark :{mark}\nauthor {commit.author.line}\ncommitter {commit.committer.line}\n".encode(
            "utf-8", "surrogateescape"
        ),
        b"data %d\n%s\n" % (len(message), message),
    ]
    if commit.parent:
        parts.append(f"from {commit.parent}\n".encode())
    if commit.tree:
        parts.append(f'M 040000 {commit.tree} ""\n'.encode())
    parts += [f"D {path}\n".encode() for path in commit.removed]
    for path, content in commit.files.items():
        parts.append(f"M 100644 inline {path}\ndata {len(content)}\n".encode() + content + b"\n")
    return b"".join(parts)


@contextmanager
def _feeding(repository: Repository, call: Sequence[str], lines: Iterable[str]) -> Iterator[IO[bytes]]:
    """Run git with `lines` on stdin and yield its stdout; a file feeds it, for two full pipes would wait for ever."""
    with TemporaryFile() as source:
        source.write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
        source.seek(0)
        process = repository.stream(call, cast("BinaryIO", source))
        stdout = process.stdout
        if stdout is None:
            raise ValueError("git was started without a pipe")
        try:
            yield stdout
        finally:
            process.communicate()


def _skip(stream: IO[bytes], count: int) -> None:
    while count > 0:
        count -= len(stream.read(min(count, 1 << 20)))
