"""One repository on disk: where its directories are, and how git is run in it.

No user's string is ever handed to git as an option: full hex shas, fixed words, `--end-of-options`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NewType, cast

from nemo_gitexp.errors import (
    GitCommandError,
    GitexpError,
    GitVersionError,
    IdentityMissingError,
    NotARepositoryError,
    RepositoryError,
)
from nemo_gitexp.processes import Completed, run

CommitSha = NewType("CommitSha", str)
TreeSha = NewType("TreeSha", str)
RefName = NewType("RefName", str)

MINIMUM_GIT = (2, 38)
FULL_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")

LOCAL_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
)
"""What git exports to its hooks: inherited, each would point our calls at the wrong repository or files (git(1))."""

SAFE_CONFIG = (
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    "core.fsync=committed",
    "gc.auto=0",
    # Writing a copy of a split index would leave its new shared part in the user's git directory.
    "core.splitIndex=false",
    "core.quotePath=false",
    "advice.detachedHead=false",
    "i18n.commitEncoding=UTF-8",
)
"""For every call: nothing the repository configures is executed by looking at it, and what is written is flushed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A person as git writes it: `name <email>` with the seconds and zone of now."""

    name: str
    email: str
    date: str

    @property
    def line(self) -> str:
        """The identity as fast-import and commit objects spell it."""
        return f"{self.name} <{self.email}> {self.date}"


@dataclass(frozen=True, slots=True)
class Repository:
    """A work tree with its git directories (all absolute); `object_format` is sha1 or sha256."""

    root: Path
    git_dir: Path
    common_dir: Path
    object_format: str
    shallow: bool
    _config: Running = field(repr=False, compare=False)

    @property
    def zero_sha(self) -> str:
        """The sha that stands for "no object"."""
        return "0" * (64 if self.object_format == "sha256" else 40)

    @property
    def main_root(self) -> Path:
        """The main work tree, also when this one is linked to it."""
        return self.common_dir.parent if self.common_dir.name == ".git" else self.root

    @property
    def state_dir(self) -> Path:
        """What belongs to this machine: caches, workspaces, runs."""
        return self.common_dir / "gitexp"

    def run(
        self, *args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> bytes:
        """Run git to its end and return its stdout.

        Raises:
            GitCommandError: it exited with something else than 0.
        """
        done = _run_git(args, cwd or self.root, env or {}, stdin)
        if done.returncode != 0:
            raise _git_failure(args, done.returncode, done.said)
        return done.stdout

    def attempt(self, *args: str) -> Completed:
        """Run git to its end and return all that it said, also when it says no."""
        return _run_git(args, self.root, {})

    def begin(self, *args: str) -> Running:
        """Start git and return at once; `wait` of what is returned gives its stdout."""
        return Running(lambda: self.run(*args))

    def stream(self, args: Sequence[str], stdin: BinaryIO) -> subprocess.Popen[bytes]:
        """Start git reading an open file, with a pipe on stdout that its caller reads piece by piece.

        GitPython runs it (imported here, for it takes 20 ms): it kills what its caller leaves unfinished.
        """
        from git.cmd import Git

        # The handle kills the process when it is collected, so the handle itself is what we keep.
        process = Git(str(self.root)).execute(git_command(args), istream=stdin, as_process=True)
        return cast("subprocess.Popen[bytes]", process)

    def text(self, *args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> str:
        """Run git and return its stdout as text without the final newline."""
        return self.run(*args, stdin=stdin, env=env).decode("utf-8", "surrogateescape").rstrip("\n")

    def find_text(self, *args: str) -> str | None:
        """Run git and return its stdout as text, None when it says no (exit 1: there is no such thing).

        Raises:
            GitCommandError: it could not say.
        """
        try:
            return self.text(*args)
        except GitCommandError as refusal:
            if refusal.facts["exit_code"] != 1:
                raise
            return None

    def config(self) -> dict[str, str]:
        """Return git's effective configuration as it was when this was opened: keys in lower case, last values."""
        values: dict[str, str] = {}
        for item in self._config.wait().decode("utf-8", "surrogateescape").split("\0"):
            key, _, value = item.partition("\n")
            if key:
                section, dot, rest = key.partition(".")
                values[section.lower() + dot + rest] = value
        return values

    def flag(self, key: str) -> bool:
        """Return a boolean of the configuration as git reads it; False when it is not set."""
        return self.find_text("config", "--type=bool", "--get", key) == "true"

    def head(self) -> CommitSha | None:
        """Return the commit that HEAD names, None in a repository without commits."""
        sha = self.find_text("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        return CommitSha(sha) if sha else None

    def begin_identities(self) -> Identities:
        """Start asking git who the user is."""
        return Identities(self.begin("var", "GIT_AUTHOR_IDENT"), self.begin("var", "GIT_COMMITTER_IDENT"))

    def committer(self) -> Identity:
        """Return the committer as git would use it now.

        Raises:
            IdentityMissingError: git knows no name or no e-mail.
        """
        return self.begin_identities().wait()[1]


class Running(threading.Thread):
    """A git that runs beside its caller; a thread takes what it says, for a full pipe would stop it."""

    def __init__(self, run_git: Callable[[], bytes]) -> None:
        """Start it."""
        super().__init__(daemon=True)
        self._run_git = run_git
        self._out = b""
        self._fault: GitexpError | None = None
        self.start()

    def run(self) -> None:
        """Run git to its end, in the thread."""
        try:
            self._out = self._run_git()
        except GitexpError as fault:
            self._fault = fault

    def wait(self) -> bytes:
        """Return its stdout when it has ended.

        Raises:
            GitCommandError: it exited with something else than 0.
        """
        self.join()
        if self._fault is not None:
            raise self._fault
        return self._out


@dataclass(frozen=True, slots=True)
class Identities:
    """Author and committer, which git is being asked for."""

    author: Running
    committer: Running

    def wait(self) -> tuple[Identity, Identity]:
        """Return both as git would use them now.

        Raises:
            IdentityMissingError: git knows no name or no e-mail.
        """
        try:
            author, committer = (said.wait().decode("utf-8", "replace") for said in (self.author, self.committer))
        except GitCommandError as refusal:
            raise IdentityMissingError(
                "git does not know who you are",
                hint='git config user.name "Your Name" && git config user.email you@example.org',
            ) from refusal
        return _parse_identity(author), _parse_identity(committer)


def git_command(args: Sequence[str]) -> list[str]:
    """Return the whole argument list of a git call, with the safe configuration in front."""
    return ["git", "--no-optional-locks", *(word for item in SAFE_CONFIG for word in ("-c", item)), *args]


def open_repository(path: Path) -> Repository:
    """Return the repository whose work tree holds `path`.

    Raises:
        GitVersionError: no git, or one older than 2.38.
        NotARepositoryError: no work tree here (or a bare repository).
    """
    if not path.is_dir():
        raise NotARepositoryError(f"no directory {path}", hint="nemo-gitexp -C DIR … with an existing directory")
    version = Running(lambda: _run_git(["version"], path, {}).stdout)
    config = Running(lambda: _run_git(["config", "--null", "--list"], path, {}).stdout)
    words = ["rev-parse", "--is-bare-repository", "--absolute-git-dir", "--git-common-dir"]
    words += ["--is-shallow-repository", "--show-object-format", "--show-toplevel"]
    done = _run_git(words, path, {})
    _require_version(version.wait().decode("utf-8", "replace"))
    lines = done.stdout.decode("utf-8", "surrogateescape").split("\n")
    if done.returncode != 0 or len(lines) < 6:
        raise _not_open(path, lines, done.said)
    common = Path(os.path.normpath(path / lines[2]))
    return Repository(Path(lines[5]), Path(lines[1]), common.resolve(), lines[4], lines[3] == "true", config)


def _require_version(said: str) -> None:
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < MINIMUM_GIT:
        named = said.strip().removeprefix("git version ")
        raise GitVersionError(f"git {named} is older than 2.38", hint="install git 2.38 or newer", found=named)


def _run_git(args: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: bytes = b"") -> Completed:
    # What git says is read by us: never in the user's language.
    whole = {**os.environ, "LANGUAGE": "C", "LC_ALL": "C", **env}
    try:
        return run(git_command(args), cwd=cwd, env=whole, stdin=stdin)
    except FileNotFoundError as fault:
        if not cwd.is_dir():
            raise NotARepositoryError(f"no directory {cwd}", hint="ls -d " + shlex.quote(str(cwd))) from fault
        raise GitVersionError("git is not installed", hint="install git 2.38 or newer") from fault


def _not_open(path: Path, lines: Sequence[str], said: str) -> RepositoryError:
    if lines and lines[0] == "true":
        return NotARepositoryError(
            f"{path} is a bare repository, without files to record",
            hint=f"git clone {path} work && cd work",
            path=str(path),
        )
    if "dubious ownership" in said:
        return RepositoryError(
            f"git refuses {path}: it belongs to somebody else",
            hint=f"git config --global --add safe.directory {path}",
            path=str(path),
        )
    if "not a git repository" in said:
        return NotARepositoryError(
            f"{path} is not in a git repository",
            hint='git init && git add -A && git commit -m "first commit"',
            path=str(path),
        )
    if "must be run in a work tree" in said:
        return NotARepositoryError(f"{path} is git's own directory", hint="nemo-gitexp -C WORK_TREE …", path=str(path))
    return NotARepositoryError(f"git cannot open {path}: {_last_line(said)}", hint="git status", path=str(path))


def _git_failure(args: Sequence[str], returncode: int, said: str) -> GitCommandError:
    values = {place + 1 for place, word in enumerate(args) if word == "-c"}
    verb = next((word for place, word in enumerate(args) if place not in values and not word.startswith("-")), "git")
    return GitCommandError(
        f"git {verb} failed: {_last_line(said) or f'exit {returncode}'}",
        hint=_remedy(said),
        stderr=said,
        exit_code=returncode,
    )


def _remedy(said: str) -> str:
    if "No space left" in said:
        return "free some space, then run the same command again"
    if "git-lfs" in said or "filter lfs" in said:
        return "git lfs install && git lfs pull"
    if "filter" in said and ("smudge" in said or "clean" in said):
        return "git config --get-regexp '^filter'"
    return "git status"


def _last_line(said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line.strip() and not line.startswith("hint:")]
    fatal = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return (fatal or lines or [""])[-1]


def _parse_identity(text: str) -> Identity:
    name, _, rest = text.rstrip("\n").partition(" <")
    email, _, date = rest.partition("> ")
    return Identity(name, email, date)
