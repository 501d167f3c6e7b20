"""`status --push`: tell a remote how far the experiments are that run here, and what became of those that do not."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from nemo_gitexp.catalog import Site, refresh
from nemo_gitexp.execution import Watcher
from nemo_gitexp.facts import list_facts
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.metrics import MetricRow
from nemo_gitexp.processes import spawn_detached
from nemo_gitexp.progress import latest_heard, write_standings
from nemo_gitexp.sharing import place_of
from nemo_gitexp.tips import Tip, list_remote_tips, list_tips
from nemo_gitexp.verbs.share import PushAnswer, PushOptions, push_tips


class Announcer:
    """A watcher beside another that tells the remote at times: by a process of its own, for nobody shall wait for that.

    Args:
        watcher: who is shown the run.
        root: the work tree.
        every_s: seconds from one time to the next.
    """

    def __init__(self, watcher: Watcher, root: Path, every_s: float) -> None:
        """Tell for the first time after `every_s`: the fact that it was launched is there already."""
        self._watcher = watcher
        self._root = root
        self._every_s = every_s
        self._next_s = every_s
        self._process: subprocess.Popen[bytes] | None = None

    def log(self, text: bytes) -> None:
        """Hand it on."""
        self._watcher.log(text)

    def say(self, line: str) -> None:
        """Hand it on."""
        self._watcher.say(line)

    def progress(self, elapsed_s: float, row: MetricRow | None) -> None:
        """Hand it on; start `status`, which tells the remote, when it is time and the last one has ended."""
        self._watcher.progress(elapsed_s, row)
        if elapsed_s < self._next_s or (self._process is not None and self._process.poll() is None):
            return
        self._next_s = elapsed_s + self._every_s
        call = [sys.executable, "-P", "-m", "nemo_gitexp", "-C", str(self._root), "--quiet", "status"]
        with contextlib.suppress(OSError):  # too many processes, no memory: the run matters more
            self._process = spawn_detached(call, cwd=self._root, env=os.environ)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()


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
