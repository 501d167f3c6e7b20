"""Makes objects of a configuration in plain form: what `_target_` names is called with its arguments.

The other way round than `plainform`, whose rules decide what there is to restore: leaves that JSON has no type for are
restored where an annotation of the class or function asks for it. Standard library only; loaded when a job needs it.
"""

from __future__ import annotations

import builtins
import collections
import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import pathlib
import sys
import types
import typing
import uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, Mapping, Sequence

    from .shapes import JsonValue

TARGET = "_target_"
PARTIAL = "_partial_"
ARGUMENTS = "_args_"
TYPES = "_types_"
SHARED = "_shared_"
"""Beside the values at the top of a configured call: what neither JSON nor an annotation tells about some of them."""

GIVEN = "given"
REFERENCE = "reference"
OBJECT = "object"
FUNCTOOLS = "functools"
FIDDLE = "fiddle"
"""Words of `_types_` that name no type: a default written out, something to import, an object, other descriptions."""

_PRINTED = (uuid.UUID, decimal.Decimal)
_DATED = (dt.datetime, dt.date, dt.time)
_UNIONS = (typing.Union, getattr(types, "UnionType", typing.Union))
_WRAPPERS = ("Annotated", "Final", "ClassVar", "Required", "NotRequired", "ReadOnly")


class NoSuchTargetError(Exception):
    """A `_target_` that cannot be imported; `path` is where it stands."""

    def __init__(self, message: str, path: tuple[str | int, ...]) -> None:
        super().__init__(message)
        self.path = path


def rebuild(value: JsonValue, modules: Mapping[str, types.ModuleType] | None = None) -> Any:
    """Return a configuration with its objects made.

    Args:
        value: the plain form, `_types_` and `_shared_` beside it where it has them. A `_target_` that is no
            `module:name` is data of the user's.
        modules: modules that go by another name here (the running script).

    Raises:
        NoSuchTargetError: a target that cannot be imported.
        Exception: whatever a target raises when it is called.
    """
    return Rebuilder(modules).whole(value)


class Rebuilder:
    """One rebuilding.

    Args:
        modules: modules that go by another name here.
    """

    def __init__(self, modules: Mapping[str, types.ModuleType] | None = None) -> None:
        self._modules = modules or {}
        self._hints: dict[int, tuple[object, dict[str, Any]]] = {}
        self._tags: dict[str, str] = {}
        self._shared: dict[str, str] = {}
        self._firsts: frozenset[str] = frozenset()
        self._first_places: dict[str, tuple[str | int, ...]] = {}
        self._memory: dict[str, Any] = {}

    def whole(self, value: JsonValue) -> Any:
        """Return what a configuration describes, heeding what stands beside it in `_types_` and `_shared_`."""
        if isinstance(value, dict) and is_target(value.get(TARGET)):
            types_, shared = value.get(TYPES), value.get(SHARED)
            self._tags = {key: str(tag) for key, tag in types_.items()} if isinstance(types_, dict) else {}
            self._shared = {key: str(first) for key, first in shared.items()} if isinstance(shared, dict) else {}
            value = {key: item for key, item in value.items() if key not in (TYPES, SHARED)}
            self._firsts = frozenset(self._shared.values())
            named = ((dotted(path), path) for path in _places(value, ())) if self._firsts else ()
            self._first_places = {key: path for key, path in named if key in self._firsts}
        return self.restore(value, None, ())

    def restore(self, value: JsonValue, hint: Any, path: tuple[str | int, ...]) -> Any:
        """Return the value as its tag or annotation has it; what neither explains stays as it is."""
        if not (self._tags or self._shared):
            return self._restored(value, hint, path)
        key = dotted(path)
        first = self._shared.get(key, key)
        if first in self._memory:
            return self._memory[first]
        path = self._first_places.get(first, path)  # so that what it holds is found where it stands first, too
        tag = self._tags.get(key, self._tags.get(first))
        made = self._restored(value, hint, path) if tag in (None, GIVEN) else self._tagged(value, str(tag), path)
        if first in self._firsts:
            self._memory[first] = made
        return made

    def is_given(self, path: tuple[str | int, ...]) -> bool:
        """Return whether an argument was given although it is what the default would be."""
        return self._tags.get(dotted(path)) == GIVEN

    def _tagged(self, value: Any, tag: str, path: tuple[str | int, ...]) -> Any:
        if tag == REFERENCE:
            return self.find(str(value), path)
        if tag == OBJECT and isinstance(value, dict):
            target, positional, named = self._call(value, path)
            return make(target, positional, named)
        if tag == FUNCTOOLS and isinstance(value, dict):
            target, positional, named = self._call(value, path)
            return functools.partial(target, *positional, **named)
        if tag == FIDDLE:
            return self._restored(value, None, path)
        kind, _, detail = tag.partition(" ")
        if isinstance(value, list):
            value = [self.restore(item, None, (*path, at)) for at, item in enumerate(value)]
        elif isinstance(value, dict):
            value = {key: self.restore(item, None, (*path, key)) for key, item in value.items()}
        found = self.find(kind, path)
        if detail and _is_class(found, collections.abc.Set):
            value = [of_type(self.find(detail, path), item) for item in value]
            detail = ""
        return of_type(found, value, detail)

    def _restored(self, value: JsonValue, hint: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, dict) and is_target(value.get(TARGET)):
            return self._made(value, path)
        hint = _bare(hint)
        origin = typing.get_origin(hint)
        if origin in _UNIONS:
            return self._one_of(value, typing.get_args(hint), path)
        if isinstance(value, dict):
            return self._mapping(value, hint, path)
        if isinstance(value, list):
            return self._sequence(value, hint, path)
        kind = origin or hint
        if isinstance(value, str):
            return self._text(value, kind, path)
        return _number(value, kind)

    def make(self, target: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> Any:
        """Call a target."""
        return make(target, positional, named)

    def make_partial(
        self, target: Callable[..., Any], positional: list[Any], named: dict[str, Any], path: tuple[str | int, ...]
    ) -> Any:
        """Return a call that is not made yet."""
        del path
        return functools.partial(target, *positional, **named)

    def make_at(
        self, target: Callable[..., Any], positional: list[Any], named: dict[str, Any], path: tuple[str | int, ...]
    ) -> Any:
        """Call a target that stands at a path."""
        del path
        return self.make(target, positional, named)

    def _made(self, value: dict[str, JsonValue], path: tuple[str | int, ...]) -> Any:
        made = self.make_partial if value.get(PARTIAL) is True else self.make_at
        return made(*self._call(value, path), path)

    def _call(
        self, value: dict[str, JsonValue], path: tuple[str | int, ...]
    ) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
        """Return a target with its arguments restored."""
        target = self.find(str(value[TARGET]), (*path, TARGET))
        hints = self._hints_of(target)
        rest = {key: item for key, item in value.items() if key not in (TARGET, PARTIAL, ARGUMENTS)}
        named = {key: self.restore(item, hints.get(key), (*path, key)) for key, item in rest.items()}
        given = value.get(ARGUMENTS)
        positional = [] if given is None else self._positional(given, target, hints, (*path, ARGUMENTS))
        return target, positional, named

    def _positional(
        self, given: JsonValue, target: Any, hints: dict[str, Any], path: tuple[str | int, ...]
    ) -> list[Any]:
        items = given if isinstance(given, list) else [given]
        names = _positional_names(target)
        wanted = [hints.get(name) for name in names[: len(items)]]
        wanted += [None] * (len(items) - len(wanted))
        return [self.restore(item, hint, (*path, at)) for at, (item, hint) in enumerate(zip(items, wanted))]

    def find(self, reference: str, path: tuple[str | int, ...]) -> Any:
        """Import what `module:qualified.name` names."""
        module_name, _, name = reference.partition(":")
        try:
            found: Any = self._modules.get(module_name) or __import__(module_name, fromlist=["_"])
            found = _attribute(found, name)
        except (ImportError, AttributeError) as fault:
            raise NoSuchTargetError(f"{reference} cannot be imported: {fault}", path) from fault
        return found

    def _hints_of(self, target: Any) -> dict[str, Any]:
        if id(target) not in self._hints:
            self._hints[id(target)] = (target, annotations_of(target))
        return self._hints[id(target)][1]

    def _one_of(self, value: JsonValue, hints: Sequence[Any], path: tuple[str | int, ...]) -> Any:
        """Return the value as the alternative that explains it; enumerations first, which accept the fewest texts."""
        if value is None:
            return None
        rest = [hint for hint in hints if hint is not type(None)]
        for hint in sorted(rest, key=lambda item: not _is_class(item, enum.Enum)):
            made = self.restore(value, hint, path)
            if _fits(made, hint):
                return made
        return self.restore(value, None, path)

    def _mapping(self, value: dict[str, JsonValue], hint: Any, path: tuple[str | int, ...]) -> Any:
        kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
        is_generic = _is_class(kind, collections.abc.Mapping) and len(inner) == 2
        fields = typing.get_type_hints(hint) if _is_typed_dict(hint) else {}
        default = inner[1] if is_generic else None
        made = {key: self.restore(item, fields.get(key, default), (*path, key)) for key, item in value.items()}
        if _is_class(kind, collections.OrderedDict):
            return collections.OrderedDict(made)
        return types.SimpleNamespace(**made) if _is_class(kind, types.SimpleNamespace) else made

    def _sequence(self, value: list[JsonValue], hint: Any, path: tuple[str | int, ...]) -> Any:
        kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
        hints: list[Any] = [inner[0] if inner else None] * len(value)
        if _is_class(kind, tuple) and inner and inner[-1] is not Ellipsis:
            hints = [*inner, *hints][: len(value)]
        items = [self.restore(item, each, (*path, at)) for at, (item, each) in enumerate(zip(value, hints))]
        for container in (tuple, frozenset, set, collections.deque):
            if _is_class(kind, container) and not hasattr(kind, "_fields"):
                return container(items)
        return set(items) if kind in (collections.abc.Set, collections.abc.MutableSet) else items

    def _text(self, value: str, kind: Any, path: tuple[str | int, ...]) -> Any:  # noqa: PLR0911 - one line a kind
        if kind is float and value in ("Infinity", "-Infinity"):
            return float(value)
        if _is_class(kind, enum.Enum):
            return _member(kind, value)
        if _is_class(kind, pathlib.PurePath):
            return kind(value)
        if kind in _DATED:
            return kind.fromisoformat(value)
        if kind in _PRINTED:
            return kind(value)
        if kind in (type, collections.abc.Callable) and is_target(value):
            return self.find(value, path)
        return _library_value(value, kind)


def _order(detail: str) -> list[str]:
    import json

    return [str(key) for key in json.loads(detail)]


def _places(value: JsonValue, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of everything that a configuration holds."""
    yield path
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _places(item, (*path, name))


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as `_types_` spells it: as dotted keys are written everywhere."""
    import json

    def written(key: str) -> str:
        return json.dumps(key, ensure_ascii=False) if not key or "." in key or '"' in key else key

    return ".".join(written(str(part)) for part in path)


def of_type(kind: Any, value: Any, detail: str = "") -> Any:
    """Return a value of a type that a tag names; what it holds is restored already.

    Args:
        kind: the type.
        value: text, a number, or a list or mapping of what it holds.
        detail: the type of an array's elements, or the order of keys.
    """
    if _is_class(kind, enum.Enum):
        return _member(kind, value)
    module = getattr(kind, "__module__", "").partition(".")[0]
    if detail and kind is collections.OrderedDict:
        return kind((key, value[key]) for key in dict.fromkeys((*_order(detail), *value)) if key in value)
    if detail:
        library = sys.modules[module]
        make_array = library.tensor if module == "torch" else library.array
        return make_array(value, dtype=_library_value(detail, library.dtype))
    if module == "torch":
        return kind(value) if isinstance(value, list) else _library_value(value, kind)
    if kind in _DATED:
        return kind.fromisoformat(value)
    return kind(**value) if kind is types.SimpleNamespace else kind(value)


def is_target(value: object) -> bool:
    """Return whether a `_target_` is one of ours: `module:qualified.name`; others spell it with dots alone."""
    if not isinstance(value, str):
        return False
    module, colon, name = value.partition(":")
    return bool(colon) and all(part.isidentifier() for part in f"{name}".split(".")) and bool(module)


def make(target: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> Any:
    """Call a target; fields of an object that its constructor does not take are set afterwards."""
    late: dict[str, Any] = {}
    if isinstance(target, type):
        named, late = _split_fields(target, named)
    made = target(*positional, **named)
    for name, value in late.items():
        if getattr(made, name, None) != value:
            object.__setattr__(made, name, value)
    return made


def _attribute(module: Any, name: str) -> Any:
    """Return what a module has under a qualified name; of torch's functions the name's last part alone is there."""
    found = module
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        found = getattr(module, name.rpartition(".")[2], None)
        if not isinstance(found, types.BuiltinFunctionType) or getattr(found, "__qualname__", None) != name:
            raise
    return found


def has_fields(target: object) -> bool:
    """Return whether a class holds its values in declared fields: dataclass, named tuple, attrs, pydantic."""
    if not isinstance(target, type):
        return False
    declared = ("__dataclass_fields__", "__attrs_attrs__", "model_fields", "_fields")
    return any(hasattr(target, name) for name in declared)


def annotations_of(target: Any) -> dict[str, Any]:
    """Return parameter to annotation; one that cannot be evaluated (imported for type checkers only) is left out."""
    owner = target if has_fields(target) or not isinstance(target, type) else getattr(target, "__init__", target)
    try:
        return typing.get_type_hints(owner)
    except Exception:  # noqa: BLE001 - a name that only type checkers see; the others are worth having
        return _annotations_one_by_one(owner)


def _annotations_one_by_one(owner: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in reversed(owner.__mro__) if isinstance(owner, type) else [owner]:
        module = sys.modules.get(getattr(part, "__module__", ""))
        names = {**vars(builtins), **(vars(module) if module else {})}
        for name, hint in (part.__dict__.get("__annotations__") or {}).items():  # noqa: RUF063 - its own, as in 3.8
            try:
                found[name] = eval(hint, names) if isinstance(hint, str) else hint  # noqa: S307 - its own source text
            except Exception:  # noqa: BLE001, S112 - as above
                continue
    return found


def _split_fields(target: type, named: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of the constructor, and the fields that it does not take."""
    if dataclasses.is_dataclass(target):
        outside = {field.name for field in dataclasses.fields(target) if not field.init}
        return (
            {name: value for name, value in named.items() if name not in outside},
            {name: value for name, value in named.items() if name in outside},
        )
    attributes = getattr(target, "__attrs_attrs__", None)
    if attributes is None:
        return named, {}
    alias = {item.name: getattr(item, "alias", None) or item.name.lstrip("_") for item in attributes if item.init}
    inside = {alias[name]: value for name, value in named.items() if name in alias}
    return inside, {name: value for name, value in named.items() if name not in alias}


def _positional_names(target: Any) -> list[str]:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return []
    return [item.name for item in parameters if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]


def _bare(hint: Any) -> Any:
    """Return an annotation without what says nothing about the value."""
    while True:
        if isinstance(hint, dataclasses.InitVar):
            hint = hint.type
        elif hasattr(hint, "__metadata__") and hasattr(hint, "__origin__"):
            hint = hint.__origin__
        elif getattr(typing.get_origin(hint), "_name", None) in _WRAPPERS and typing.get_args(hint):
            hint = typing.get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        else:
            return hint


def _is_class(kind: Any, parent: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, parent)


def _is_typed_dict(hint: Any) -> bool:
    return isinstance(hint, type) and hasattr(hint, "__total__")


def _fits(value: Any, hint: Any) -> bool:
    kind = typing.get_origin(_bare(hint)) or _bare(hint)
    return not isinstance(kind, type) or isinstance(value, kind)


def _member(kind: Any, value: Any) -> Any:
    """Return the member of an enumeration that the text `Kind.NAME`, or for mixed ones the value, stands for."""
    if isinstance(value, str) and value.startswith(f"{kind.__name__}."):
        names = value[len(kind.__name__) + 1 :].split("|")
        if all(name in kind.__members__ for name in names):
            return functools.reduce(lambda one, other: one | other, [kind[name] for name in names])
    try:
        return kind(value)
    except ValueError:
        return value


def _number(value: Any, kind: Any) -> Any:
    if _is_class(kind, enum.Enum):
        return value if value is None else _member(kind, value)
    is_numpy = isinstance(kind, type) and kind.__module__ == "numpy" and value is not None
    return kind(value) if is_numpy and not _is_class(kind, collections.abc.Sized) else value


def _library_value(value: str, kind: Any) -> Any:
    """Return a dtype or device of torch or numpy that an annotation asks for; their texts name them."""
    module, name = getattr(kind, "__module__", ""), getattr(kind, "__name__", "")
    torch = sys.modules.get("torch")
    if module == "torch" and torch is not None and name in ("dtype", "layout", "memory_format"):
        return getattr(torch, value.rpartition(".")[2], value)
    if (module == "torch" and name == "device") or (module == "numpy" and name == "dtype"):
        return kind(value)
    return value
