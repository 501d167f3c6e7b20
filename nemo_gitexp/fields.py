"""Reading the machine's JSON documents field by field: types and shapes checked, every fault gathered. Pure.

What comes from a commit may have been written by anybody: what becomes a path or a word for git has one exact shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, cast

from nemo_gitexp.errors import RecordError
from nemo_gitexp.jsontext import JsonValue

HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
SHA: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
MD5: Final = re.compile(r"[0-9a-f]{32}(\.dir)?")


class FieldReader:
    """Reads typed fields of a JSON mapping and gathers every fault, to be raised at once."""

    def __init__(self, document: Mapping[str, JsonValue], source: str, faults: list[str] | None = None) -> None:
        """Read from `document`; a section shares its parent's `faults`."""
        self._document = document
        self._source = source
        self._faults: list[str] = [] if faults is None else faults

    def require_no_faults(self) -> None:
        """Raise what was found wrong.

        Raises:
            RecordError: with all `faults`.
        """
        if self._faults:
            message = f"{self._source} is damaged: {'; '.join(self._faults[:5])}"
            raise RecordError(message, source=self._source, faults=list(self._faults))

    def _take(self, key: str, kinds: type | tuple[type, ...], word: str) -> JsonValue:
        value = self._document.get(key)
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            self._faults.append(f"{key} is no {word}")
            return None
        return value

    def text(self, key: str) -> str:
        """Return a string."""
        return str(self._take(key, str, "string") or "")

    def text_or_none(self, key: str) -> str | None:
        """Return a string or null."""
        return None if self._document.get(key) is None else self.text(key)

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        """Return a string of one shape: what may become a path or a word for git."""
        value = self.text(key)
        if not pattern.fullmatch(value):
            self._faults.append(f"{key} is no {pattern.pattern}")
        return value

    def matching_or_none(self, key: str, pattern: re.Pattern[str]) -> str | None:
        """Return a string of one shape, or null."""
        return None if self._document.get(key) is None else self.matching(key, pattern)

    def number(self, key: str) -> int:
        """Return an integer."""
        return cast("int", self._take(key, int, "integer") or 0)

    def number_or_none(self, key: str) -> int | None:
        """Return an integer or null."""
        return None if self._document.get(key) is None else self.number(key)

    def real_or_none(self, key: str) -> float | None:
        """Return a number or null."""
        return (
            None if self._document.get(key) is None else cast("float | None", self._take(key, (int, float), "number"))
        )

    def flag(self, key: str) -> bool:
        """Return true or false."""
        return bool(self._take(key, bool, "boolean"))

    def choice(self, key: str, words: Sequence[str]) -> str:
        """Return one of the words."""
        value = self.text(key)
        if value not in words:
            self._faults.append(f"{key} is none of {', '.join(words)}")
        return value

    def metric(self, key: str) -> float | str:
        """Return a number, or the name of one that is not finite."""
        return cast("float | str", self._take(key, (int, float, str), "number") or 0)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        return tuple(str(item) for item in cast("Sequence[JsonValue]", self._take(key, list, "list") or []))

    def mapping(self, key: str) -> Mapping[str, JsonValue]:
        """Return a mapping."""
        return cast("Mapping[str, JsonValue]", self._take(key, Mapping, "mapping") or {})

    def section(self, key: str) -> FieldReader:
        """Return a reader of a mapping below."""
        return FieldReader(self.mapping(key), self._source, self._faults)

    def section_or_none(self, key: str) -> FieldReader | None:
        """Return a reader of a mapping below, None for null."""
        return None if self._document.get(key) is None else self.section(key)

    def sections_by_name(self, key: str) -> list[FieldReader]:
        """Return readers of the mappings in a mapping."""
        items = self.mapping(key).items()
        self._faults += [f"{key}.{name} is no mapping" for name, item in items if not isinstance(item, Mapping)]
        return [FieldReader(item, self._source, self._faults) for _, item in items if isinstance(item, Mapping)]

    def sections(self, key: str) -> list[FieldReader]:
        """Return readers of a list of mappings."""
        items = cast("Sequence[JsonValue]", self._take(key, list, "list") or [])
        if not all(isinstance(item, Mapping) for item in items):
            self._faults.append(f"{key} holds something that is no mapping")
        return [FieldReader(item, self._source, self._faults) for item in items if isinstance(item, Mapping)]

    def fault(self, what: str) -> None:
        """Add a fault found by the caller."""
        self._faults.append(what)
