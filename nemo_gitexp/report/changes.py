"""A diff as sections of signed lines: the one form that text, Markdown and HTML are written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nemo_gitexp.comparison import metric_changed
from nemo_gitexp.documents import DiffDoc, ExperimentDoc, MetricDiffDoc
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.report.terminal import human_size, number_pair, plural, short_hash, short_pin, value_text

Sign: TypeAlias = Literal["+", "-", "~", " "]
"""Only in b, only in a, in both but different, the same."""

LEGEND = "+ only in b   - only in a   ~ differs   a -> b"
CAUTION = "one run on each side: a difference may be chance"


@dataclass(frozen=True, slots=True)
class Change:
    """One line: `~ lr  0.1 -> 0.05  note`; a side that is not there is empty."""

    sign: Sign
    name: str
    a: str = ""
    b: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Lines of one kind under a title."""

    title: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class MetricLine:
    """A metric on both sides; `leader` says which side its goal favours, and `changed` whether they differ."""

    name: str
    a: str
    b: str
    delta: str
    leader: str
    changed: bool


def diff_sections(diff: DiffDoc, *, show_all: bool = False) -> tuple[Section, ...]:
    """Return the sections that hold something, outputs last; metrics are apart (`metric_lines`)."""
    sections = (
        Section("Config", _config(diff, show_all=show_all)),
        Section("Seed", _pair("seed", diff["seed"]["a"], diff["seed"]["b"], show_all=show_all)),
        Section("Code", _code(diff)),
        Section("Data", tuple(_content(item) for item in diff["inputs"])),
        Section("Environment", _environment(diff["environment"])),
        Section("Topology", _topology(diff)),
        Section("Outputs", tuple(_content(item) for item in diff["outputs"])),
    )
    return tuple(section for section in sections if section.changes)


def metric_lines(diff: DiffDoc) -> tuple[MetricLine, ...]:
    """Return every metric."""
    return tuple(_metric(name, metric) for name, metric in diff["metrics"].items())


def summary_line(diff: DiffDoc) -> str:
    """Return what differs, counted: `1 config key, 1 code file (+3 -1); 2 metrics differ`."""
    config, code, environment = diff["config"], diff["code"], diff["environment"]
    keys = len(config["changed"]) + len(config["only_a"]) + len(config["only_b"])
    packages = environment["packages"]
    counts = [
        (keys, plural(keys, "config key")),
        (diff["seed"]["a"] != diff["seed"]["b"], "the seed"),
        (
            len(code["files"]),
            f"{plural(len(code['files']), 'code file')} (+{code['insertions']} -{code['deletions']})",
        ),
        (len(diff["inputs"]), plural(len(diff["inputs"]), "input")),
        (environment["interpreter"], "the interpreter"),
        (packages, plural(len(packages) if isinstance(packages, Mapping) else 0, "package")),
        (_is_environment_unexplained(environment), "the environment"),
        (len(diff["topology"]), "the topology"),
    ]
    state = ", ".join(text for count, text in counts if count) or "same config, seed, code, data and environment"
    moved = sum(metric_changed(metric) for metric in diff["metrics"].values())
    gone = len(diff["outputs"])
    results = [
        f"{plural(count, what)} {'differs' if count == 1 else 'differ'}"
        for count, what in ((moved, "metric"), (gone, "output"))
        if count
    ]
    return f"{state}; {', '.join(results) or 'same results'}"


def side_name(document: ExperimentDoc) -> str:
    """Return `a1b2c3d4 digits/<name>`, with its status unless that is completed."""
    status = "" if document["status"] == "completed" else f" ({document['status']})"
    return f"{short_hash(document['experiment'])} {document['study']}/{document['name']}{status}"


def _config(diff: DiffDoc, *, show_all: bool) -> tuple[Change, ...]:
    config = diff["config"]
    changes = [
        Change("~", key, value_text(pair["a"]), value_text(pair["b"])) for key, pair in config["changed"].items()
    ]
    changes += [Change("-", key, a=value_text(value)) for key, value in config["only_a"].items()]
    changes += [Change("+", key, b=value_text(value)) for key, value in config["only_b"].items()]
    if show_all:
        changes += [Change(" ", key, value_text(value), value_text(value)) for key, value in config["common"].items()]
    return tuple(sorted(changes, key=lambda change: (change.sign == " ", change.name)))


def _pair(name: str, a: JsonValue, b: JsonValue, *, show_all: bool) -> tuple[Change, ...]:
    if a == b:
        return (Change(" ", name, value_text(a), value_text(b)),) if show_all else ()
    return (Change("~", name, value_text(a), value_text(b)),)


def _code(diff: DiffDoc) -> tuple[Change, ...]:
    signs: dict[str, Sign] = {"A": "+", "D": "-"}
    changes: list[Change] = []
    for file in diff["code"]["files"]:
        counted = file["insertions"] is not None and file["deletions"] is not None
        note = f"+{file['insertions']} -{file['deletions']}" if counted else "binary"
        changes.append(Change(signs.get(file["change"][:1], "~"), file["path"], note=note))
    return tuple(changes)


def _content(item: Mapping[str, JsonValue]) -> Change:
    """Return an input or output: what names its content on both sides, and its size."""
    a, b = _text(item["a"]), _text(item["b"])
    sizes, strengths = item.get("size_bytes"), item.get("strength")
    note = ""
    if isinstance(sizes, Mapping):
        note = " -> ".join(dict.fromkeys(human_size(size) for size in sizes.values() if isinstance(size, int)))
    if isinstance(strengths, Mapping) and strengths["a"] and strengths["b"] and strengths["a"] != strengths["b"]:
        note += f"  pinned by {strengths['a']} -> {strengths['b']}"
    return Change(_sign(a, b), str(item["path"]), short_pin(a) if a else "", short_pin(b) if b else "", note)


def _environment(environment: Mapping[str, JsonValue]) -> tuple[Change, ...]:
    interpreter, packages = environment["interpreter"], environment["packages"]
    pairs: dict[str, JsonValue] = {"python": interpreter} if interpreter else {}
    if isinstance(packages, Mapping):
        pairs.update(packages)
    changes = tuple(
        Change(_sign(_text(pair["a"]), _text(pair["b"])), name, _text(pair["a"]) or "", _text(pair["b"]) or "")
        for name, pair in pairs.items()
        if isinstance(pair, Mapping)
    )
    if _is_environment_unexplained(environment):
        key_a, key_b = (short_hash(_text(environment[side])) for side in ("a", "b"))
        return (Change("~", "environment key", key_a, key_b, "contents not known on both sides"),)
    return changes


def _is_environment_unexplained(environment: Mapping[str, JsonValue]) -> bool:
    known = environment["interpreter"] or environment["packages"]
    return environment["a"] != environment["b"] and not known


def _topology(diff: DiffDoc) -> tuple[Change, ...]:
    return tuple(
        Change("~", key, value_text(pair["a"]), value_text(pair["b"])) for key, pair in diff["topology"].items()
    )


def _metric(name: str, metric: MetricDiffDoc) -> MetricLine:
    a, b = number_pair(metric["a"], metric["b"])
    delta = "" if not metric["delta"] else f"{metric['delta']:+.4g}"
    leader = f"{metric['better']} is better" if metric["better"] else ""
    return MetricLine(name, a, b, delta, leader, metric_changed(metric))


def _sign(a: str | None, b: str | None) -> Sign:
    if a is None:
        return "+"
    return "-" if b is None else "~"


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
