"""`log`: the table of experiments."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_gitexp.catalog import Listed, Site, list_entries
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.store import Tip, list_tips
from nemo_gitexp.where import parse_where, sorted_by

DEFAULT_COUNT = 20


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which experiments to list; `count` None means the default, `show_all` lifts it and shows withdrawn ones."""

    study: str | None = None
    status: str | None = None
    where: str | None = None
    sort: str | None = None
    count: int | None = None
    show_all: bool = False


@dataclass(frozen=True, slots=True)
class LogAnswer:
    """The listed experiments, how many more matched, and what could not be read."""

    documents: list[ExperimentDoc]
    n_more: int
    faults: list[str]


def log(site: Site, options: LogOptions) -> LogAnswer:
    """Return experiments, newest first unless sorted otherwise.

    Raises:
        UsageError: `where` or `sort` cannot be read.
    """
    predicate = parse_where(options.where) if options.where else None
    tips = sorted(list_tips(site.repository), key=lambda tip: (tip.created, tip.name), reverse=True)
    wanted = [tip for tip in tips if options.study in (None, tip.study)]
    limit = None if options.show_all else (options.count or DEFAULT_COUNT)
    needs_all = bool(predicate or options.sort or options.status)
    # Twice a page: some of the newest may be archived or withdrawn, which only their facts tell.
    head = wanted if limit is None or needs_all else wanted[: limit * 2]
    listed = _by_creation(list_entries(site, tips, only=head), tips)
    faults = [item.fault.message for item in listed if item.fault is not None]
    documents = [item.document for item in listed if item.document is not None]
    if not options.show_all:
        documents = [document for document in documents if not document["withdrawn"] and not document["archived"]]
    if options.status:
        documents = [document for document in documents if document["status"] == options.status]
    if predicate:
        documents = [document for document in documents if predicate(document)]
    if options.sort:
        documents = sorted_by(documents, options.sort.removeprefix("-"), descending=options.sort.startswith("-"))
    shown = documents if limit is None else documents[:limit]
    more = len(documents) - len(shown) + (0 if needs_all else len(wanted) - len(head))
    return LogAnswer(shown, more, faults)


def _by_creation(listed: list[Listed], tips: list[Tip]) -> list[Listed]:
    order = {(tip.study, tip.name): number for number, tip in enumerate(tips)}
    return sorted(listed, key=lambda item: order.get((item.tip.study, item.tip.name), -1))
