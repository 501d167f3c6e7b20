"""Experiments as a forest for a terminal: what was made from what, by indentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nemo_gitexp.documents import ExperimentDoc, ParentDoc
from nemo_gitexp.report.experiment import metrics_line
from nemo_gitexp.report.terminal import STATUS_TINTS, Style, safe_text, short_hash


def render_lineage(documents: Sequence[ExperimentDoc], *, style: Style) -> str:
    """Return each experiment below those that it was made from, with the outputs that it took.

    One with several parents stands below each of them; what was made from it, only below the first.

    Args:
        documents: with their `parents`; in the order in which roots and siblings are to stand.
        style: colours.
    """
    if not documents:
        return "no experiments here\n"
    return "".join(_Forest(documents, style).lines())


class _Forest:
    """The documents by record, and who stands below whom."""

    def __init__(self, documents: Sequence[ExperimentDoc], style: Style) -> None:
        self._style = style
        self._documents = {document["experiment"]: document for document in documents}
        self._below: dict[str, list[tuple[str, list[ParentDoc]]]] = {}
        self._absent: dict[str, ParentDoc] = {}
        self._told: set[str] = set()
        for document in documents:
            for sha, taken in _by_parent(document).items():
                self._below.setdefault(sha, []).append((document["experiment"], taken))
                if sha not in self._documents:
                    self._absent[sha] = taken[0]

    def lines(self) -> Iterator[str]:
        for sha, document in self._documents.items():
            if not document.get("parents"):
                yield from self._tree(sha, self._line(document, []), "")
        for sha, parent in self._absent.items():
            name = safe_text(f"{parent['study']}/{parent['name']}")
            line = f"{self._style.paint(short_hash(sha), 'yellow')}  {name}  not in this repository\n"
            yield from self._tree(sha, line, "")

    def _tree(self, sha: str, line: str, indent: str) -> Iterator[str]:
        below = self._below.get(sha, [])
        if sha in self._told and below:
            yield line.rstrip("\n") + "  (what was made from it stands above)\n"
            return
        self._told.add(sha)
        yield line
        for number, (child, taken) in enumerate(below):
            is_last = number == len(below) - 1
            branch, more = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
            inner = self._line(self._documents[child], taken)
            yield from self._tree(child, f"{indent}{branch}{inner}", indent + more)

    def _line(self, document: ExperimentDoc, taken: Sequence[ParentDoc]) -> str:
        status = document["status"]
        parts = [
            self._style.paint(short_hash(document["experiment"]), "yellow"),
            safe_text(f"{document['study']}/{document['name']}"),
            self._style.paint(safe_text(status), STATUS_TINTS.get(status, "")),
            metrics_line(document["metrics"], 2),
            self._style.paint(f"from {safe_text(', '.join(item['output'] for item in taken))}", "dim") if taken else "",
        ]
        return "  ".join(part for part in parts if part) + "\n"


def _by_parent(document: ExperimentDoc) -> Mapping[str, list[ParentDoc]]:
    found: dict[str, list[ParentDoc]] = {}
    for parent in document.get("parents", []):
        found.setdefault(parent["experiment"], []).append(parent)
    return found
