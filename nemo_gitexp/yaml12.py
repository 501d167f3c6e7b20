"""YAML 1.2 (core schema) to JSON values: strict, bounded, no files, no Python objects.

PyYAML scans and parses; what its 1.1 schema gets wrong is not used: here `on` and `yes` are strings, `1e-3` is a
float, `017` is 17, `0o17` is 15, `1:30` and `2024-01-01` are strings.

Refused: duplicate keys, keys that are no strings, Python and other foreign tags, several documents, and what grows
beyond its text (aliases are counted as what they expand to, so that 200 bytes never become 28 MB).
Source: YAML 1.2.2, chapter 10.3 (core schema); `<<` merges as in YAML 1.1, because real configurations use it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import yaml

from nemo_gitexp.errors import DocumentError
from nemo_gitexp.jsontext import MAX_DEPTH, MAX_DOCUMENT_BYTES, JsonValue

MAX_NODES = 100_000
"""Values in one document, aliases expanded."""

_LOADERS = (getattr(yaml, "CSafeLoader", yaml.SafeLoader), yaml.SafeLoader)
"""libyaml first: ten times faster, the same events."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_PREFIXED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})
_TAG = "tag:yaml.org,2002:"
_INDICATORS = ("[", "{", '"', "'", "!!")


def parse_yaml(text: bytes | str, source: str) -> JsonValue:
    """Return the document; an empty one is None.

    Args:
        text: UTF-8 YAML 1.2, one document; bytes may begin with a byte order mark.
        source: where it came from, for the message.

    Returns:
        Dicts, lists and scalars; what an alias repeats is the same object, so change nothing in it.

    Raises:
        DocumentError: anything the module refuses; `line` (from 1) says where and `problem` what, when known.
    """
    decoded = _decoded(text, source)
    try:
        return _Builder(source).document(decoded)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        _refuse(source, fault.problem or fault.context or "it cannot be parsed", mark.line + 1 if mark else None)
    except (yaml.YAMLError, ValueError, OverflowError) as fault:
        # ValueError: code points that PyYAML's own escapes cannot stand for ("\UFFFFFFFF")
        _refuse(source, str(fault).splitlines()[0] if str(fault) else "it cannot be parsed", None)


def parse_scalar(text: str) -> JsonValue:
    """Return the value of an override: a list, map or quoted text in YAML's flow form, else a plain scalar.

    Plain text is never cut: `a # b`, `*.py` and `key: value` are the strings they look like.

    Raises:
        DocumentError: a list, map or quotation that does not end, or a number without a value.
    """
    stripped = text.strip()
    if stripped.startswith(_INDICATORS):
        return parse_yaml(stripped, "the value")
    return resolve_plain(stripped)


def resolve_plain(text: str) -> JsonValue:
    """Return what an unquoted scalar means in the core schema: null, bool, int, float or the text itself.

    Raises:
        DocumentError: a number too long or too large to be one.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    number = _number(text)
    return text if number is None else number


def _number(text: str) -> float | None:
    try:
        if _INT.fullmatch(text):
            return int(text)
        if _PREFIXED_INT.fullmatch(text):
            return int(text, 0)
    except ValueError as fault:
        raise DocumentError(f"{text[:20]}… is too long for a number") from fault
    if _FLOAT.fullmatch(text):
        return _finite(text)
    if _INFINITY.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    return math.nan if text in _NAN else None


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise DocumentError(f"{text[:40]} is too large for a number", hint="write .inf for infinity")
    return number


def _decoded(text: bytes | str, source: str) -> str:
    if len(text) > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"{source} is longer than {MAX_DOCUMENT_BYTES} bytes", source=source)
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DocumentError(f"{source} is no UTF-8 text: byte {fault.start}", source=source) from fault


def _refuse(source: str, problem: str, line: int | None) -> NoReturn:
    where = source if line is None else f"{source}, line {line}"
    raise DocumentError(f"{where}: {problem}", source=source, line=line, problem=problem)


@dataclass(slots=True)
class _Builder:
    """Turns parser events into values: by hand, because duplicate keys, aliases and depth are lost later on."""

    source: str
    loader: type[yaml.SafeLoader] = _LOADERS[0]
    nodes: int = 0
    anchors: dict[str, tuple[JsonValue, int] | None] = field(default_factory=dict)

    def document(self, text: str) -> JsonValue:
        events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=self.loader))
        value: JsonValue = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, "a second document begins here")
                value = self._node(next(events), events, MAX_DEPTH)
        return value

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> JsonValue:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        self._count(event, 1)
        if depth == 0:
            self._refuse(event, f"nested deeper than {MAX_DEPTH}")
        anchor = event.anchor if isinstance(event, yaml.NodeEvent) else None
        if anchor:
            self.anchors[anchor] = None  # not finished: an alias inside it would be a cycle
        before = self.nodes
        value = self._content(event, events, depth)
        if anchor:
            self.anchors[anchor] = (value, self.nodes - before + 1)
        return value

    def _content(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> JsonValue:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            self._require_tag(event, "seq")
            return self._sequence(events, depth - 1)
        if not isinstance(event, yaml.MappingStartEvent):
            self._refuse(event, "nothing can stand here")
        self._require_tag(event, "map")
        return self._mapping(events, depth - 1)

    def _sequence(self, events: Iterator[yaml.Event], depth: int) -> JsonValue:
        items: list[JsonValue] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, events, depth))
        return items

    def _mapping(self, events: Iterator[yaml.Event], depth: int) -> JsonValue:
        own: dict[str, JsonValue] = {}
        merged: dict[str, JsonValue] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            is_merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style
            key = self._key(event)
            value = self._node(next(events), events, depth)
            if is_merge:
                merged = {**self._merged(event, value), **merged}
            elif key in own:
                self._refuse(event, f"the key {key} stands here a second time")
            else:
                own[key] = value
        return {**merged, **own}

    def _merged(self, event: yaml.Event, value: JsonValue) -> dict[str, JsonValue]:
        bases = value if isinstance(value, list) else [value]
        result: dict[str, JsonValue] = {}
        for base in bases:
            if not isinstance(base, Mapping):
                self._refuse(event, "<< merges mappings only")
            result = {**base, **result}
        return result

    def _key(self, event: yaml.Event) -> str:
        if isinstance(event, yaml.AliasEvent):
            key = self._alias(event, 0)
        elif isinstance(event, yaml.ScalarEvent):
            self._count(event, 1)
            key = self._scalar(event)
            if event.anchor:
                self.anchors[event.anchor] = (key, 1)
        else:
            self._refuse(event, "a list or mapping is no key")
        if not isinstance(key, str):
            written = event.value if isinstance(event, yaml.ScalarEvent) else str(key)
            self._refuse(event, f"the key {written or 'null'} is no string; quote it")
        return key

    def _alias(self, event: yaml.AliasEvent, depth: int) -> JsonValue:
        if event.anchor not in self.anchors:
            self._refuse(event, f"*{event.anchor} stands for nothing")
        known = self.anchors[event.anchor]
        if known is None:
            self._refuse(event, f"*{event.anchor} contains itself")
        value, size = known
        self._count(event, size)
        if _height(value) > depth:
            self._refuse(event, f"nested deeper than {MAX_DEPTH}, aliases expanded")
        return value

    def _scalar(self, event: yaml.ScalarEvent) -> JsonValue:
        tag = event.tag
        try:
            if tag is None and event.implicit[0]:
                return resolve_plain(event.value)
            if tag in {None, "!", _TAG + "str"}:
                return self._text(event)
            return self._tagged(event, str(tag))
        except DocumentError as fault:
            if "source" in fault.facts:
                raise
            self._refuse(event, fault.message)

    def _text(self, event: yaml.ScalarEvent) -> str:
        text = str(event.value)
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            self._refuse(event, "half of a surrogate pair is no text")
        return text

    def _tagged(self, event: yaml.ScalarEvent, tag: str) -> JsonValue:
        accepts = _TAGGED.get(tag.removeprefix(_TAG)) if tag.startswith(_TAG) else None
        if accepts is None:
            self._refuse(event, f"the tag {_short(tag)} is not accepted")
        value = resolve_plain(event.value)
        if not accepts(value):
            self._refuse(event, f"{event.value[:40]!r} is no {tag.removeprefix(_TAG)}")
        return float(value) if tag == _TAG + "float" and isinstance(value, int) else value

    def _require_tag(self, event: yaml.CollectionStartEvent, name: str) -> None:
        if event.tag not in {None, "!", _TAG + name}:
            self._refuse(event, f"the tag {_short(str(event.tag))} is not accepted")

    def _count(self, event: yaml.Event, size: int) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            self._refuse(event, f"more than {MAX_NODES} values, aliases expanded")

    def _refuse(self, event: yaml.Event, problem: str) -> NoReturn:
        mark = event.start_mark
        _refuse(self.source, problem, mark.line + 1 if mark else None)


_TAGGED: Mapping[str, Callable[[JsonValue], bool]] = {
    "null": lambda value: value is None,
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")[:60]


def _height(value: JsonValue) -> int:
    if isinstance(value, Mapping):
        return 1 + max(map(_height, value.values()), default=0)
    return 1 + max(map(_height, value), default=0) if isinstance(value, list) else 0
