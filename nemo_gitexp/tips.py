"""The refs of experiments: their names, what they say without reading a record, and how they move.

What is read here are the trailers of commit messages: an index for listings. The files of a record are the truth.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nemo_gitexp.git.objects import TEMPORARY_REFS, find_ref, list_refs, move_ref
from nemo_gitexp.git.repository import FULL_SHA, CommitSha, RefName, Repository

LOCAL_PREFIX = "refs/gitexp/"
REMOTE_PREFIX = "refs/gitexp-remotes/"
BRANCH_PREFIX = "exp/"
_REMOTE_REF = re.compile(r"refs/gitexp-remotes/(?P<remote>[^/]+)/gitexp/(?P<rest>.+)")


@dataclass(frozen=True, slots=True)
class Tip:
    """One experiment's ref as listings see it, from trailers alone (an index: the files are the truth).

    `sha` is the tip, `record` the record commit; `status` None while there is no result. `parent` is what the
    listed commit stands on, None where a shallow clone ends; `parents` are the records of the experiments whose outputs
    it was given. `imported` is the key of a run of another tool.
    """

    ref: str
    study: str
    name: str
    sha: CommitSha
    record: CommitSha
    status: str | None
    identity: str | None
    config_hash: str
    seed: str
    created: str
    remote: str | None
    parent: str | None = None
    imported: str | None = None
    parents: tuple[str, ...] = ()

    @property
    def result(self) -> CommitSha | None:
        """The result commit, if there is one."""
        return self.sha if self.sha != self.record else None


def local_ref(study: str, name: str) -> RefName:
    """Return the ref that is the truth about an experiment."""
    return RefName(f"{LOCAL_PREFIX}{study}/{name}")


def branch_name(study: str, name: str) -> str:
    """Return the branch for people, without `refs/heads/`."""
    return f"{BRANCH_PREFIX}{study}/{name}"


def adopt(repository: Repository, tip: Tip) -> bool:
    """Give an experiment that only a remote's copy names a ref of its own, at its record, where a result can go.

    Returns:
        False when another experiment has its name here.
    """
    return tip.remote is None or move_ref(repository, local_ref(tip.study, tip.name), tip.record, None)


def write_branch(repository: Repository, tip: Tip) -> str | None:
    """Create the branch for people; return its name, or None when a name stands in the way."""
    branch = branch_name(tip.study, tip.name)
    return branch if move_ref(repository, RefName(f"refs/heads/{branch}"), tip.sha, None) else None


def move_branch(repository: Repository, tip: Tip, old: CommitSha, new: CommitSha) -> None:
    """Move an experiment's branch along, unless somebody moved it or has it checked out."""
    ref = RefName(f"refs/heads/{branch_name(tip.study, tip.name)}")
    if find_ref(repository, ref) != old:
        return
    listed = repository.text("worktree", "list", "--porcelain", "-z").split("\0")
    if f"branch {ref}" not in listed:
        move_ref(repository, ref, new, old)


def list_tips(repository: Repository, *, remotes: bool = True) -> list[Tip]:
    """Return every experiment's ref, local ones first; a remote's copy counts only where it knows more.

    Reads commit messages only; one process.
    """
    prefixes = [LOCAL_PREFIX, REMOTE_PREFIX] if remotes else [LOCAL_PREFIX]
    fields = ("refname", "objectname", "objecttype", "parent", "contents:body")
    tips = [_parse_tip(*row) for row in list_refs(repository, *prefixes, fields=fields)]
    found: dict[tuple[str, str, str], Tip] = {}
    # Git lists refs/gitexp-remotes/ before refs/gitexp/.
    for tip in sorted(filter(None, tips), key=lambda tip: tip.remote is not None):
        key = (tip.study, tip.name, tip.record)
        known = found.get(key)
        # A local "lost" gives way to somebody's real result; in all else the local ref is the truth.
        if known is None or (known.status in (None, "lost") and tip.status not in (None, "lost")):
            found[key] = tip
    return list(found.values())


def list_remote_tips(repository: Repository, remote: str) -> dict[RefName, Tip]:
    """Return what was last heard of a remote's experiments, by their ref there."""
    fields = ("refname", "objectname", "objecttype", "parent", "contents:body")
    rows = list_refs(repository, f"{REMOTE_PREFIX}{remote}/gitexp/", fields=fields)
    return {local_ref(tip.study, tip.name): tip for row in rows if (tip := _parse_tip(*row)) is not None}


def _parse_tip(ref: str, sha: str, kind: str, parent: str, body: str) -> Tip | None:
    remote, rest = None, ref.removeprefix(LOCAL_PREFIX)
    if ref.startswith(REMOTE_PREFIX):
        match = _REMOTE_REF.fullmatch(ref)
        if match is None:
            return None
        remote, rest = match["remote"], match["rest"]
    study, slash, name = rest.partition("/")
    if not slash or "/" in name or kind != "commit":
        return None
    # Trailers are the last paragraph; a purpose that looks like one stands in its own.
    values = dict(line.partition(": ")[::2] for line in body.rstrip("\n").rpartition("\n\n")[2].split("\n"))
    record = values.get("Gitexp-Record", sha)
    if not FULL_SHA.fullmatch(record):
        return None
    identity = values.get("Gitexp-Identity")
    return Tip(
        ref=ref,
        study=study,
        name=name,
        sha=CommitSha(sha),
        record=CommitSha(record),
        status=values.get("Gitexp-Status"),
        identity=None if identity == "unknown" else identity,
        config_hash=values.get("Gitexp-Config", ""),
        seed=values.get("Gitexp-Seed", ""),
        created=values.get("Gitexp-Created", ""),
        remote=remote,
        parent=parent or None,
        imported=values.get("Gitexp-Imported"),
        parents=tuple(values["Gitexp-Parents"].split()) if "Gitexp-Parents" in values else (),
    )


def remove_stale_locks(repository: Repository, older_than_s: float, now_s: float) -> None:
    """Delete lock files on our own refs and branches that a killed process left; nobody else's."""
    for prefix in (LOCAL_PREFIX, "refs/gitexp-facts/", TEMPORARY_REFS, f"refs/heads/{BRANCH_PREFIX}"):
        directory = Path(repository.common_dir, *prefix.strip("/").split("/"))
        for lock in directory.rglob("*.lock"):
            try:
                if now_s - lock.stat().st_mtime > older_than_s:
                    lock.unlink()
            except OSError:  # gone meanwhile, or not ours to remove
                continue
