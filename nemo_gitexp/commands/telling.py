"""Telling a remote how far experiments are: when asked to, and at times where a setting says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nemo_gitexp.commands.call import CALL
from nemo_gitexp.console import TerminalWatcher
from nemo_gitexp.errors import GitexpError

if TYPE_CHECKING:
    from nemo_gitexp.execution import Watcher


def tell_remote(words: Sequence[str]) -> list[str]:
    """Push how far experiments are; return the words that name experiments."""
    from nemo_gitexp.verbs.announce import announce
    from nemo_gitexp.verbs.share import split_remote

    remote, exps = split_remote(CALL.site(), words, pushing=True)
    answer = announce(CALL.site(), remote, exps, CALL.console.say)
    CALL.console.say(f"{remote} has nothing to be told" if answer is None else f"told {remote}")
    return list(exps)


def telling(watcher: TerminalWatcher) -> Watcher:
    """Return a watcher that, with the setting, tells a remote at times how far the run is."""
    settings = CALL.site().settings
    if not settings.push_status:
        return watcher
    from nemo_gitexp.verbs.announce import Announcer

    return Announcer(watcher, CALL.repository().root, max(settings.push_status_minutes, 0.1) * 60)


def tell_remote_at_times() -> None:
    """With the setting: push how far experiments are, where that was not said lately; an answer needs no remote."""
    site = CALL.site()
    if not site.settings.push_status:
        return
    from nemo_gitexp.verbs.announce import announce
    from nemo_gitexp.verbs.share import split_remote

    try:
        remote, _ = split_remote(site, [], pushing=True)
        announce(site, remote, [], CALL.console.say, older_than_s=site.settings.push_status_minutes * 60)
    except GitexpError as fault:
        CALL.console.say(f"warning: no remote was told how far they are: {fault.message}")
