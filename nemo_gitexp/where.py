"""The little language of `log --where` and `--sort`: parsed by hand, evaluated on one document, nothing executed.

    metrics.accuracy > 0.95 and config.lr < 0.1
    status == failed or (name ~ "*mlp*" and not archived)
    metrics.`val/acc` >= 0.9 and error == null

A comparison with a key that is not there, or between values of different kinds, is false (`!=` included).
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal, TypeAlias, TypeVar

from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.errors import UsageError
from nemo_gitexp.metrics import as_float

Document: TypeAlias = Mapping[str, object]
Predicate: TypeAlias = Callable[[Document], bool]
SortKey: TypeAlias = tuple[int, float, str]
_Kind: TypeAlias = Literal["number", "path", "string", "operator", "paren", "end"]
Item = TypeVar("Item")
_Operand: TypeAlias = Callable[[Document], object]


class _Missing:
    """The value of a key that is not there; null is a value."""

    def __bool__(self) -> bool:
        return False


MISSING: Final = _Missing()

TOP_LEVEL_KEYS = tuple(ExperimentDoc.__annotations__)
_SHORTHANDS = ("metrics", "config")
_MAX_DEPTH = 50

_KINDS: tuple[_Kind, ...] = ("number", "path", "string", "operator", "paren")
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<path>(?:[^\W\d][\w-]*|`[^`]*`)(?:\.(?:[\w/-]+|`[^`]*`|"(?:[^"\\]|\\.)*"))*)
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<operator>==|!=|<=|>=|!~|<|>|~)
      | (?P<paren>[()])
    )""",
    re.VERBOSE,
)
_SEGMENT = re.compile(r'`(?P<tick>[^`]*)`|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^.`"]+)')
_WORDS = {"true": True, "false": False, "null": None}
_SIGNS = {"<": {-1}, "<=": {-1, 0}, ">": {1}, ">=": {0, 1}}
"""The signs of a compared to b for which the comparison holds."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    text: str
    column: int


def parse_where(text: str) -> Predicate:
    """Return the expression as a function of one experiment document.

    A bare word on the right of an operator is a string (`status == failed`); a bare key that experiments do not have
    is looked up in the metrics, then in the config (`lr < 0.1`).

    Raises:
        UsageError: what cannot be understood, with its column, counted from 1.
    """
    return _Parser(text).parse()


def sort_key(path: str) -> Callable[[Document], SortKey]:
    """Return the sort key of one column: numbers first, then text, then what has no value."""
    parts = parse_where_path(path)

    def key(document: Document) -> SortKey:
        value = resolve(document, parts)
        number = as_float(value)
        if isinstance(value, bool):
            return (0, float(value), "")
        if number is not None:
            return (3, 0.0, "") if math.isnan(number) else (0, number, "")
        if value is MISSING or value is None:
            return (4, 0.0, "")
        return (1, 0.0, value) if isinstance(value, str) else (2, 0.0, json.dumps(value, sort_keys=True, default=str))

    return key


def sorted_by(
    items: Iterable[Item], path: str, document_of: Callable[[Item], Document], *, descending: bool = False
) -> list[Item]:
    """Return the items sorted by a column of their documents; no value (or NaN) comes last in both directions."""
    key = sort_key(path)
    placed = [(key(document_of(item)), item) for item in items]
    with_value = [pair for pair in placed if pair[0][0] < 3]
    without = [pair for pair in placed if pair[0][0] >= 3]
    with_value.sort(key=lambda pair: pair[0], reverse=descending)
    without.sort(key=lambda pair: pair[0])
    return [item for _, item in with_value + without]


def unknown_column(path: str, documents: Sequence[Document]) -> str | None:
    """Return what to say of a column that none of the documents has, None when one has it."""
    parts = parse_where_path(path)
    if not documents or any(resolve(document, parts) is not MISSING for document in documents):
        return None
    near = nearest_columns(path, documents)
    return f"no experiment here has {path}" + (f"; there is {', '.join(near)}" if near else "")


def nearest_columns(path: str, documents: Iterable[Document]) -> list[str]:
    """Return columns that resemble one that no document has, for the message of an error."""
    rooms = ((room, document.get(room)) for document in documents for room in _SHORTHANDS)
    names = {f"{room}.{key}" for room, inner in rooms if isinstance(inner, Mapping) for key in inner}
    return get_close_matches(path, sorted(names | set(TOP_LEVEL_KEYS)), n=3)


class _Parser:
    """Recursive descent over or, and, not, comparison."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokenize(text)
        self._next = 0
        self._depth = 0

    def parse(self) -> Predicate:
        predicate = self._any()
        token = self._token
        if token.kind == "operator":
            raise self._fault("comparisons cannot be chained; join two with `and`")
        if token.kind != "end":
            raise self._fault(f"`and`, `or` or the end expected, not {token.text!r}")
        return predicate

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _take_word(self, word: str) -> bool:
        found = self._token.kind == "path" and self._token.text.lower() == word
        self._next += found
        return found

    def _any(self) -> Predicate:
        parts = [self._all()]
        while self._take_word("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else lambda document: any(part(document) for part in parts)

    def _all(self) -> Predicate:
        parts = [self._negation()]
        while self._take_word("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else lambda document: all(part(document) for part in parts)

    def _negation(self) -> Predicate:
        negated = False
        while self._take_word("not"):
            negated = not negated
        predicate = self._atom()
        return (lambda document: not predicate(document)) if negated else predicate

    def _atom(self) -> Predicate:
        if self._token.kind != "paren" or self._token.text != "(":
            return self._comparison()
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._fault(f"more than {_MAX_DEPTH} nested parentheses")
        self._take()
        predicate = self._any()
        if self._token.text != ")" or self._token.kind != "paren":
            raise self._fault("a closing parenthesis is missing")
        self._take()
        self._depth -= 1
        return predicate

    def _comparison(self) -> Predicate:
        left_token = self._token
        left = self._operand(is_right=False)
        if self._token.kind != "operator":
            if left_token.kind != "path":
                raise self._fault("an operator expected: == != < <= > >= ~ !~")
            return lambda document: bool(left(document))
        symbol = self._take().text
        right = self._operand(is_right=True)
        compare = _comparator(symbol)
        return lambda document: compare(left(document), right(document))

    def _operand(self, *, is_right: bool) -> _Operand:
        token = self._token
        if token.kind == "path" and token.text.lower() in {"and", "or", "not"}:
            raise self._fault(f"a key or a value expected, not {token.text!r}")
        if token.kind not in {"number", "string", "path"}:
            raise self._fault("a key or a value expected" + (f", not {token.text!r}" if token.text else ""))
        self._take()
        if token.kind == "path":
            return _path_operand(token, is_right=is_right)
        if token.kind == "number":
            number = float(token.text)
            return lambda _document: number
        return _string_operand(_unquote(token.text), is_right=is_right)

    def _fault(self, message: str) -> UsageError:
        return _usage_error(message, self._text, self._token.column)


def _tokenize(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            column = len(text) - len(text[position:].lstrip()) + 1
            raise _usage_error(_unreadable(text[column - 1 :]), text, column)
        kind = next(kind for kind in _KINDS if match[kind] is not None)
        tokens.append(_Token(kind, match[kind], match.start(kind) + 1))
        position = match.end()
    return [*tokens, _Token("end", "", end + 1)]


def _unreadable(rest: str) -> str:
    for symbol, instead in (("=", "=="), ("&&", "and"), ("||", "or"), ("!", "not")):
        if rest.startswith(symbol):
            return f"write `{instead}` for {symbol!r}"
    if rest[0] in "\"'`":
        return "this quote is never closed"
    if rest[0].isdecimal():
        return "this is no number; put text in quotes"
    return f"{rest[0]!r} has no meaning here"


def _usage_error(message: str, text: str, column: int) -> UsageError:
    return UsageError(
        f"--where, column {column}: {message}",
        hint="""like this: --where 'metrics.accuracy > 0.95 and config.lr < 0.1'""",
        where=text,
        column=column,
    )


def _path_operand(token: _Token, *, is_right: bool) -> _Operand:
    word = token.text.lower()
    if word in _WORDS:
        constant = _WORDS[word]
        return lambda _document: constant
    parts = parse_where_path(token.text)
    if is_right and len(parts) == 1 and not token.text.startswith("`") and parts[0] not in TOP_LEVEL_KEYS:
        return lambda _document: token.text
    return lambda document: resolve(document, parts)


def _string_operand(text: str, *, is_right: bool) -> _Operand:
    """A quoted text on the left that begins like a key is one: `"metrics.val/acc" > 0.9`."""
    first, dot, _ = text.partition(".")
    if dot and not is_right and first in TOP_LEVEL_KEYS:
        parts = text.split(".")
        return lambda document: resolve(document, parts)
    return lambda _document: text


def parse_where_path(path: str) -> list[str]:
    """Return the keys of a path; a part may stand in backticks or double quotes, a plain part ends at a dot."""
    parts: list[str] = []
    for match in _SEGMENT.finditer(path):
        if match["plain"] is not None:
            parts.append(match["plain"])
        elif match["tick"] is not None:
            parts.extend(match["tick"].split(".") if match.start() == 0 else [match["tick"]])
        else:
            parts.append(_unquote(match[0]))
    return parts


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def resolve(document: Document, parts: Sequence[str]) -> object:
    """Return the value at a path, or MISSING; a key experiments do not have is a metric, else a config key.

    A key that itself holds dots is found as well: at every level the longest key that is there wins.
    """
    value = _descend(document, parts)
    if value is not MISSING or (parts and parts[0] in TOP_LEVEL_KEYS):
        return value
    found = (_descend(document, [room, *parts]) for room in _SHORTHANDS)
    return next((value for value in found if value is not MISSING), MISSING)


def _descend(value: object, parts: Sequence[str]) -> object:
    if not parts:
        return value
    if isinstance(value, Mapping):
        for length in range(len(parts), 0, -1):
            key = ".".join(parts[:length])
            if key in value and (found := _descend(value[key], parts[length:])) is not MISSING:
                return found
    if isinstance(value, (list, tuple)) and parts[0].isdecimal() and int(parts[0]) < len(value):
        return _descend(value[int(parts[0])], parts[1:])
    return MISSING


def _comparator(symbol: str) -> Callable[[object, object], bool]:
    if symbol in {"~", "!~"}:
        return lambda value, pattern: _matches(value, pattern) is (symbol == "~") and isinstance(value, str)
    if symbol in {"==", "!="}:
        return lambda a, b: _equal(a, b, wanted=symbol == "==")
    return lambda a, b: _ordered(a, b, symbol)


def _matches(value: object, pattern: object) -> bool:
    return isinstance(value, str) and isinstance(pattern, str) and fnmatch.fnmatchcase(value, pattern)


def _equal(a: object, b: object, *, wanted: bool) -> bool:
    if a is MISSING or b is MISSING:
        return False
    if a is None or b is None or (isinstance(a, bool) and isinstance(b, bool)):
        return (a is b) is wanted
    if isinstance(a, str) and isinstance(b, str):
        return (a == b) is wanted
    number_a, number_b = as_float(a), as_float(b)
    if number_a is not None and number_b is not None:
        return (number_a == number_b) is wanted
    if type(a) is type(b):
        return (a == b) is wanted
    return False


def _ordered(a: object, b: object, symbol: str) -> bool:
    number_a, number_b = as_float(a), as_float(b)
    if number_a is not None and number_b is not None:
        unordered = math.isnan(number_a) or math.isnan(number_b)
        return not unordered and ((number_a > number_b) - (number_a < number_b)) in _SIGNS[symbol]
    if isinstance(a, str) and isinstance(b, str):
        return ((a > b) - (a < b)) in _SIGNS[symbol]
    return False
