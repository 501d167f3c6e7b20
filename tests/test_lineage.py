"""Lineage as values and as text: parents from the documents, children from the refs."""

from __future__ import annotations

from dataclasses import dataclass

from sample_documents import experiment

from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.lineage import children_by_parent, parents_of, with_lineage
from nemo_gitexp.report.lineage import render_lineage
from nemo_gitexp.report.terminal import Style

PLAIN = Style(color=False, width=200)


@dataclass(frozen=True)
class Ref:
    record: str
    parents: tuple[str, ...] = ()
    study: str = "s"

    @property
    def name(self) -> str:
        return self.record[0]


def sha(letter: str) -> str:
    return letter * 40


def made_from(letter: str, *parents: str) -> ExperimentDoc:
    """Return the document of an experiment, its parents by the letter of their sha."""
    origins = [
        {"kind": "exp", "experiment": sha(one), "study": "s", "name": one, "output": f"{one}.pt"} for one in parents
    ]
    plain = {"pin": "0" * 32, "strength": "content", "size_bytes": 1}
    inputs = [{"path": "data", **plain}, *({"path": f"in/{item['name']}", **plain, "origin": item} for item in origins)]
    return experiment(experiment=sha(letter), study="s", name=letter, inputs=inputs, metrics={})


def drawn(*documents: ExperimentDoc) -> list[str]:
    return render_lineage([with_lineage(item, {}) for item in documents], style=PLAIN).splitlines()


def test_parents_are_named_with_the_output_that_was_taken():
    (parent,) = parents_of(made_from("b", "a"))
    assert parent == {"experiment": sha("a"), "study": "s", "name": "a", "output": "a.pt", "path": "in/a"}
    assert parents_of(made_from("a")) == []


def test_children_are_found_by_their_refs():
    refs = [Ref(sha("c"), (sha("a"),)), Ref(sha("b"), (sha("x"), sha("a"))), Ref(sha("d"))]
    children = children_by_parent([*refs, refs[0]])  # a remote's ref names the same experiment
    assert [child["name"] for child in children[sha("a")]] == ["b", "c"]
    assert [child["name"] for child in with_lineage(made_from("x"), children)["children"]] == ["b"]
    assert with_lineage(made_from("d"), children)["children"] == []


class CountingRef(Ref):
    reads = 0

    def __getattribute__(self, name: str) -> object:
        if name == "parents":
            CountingRef.reads += 1
        return super().__getattribute__(name)


def test_the_refs_are_looked_at_once_however_many_documents_there_are():
    refs = [CountingRef(sha("b"), (sha("a"),)) for _ in range(50)]
    CountingRef.reads = 0
    children = children_by_parent(refs)
    documents = [with_lineage(made_from("a"), children) for _ in range(50)]
    assert all(document["children"] for document in documents)
    assert CountingRef.reads == len(refs)


def test_a_tree_is_drawn_by_indentation():
    assert drawn(made_from("a"), made_from("b", "a"), made_from("c", "b"), made_from("d", "a"), made_from("e")) == [
        "aaaaaaaa  s/a  completed",
        "├─ bbbbbbbb  s/b  completed  from a.pt",
        "│  └─ cccccccc  s/c  completed  from b.pt",
        "└─ dddddddd  s/d  completed  from a.pt",
        "eeeeeeee  s/e  completed",
    ]


def test_one_of_two_parents_stands_below_both_and_what_follows_below_the_first():
    assert drawn(made_from("a"), made_from("b"), made_from("c", "a", "b"), made_from("d", "c")) == [
        "aaaaaaaa  s/a  completed",
        "└─ cccccccc  s/c  completed  from a.pt",
        "   └─ dddddddd  s/d  completed  from c.pt",
        "bbbbbbbb  s/b  completed",
        "└─ cccccccc  s/c  completed  from b.pt  (what was made from it stands above)",
    ]


def test_a_parent_that_is_not_here_is_named_all_the_same():
    assert drawn(made_from("b", "a")) == [
        "aaaaaaaa  s/a  not in this repository",
        "└─ bbbbbbbb  s/b  completed  from a.pt",
    ]
    assert drawn() == ["no experiments here"]
