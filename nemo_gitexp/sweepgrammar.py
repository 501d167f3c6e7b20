"""What `sweep` is told to vary: `key=a,b,c`, `seed=1..5`, `lr=choice(0.1,0.2)`, `n=range(1,10,2)`. Pure.

Hydra's grammar says where one value ends and the next begins; what each one is, YAML 1.2 says, as everywhere.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import Any

from nemo_gitexp.errors import OverrideError, UsageError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import render_key, split_key
from nemo_gitexp.overrides import Override, parse_override
from nemo_gitexp.plainform import canonical_text

MOST_COMBINATIONS = 10_000

_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_SPAN = re.compile(rf"(?P<first>{_NUMBER})\.\.(?P<last>{_NUMBER})(?::(?P<step>{_NUMBER}))?")
_ENCLOSING = frozenset("()[]{}'\"\\")
"""Characters within or after which a comma may separate nothing."""

_FUNCTION = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*\(")
_WORDS = {
    "interval": "interval has no end of values: it is for optimizers that choose; a grid needs range or choice",
    "glob": "glob chooses among Hydra's configuration groups, and a study has none",
    "shuffle": "the order of a sweep changes nothing: every combination is an experiment of its own",
    "sort": "the order of a sweep changes nothing: every combination is an experiment of its own",
    "tag": "tag means something to Hydra's own sweepers alone",
    "int": "casts are not needed: values are read as YAML 1.2",
    "float": "casts are not needed: values are read as YAML 1.2",
    "bool": "casts are not needed: values are read as YAML 1.2",
    "str": "casts are not needed: values are read as YAML 1.2",
}
"""Functions of Hydra's grammar that mean nothing here, and why."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One key and the changes that it takes in turn, each as it could be typed for `run`."""

    key: str
    changes: tuple[Override, ...]

    @property
    def values(self) -> tuple[JsonValue, ...]:
        """What the key is set to, in turn."""
        return tuple(change.value for change in self.changes)


def parse_axis(token: str) -> Axis:
    """Return what one argument of `sweep` varies; a plain `key=value` or `~key` is an axis of one.

    Args:
        token: `key=` or `+key=` and one or more values: separated by commas, `a..b` or `a..b:step` (both ends are
            part of it), `choice(…)`, `range(start,stop,step)` (without stop, as Hydra has it). A comma in brackets or
            quotes separates nothing.

    Raises:
        OverrideError: no key, a value that cannot be read, a range of nothing, a function that makes no sense here.
    """
    head, equals, text = _split(token)
    if not equals:
        change = parse_override(token)
        return Axis(change.key, (change,))
    changes = tuple(parse_override(f"{head}={value}") for value in _values(token, text))
    return Axis(changes[0].key, changes)


def parse_axes(tokens: Sequence[str]) -> tuple[Axis, ...]:
    """Return what several arguments vary.

    Raises:
        OverrideError: one of them cannot be read.
        UsageError: a key occurs twice.
    """
    axes = tuple(parse_axis(token) for token in tokens)
    keys = [axis.key for axis in axes]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice", hint=f"{twice}=A,B in one argument", key=twice)
    return axes


def combine(axes: Sequence[Axis], *, zipped: bool) -> list[tuple[Override, ...]]:
    """Return the combinations, in the order in which they are typed: the last axis changes fastest.

    Args:
        axes: what varies; one with a single value is the same in all combinations.
        zipped: the first value of each with the first of the others, and so on, instead of each with each; one that is
            typed twice then counts twice.

    Raises:
        UsageError: lists of unequal length are to be zipped, or there are more than 10,000 combinations.
    """
    lengths = {axis.key: len(axis.changes) for axis in axes if len(axis.changes) > 1}
    if zipped and len(set(lengths.values())) > 1:
        said = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise UsageError(f"--zip takes lists of one length: {said}", hint="leave --zip out for every combination")
    count = max(lengths.values(), default=1) if zipped else _product(lengths.values())
    if count > MOST_COMBINATIONS:
        raise UsageError(f"{count:,} combinations are more than {MOST_COMBINATIONS:,}", hint="sweep over less")
    if not zipped:
        return list(itertools.product(*(axis.changes for axis in axes)))
    return [tuple(axis.changes[number if len(axis.changes) > 1 else 0] for axis in axes) for number in range(count)]


def _product(numbers: Iterable[int]) -> int:
    count = 1
    for number in numbers:
        count *= number
    return count


def _split(token: str) -> tuple[str, str, str]:
    """Return a token up to its `=`, that, and the rest; a `~key` and what has no key stay whole."""
    sign = token[:1] if token[:1] in ("+", "~") else ""
    try:
        path, rest = split_key(token[len(sign) :])
    except ValueError:
        return token, "", ""  # `parse_override` says what is wrong with it
    if sign == "~" or not rest:
        return token, "", ""
    return f"{sign}{render_key(path)}", "=", rest[1:]


def _values(token: str, text: str) -> list[str]:
    """Return the texts of the values, each of them YAML."""
    found = _SPAN.fullmatch(text.strip())
    if found is not None:
        return _span(token, found)
    function = _FUNCTION.match(text)
    if "," not in text and function is None:
        return [text]
    elements, name = _elements(token, text)
    if name is None:
        return [value for element in elements for value in _element(token, element)]
    if name == "range":
        return _hydra_range(token, text)
    if not elements:
        raise OverrideError(f"{token!r} chooses among nothing", hint="choice(A,B)", token=token)
    return [value for element in elements for value in _element(token, element)]


def _element(token: str, text: str) -> list[str]:
    found = _SPAN.fullmatch(text)
    return [text] if found is None else _span(token, found)


def _elements(token: str, text: str) -> tuple[list[str], str | None]:
    """Return the texts of the elements as Hydra's grammar separates them, and the function that holds them, if any."""
    tree = _hydra_value(text)
    if tree is None:
        if text.lstrip()[:1] in ("[", "{", "'", '"') and _is_one_value(text):
            return [text], None
        parts = [part.strip() for part in text.split(",")]
        if all(parts) and not set(text) & _ENCLOSING:  # letters and signs that Hydra does not know
            return parts, None
        raise OverrideError(
            f"{token!r} cannot be taken apart into values", hint="quote what is text: key=\"'a b','c,d'\"", token=token
        )
    several = tree.simpleChoiceSweep()
    if several is not None:
        parts = several.element()
        names = [part.function().ID().getText() for part in parts if part.function()]
        nested = next((name for name in names if name in ("choice", "range", *_WORDS)), None)
        if nested is not None:
            raise _refusal(token, nested, nested=True)
        return [_source(text, part) for part in parts], None
    function = tree.element().function()
    if function is None:
        return [text], None
    name = function.ID().getText()
    if name not in ("choice", "range"):
        if name in _WORDS:
            raise _refusal(token, name)
        return [text], None  # text that happens to look like a call
    return [_source(text, part) for part in function.element()], name


def _is_one_value(text: str) -> bool:
    try:
        parse_override(f"key={text}")
    except OverrideError:
        return False
    return True


def _refusal(token: str, name: str, *, nested: bool = False) -> OverrideError:
    reason = f"{name}(…) stands alone, not in a list" if nested else _WORDS[name]
    return OverrideError(f"{token!r}: {reason}", hint="key=A,B  key=1..5  key=range(1,10,2)", token=token)


def _source(text: str, part: Any) -> str:
    """Return how an element was written; two characters of `key=` that Hydra was given stand before it."""
    return text[part.start.start - 2 : part.stop.stop - 1].strip()


def _hydra_value(text: str) -> Any:
    """Return Hydra's parse tree of a value, None where its grammar does not know it."""
    from antlr4 import CommonTokenStream, InputStream
    from hydra.core.override_parser.overrides_visitor import HydraErrorListener
    from hydra.errors import HydraException
    from hydra.grammar.gen.OverrideLexer import OverrideLexer
    from hydra.grammar.gen.OverrideParser import OverrideParser

    lexer = OverrideLexer(InputStream(f"k={text}"))
    parser = OverrideParser(CommonTokenStream(lexer))
    for part in (lexer, parser):
        part.removeErrorListeners()
        part.addErrorListener(HydraErrorListener())
    try:
        return parser.override().value()  # type: ignore[no-untyped-call]  # generated code
    except HydraException:
        return None


def _hydra_range(token: str, text: str) -> list[str]:
    """Return the values of `range(…)` as Hydra reads its arguments; its own counting adds up binary fractions."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import RangeSweep
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_rule(text.strip(), "value")
    except HydraException as fault:
        said = str(fault).splitlines()[-1]
        raise OverrideError(f"{token!r}: {said}", hint="range(start,stop,step), without stop", token=token) from fault
    if not isinstance(parsed, RangeSweep) or parsed.stop is None:
        raise OverrideError(f"{token!r} is no range", hint="range(start,stop,step), without stop", token=token)
    numbers = (parsed.start or 0, parsed.stop, parsed.step)
    is_whole = all(isinstance(number, int) for number in numbers)
    start, stop, step = (Decimal(repr(number)) for number in numbers)
    return _stepped(token, start, stop, step, is_whole=is_whole, with_last=False)


def _span(token: str, found: re.Match[str]) -> list[str]:
    """Return the values of `first..last[:step]`, both ends included."""
    words = [found["first"], found["last"], *([found["step"]] if found["step"] else [])]
    is_whole = not any(set(word) & set(".eE") for word in words)
    if not is_whole and found["step"] is None:
        better = f"{found['first']}..{found['last']}:STEP"
        raise OverrideError(f"{token!r} needs a step between its numbers", hint=better, token=token)
    first, last, step = (Decimal(word) for word in (found["first"], found["last"], found["step"] or "1"))
    return _stepped(token, first, last, step, is_whole=is_whole, with_last=True)


def _stepped(token: str, first: Decimal, last: Decimal, step: Decimal, *, is_whole: bool, with_last: bool) -> list[str]:
    """Return numbers at equal distances, counted in decimals: 0.1, 0.2, 0.3, not 0.30000000000000004."""
    if step == 0 or not all(number.is_finite() for number in (first, last, step)):
        raise OverrideError(f"{token!r} comes to no end", hint="a..b:step", token=token)
    with localcontext(Context(traps=[])):  # too large a number is infinite, and refused as such
        length = (last - first) / step
    if length < 0 or (length == 0 and not with_last):
        raise OverrideError(f"{token!r} is a range of nothing", hint="5..1:-1 counts down", token=token)
    if length >= MOST_COMBINATIONS:
        raise UsageError(f"{token!r} has more than {MOST_COMBINATIONS:,} values", hint="sweep over less")
    whole, rest = divmod(last - first, step)
    count = int(whole) + (1 if with_last or rest else 0)
    values = [first + step * number for number in range(count)]
    if not is_whole and not all(math.isfinite(float(value)) for value in values):
        raise OverrideError(f"{token!r} leaves the numbers that a computer knows", hint="a..b:step", token=token)
    return [str(int(value)) if is_whole else canonical_text(float(value)) for value in values]


def described(changes: Mapping[str, JsonValue]) -> str:
    """Return a combination in one line, `lr=0.1 seed=3`."""
    return " ".join(f"{key}={canonical_text(value).strip(chr(34))}" for key, value in changes.items())
