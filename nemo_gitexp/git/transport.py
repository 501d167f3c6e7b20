"""Other repositories: which remotes there are, what they hold, fetching from them, pushing to them.

A remote is one that git lists by name, refs are spelled out: nothing that somebody typed becomes an option or a URL.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_gitexp.errors import GitCommandError, RemoteError
from nemo_gitexp.git.objects import find_objects
from nemo_gitexp.git.repository import FULL_SHA, CommitSha, RefName, Repository

AT_ONCE = 300
"""So many refs go into one `git push`: an argument list has its limits."""

_TRIES = 3
_PUSHED_LINE = re.compile(r"(?P<flag>[ +\-*!=])\t(?P<source>[^\t]*):(?P<ref>[^\t]+)\t(?P<summary>.*)")


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """A ref of a remote that is to be `new`.

    `old` is what it must be until then, None: it must not be there. What is not `leased` moves forward only.
    """

    ref: str
    new: str
    old: str | None = None
    leased: bool = True


def list_remotes(repository: Repository) -> list[str]:
    """Return the names of the remotes."""
    return (repository.find_text("remote") or "").split()


def require_remote(repository: Repository, name: str | None, *, pushing: bool = False) -> str:
    """Return the remote that is meant: the one named, else the one that git would take.

    Without a name: that of the current branch, else `origin`, else the only one.

    Raises:
        RemoteError: there is none like it, or which one is meant cannot be told; `remotes` lists them.
    """
    remotes = list_remotes(repository)
    found = name if name is not None else _default_remote(repository, remotes, pushing=pushing)
    if not remotes:
        raise RemoteError("this repository has no remote", hint="git remote add origin URL", remotes=[])
    if found is None:
        listed = ", ".join(remotes)
        raise RemoteError(f"which remote? there are {listed}", hint=f"name one: {remotes[0]}", remotes=remotes)
    if found not in remotes:
        near = difflib.get_close_matches(found, remotes, n=1)
        hint = f"did you mean {near[0]}?" if near else f"git remote add {found} URL"
        raise RemoteError(f"no remote is called {found}; there are {', '.join(remotes)}", hint=hint, remotes=remotes)
    if "/" in found:
        hint = f"git remote rename {found} {found.replace('/', '-')}"
        raise RemoteError(f"a remote with a slash in its name cannot hold experiments: {found}", hint=hint)
    return found


def _default_remote(repository: Repository, remotes: Sequence[str], *, pushing: bool) -> str | None:
    config = repository.config()
    branch = repository.find_text("symbolic-ref", "--quiet", "--short", "HEAD")
    keys = [f"branch.{branch}.pushRemote", "remote.pushDefault"] if pushing else []
    named = [config.get(_as_listed(key)) for key in (*keys, f"branch.{branch}.remote")]
    likely = [*named, "origin", *(remotes if len(remotes) == 1 else ())]
    return next((name for name in likely if name in remotes), None)


def _as_listed(key: str) -> str:
    """Return a key as `git config --list` spells it: section and name in lower case."""
    section, _, rest = key.partition(".")
    middle, dot, name = rest.rpartition(".")
    return f"{section.lower()}.{middle}{dot}{name.lower()}"


def list_remote_refs(repository: Repository, remote: str, *patterns: str) -> dict[str, CommitSha]:
    """Return what a remote holds now by ref, of those that match (`refs/gitexp/*`). Asks it, once.

    Raises:
        RemoteError: it cannot be reached.
    """
    done = repository.attempt("ls-remote", "--refs", "--end-of-options", remote, *patterns)
    if done.returncode != 0:
        raise _unreachable(remote, done.said)
    lines = (line.split("\t", 1) for line in done.stdout.decode("utf-8", "replace").splitlines())
    return {ref: CommitSha(sha) for sha, ref in lines if FULL_SHA.fullmatch(sha)}


def fetch_refs(repository: Repository, remote: str, *refspecs: str) -> None:
    """Fetch refs; a refspec is `+refs/there/*:refs/here/*`, full names both.

    Raises:
        RemoteError: it cannot be reached, or git refused.
    """
    words = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"]
    said = ""
    for _ in range(_TRIES):
        done = repository.attempt(*words, "--end-of-options", remote, *refspecs)
        if done.returncode == 0:
            return
        said = done.said
        if "cannot lock ref" not in said:  # another process fetches the same at this moment
            break
    raise _unreachable(remote, said)


def push_refs(repository: Repository, remote: str, updates: Sequence[RefUpdate]) -> dict[str, str]:
    """Push, each ref by itself, and return why some were rejected, by ref; a stale lease says "stale info".

    Never forces anything but what its lease names. The repository's hooks are not run.

    Raises:
        RemoteError: the remote cannot be reached, or takes nothing at all.
    """
    rejected: dict[str, str] = {}
    for start in range(0, len(updates), AT_ONCE):
        rejected |= _push_some(repository, remote, updates[start : start + AT_ONCE])
    return rejected


def _push_some(repository: Repository, remote: str, updates: Sequence[RefUpdate]) -> dict[str, str]:
    leases = [f"--force-with-lease={update.ref}:{update.old or ''}" for update in updates if update.leased]
    words = ["push", "--porcelain", "--no-follow-tags", "--no-recurse-submodules", *leases, "--end-of-options", remote]
    done = repository.attempt(*words, *(f"{update.new}:{update.ref}" for update in updates))
    told: dict[str, str] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        match = _PUSHED_LINE.fullmatch(line)
        if match is not None:
            told[match["ref"]] = match["summary"] if match["flag"] == "!" else ""
    if done.returncode != 0 and not any(told.values()):
        raise _unreachable(remote, done.said)
    return {ref: _reason(summary) for ref, summary in told.items() if summary}


def _reason(summary: str) -> str:
    inside = re.search(r"\((.*)\)\s*$", summary)
    return inside[1] if inside else summary


def remember_pushed(repository: Repository, places: Sequence[tuple[RefName, str]]) -> None:
    """Note in the refs that stand for a remote's what it was given; git itself does so only where it is configured."""
    there = find_objects(repository, [sha for _, sha in places])
    lines = [f"update {ref} {sha}\n" for (ref, sha), found in zip(places, there, strict=True) if found]
    try:
        repository.run("update-ref", "--stdin", stdin="".join(lines).encode())
    except GitCommandError:  # somebody fetches at the same moment, and knows better
        return


def push_lfs(repository: Repository, remote: str, commits: Sequence[str]) -> None:
    """Send the LFS objects of commits: git's own hook for that is not run by our pushes.

    Raises:
        RemoteError: git-lfs is not installed, or its server refused.
    """
    done = repository.attempt("lfs", "push", remote, *commits)
    if done.returncode != 0:
        raise _unreachable(remote, done.said, "git lfs install, then the same command again")


def _unreachable(remote: str, said: str, hint: str = "") -> RemoteError:
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("hint:")]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    last = (telling or lines or ["git gave no reason"])[-1]
    return RemoteError(f"{remote}: {last}", hint=hint or f"git ls-remote {remote}", remote=remote, stderr=said)
