"""What a remote holds of our experiments, and what may become of its refs: a record becomes a result, never another.

Its experiments are at `refs/gitexp/` there and below `refs/gitexp-remotes/<remote>/` here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nemo_gitexp.facts import FACTS_PREFIX
from nemo_gitexp.git.objects import list_refs
from nemo_gitexp.git.repository import FULL_SHA, CommitSha, RefName, Repository
from nemo_gitexp.git.transport import RefUpdate, fetch_refs, list_remote_refs
from nemo_gitexp.tips import LOCAL_PREFIX, REMOTE_PREFIX, Tip, list_remote_tips, local_ref

Course: TypeAlias = Literal["new", "result", "same", "behind", "differs", "taken"]
"""What is to become of a remote's ref: made, moved on, left as it is.

Left because it is the same, because the remote knows more (behind), because it holds another result, or because another
experiment has the name there (taken).
"""

MOVING: tuple[Course, ...] = ("new", "result")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What a remote holds now: its refs, and the experiments behind those that differ from ours."""

    remote: str
    refs: Mapping[str, CommitSha]
    tips: Mapping[RefName, Tip]


def place_of(tip: Tip) -> RefName:
    """Return the ref that an experiment has in every repository that is not a copy of another's."""
    return local_ref(tip.study, tip.name)


def look_elsewhere(repository: Repository, remote: str, tips: Sequence[Tip]) -> Elsewhere:
    """Ask a remote what it holds; what it says about these experiments that we do not know is fetched.

    Raises:
        RemoteError: it cannot be reached.
    """
    refs = list_remote_refs(repository, remote, f"{LOCAL_PREFIX}*", f"{FACTS_PREFIX}*")
    known = list_remote_tips(repository, remote)
    if any(_is_news(refs.get(place_of(tip)), tip, known.get(place_of(tip))) for tip in tips):
        fetch_refs(repository, remote, *refspecs(remote))
        known = list_remote_tips(repository, remote)
    return Elsewhere(remote, refs, known)


def _is_news(there: CommitSha | None, tip: Tip, known: Tip | None) -> bool:
    return there not in (None, tip.sha, tip.record) and (known is None or known.sha != there)


def refspecs(remote: str) -> tuple[str, str]:
    """Return where a remote's experiments and facts go here: never onto ours."""
    return (
        f"+{LOCAL_PREFIX}*:{REMOTE_PREFIX}{remote}/gitexp/*",
        f"+{FACTS_PREFIX}*:{REMOTE_PREFIX}{remote}/facts/*",
    )


def find_course(tip: Tip, elsewhere: Elsewhere) -> Course:
    """Return what is to become of an experiment's ref at a remote."""
    there, theirs = elsewhere.refs.get(place_of(tip)), elsewhere.tips.get(place_of(tip))
    if there is None:
        return "new"
    if there == tip.sha:
        return "same"
    if there == tip.record:
        return "result"
    if theirs is None or theirs.sha != there or theirs.record != tip.record:
        return "taken"
    if tip.status is None or (tip.status == "lost" and theirs.status != "lost"):
        return "behind"
    return "result" if theirs.status == "lost" else "differs"


def ref_update(tip: Tip, elsewhere: Elsewhere) -> RefUpdate:
    """Return the update of an experiment's ref, which holds only while the remote is as it was seen."""
    place = place_of(tip)
    return RefUpdate(place, tip.sha, elsewhere.refs.get(place))


def unsent_facts(repository: Repository, elsewhere: Elsewhere, records: Sequence[str]) -> list[RefUpdate]:
    """Return our facts about some experiments that a remote does not have."""
    wanted = set(records)
    updates = []
    for ref, sha in list_refs(repository, FACTS_PREFIX):
        record = ref.removeprefix(FACTS_PREFIX).partition("/")[0]
        if record in wanted and FULL_SHA.fullmatch(record) and ref not in elsewhere.refs:
            updates.append(RefUpdate(ref, sha))
    return updates


def remembered_as(ref: str, remote: str) -> RefName:
    """Return the ref that stands here for one of a remote's."""
    kind, prefix = ("facts", FACTS_PREFIX) if ref.startswith(FACTS_PREFIX) else ("gitexp", LOCAL_PREFIX)
    return RefName(f"{REMOTE_PREFIX}{remote}/{kind}/{ref.removeprefix(prefix)}")
