"""`log`: the table of experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_gitexp.catalog import Site, list_entries, refresh
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import RecordError, UsageError
from nemo_gitexp.lineage import children_by_parent, with_lineage
from nemo_gitexp.listing import Entry
from nemo_gitexp.standing import STATUSES
from nemo_gitexp.tips import Tip, list_tips

if TYPE_CHECKING:
    from nemo_gitexp.where import Predicate  # the little language is imported by those who use it

DEFAULT_COUNT = 20


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which experiments to list; `count` None means the default, `show_all` lifts it and shows withdrawn ones.

    `lineage`: with them come those that they were made from, however many there are.
    """

    study: str | None = None
    status: str | None = None
    where: str | None = None
    sort: str | None = None
    columns: tuple[str, ...] = ()
    count: int | None = None
    show_all: bool = False
    lineage: bool = False


@dataclass(frozen=True, slots=True)
class LogAnswer:
    """What is listed, how many more match, how many there are; remarks: what cannot be read, columns nothing has.

    `related`: of a lineage the documents, with parents and children; else empty.
    """

    entries: list[Entry]
    n_more: int
    n_all: int
    remarks: list[str]
    related: tuple[ExperimentDoc, ...] = ()


def log(site: Site, options: LogOptions) -> LogAnswer:
    """Return experiments, newest first unless sorted otherwise.

    Raises:
        UsageError: `where` or `sort` cannot be read, or there is no such status.
    """
    predicate = _predicate(options.where)
    if options.status is not None and options.status not in STATUSES:
        raise UsageError(f"there is no status {options.status}", hint=f"one of {', '.join(STATUSES)}")
    tips, live = refresh(site, list_tips(site.repository))
    tips.sort(key=lambda tip: (tip.created, tip.name), reverse=True)
    wanted = [tip for tip in tips if options.study in (None, tip.study)]
    limit = None if options.show_all else (options.count or DEFAULT_COUNT)
    needs_all = bool(options.where or options.sort or options.status)
    # Twice a page: some of the newest may be archived or withdrawn, which only their facts tell.
    head = wanted if limit is None or needs_all else wanted[: limit * 2]
    items = list_entries(site, head, live)
    faults = [item.message for item in items if isinstance(item, RecordError)]
    entries = [item for item in items if not isinstance(item, RecordError)]
    if not options.show_all:
        entries = [entry for entry in entries if not (entry.standing.withdrawn or entry.standing.archived)]
    if options.status:
        entries = [entry for entry in entries if entry.standing.status == options.status]
    if predicate:
        entries = [entry for entry in entries if predicate(entry.document)]
    if options.sort:
        entries = _sorted(entries, options.sort)
    shown = entries if limit is None else entries[:limit]
    more = len(entries) - len(shown) + (0 if needs_all else len(wanted) - len(head))
    related = _with_ancestors(site, shown, tips) if options.lineage else ()
    return LogAnswer(shown, more, len(tips), faults + _unknown_columns(shown, options), related)


def _with_ancestors(site: Site, entries: list[Entry], tips: Sequence[Tip]) -> tuple[ExperimentDoc, ...]:
    """Return the documents of these experiments and of all that they were made from, with parents and children."""
    by_record = {str(tip.record): tip for tip in tips}
    children = children_by_parent(tips)
    found: dict[str, ExperimentDoc] = {}
    documents = [entry.document for entry in entries]
    while documents:
        found |= {document["experiment"]: with_lineage(document, children) for document in documents}
        above = [parent["experiment"] for document in documents for parent in found[document["experiment"]]["parents"]]
        wanted = [by_record[sha] for sha in dict.fromkeys(above) if sha in by_record and sha not in found]
        read = list_entries(site, *refresh(site, wanted)) if wanted else []
        documents = [item.document for item in read if not isinstance(item, RecordError)]
    return tuple(found.values())


def _predicate(text: str | None) -> Predicate | None:
    if text is None:
        return None
    from nemo_gitexp.where import parse_where

    return parse_where(text)


def _sorted(entries: list[Entry], column: str) -> list[Entry]:
    from nemo_gitexp.where import sorted_by

    name = column.removeprefix("-")
    return sorted_by(entries, name, lambda entry: entry.document, descending=column.startswith("-"))


def _unknown_columns(entries: list[Entry], options: LogOptions) -> list[str]:
    columns = [*options.columns, *([options.sort.removeprefix("-")] if options.sort else [])]
    if not columns:
        return []
    from nemo_gitexp.where import unknown_column

    documents = [entry.document for entry in entries]
    said = (unknown_column(column, documents) for column in dict.fromkeys(columns))
    return [line for line in said if line is not None]
