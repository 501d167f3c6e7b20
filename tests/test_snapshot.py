"""The snapshot is what `git add -A` would commit, restores to the same files, and touches nothing of the user's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from builder import Work, make_work

from nemo_gitexp.errors import RepositoryError, SnapshotRefusedError
from nemo_gitexp.git.objects import NewCommit, list_files, write_commit
from nemo_gitexp.git.repository import RefName, Repository, open_repository
from nemo_gitexp.git.snapshot import Snapshot, SnapshotLimits, begin_look, take_snapshot
from nemo_gitexp.git.worktree import DiskFile, add_worktree, remove_worktree, verify_worktree

FILES = {
    "src/model.py": "layers = 2\n",
    "src/data.py": "rows = 10\n",
    "notes.txt": "one\ntwo\n",
    "run.sh": "#!/bin/sh\necho run\n",
    ".gitignore": "*.log\nbuild/\n",
}
needs_lfs = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Return a repository with a few files; git calls of this process see the same environment as its own."""
    work = make_work(tmp_path / "work tree é", tmp_path / "home", files=FILES)
    for name, value in work.env.items():
        monkeypatch.setenv(name, value)
    work.git("config", "protocol.file.allow", "always")
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "file")
    work.env["GIT_ALLOW_PROTOCOL"] = "file"
    return work


# -------------------------------------------------------------------------------------------------- what may be there


def modified(work: Work) -> None:
    work.write("src/model.py", "layers = 3\n")


def staged_then_modified(work: Work) -> None:
    work.write("src/model.py", "layers = 3\n")
    work.git("add", "src/model.py")
    work.write("src/model.py", "layers = 4\n")


def edited_without_a_trace_in_size_or_time(work: Work) -> None:
    work.write("src/model.py", "layers = 8\n")
    work.git("add", "src/model.py")
    work.write("src/model.py", "layers = 9\n")


def deleted(work: Work) -> None:
    (work.root / "src/data.py").unlink()


def staged_deletion_of_a_kept_file(work: Work) -> None:
    work.git("rm", "-q", "--cached", "src/data.py")


def renamed(work: Work) -> None:
    work.git("mv", "src/data.py", "src/rows.py")
    (work.root / "notes.txt").rename(work.root / "diary.txt")


def untracked(work: Work) -> None:
    work.write("new/deep/file.py", "x = 1\n")
    work.write("train.log", "ignored\n")
    work.write("build/out.bin", "ignored\n")
    (work.root / "empty").mkdir()


def intent_to_add(work: Work) -> None:
    work.write("soon.py", "x = 1\n")
    work.git("add", "-N", "soon.py")


def executable(work: Work) -> None:
    (work.root / "run.sh").chmod(0o755)


def executable_in_the_index_only(work: Work) -> None:
    work.git("config", "core.fileMode", "false")
    work.git("update-index", "--chmod=+x", "run.sh")


def links(work: Work) -> None:
    (work.root / "to-file").symlink_to("src/model.py")
    (work.root / "to-directory").symlink_to("src")
    (work.root / "dangling").symlink_to("nowhere/at all")
    (work.root / "outside").symlink_to("/etc/hostname")
    work.commit()
    (work.root / "to-file").unlink()
    (work.root / "to-file").symlink_to("src/data.py")
    (work.root / "another").symlink_to("../elsewhere")


def kinds_swapped(work: Work) -> None:
    work.write("pack/inner.py", "x = 1\n")
    work.commit()
    shutil.rmtree(work.root / "pack")
    work.write("pack", "now a file\n")
    (work.root / "notes.txt").unlink()
    work.write("notes.txt/part.txt", "now a directory\n")
    (work.root / "run.sh").unlink()
    (work.root / "run.sh").symlink_to("src/model.py")


def odd_names(work: Work) -> None:
    names = ("-rf", "a b.py", "täst/日本.txt", 'quo"te.txt', "new\nline.txt", "tab\t.txt", "*.py", ":(top)x", "\\n")
    for name in names:
        work.write(name, f"{name!r}\n")
    work.commit()
    work.write("-rf", "changed\n")
    work.write("new\nline.txt", "changed\n")
    work.write("*.py", "changed\n")
    work.write("--help", "untracked\n")
    (Path(os.fsdecode(os.fsencode(work.root) + b"/latin\xe9.txt"))).write_bytes(b"not UTF-8\n")


def attributes_convert(work: Work) -> None:
    work.write(".gitattributes", "*.bat eol=crlf\n*.c ident\n*.auto text=auto\n*.u16 working-tree-encoding=UTF-16LE\n")
    work.write("go.bat", "echo one\r\n")
    work.write("id.c", "/* $Id$ */\n")
    work.write("mixed.auto", "one\r\ntwo\n")
    work.write("wide.u16", "wide\n".encode("utf-16-le"))
    work.commit()
    work.write("go.bat", "echo one\r\necho two\r\n")
    work.write("id.c", "/* $Id: 0123456789012345678901234567890123456789 $ */\nint x;\n")
    work.write("fresh.auto", "three\r\nfour\r\n")
    work.write("wide.u16", "wider\n".encode("utf-16-le"))


def attributes_changed_in_the_work_tree(work: Work) -> None:
    work.write("line.dos", "one\r\n")
    work.commit()
    work.write(".gitattributes", "*.dos text eol=crlf\n")
    work.write("line.dos", "one\r\ntwo\r\n")


def line_ends_by_configuration(work: Work) -> None:
    work.git("config", "core.autocrlf", "true")
    work.write("notes.txt", "one\r\ntwo\r\nthree\r\n")


def clean_filter(work: Work) -> None:
    work.git("config", "filter.shout.clean", "tr a-z A-Z")
    work.git("config", "filter.shout.smudge", "tr A-Z a-z")
    work.git("config", "filter.shout.required", "true")
    work.write(".gitattributes", "*.txt filter=shout\n")
    work.commit()
    work.write("notes.txt", "one\ntwo\nthree\n")
    work.write("more.txt", "more\n")


def large_files(work: Work) -> None:
    work.git("lfs", "install", "--local")
    work.git("lfs", "track", "*.bin")
    work.write("weights.bin", b"\0" * 4096)
    work.commit()
    work.write("weights.bin", b"\1" * 4096)
    work.write("fresh.bin", b"\2" * 5000)


def _sub(work: Work, name: str, files: dict[str, str]) -> Path:
    source = work.root.parent / f"source {name}"
    chosen = {name: work.env[name] for name in ("GIT_DEFAULT_HASH",) if name in work.env}
    make_work(source, work.root.parent / "home", files=files, **chosen)
    return source


def submodule_moved(work: Work) -> None:
    work.git("submodule", "--quiet", "add", str(_sub(work, "lib", {"lib.py": "v = 1\n"})), "deps/my lib")
    work.commit()
    inner = Work(work.root / "deps/my lib", work.env)
    inner.write("lib.py", "v = 2\n")
    inner.commit("not pushed anywhere")


def submodule_just_added(work: Work) -> None:
    work.git("submodule", "--quiet", "add", str(_sub(work, "lib", {"lib.py": "v = 1\n"})), "deps/lib")


def submodule_hidden_by_configuration(work: Work) -> None:
    submodule_moved(work)
    work.git("config", "diff.ignoreSubmodules", "all")
    work.git("config", "submodule.deps/my lib.ignore", "all")


def submodules_nested(work: Work) -> None:
    outer = Work(_sub(work, "outer", {"outer.py": "o = 1\n"}), work.env)
    outer.git("submodule", "--quiet", "add", str(_sub(work, "inner", {"inner.py": "i = 1\n"})), "inner")
    outer.commit()
    work.git("submodule", "--quiet", "add", str(outer.root), "outer")
    work.git("submodule", "--quiet", "update", "--init", "--recursive")
    work.commit()
    inner = Work(work.root / "outer/inner", work.env)
    inner.write("inner.py", "i = 2\n")
    inner.commit()
    Work(work.root / "outer", work.env).commit()


def submodule_not_populated(work: Work) -> None:
    submodule_just_added(work)
    work.commit()
    work.git("submodule", "--quiet", "deinit", "--force", "deps/lib")
    work.write("src/model.py", "layers = 5\n")


def sparse(work: Work) -> None:
    work.write("far/away.py", "x = 1\n")
    work.commit()
    work.git("sparse-checkout", "set", "--cone", "--sparse-index", "src")
    work.write("src/model.py", "layers = 6\n")
    work.write("src/new.py", "x = 2\n")


def split_index(work: Work) -> None:
    work.git("config", "core.splitIndex", "true")
    work.git("update-index", "--split-index")
    work.write("src/model.py", "layers = 7\n")
    work.git("add", "src/model.py")
    work.write("fresh.py", "x = 1\n")


def untracked_cache(work: Work) -> None:
    work.git("update-index", "--untracked-cache")
    work.git("config", "status.showUntrackedFiles", "no")
    work.write("fresh.py", "x = 1\n")


def index_held_by_another_git(work: Work) -> None:
    work.write("src/model.py", "layers = 7\n")
    (work.root / ".git/index.lock").touch()


def unchanged_but_assumed_so(work: Work) -> None:
    (work.root / "link").symlink_to("notes.txt")
    work.commit()
    work.git("update-index", "--assume-unchanged", "notes.txt", "link")
    work.git("update-index", "--skip-worktree", "run.sh")
    work.write("src/model.py", "layers = 7\n")


def only_touched(work: Work) -> None:
    os.utime(work.root / "notes.txt", (1, 1))


def nothing(work: Work) -> None:
    pass


def merge_in_progress_resolved(work: Work) -> None:
    work.git("checkout", "-q", "-b", "side")
    work.write("notes.txt", "side\n")
    work.commit()
    work.git("checkout", "-q", "main")
    work.write("notes.txt", "main\n")
    work.commit()
    work.git("merge", "side", check=False)
    work.write("notes.txt", "both\n")
    work.git("add", "notes.txt")


def git_directory_elsewhere(work: Work) -> None:
    work.git("init", "-q", "--separate-git-dir", str(work.root.parent / "git dir"))
    work.write("src/model.py", "layers = 7\n")


def excluded_elsewhere(work: Work) -> None:
    work.write("scratch.tmp", "x\n")
    work.write("local.txt", "x\n")
    (work.root.parent / "excludes").write_text("*.tmp\n")
    work.git("config", "core.excludesFile", str(work.root.parent / "excludes"))
    (work.root / ".git/info/exclude").write_text("local.txt\n")
    work.write("taken.py", "x\n")


STATES = [
    nothing,
    modified,
    staged_then_modified,
    edited_without_a_trace_in_size_or_time,
    deleted,
    staged_deletion_of_a_kept_file,
    renamed,
    untracked,
    intent_to_add,
    executable,
    executable_in_the_index_only,
    links,
    kinds_swapped,
    odd_names,
    attributes_convert,
    attributes_changed_in_the_work_tree,
    line_ends_by_configuration,
    clean_filter,
    pytest.param(large_files, marks=needs_lfs),
    submodule_moved,
    submodule_just_added,
    submodule_hidden_by_configuration,
    submodules_nested,
    submodule_not_populated,
    sparse,
    split_index,
    untracked_cache,
    index_held_by_another_git,
    unchanged_but_assumed_so,
    only_touched,
    merge_in_progress_resolved,
    git_directory_elsewhere,
    excluded_elsewhere,
]
CONVERTED = {attributes_convert, line_ends_by_configuration, executable_in_the_index_only}
"""States whose files on disk do not follow from git's objects alone."""


def _git_of(work: Work) -> Path:
    return Path(work.git("rev-parse", "--absolute-git-dir"))


def _tree_by_git_add(work: Work) -> str:
    index = _git_of(work) / "index"
    copy = index.with_name("index-of-the-test")
    shutil.copy2(index, copy)
    env = {**work.env, "GIT_INDEX_FILE": str(copy)}
    add = ["git", "-c", "core.splitIndex=false", "add", "-A", "--sparse"]
    subprocess.run(add, cwd=work.root, env=env, check=True, capture_output=True)
    done = subprocess.run(["git", "write-tree"], cwd=work.root, env=env, check=True, capture_output=True)
    copy.unlink()
    return done.stdout.decode().strip()


def _fingerprint(work: Work) -> dict[str, tuple[object, ...]]:
    """Return every file and directory of the user with its bytes and times, objects and our own state left out."""
    found: dict[str, tuple[object, ...]] = {}
    for base, names, files in os.walk(work.root.parent):
        names[:] = [name for name in names if name not in ("objects", "gitexp", "places")]
        for name in files:
            path = Path(base, name)
            status = path.lstat()
            content = path.readlink() if path.is_symlink() else path.read_bytes()
            # Every git that reads a split index, `git status` too, freshens its shared part.
            time_ns = 0 if name.startswith("sharedindex.") else status.st_mtime_ns
            found[str(path)] = (content, time_ns, status.st_mode, status.st_ino)
    return found


def _snapshot(work: Work) -> tuple[Repository, Snapshot]:
    repository = open_repository(work.root)
    return repository, take_snapshot(repository, SnapshotLimits(), begin_look(repository))


@pytest.mark.parametrize("state", STATES)
def test_snapshot_is_what_git_add_would_commit_and_touches_nothing(tree: Work, state: Callable[[Work], None]) -> None:
    state(tree)
    before = _fingerprint(tree)
    _, snapshot = _snapshot(tree)
    assert _fingerprint(tree) == before
    assert snapshot.tree == _tree_by_git_add(tree)
    assert snapshot.dirty == (snapshot.tree != tree.git("rev-parse", "HEAD^{tree}"))


@pytest.mark.parametrize("state", STATES)
def test_snapshot_restores_to_the_files_that_were_there(tree: Work, state: Callable[[Work], None]) -> None:
    state(tree)
    repository, snapshot = _snapshot(tree)
    files = _restored(tree, repository, snapshot, keep=True)
    place = _place(tree)
    assert {file.path for file in files} == _files_below(place)
    if state not in CONVERTED:
        for path in _files_below(place) & _files_below(tree.root):
            assert _content(place / path) == _content(tree.root / path), path
    remove_worktree(repository, place)
    assert not place.exists()
    assert len(tree.git("worktree", "list").splitlines()) == 1


def _place(work: Work) -> Path:
    return work.root.parent / "places" / "there"


def _restored(work: Work, repository: Repository, snapshot: Snapshot, *, keep: bool = False) -> list[DiskFile]:
    """Commit the snapshot, check it out and return the verified files."""
    who = repository.committer()
    commit = NewCommit("m", who, who, snapshot.head, snapshot.tree)
    sha = write_commit(repository, RefName("refs/gitexp/a/b"), commit, None)
    assert sha is not None
    populated = {path for path, _ in snapshot.submodules}
    add_worktree(repository, _place(work), sha, with_submodules=bool(populated))
    files = verify_worktree(repository, _place(work), list_files(repository, sha), populated=populated)
    if not keep:
        remove_worktree(repository, _place(work))
    return files


def _files_below(root: Path) -> set[str]:
    found = set()
    for base, names, files in os.walk(root):
        inside = Path(base)
        linked = [name for name in names if (inside / name).is_symlink()]
        names[:] = [name for name in names if name != ".git" and name not in linked]
        found |= {(inside / name).relative_to(root).as_posix() for name in (*files, *linked) if name != ".git"}
    return found


def _content(path: Path) -> tuple[object, bool]:
    if path.is_symlink():
        return path.readlink(), False
    return path.read_bytes(), bool(path.stat().st_mode & 0o100)


@pytest.mark.parametrize("state", [modified, attributes_convert, submodules_nested, sparse, kinds_swapped])
def test_a_sha256_repository_works_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Callable[[Work], None]
) -> None:
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256")
    work = make_work(tmp_path / "work", tmp_path / "home", files=FILES, GIT_DEFAULT_HASH="sha256")
    for name, value in work.env.items():
        monkeypatch.setenv(name, value)
    work.env["GIT_ALLOW_PROTOCOL"] = "file"
    state(work)
    repository, snapshot = _snapshot(work)
    assert len(snapshot.tree) == 64
    assert snapshot.tree == _tree_by_git_add(work)
    assert {file.path for file in _restored(work, repository, snapshot)} >= {"src/model.py"}


# ------------------------------------------------------------------------------------------------------------ refusals


def unmerged(work: Work) -> None:
    work.git("checkout", "-q", "-b", "side")
    work.write("notes.txt", "side\n")
    work.commit()
    work.git("checkout", "-q", "main")
    work.write("notes.txt", "main\n")
    work.commit()
    work.git("merge", "side", check=False)


def embedded_repository(work: Work) -> None:
    make_work(work.root / "inner repo", work.root.parent / "home")


def embedded_repository_in_the_index(work: Work) -> None:
    embedded_repository(work)
    work.git("add", "inner repo", check=False)
    work.git("commit", "-q", "-m", "by mistake")


def dirty_submodule(work: Work) -> None:
    submodule_moved(work)
    work.write("deps/my lib/lib.py", "v = 3\n")


def untracked_file_in_a_submodule(work: Work) -> None:
    submodule_moved(work)
    work.commit()
    work.write("deps/my lib/new.py", "v = 3\n")


def dirty_nested_submodule(work: Work) -> None:
    submodules_nested(work)
    work.write("outer/inner/inner.py", "i = 3\n")


def dirty_submodule_hidden_by_configuration(work: Work) -> None:
    submodule_hidden_by_configuration(work)
    work.write("deps/my lib/lib.py", "v = 3\n")


def submodule_dirtied_by_file_removal(work: Work) -> None:
    submodule_moved(work)
    (work.root / "deps/my lib/lib.py").unlink()


def assumed_unchanged(work: Work) -> None:
    work.git("update-index", "--assume-unchanged", "notes.txt")
    work.write("notes.txt", "changed in silence\n")


def skipped_in_the_work_tree(work: Work) -> None:
    work.git("update-index", "--skip-worktree", "src/model.py")
    work.write("src/model.py", "layers = 99\n")


def link_retargeted_while_assumed_unchanged(work: Work) -> None:
    (work.root / "link").symlink_to("notes.txt")
    work.commit()
    work.git("update-index", "--assume-unchanged", "link")
    (work.root / "link").unlink()
    (work.root / "link").symlink_to("run.sh")


def removed_while_assumed_unchanged(work: Work) -> None:
    work.git("update-index", "--assume-unchanged", "notes.txt")
    (work.root / "notes.txt").unlink()


def large_untracked(work: Work) -> None:
    work.write("weights.bin", b"\0" * 10_000_001)


def many_untracked(work: Work) -> None:
    for number in range(6):
        work.write(f"part{number}.bin", b"\0" * 9_000_000)


def private_key(work: Work) -> None:
    work.write("deploy/id_ed25519", "not even looked at\n")


def token_in_a_tracked_change(work: Work) -> None:
    work.write("src/model.py", 'token = "ghp_' + "a1B2" * 10 + '"\n')


def key_in_an_untracked_file(work: Work) -> None:
    work.write("anything.txt", "-----BEGIN OPENSSH PRIVATE " + "KEY-----\n")


def environment_file(work: Work) -> None:
    work.write(".env", "PASSWORD=1\n")


REFUSED = [
    (unmerged, "notes.txt", "git add"),
    (embedded_repository, "inner repo/", "git submodule add"),
    (embedded_repository_in_the_index, "inner repo", "git submodule add"),
    (dirty_submodule, "deps/my lib", "git -C 'deps/my lib' "),
    (untracked_file_in_a_submodule, "deps/my lib", "git -C 'deps/my lib' "),
    (dirty_nested_submodule, "outer", "git -C outer "),
    (dirty_submodule_hidden_by_configuration, "deps/my lib", "git -C 'deps/my lib' "),
    (submodule_dirtied_by_file_removal, "deps/my lib", "git -C 'deps/my lib' "),
    (assumed_unchanged, "notes.txt", "--no-assume-unchanged"),
    (skipped_in_the_work_tree, "src/model.py", "--no-skip-worktree"),
    (link_retargeted_while_assumed_unchanged, "link", "--no-assume-unchanged"),
    (removed_while_assumed_unchanged, "notes.txt", "--no-assume-unchanged"),
    (large_untracked, "weights.bin", "dvc add weights.bin"),
    (many_untracked, "part0.bin", "dvc add"),
    (private_key, "deploy/id_ed25519", ".gitignore"),
    (token_in_a_tracked_change, "src/model.py", "secrets_allowed"),
    (key_in_an_untracked_file, "anything.txt", ".gitignore"),
    (environment_file, ".env", ".gitignore"),
]


@pytest.mark.parametrize("state, path, remedy", REFUSED)
def test_what_must_not_be_recorded_is_refused_by_name_with_a_remedy(
    tree: Work, state: Callable[[Work], None], path: str, remedy: str
) -> None:
    state(tree)
    before = _fingerprint(tree)
    with pytest.raises(SnapshotRefusedError) as refusal:
        _snapshot(tree)
    assert path in refusal.value.facts["paths"]
    assert remedy in refusal.value.hint
    assert _fingerprint(tree) == before


def test_allowed_patterns_are_not_searched_for_secrets(tree: Work) -> None:
    private_key(tree)
    limits = SnapshotLimits(secrets_allowed=("deploy/*",))
    repository = open_repository(tree.root)
    assert take_snapshot(repository, limits, begin_look(repository)).untracked == ("deploy/id_ed25519",)


def test_a_template_of_an_environment_file_is_no_secret(tree: Work) -> None:
    tree.write(".env.example", "PASSWORD=\n")
    assert _snapshot(tree)[1].untracked == (".env.example",)


def test_a_repository_without_commits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Work) -> None:
    empty = Work(tmp_path / "empty", tree.env)
    empty.root.mkdir()
    empty.git("init", "-q")
    with pytest.raises(RepositoryError, match="no commit yet"):
        _snapshot(empty)


def test_nothing_that_the_repository_configures_is_executed_by_looking(tree: Work) -> None:
    trap = tree.root.parent / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch '{tree.root.parent}/sprung'\n")
    trap.chmod(0o755)
    hooks = tree.root / ".git/hooks"
    for name in ("post-checkout", "post-index-change", "reference-transaction", "pre-commit", "fsmonitor-watchman"):
        (hooks / name).write_bytes(trap.read_bytes())
        (hooks / name).chmod(0o755)
    tree.git("config", "core.fsmonitor", str(trap))
    (tree.root / "src/model.py").write_text("layers = 9\n")
    _restored(tree, *_snapshot(tree))
    assert not (tree.root.parent / "sprung").exists()


def test_a_held_ref_lock_and_a_stale_temporary_index_do_not_matter(tree: Work) -> None:
    stale = tree.root / ".git/gitexp/tmp/index-killed"
    stale.mkdir(parents=True)
    (stale / "index.lock").touch()
    modified(tree)
    assert _snapshot(tree)[1].tree == _tree_by_git_add(tree)
