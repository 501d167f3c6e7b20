"""`status --push`: tell a remote how far the experiments are that run here, and what became of those that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from nemo_gitexp.catalog import Site, refresh
from nemo_gitexp.facts import list_facts
from nemo_gitexp.git.transport import list_remotes, require_remote
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.progress import latest_heard, write_standings
from nemo_gitexp.sharing import place_of
from nemo_gitexp.tips import Tip, list_remote_tips, list_tips
from nemo_gitexp.verbs.share import PushAnswer, PushOptions, push_tips


def split_remote(site: Site, words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the remote that is told, and the experiments: the first word is a remote if one is called that.

    Raises:
        RemoteError: which remote is meant cannot be told.
    """
    if words and words[0] in list_remotes(site.repository):
        return require_remote(site.repository, words[0]), words[1:]
    return require_remote(site.repository, None, pushing=True), words


def announce(
    site: Site, remote: str, texts: Sequence[str], say: Callable[[str], None], *, older_than_s: float = 0.0
) -> PushAnswer | None:
    """Write how the experiments stand that run here, and push that with them; those that have ended take their results.

    Args:
        site: where.
        remote: who is told.
        texts: experiments; none: all of this clone.
        say: told what takes time, and of experiments that cannot go.
        older_than_s: what was said about one since then is enough.

    Returns:
        What went; None where there was nothing to tell.

    Raises:
        RemoteError, DataRemoteError: a remote cannot be reached.
    """
    repository, now = site.repository, datetime.now(UTC)
    tips = [find_experiment(repository, text) for text in texts] or list_tips(repository, remotes=False)
    tips, live = refresh(site, [tip for tip in tips if tip.remote is None])
    facts = list_facts(repository, [tip.record for tip in tips if tip.status is None])
    said = latest_heard(repository, [fact for fact in facts if not fact.is_fetched])
    stale = [
        tip
        for tip in tips
        if tip.status is None
        and (tip.record in live or (tip.record in said and said[tip.record].status != "recorded"))
        and (tip.record not in said or now.timestamp() - said[tip.record].at_s >= older_than_s)
    ]
    theirs = list_remote_tips(repository, remote)
    ended = [tip for tip in tips if tip.status is not None and _reads_unfinished(theirs.get(place_of(tip)), tip)]
    if not stale and not ended:
        return None
    write_standings(repository, stale, live, now)
    answer = push_tips(site, remote, [*stale, *ended], PushOptions(), say, are_named=False)
    for item in answer.refused:
        say(f"warning: {item.tip.name} is not told to {remote}: {item.why}")
    return answer


def _reads_unfinished(theirs: Tip | None, tip: Tip) -> bool:
    return theirs is not None and theirs.record == tip.record and theirs.status is None
