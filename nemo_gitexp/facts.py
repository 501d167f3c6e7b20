"""What is learned about an experiment after it was recorded: append-only refs beside it.

Each fact is a tiny commit of its own with one `fact.json`, so that clones and processes never collide.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_gitexp.git.objects import NewCommit, import_commits, list_refs
from nemo_gitexp.git.repository import FULL_SHA, Identity, RefName, Repository
from nemo_gitexp.jsontext import JsonValue, render_json

FACTS_PREFIX = "refs/gitexp-facts/"
REMOTE_FACTS = "refs/gitexp-remotes/*/facts/"
"""Below it a record and a name; git takes a pattern with a star as a whole, never as a prefix (git-for-each-ref(1))."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: `record` is the experiment it is about; `kind` is launched, reproduced, verified, noted, ….

    A reproduction ran, a verification restored the state only; the word of both is the level reached.
    """

    ref: str
    commit: str
    record: str
    kind: str
    word: str

    @property
    def is_fetched(self) -> bool:
        """Whether it came from a remote, and is not ours."""
        return not self.ref.startswith(FACTS_PREFIX)


def write_fact(
    repository: Repository, record: str, kind: str, document: Mapping[str, JsonValue], who: Identity, *, word: str = ""
) -> RefName:
    """Add a fact and return its ref.

    Args:
        repository: where.
        record: full sha of the experiment.
        kind: what sort of fact.
        document: its content; `schema`, `kind` and `record` are added.
        who: author and committer.
        word: the one word of the fact that listings need (a verdict, a tag).
    """
    return write_facts(repository, kind, [(record, word, document)], who)[0]


def write_facts(
    repository: Repository, kind: str, facts: Sequence[tuple[str, str, Mapping[str, JsonValue]]], who: Identity
) -> list[RefName]:
    """Add facts of one kind in one go and return their refs; each is record sha, word and content of `write_fact`."""
    commits = []
    for record, word, document in facts:
        content = render_json({**document, "schema": 1, "kind": kind, "record": record})
        message = f"gitexp fact: {kind} {word}".rstrip() + "\n"
        ref = RefName(f"{FACTS_PREFIX}{record}/{uuid.uuid4().hex}")
        commits.append((ref, NewCommit(message, who, who, files={"fact.json": content})))
    import_commits(repository, commits)
    return [ref for ref, _ in commits]


def list_facts(repository: Repository, records: Sequence[str] | None = None) -> list[Fact]:
    """Return the facts about some experiments (all when None), from refs and subjects alone."""
    patterns = [FACTS_PREFIX, f"{REMOTE_FACTS}*/*"]
    if records is not None:
        patterns = [f"{place}{record}/*" for place in (FACTS_PREFIX, REMOTE_FACTS) for record in records]
    facts = []
    fields = ("refname", "objectname", "contents:subject")
    for ref, commit, subject in list_refs(repository, *patterns, fields=fields) if patterns else ():
        record = ref.rpartition("/")[0].rpartition("/")[2]
        words = subject.removeprefix("gitexp fact: ").split(" ", 1)
        if FULL_SHA.fullmatch(record) and subject.startswith("gitexp fact: "):
            facts.append(Fact(ref, commit, record, words[0], words[1] if len(words) > 1 else ""))
    unique = {fact.commit: fact for fact in reversed(facts)}
    return [fact for fact in unique.values() if records is None or fact.record in records]
