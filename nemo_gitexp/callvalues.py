"""Values typed for a configured call, as the parameters that they go to have them: members, floats, made objects.

Looks at the functions and classes that the call names: in the process that resolves it, nowhere else.
"""

from __future__ import annotations

import enum
import pathlib
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from nemo_gitexp.described import describe_call
from nemo_gitexp.errors import OverrideError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import find_nearest
from nemo_gitexp.overrides import Override
from nemo_gitexp.plainform import is_buildable
from nemo_gitexp.worker.rebuild import (
    PARTIAL,
    REFERENCE,
    TARGET,
    NoSuchTargetError,
    Rebuilder,
    annotations_of,
    is_target,
)

if typing.TYPE_CHECKING:
    from nemo_gitexp.worker.shapes import JsonValue as ShapedJson


def fit_value(change: Override, plain: Mapping[str, JsonValue], tags: Mapping[str, str]) -> Override:
    """Return the change with the value as its parameter has it: a member of an enumeration by its name, 1 as 1.0.

    Raises:
        OverrideError: the parameter takes no such value.
    """
    parent, name = value_at(plain, change.path[:-1]), change.path[-1]
    if change.action == "remove" or name in (TARGET, PARTIAL) or change.value is None:
        return change
    before = value_at(plain, change.path)
    if is_call(before) and isinstance(change.value, Mapping) and TARGET not in change.value:
        kept = {key: before[key] for key in (TARGET, PARTIAL) if key in before}
        return replace(change, value={**change.value, **kept})
    hint = _hint_of(change, parent, tags)
    if isinstance(change.value, (int, float)) and type(change.value) is type(before):
        return change  # an annotation that the recipe itself does not keep to
    kinds = _kinds(hint)
    if kinds is not None:
        return replace(change, value=_of_kinds(change, kinds))
    made = _of_factory(change, hint, find_called(parent, change)) if is_call(parent) else None
    if made is None and is_call(before) and not isinstance(change.value, Mapping) and not _may_take(hint, change.value):
        what = f"{change.key} is made by {called_name(before)}, and {change.value!r} is neither one nor a factory of it"
        raise refused(change, what, f"{change.key}={{…}} with its own arguments")
    return change if made is None else replace(change, value=made)


def _may_take(hint: Any, value: JsonValue) -> bool:
    kinds = list(_alternatives(hint))
    return not all(isinstance(kind, type) and kind is not object for kind in kinds) or type(value) in kinds


def _hint_of(change: Override, parent: object, tags: Mapping[str, str]) -> Any:
    tag = tags.get(change.key)
    if tag is not None and ":" in tag and " " not in tag:
        return Rebuilder().find(tag, change.path)
    if tag == REFERENCE or not is_call(parent):
        return None
    return annotations_of(find_called(parent, change)).get(change.path[-1])


_FACTORY = re.compile(r"[^\W\d][\w.]*(\(.*\))?")


def _of_factory(change: Override, hint: Any, target: Callable[..., object]) -> dict[str, JsonValue] | None:
    """Return what a factory of NeMo Run's command line makes (`optim=adam(lr=0.1)`); None: there is none so called."""
    if not (isinstance(change.value, str) and _FACTORY.fullmatch(change.value)) or hint is None:
        return None
    from nemo_run.cli.cli_parser import parse_factory

    try:
        made = parse_factory(target, change.path[-1], hint, change.value)
    except Exception:  # noqa: BLE001 - it tells in many ways that there is none
        return None
    return describe_call(made) if is_buildable(made) else None


@dataclass(frozen=True, slots=True)
class _Kinds:
    """What a parameter takes: classes of leaves, and single values."""

    classes: tuple[type, ...]
    values: tuple[object, ...] = ()

    def __str__(self) -> str:
        return " or ".join([*(kind.__name__ for kind in self.classes), *map(repr, self.values)])

    def of(self, parent: type) -> list[type]:
        return [kind for kind in self.classes if issubclass(kind, parent)]


_LEAVES = (bool, int, float, str, enum.Enum, pathlib.PurePath)


def _kinds(hint: Any) -> _Kinds | None:
    """Return what an annotation takes when it takes leaves alone; None: nothing is known."""
    classes: list[type] = []
    values: list[object] = []
    for each in _alternatives(hint):
        if typing.get_origin(each) is typing.Literal:
            values += typing.get_args(each)
        elif each is type(None):
            continue
        elif isinstance(each, type) and (issubclass(each, _LEAVES) or _is_dtype(each)):
            classes.append(each)
        else:
            return None
    return _Kinds(tuple(classes), tuple(values)) if classes or values else None


def _is_dtype(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("torch", "numpy") and kind.__name__ == "dtype"


def _alternatives(hint: Any) -> Iterator[Any]:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        yield from _alternatives(typing.get_args(hint)[0])
    elif origin is typing.Union or type(hint).__name__ == "UnionType":
        for each in typing.get_args(hint):
            yield from _alternatives(each)
    else:
        yield hint


def _of_kinds(change: Override, kinds: _Kinds) -> JsonValue:
    value = change.value
    for kind in kinds.of(enum.Enum):
        if isinstance(value, str) and value in getattr(kind, "__members__", {}):
            return f"{kind.__name__}.{value}"
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds.classes and int not in kinds.classes:
        return float(value)
    if not (_is_one_of(value, kinds.values) or any(_is_of(value, kind) for kind in kinds.classes)):
        members = [name for kind in kinds.of(enum.Enum) for name in getattr(kind, "__members__", {})]
        near = find_nearest(str(value), members)
        hint = f"{change.key}={near}" if near else f"one of {', '.join(members)}" if members else f"{change.key}=VALUE"
        raise refused(change, f"{change.key} is {kinds}, and {value!r} is not", hint)
    return value


def _is_one_of(value: JsonValue, values: Sequence[object]) -> bool:
    return any(type(value) is type(each) and value == each for each in values)


def _is_of(value: JsonValue, kind: type) -> bool:
    """Return whether a typed value is one of a class, or the text of one."""
    if kind in (bool, str) or (isinstance(value, bool) and not issubclass(kind, enum.Enum)):
        return type(value) is kind
    if kind is float:
        return isinstance(value, float) or value in ("Infinity", "-Infinity")
    if kind is int:
        return isinstance(value, int)
    try:
        return isinstance(Rebuilder().restore(cast("ShapedJson", value), kind, ()), kind)
    except (TypeError, ValueError):
        return False


def refused(change: Override, problem: str, hint: str) -> OverrideError:
    """Return the error that a change does not fit."""
    return OverrideError(f"{change.token}: {problem}", hint=hint, token=change.token, key=change.key)


def is_call(node: object) -> typing.TypeGuard[Mapping[str, JsonValue]]:
    """Return whether a part of a configuration describes a call, or an object that is made."""
    return isinstance(node, Mapping) and is_target(node.get(TARGET))


def called_name(call: Mapping[str, JsonValue]) -> str:
    """Return what a call calls, without its module."""
    return str(call[TARGET]).partition(":")[2]


def find_called(call: Mapping[str, JsonValue], change: Override) -> Callable[..., object]:
    """Import what a call calls.

    Raises:
        OverrideError: it is not there.
    """
    try:
        return cast("Callable[..., object]", Rebuilder().find(str(call[TARGET]), change.path))
    except NoSuchTargetError as fault:
        raise refused(change, str(fault), "module:name") from fault


def value_at(config: object, path: Sequence[str]) -> object:
    """Return what stands at a path; None when nothing does."""
    for part in path:
        if isinstance(config, Mapping):
            config = config.get(part)
        elif isinstance(config, list) and part.isdecimal() and int(part) < len(config):
            config = config[int(part)]
        else:
            return None
    return config
