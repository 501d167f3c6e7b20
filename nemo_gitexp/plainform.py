"""Any configuration value as JSON values, without loss of type where JSON can tell types apart. Pure.

NumPy, PyTorch, OmegaConf, Fiddle (NeMo Run) are recognised by the module their types come from, and never imported:
a value of theirs can only be here when its library is loaded already. Source of each rule: docs/record-format.md.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import json
import math
import pathlib
import posixpath
import sys
import types
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NoReturn, Protocol, cast

from nemo_gitexp.errors import CanonicalFormError
from nemo_gitexp.jsontext import JsonValue, non_finite_name
from nemo_gitexp.keypath import render_key

MAX_DEPTH = 100
MAX_ARRAY = 10_000
"""Elements of an array that still counts as configuration; more is data."""

MAX_INT_BITS = 10_000  # beyond 4300 digits Python refuses to read a number back

TARGET = "_target_"
PARTIAL = "_partial_"
ARGUMENTS = "_args_"

_Path = tuple[str | int, ...]


def plain_value(value: object, *, with_defaults: bool = True) -> JsonValue:
    """Return the value as dicts with text keys, lists and scalars, nothing shared with the argument.

    Args:
        value: anything that has a stable form.
        with_defaults: a `Config` or `Partial` has the defaults of what it configures; False: what it was given alone.

    Raises:
        CanonicalFormError: a value without a stable form, with the dotted path of it in `key`.
    """
    return _Plain(with_defaults=with_defaults).convert(value, ())


def canonical_text(value: JsonValue) -> str:
    """Return JSON without spaces, keys sorted by code point, non-ASCII characters as they are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class _Plain:
    """One conversion: remembers which containers are open, to tell a cycle from a repetition."""

    def __init__(self, *, with_defaults: bool = True) -> None:
        self.open: set[int] = set()
        self.with_defaults = with_defaults

    def convert(self, value: object, path: _Path) -> JsonValue:
        scalar = _scalar(value, path)
        if scalar is not _NO_SCALAR:
            return cast("JsonValue", scalar)
        if len(path) >= MAX_DEPTH:
            _refuse(path, f"is nested deeper than {MAX_DEPTH}", hint="flatten it, or keep it in a file of its own")
        if id(value) in self.open:
            _refuse(path, "contains itself", hint="name the object instead of nesting it in itself")
        self.open.add(id(value))
        try:
            return self._container(value, path)
        finally:
            self.open.discard(id(value))

    def _container(self, value: object, path: _Path) -> JsonValue:
        for is_mine, convert in self._forms:
            if is_mine(value):
                return convert(value, path)
        raise _refusal(path, f"is {_described(value)}, which has no stable form", _hint(value))

    @property
    def _forms(self) -> tuple[tuple[Callable[[object], bool], Callable[[object, _Path], JsonValue]], ...]:
        """What a container can be, the narrower first: an OmegaConf node is a Mapping, a named tuple a tuple."""
        return (
            (lambda value: _is_from(value, "omegaconf"), self._omegaconf),
            (is_buildable, self._buildable),
            (_is_array, self._array),
            (lambda value: isinstance(value, Mapping), self._of_mapping),
            (lambda value: isinstance(value, functools.partial), self._of_partial),
            (lambda value: declared_fields(value) is not None, self._of_fields),
            (lambda value: isinstance(value, (list, tuple, range, deque)), self._of_sequence),
            (lambda value: isinstance(value, AbstractSet), self._of_set),
            (_is_namespace, lambda value, path: self._mapping(vars(value).items(), path)),
        )

    def _of_mapping(self, value: object, path: _Path) -> JsonValue:
        return self._mapping(cast("Mapping[object, object]", value).items(), path)

    def _of_partial(self, value: object, path: _Path) -> JsonValue:
        call = cast("functools.partial[object]", value)
        return self._called(call.func, call.args, call.keywords, path) | {PARTIAL: True}

    def _of_fields(self, value: object, path: _Path) -> JsonValue:
        return self._called(type(value), (), declared_fields(value) or {}, path)

    def _of_sequence(self, value: object, path: _Path) -> JsonValue:
        items = cast("Sequence[object]", value)
        if isinstance(items, range) and len(items) > MAX_ARRAY:
            _refuse(path, f"is a range of {len(items)} numbers", hint="keep its start, stop and step")
        return self._list(items, path)

    def _of_set(self, value: object, path: _Path) -> JsonValue:
        items = cast("AbstractSet[object]", value)
        return sorted((self.convert(item, (*path, "{…}")) for item in items), key=_set_order)

    def _mapping(self, items: Iterable[tuple[object, object]], path: _Path) -> dict[str, JsonValue]:
        result: dict[str, JsonValue] = {}
        for key, item in items:
            if not isinstance(key, str):
                kind = type(key).__name__
                problem = f"has a key that is no text ({kind} {key!r}), which JSON cannot hold"
                _refuse((*path, str(key)), problem, hint=f"make the key text: {str(key)!r}")
            name = _text(key, (*path, key))
            result[name] = self.convert(item, (*path, name))
        return result

    def _list(self, items: Sequence[object], path: _Path) -> list[JsonValue]:
        return [self.convert(item, (*path, position)) for position, item in enumerate(items)]

    def _called(
        self, target: object, positional: Sequence[object], named: Mapping[str, object], path: _Path
    ) -> dict[str, JsonValue]:
        """Return a call or an instance: its arguments by name, and what they go to under `_target_`."""
        clash = {TARGET, PARTIAL, ARGUMENTS} & named.keys()
        if clash:
            problem = f"has an argument {min(clash)}, a name with a meaning of its own"
            _refuse(path, problem, hint="give the argument another name")
        result = self._mapping(named.items(), path)
        if positional:
            result[ARGUMENTS] = self._list(list(positional), (*path, ARGUMENTS))
        result[TARGET] = _reference(target, (*path, TARGET))
        return result

    def _buildable(self, value: object, path: _Path) -> JsonValue:
        """Return a Fiddle or NeMo Run `Config` or `Partial`; with defaults, left out and written out are equal."""
        fiddle = cast("_Fiddle", sys.modules["fiddle"])
        buildable = cast("_Buildable", value)
        target = buildable.__fn_or_cls__
        arguments = dict(fiddle.ordered_arguments(buildable, include_defaults=self.with_defaults))
        factories = default_factories(target) if self.with_defaults else {}
        for name in factories.keys() - buildable.__arguments__.keys():
            arguments[name] = factories[name]()
        positional = [item for key, item in arguments.items() if isinstance(key, int)]
        named = {key: item for key, item in arguments.items() if isinstance(key, str)}
        result = self._called(target, positional, named, path)
        if not _is_from(value, "fiddle", "Config"):
            result[PARTIAL] = True
        return result

    def _omegaconf(self, value: object, path: _Path) -> JsonValue:
        """Return an OmegaConf node with its interpolations resolved; `${site:NAME}` stays, it is bound per machine."""
        node = cast("_OmegaNode", value)
        if node._is_none():  # noqa: SLF001 - OmegaConf has no public question for a node that is null
            return None
        is_list = isinstance(value, Sequence)
        keys = list(range(len(node))) if is_list else list(node.keys())
        items = [(key, self._omega_item(node, key, (*path, cast("str | int", key)))) for key in keys]
        if is_list:
            return [self.convert(item, (*path, position)) for position, item in enumerate(item for _, item in items)]
        return self._mapping(items, path)

    def _omega_item(self, node: _OmegaNode, key: object, path: _Path) -> object:
        child = node._get_node(key)  # noqa: SLF001 - the text before interpolation
        raw = getattr(child, "_value", lambda: None)()
        if isinstance(raw, str) and "${site:" in raw:
            return raw
        try:
            return node[key]
        except Exception as fault:  # its resolvers are users' code: any error is about this key
            reason = str(fault).strip().splitlines() or [type(fault).__name__]
            hint = "give the value, or take the key out"
            raise _refusal(path, f"cannot be resolved: {reason[0]}", hint) from fault

    def _array(self, value: object, path: _Path) -> JsonValue:
        array = cast("_Array", value)
        size = math.prod(array.shape)
        if size > MAX_ARRAY:
            raise _refusal(path, f"is an array of {size} numbers: data, not configuration", "declare it in data:")
        try:
            items = array.tolist()
        except (RuntimeError, TypeError) as fault:  # sparse, meta and quantised tensors
            hint = "make it a list of numbers"
            raise _refusal(path, f"is {_described(value)} that cannot be listed", hint) from fault
        return self.convert(items, path)


# ---------------------------------------------------------------------------------------------------------- leaves

_NO_SCALAR = object()


def _scalar(value: object, path: _Path) -> object:
    """Return the JSON scalar for a leaf, `_NO_SCALAR` for anything else."""
    for kinds, convert in _LEAVES:
        if isinstance(value, kinds):
            return convert(value, path)
    if _is_from(value, "numpy", "generic"):
        return _numpy_scalar(value, path)
    if _is_from(value, "numpy", "ufunc"):
        return f"numpy:{getattr(value, '__name__', value)}"
    if _is_from(value, "numpy", "_ArrayFunctionDispatcher"):
        return _reference(value, path)
    is_name = _is_from(value, "numpy", "dtype") or (_is_from(value, "torch") and type(value).__name__ in _TORCH_NAMES)
    return str(value) if is_name else _NO_SCALAR


def _numpy_scalar(value: object, path: _Path) -> object:
    item = cast("_Array", value).item()
    if isinstance(item, (bool, int, float, str)) and not _is_from(item, "numpy"):
        return _scalar(item, path)
    return _refuse(path, f"is {_described(value)}, which JSON cannot hold", hint="use text or plain numbers")


def _as_it_is(value: object, _path: _Path) -> object:
    return value


def _text(value: str, path: _Path) -> str:
    text = str.__str__(value)  # also of a StrEnum or numpy.str_: the text, not its representation
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        shown = tuple(str(part).encode("ascii", "replace").decode() for part in path)
        hint = "write it as text that UTF-8 can hold"
        _refuse(shown, "holds half of a surrogate pair, which is no Unicode text", hint=hint)
    return text


def _int(value: int, path: _Path) -> int:
    number = int(value)
    if number.bit_length() > MAX_INT_BITS:
        problem = f"is a number of {number.bit_length()} bits, more than {MAX_INT_BITS}"
        _refuse(path, problem, hint="write it as text, for instance hex(value)")
    return number


def _float(value: float, path: _Path) -> float | str:
    number = float(value)
    if math.isnan(number):
        _refuse(path, "is NaN, which equals nothing, not even itself", hint="use null for a value that is not there")
    return number if math.isfinite(number) else non_finite_name(number)


def _enum(value: enum.Enum, _path: _Path) -> str:
    return f"{type(value).__name__}.{value.name}"


def _posix(value: pathlib.PurePath, path: _Path) -> str:
    return _text(value.as_posix(), path)


def _iso(value: dt.date | dt.time, _path: _Path) -> str:
    return value.isoformat()


def _printed(value: object, _path: _Path) -> str:
    return str(value)


def _reference(target: object, path: _Path) -> str:
    """Return `module:qualified.name` of a class or function that another process can import by it."""
    owner = getattr(target, "__self__", None)
    if isinstance(target, types.MethodType) and not isinstance(owner, type):
        problem = f"is the method {target.__name__} of an object, which has no stable form"
        _refuse(path, problem, hint="name a function at the top level of a module")
    module = getattr(target, "__module__", None) or getattr(owner, "__module__", None)  # torch.relu has only an owner
    name = getattr(target, "__qualname__", None)
    if not isinstance(name, str) or not isinstance(module, str):
        raise _refusal(path, f"is {_described(target)}, which has no name to import it by", _hint(target))
    if "<" in name:
        what = "a lambda" if "<lambda>" in name else f"{name.rpartition('.')[2]}, defined inside a function"
        _refuse(path, f"is {what}: another process cannot import it", hint="define it at the top level of a module")
    return f"{main_module_name() if module == '__main__' else module}:{name}"


_LEAVES: Final[tuple[tuple[type | tuple[type, ...], Callable[..., object]], ...]] = (
    ((types.NoneType, bool), _as_it_is),
    (str, _text),  # before Enum: a StrEnum or IntEnum equals its value everywhere else, too
    (int, _int),
    (float, _float),
    (enum.Enum, _enum),
    (pathlib.PurePath, _posix),
    ((dt.date, dt.time), _iso),
    ((uuid.UUID, decimal.Decimal), _printed),
    ((type, types.FunctionType, types.BuiltinFunctionType, types.MethodType), _reference),
)
_TORCH_NAMES: Final = frozenset({"dtype", "device", "layout", "memory_format"})


def main_module_name() -> str:
    """Return the name that the running script has when it is imported, so that both spell their classes alike."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return posixpath.basename(str(file)).removesuffix(".py") if file else "__main__"


# ------------------------------------------------------------------------------------------------------- containers


def declared_fields(value: object) -> dict[str, object] | None:
    """Return the fields of a dataclass, named tuple, attrs or pydantic object; None for anything else."""
    names: Iterable[str] | None = None
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    elif isinstance(value, tuple):
        names = getattr(value, "_fields", None)
    elif _is_from(value, "pydantic"):
        names = getattr(type(value), "model_fields", None)
    else:
        attributes = getattr(type(value), "__attrs_attrs__", None)
        names = None if attributes is None else [field.name for field in attributes]
    return None if names is None else {name: getattr(value, name) for name in names if hasattr(value, name)}


def is_buildable(value: object) -> bool:
    """Return whether a value is a Fiddle or NeMo Run `Config` or `Partial`."""
    return _is_from(value, "fiddle", "Buildable")


def default_factories(target: object) -> dict[str, Callable[[], object]]:
    """Return what makes the defaults of a dataclass's fields that are made anew for each of its objects."""
    if not (isinstance(target, type) and dataclasses.is_dataclass(target)):
        return {}
    made = ((field.name, field.default_factory) for field in dataclasses.fields(target) if field.init)
    return {name: factory for name, factory in made if callable(factory)}


def _set_order(value: JsonValue) -> tuple[int, float, str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return 0, float(value), ""
        except OverflowError:
            return 1, 0.0, canonical_text(value)
    return 1, 0.0, canonical_text(value)


def _is_array(value: object) -> bool:
    return _is_from(value, "numpy", "ndarray") or _is_from(value, "torch", "Tensor")


def _is_from(value: object, package: str, name: str | None = None) -> bool:
    """Tell whether a class of the value comes from a package, and has this name when one is given."""
    return any(
        kind.__module__.partition(".")[0] == package and name in {None, kind.__name__} for kind in type(value).__mro__
    )


def _is_namespace(value: object) -> bool:
    return isinstance(value, types.SimpleNamespace) or _is_from(value, "argparse", "Namespace")


# --------------------------------------------------------------------------------------------------------- refusals


def _refuse(path: _Path, problem: str, *, hint: str) -> NoReturn:
    raise _refusal(path, problem, hint)


def _refusal(path: _Path, problem: str, hint: str) -> CanonicalFormError:
    key = render_key(path)
    return CanonicalFormError(f"{key or 'the configuration'} {problem}", hint=hint, key=key)


def _described(value: object) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace("a builtins.", "of type ")


def _hint(value: object) -> str:
    if isinstance(value, (bytes, bytearray)):
        return "write bytes as text, for instance value.hex()"
    if inspect.isgenerator(value) or isinstance(value, Iterator):
        return "make it a list"
    return "use text, numbers, lists and mappings, or a dataclass"


class _Array(Protocol):
    shape: tuple[int, ...]

    def tolist(self) -> object: ...
    def item(self) -> object: ...


class _Buildable(Protocol):
    __fn_or_cls__: object
    __arguments__: Mapping[str | int, object]


class _Fiddle(Protocol):
    def ordered_arguments(self, buildable: _Buildable, *, include_defaults: bool) -> Mapping[str | int, object]: ...


class _OmegaNode(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, key: object) -> object: ...
    def keys(self) -> Iterable[object]: ...
    def _is_none(self) -> bool: ...
    def _get_node(self, key: object) -> object: ...
