"""`status`, `logs`, `cancel` and `collect`: follow runs, also from another process or after a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from nemo_gitexp.catalog import Site, document_of, list_entries, refresh
from nemo_gitexp.collect import log_pieces, read_log
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import AlreadyFinishedError, GitexpError, RecordError, UnknownExperimentError
from nemo_gitexp.execution import Watcher, cancel_and_wait, finish_run, follow_run
from nemo_gitexp.listing import Entry
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.runs import RunState
from nemo_gitexp.store import read_experiments
from nemo_gitexp.tidy import tidy
from nemo_gitexp.tips import Tip, list_tips


@dataclass(frozen=True, slots=True)
class LogText:
    """The log of an experiment so far, in pieces to be read once; `live` is the run that still writes it."""

    tip: Tip
    pieces: Iterable[bytes]
    live: RunState | None


def status(site: Site, texts: Sequence[str]) -> list[ExperimentDoc]:
    """Return the experiments asked for, or all that are not finished, newest first.

    Side effects: runs that have ended are collected; each scheduler is asked once, and the site's `warn` told of one
    that does not answer.
    """
    tips = list_tips(site.repository)
    if texts:
        wanted = [find_experiment(site.repository, text, tips) for text in texts]
        entries = list_entries(site, *refresh(site, wanted))
        faults = [entry for entry in entries if isinstance(entry, RecordError)]
        if faults:
            raise faults[0]
        return [entry.document for entry in entries if isinstance(entry, Entry)]
    now, live = refresh(site, tips)
    unfinished = [tip for tip, before in zip(now, tips, strict=True) if before.status is None]
    entries = list_entries(site, unfinished, live)
    documents = [item.document for item in entries if isinstance(item, Entry) and not item.standing.withdrawn]
    return sorted(documents, key=lambda document: document["name"], reverse=True)


def read_logs(site: Site, text: str, say: Callable[[str], None]) -> LogText:
    """Return the log of an experiment as far as it is written; what is not here is asked from the DVC remote.

    Raises:
        UnknownExperimentError: nothing has this name, or it has no log.
    """
    tip, run = _look(site, text)
    if run is not None:
        return LogText(tip, log_pieces(run.paths), run)
    (experiment,) = read_experiments(site.repository, [tip])
    kept = read_log(site.repository, experiment.run or {})
    if kept is None:
        from nemo_gitexp.shipping import bring_needed  # most logs are here

        bring_needed(site, experiment, say, "log")
        kept = read_log(site.repository, experiment.run or {})
    if kept is None:
        raise UnknownExperimentError(
            f"{tip.name} has no log here", hint=f"nemo-gitexp show {tip.record[:12]} has its last lines", name=tip.name
        )
    return LogText(tip, kept, None)


def follow_logs(site: Site, log: LogText, watcher: Watcher) -> ExperimentDoc:
    """Hand on the whole log of an experiment, and what its live run still adds, until it has ended."""
    tip = log.tip
    if log.live is None:
        for piece in log.pieces:
            watcher.log(piece)
    else:
        tip = finish_run(site, tip, follow_run(log.live.paths, watcher))
    return document_of(site, tip)


def cancel(site: Site, text: str, watcher: Watcher) -> ExperimentDoc:
    """Stop an experiment's run and record it as cancelled.

    Raises:
        AlreadyFinishedError: it has a result already.
        GitexpError: it does not run here, or does not stop.
    """
    tip, run = _look(site, text)
    if run is None:
        document = document_of(site, tip)
        if document["status"] in ("recorded", "running"):
            raise GitexpError(
                f"{tip.name} does not run on this machine",
                hint=f"nemo-gitexp status {tip.record[:12]}",
                experiment=tip.record,
            )
        raise AlreadyFinishedError(
            f"{tip.name} is {document['status']} already",
            hint=f"nemo-gitexp show {tip.record[:12]}",
            experiment=tip.record,
            status=document["status"],
        )
    state = cancel_and_wait(run.paths, watcher)
    if state.status not in ("finished", "dead"):
        raise GitexpError(
            f"{tip.name} does not stop", hint=f"nemo-gitexp status {tip.record[:12]}", experiment=tip.record
        )
    return document_of(site, finish_run(site, tip, state))


def collect(site: Site) -> list[ExperimentDoc]:
    """Make the result commits of all runs that have ended and return those experiments; tidy up after killed ones.

    Side effects: each scheduler is asked once, and the site's `warn` told of one that does not answer.
    """
    tidy(site)
    before = {tip.record: tip.sha for tip in list_tips(site.repository)}
    after, _ = refresh(site, list_tips(site.repository), strictly=True)
    moved = [tip for tip in after if before.get(tip.record) != tip.sha]
    return [document_of(site, tip) for tip in moved]


def _look(site: Site, text: str) -> tuple[Tip, RunState | None]:
    """Return an experiment as it is now and its live run, if there is one."""
    tip = find_experiment(site.repository, text)
    (now,), live = refresh(site, [tip])
    run = live.get(tip.record)
    return (replace(now, status=None), run) if run is not None else (now, None)
