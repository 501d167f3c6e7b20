"""Which experiments were made from which: values from documents and refs, no git.

The records hold an experiment's parents. Its children stand nowhere in it; the trailers of theirs name it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

from nemo_gitexp.documents import ChildDoc, ExperimentDoc, ParentDoc
from nemo_gitexp.jsontext import JsonValue


class Named(Protocol):
    """What a ref says about an experiment."""

    @property
    def record(self) -> str:
        """The record commit."""

    @property
    def study(self) -> str:
        """Its study."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def parents(self) -> tuple[str, ...]:
        """The record commits of the experiments it was made from."""


def parents_of(document: ExperimentDoc) -> list[ParentDoc]:
    """Return the experiments whose outputs an experiment was given, one entry an input."""
    origins = ((item["path"], item.get("origin")) for item in document["inputs"])
    return [_parent(path, origin) for path, origin in origins if origin is not None and origin.get("kind") == "exp"]


def children_by_parent(refs: Iterable[Named]) -> dict[str, list[ChildDoc]]:
    """Return for each record whose outputs others were given those experiments, sorted by name.

    Made once for an answer: a listing asks it for thousands of documents.
    """
    found: dict[str, dict[str, Named]] = {}
    for ref in refs:
        for parent in ref.parents:
            found.setdefault(parent, {})[ref.record] = ref
    return {parent: _children(below.values()) for parent, below in found.items()}


def with_lineage(document: ExperimentDoc, children: Mapping[str, list[ChildDoc]]) -> ExperimentDoc:
    """Return a copy of a document that names parents and children; all children are of `children_by_parent`."""
    related = cast("ExperimentDoc", dict(document))
    related["parents"] = parents_of(document)
    related["children"] = children.get(document["experiment"], [])
    return related


def _children(refs: Iterable[Named]) -> list[ChildDoc]:
    children = [ChildDoc(experiment=ref.record, study=ref.study, name=ref.name) for ref in refs]
    return sorted(children, key=lambda child: (child["name"], child["experiment"]))


def _parent(path: str, origin: Mapping[str, JsonValue]) -> ParentDoc:
    return ParentDoc(
        experiment=str(origin.get("experiment")),
        study=str(origin.get("study")),
        name=str(origin.get("name")),
        output=str(origin.get("output")),
        path=path,
    )
