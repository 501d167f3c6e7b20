"""A configured call (`run.Partial`) as a configuration, and the very same call made of it again.

The configuration is the plain form, defaults written out. What neither JSON nor an annotation tells about a value
stands beside it at the top: `_types_` (dotted path to a type or a word of `worker.rebuild`) and `_shared_` (dotted path
to the one of the same object). Nothing is assumed: the call is made again at once and compared. Needs NeMo Run to be
loaded, and never loads it.
"""

from __future__ import annotations

import collections
import copy
import enum
import functools
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Protocol, cast

from nemo_gitexp.errors import CanonicalFormError, MissingModuleError, UnbuildableConfigError
from nemo_gitexp.jsontext import JsonValue, parse_json, render_json
from nemo_gitexp.keypath import render_key
from nemo_gitexp.plainform import MAX_DEPTH, declared_fields, default_factories, is_buildable, plain_value
from nemo_gitexp.worker.rebuild import (
    ARGUMENTS,
    FIDDLE,
    FUNCTOOLS,
    GIVEN,
    OBJECT,
    REFERENCE,
    SHARED,
    TYPES,
    NoSuchTargetError,
    Rebuilder,
)

if TYPE_CHECKING:
    from nemo_gitexp.worker.shapes import JsonValue as ShapedJson

_Path = tuple[str | int, ...]
MOST_ROUNDS = 32
"""Each round looks one level deeper into what was tagged in the one before."""

_UNSAFE_TYPES = ("OrderedDict", "SimpleNamespace", "deque")
_HINT = "annotate the parameter with its type, or use text, numbers, lists and mappings"


def describe_call(
    call: object, *, with_defaults: bool = True, modules: Mapping[str, types.ModuleType] | None = None
) -> dict[str, JsonValue]:
    """Return the configuration of a `run.Partial` or `run.Config`, from which `restore_call` makes an equal one.

    Args:
        call: it, or one of plain Fiddle.
        with_defaults: write defaults out; False: what it was given alone, for another process to fill in.
        modules: modules that go by another name here (the running script).

    Side effects: classes that it holds objects of are instantiated once.

    Raises:
        CanonicalFormError: a value without a stable form: `key` is its dotted path.
        UnbuildableConfigError: another process would not get an equal value.
    """
    _require_known(call, ())
    plain = plain_value(call, with_defaults=with_defaults)
    if not isinstance(plain, dict):
        raise CanonicalFormError(f"a {type(call).__name__} is no configured call", key="", hint="run.Partial(function)")
    if taken := sorted({TYPES, SHARED} & plain.keys()):
        raise _refusal((taken[0],), "is a name with a meaning of its own", "call the parameter something else")
    shared = _shared_places(call)
    tags: dict[str, JsonValue] = {}
    for _ in range(MOST_ROUNDS):
        described = {**plain, **({TYPES: tags} if tags else {}), **({SHARED: shared} if shared else {})}
        recorded = cast("dict[str, JsonValue]", parse_json(render_json(described), "config.json"))
        made = restore_call(recorded, modules)
        found = {render_key(path): (path, value) for path, value in _differences(call, made, ())}
        if not found and _is_equal(call, made):
            return described
        if not found and (everything := _shared_places(call, with_leaves=True)) != shared:
            shared = everything
            continue
        found = found or {render_key(path): (path, _Default(None)) for path in _given_defaults(call, ())}
        new = {key: item for key, item in found.items() if key not in tags}
        if not new:
            raise _not_the_same(found)
        tags |= {key: _tag(value, path) for key, (path, value) in new.items()}
    raise _refusal((), "is nested too deeply", "")


def restore_call(config: Mapping[str, JsonValue], modules: Mapping[str, types.ModuleType] | None = None) -> Any:
    """Return the `run.Partial` or `run.Config` that a configuration describes; NeMo Run must be loaded.

    Args:
        config: as `describe_call` returns it.
        modules: modules that go by another name here.

    Raises:
        MissingModuleError: a target cannot be imported.
        UnbuildableConfigError: one does not take what it is given.
    """
    try:
        return _CallRebuilder(modules).whole(cast("ShapedJson", dict(config)))
    except NoSuchTargetError as fault:
        module = str(fault).partition(":")[0]
        hint = "is it part of the recorded state, or installed for the job?"
        raise MissingModuleError(str(fault), hint=hint, module=module, key=render_key(fault.path)) from fault
    except _MAKING as fault:
        raise UnbuildableConfigError(
            f"the configured call cannot be made again: {_said(fault)}", hint="change what it is given", key=""
        ) from fault


_MAKING = (TypeError, ValueError, AttributeError, KeyError, ImportError, RuntimeError)
"""What classes of users and libraries raise when they do not like what they are given."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)


def _said(fault: BaseException) -> str:
    return _ADDRESS.sub("", str(fault))


class _CallRebuilder(Rebuilder):
    """Makes descriptions of calls instead of calling."""

    def _tagged(self, value: Any, tag: str, path: tuple[str | int, ...]) -> Any:
        try:
            return super()._tagged(value, tag, path)
        except _MAKING as fault:
            raise _refusal(path, f"cannot be made again: {_said(fault)}", _HINT) from fault

    def make_at(
        self, target: Callable[..., Any], positional: list[Any], named: dict[str, Any], path: tuple[str | int, ...]
    ) -> Any:
        return self._description("Config", target, positional, named, path)

    def make_partial(
        self, target: Callable[..., Any], positional: list[Any], named: dict[str, Any], path: tuple[str | int, ...]
    ) -> Any:
        return self._description("Partial", target, positional, named, path)

    def _description(self, kind: str, target: Any, positional: list[Any], named: dict[str, Any], path: _Path) -> Any:
        for name, factory in default_factories(target).items():
            if name in named and not self.is_given((*path, name)) and _is_default(named[name], factory):
                del named[name]
        for at, default in reversed(list(_places_with_defaults(target))):
            if (
                at == len(positional) - 1
                and not self.is_given((*path, ARGUMENTS, at))
                and _is_same(default, positional[at])
            ):
                del positional[at]
        for name, default in _defaults(target).items():
            if name in named and not self.is_given((*path, name)) and _is_same(default, named[name]):
                named[name] = default
        library = sys.modules["fiddle" if self._tags.get(render_key(path)) == FIDDLE else "nemo_run"]
        made = getattr(library, kind)
        if library is sys.modules["fiddle"]:
            return made(target, *positional, **named)
        return made(target, *positional, bind_args=False, **named)


def _defaults(target: Any) -> dict[str, object]:
    """Return the defaults of a function, by name: Fiddle tells calls apart by whether they share a default object."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {item.name: item.default for item in parameters if item.default is not item.empty}


def _places_with_defaults(target: Callable[..., object]) -> Iterator[tuple[int, object]]:
    """Yield the positions that can be left out: to Fiddle a default that is given by position is another call."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return
    for at, item in enumerate(parameters):
        if item.kind is item.POSITIONAL_ONLY and item.default is not item.empty:
            yield at, item.default


def _is_default(value: object, factory: Callable[[], object]) -> bool:
    default = factory()
    if is_buildable(value):
        return _as_plain(value) == _as_plain(default)
    return _is_same(default, value)


def _as_plain(value: object) -> JsonValue:
    try:
        return plain_value(value)
    except CanonicalFormError:
        return None


def _require_known(value: object, path: _Path) -> None:
    """Refuse descriptions that nobody could make again: of other kinds than `Config` and `Partial`, with `*args`."""
    if len(path) > MAX_DEPTH:
        return  # the plain form refuses it, with a word for what contains itself
    if is_buildable(value):
        known = {getattr(sys.modules[name], kind) for name in ("fiddle", "nemo_run") for kind in ("Config", "Partial")}
        if type(value) not in known:
            raise _refusal(path, f"is a {_kind(value)}, which no job can be given", "use run.Config or run.Partial")
        if _has_both_kinds(value):
            raise _refusal(path, "gives *args beside parameters that have names", "use a list parameter instead")
    for key, part in _parts(value):
        _require_known(part, (*path, key))


def _has_both_kinds(call: object) -> bool:
    """Return whether a call gives `*args` that can only follow parameters which descriptions give by name."""
    places = [key for key in _given(call) if isinstance(key, int)]
    try:
        kinds = [item.kind for item in inspect.signature(call.__fn_or_cls__).parameters.values()]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return False
    named = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return bool(named) and max(places, default=-1) >= named + kinds.count(inspect.Parameter.POSITIONAL_ONLY)


def _is_equal(call: object, made: object) -> bool:
    """Return whether Fiddle finds them equal, too; no `functools.partial` equals another, and arrays have no answer."""
    if any(isinstance(item, functools.partial) for item in _all_parts(call)):
        return True
    try:
        return bool(made == call or made == in_recorded_order(call))
    except (TypeError, ValueError, RuntimeError):
        return True


def in_recorded_order(call: Any) -> Any:
    """Return a copy of a call whose mappings have their keys in the order of config.json.

    Two mappings are equal whatever the order of their keys, but Fiddle numbers what stands in several places as it
    meets it.
    """
    parts = list(_all_parts(call))
    copied = copy.deepcopy(call, {id(item): item for item in parts if not _parts(item)})
    for item in _all_parts(copied):
        if type(item) is dict:
            ordered = sorted(item.items())
            item.clear()
            item.update(ordered)
    return copied


def _arguments(call: object) -> dict[str | int, object]:
    """Return the arguments of a description with its defaults, those made anew for each object left out."""
    fiddle: Any = sys.modules["fiddle"]
    arguments = fiddle.ordered_arguments(call, include_defaults=True)
    late = default_factories(getattr(call, "__fn_or_cls__", None)).keys() - _given(call).keys()
    return {key: value for key, value in arguments.items() if key not in late}


def _parts(value: object) -> list[tuple[str | int, object]]:
    """Return what a value holds, by the last part of the dotted path; a leaf holds nothing."""
    if is_buildable(value):
        return list(_given(value).items())
    if isinstance(value, functools.partial):
        return [*value.keywords.items(), *enumerate(value.args)]
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, (list, tuple, collections.deque)) and not hasattr(value, "_fields"):
        return list(enumerate(value))
    if isinstance(value, types.SimpleNamespace):
        return list(vars(value).items())
    fields = None if isinstance(value, type) else declared_fields(value)
    return list((fields or {}).items())


def _not_the_same(found: Mapping[str, tuple[_Path, object]]) -> UnbuildableConfigError:
    for path, value in found.values():
        if not isinstance(value, _Default):
            return _refusal(path, f"is a {_kind(value)}, which a job would not get back", _HINT)
    return _refusal((), "does not equal what a job would get", "use run.Config and run.Partial alone")


def _given_defaults(value: object, path: _Path) -> Iterator[_Path]:
    """Yield the places of arguments that were given, are equal to the default, and are another object."""
    defaults = _defaults(value.__fn_or_cls__) if is_buildable(value) else {}  # type: ignore[attr-defined]
    for key, part in _parts(value):
        place = (*path, *_place(value, key))
        if key in defaults and defaults[str(key)] is not part and _is_same(defaults[str(key)], part):
            yield place
        yield from _given_defaults(part, place)


def _all_parts(value: object) -> Iterator[object]:
    yield value
    for _, part in _parts(value):
        yield from _all_parts(part)


def _shared_places(call: object, *, with_leaves: bool = False) -> dict[str, JsonValue]:
    """Return the places of what stands in several, by dotted path, with the first place.

    Only of what can be changed; with the leaves also of tuples, paths and the like, by which Fiddle tells calls apart.
    """
    first: dict[int, str] = {}
    shared: dict[str, JsonValue] = {}

    def walk(value: object, path: _Path) -> None:
        is_leaf = not (is_buildable(value) or isinstance(value, (list, dict)) or _is_object(value))
        if with_leaves:
            is_leaf = isinstance(value, _SINGLE)
        key = render_key(path)
        if not is_leaf and path:
            if id(value) in first:
                shared[key] = first[id(value)]
                return
            first[id(value)] = key
        defaults = _defaults(getattr(value, "__fn_or_cls__", None)) if is_buildable(value) else {}
        for name, part in _in_order_of_names(value):
            if str(name) not in defaults or part is not defaults[str(name)]:  # which is one object wherever it stands
                walk(part, (*path, *_place(value, name)))

    walk(call, ())
    return shared


def _in_order_of_names(value: object) -> list[tuple[str | int, object]]:
    """Return what a value holds; of a mapping in an order that does not depend on how it was made."""
    parts = _parts(value)
    return sorted(parts, key=lambda part: str(part[0])) if type(value) is dict else parts


def _place(owner: object, name: str | int) -> _Path:
    """Return the end of the dotted path of a part: arguments by position have a list of their own."""
    is_call = is_buildable(owner) or isinstance(owner, functools.partial)
    return (ARGUMENTS, name) if isinstance(name, int) and is_call else (name,)


def _is_object(value: object) -> bool:
    return not isinstance(value, (type, tuple)) and declared_fields(value) is not None


def _differences(given: object, made: object, path: _Path) -> Iterator[tuple[_Path, object]]:
    """Yield the outermost values that came out differently, as they were given."""
    if type(given) is not type(made):
        yield path, given
    elif is_buildable(given):
        yield from _call_differences(given, made, path)
    elif isinstance(given, functools.partial):
        yield from _partial_differences(given, cast("functools.partial[object]", made), path)
    elif (parts := _parts(given)) == []:
        if not _is_same(given, made):
            yield path, given
    else:
        others = dict(_parts(made))
        keys = [key for key, _ in parts]
        if keys != list(others) if isinstance(given, collections.OrderedDict) else set(keys) != set(others):
            yield path, given
            return
        for key, part in parts:
            yield from _differences(part, others[key], (*path, key))


def _call_differences(given: object, made: object, path: _Path) -> Iterator[tuple[_Path, object]]:
    ours, theirs = _arguments(given), _arguments(made)
    for key, value in ours.items():
        place = (*path, ARGUMENTS, key) if isinstance(key, int) else (*path, key)
        is_left_out = isinstance(key, int) and key in _given(given) and key not in _given(made)
        if key not in theirs or (is_left_out and _is_same(value, theirs[key])):
            yield place, _Default(value)
        else:
            yield from _differences(value, theirs[key], place)


def _partial_differences(
    given: functools.partial[object], made: functools.partial[object], path: _Path
) -> Iterator[tuple[_Path, object]]:
    if given.func != made.func or len(given.args) != len(made.args) or given.keywords.keys() != made.keywords.keys():
        yield path, given
        return
    for at, (ours, theirs) in enumerate(zip(given.args, made.args, strict=True)):
        yield from _differences(ours, theirs, (*path, ARGUMENTS, at))
    for key, value in given.keywords.items():
        yield from _differences(value, made.keywords[key], (*path, key))


def _given(call: object) -> Mapping[str | int, object]:
    given: Mapping[str | int, object] = getattr(call, "__arguments__", {})
    return given


class _Default:
    """An argument that was given although it equals its default."""

    def __init__(self, value: object) -> None:
        self.value = value


def _is_same(given: object, made: object) -> bool:
    if type(given) is not type(made):
        return False
    if hasattr(given, "tolist") and hasattr(given, "dtype") and not isinstance(given, type):
        ours, theirs = cast("_Array", given), cast("_Array", made)
        alike = (str(ours.dtype), tuple(ours.shape)) == (str(theirs.dtype), tuple(theirs.shape))
        return alike and ours.tolist() == theirs.tolist()
    if isinstance(given, AbstractSet):
        sets = [{(type(item), item) for item in value} for value in (given, cast("AbstractSet[object]", made))]
        return sets[0] == sets[1]
    try:
        return bool(given == made)
    except (TypeError, ValueError, RuntimeError):
        return False


class _Array(Protocol):
    dtype: object
    shape: Sequence[int]

    def tolist(self) -> object: ...


_SINGLE = (str, int, float, bool, types.NoneType, enum.Enum, type, types.FunctionType, types.BuiltinFunctionType)
"""What is the same object wherever it stands, or is never told apart by where."""

_FUNCTIONS = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def referenced(call: object) -> Iterator[object]:
    """Yield the classes and functions that a description names, at any depth."""
    if is_buildable(call):
        yield call.__fn_or_cls__  # type: ignore[attr-defined]  # every description has one
    elif isinstance(call, functools.partial):
        yield call.func
    elif isinstance(call, _FUNCTIONS):
        yield call
    elif isinstance(call, enum.Enum) or (not isinstance(call, (str, bytes)) and declared_fields(call) is not None):
        yield type(call)
    for _, part in _parts(call):
        yield from referenced(part)


def _tag(value: object, path: _Path) -> str:
    """Return how to make a value again: a type `module:name`, or one of the words."""
    if isinstance(value, _Default):
        return GIVEN
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    if isinstance(value, _FUNCTIONS) or (library == "numpy" and callable(value)):
        return REFERENCE
    if isinstance(value, functools.partial) or is_buildable(value):
        return FIDDLE if is_buildable(value) else FUNCTOOLS
    if library in ("numpy", "torch"):
        return _array_tag(value, library, path)
    is_plain = isinstance(value, (enum.Enum, AbstractSet)) or kind.__name__ in _UNSAFE_TYPES
    if not is_plain and declared_fields(value) is not None:
        return OBJECT
    if "<" in kind.__qualname__ or kind in (range, collections.defaultdict):
        raise _refusal(path, f"is a {_kind(value)}, which a job would not get back", _HINT)
    return f"{kind.__module__}:{kind.__qualname__}{_detail(value)}"


def _detail(value: object) -> str:
    """Return what only the whole of a container tells: the order of its keys, or of a set the one type of its members.

    Members of a set have no dotted path that a type could stand at.
    """
    if isinstance(value, collections.OrderedDict):
        return "" if list(value) == sorted(value) else f" {json.dumps(list(value))}"
    kinds = {type(item) for item in value} if isinstance(value, AbstractSet) else set()
    if len(kinds) != 1:
        return ""
    kind = kinds.pop()
    return "" if kind in (str, int, bool, type(None)) else f" {kind.__module__}:{kind.__qualname__}"


def _array_tag(value: object, library: str, path: _Path) -> str:
    if library == "numpy" and isinstance(value, sys.modules["numpy"].dtype):
        return "numpy:dtype"
    name = type(value).__name__
    if not (hasattr(sys.modules[library], name)):
        raise _refusal(path, f"is a {_kind(value)}, which a job would not get back", _HINT)
    detail = f" {getattr(value, 'dtype', '')}" if name in ("ndarray", "Tensor") else ""
    return f"{library}:{name}{detail}"


def _kind(value: object) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _refusal(path: _Path, problem: str, hint: str) -> UnbuildableConfigError:
    key = render_key(path)
    return UnbuildableConfigError(f"{key or 'the configured call'} {problem}", hint=hint, key=key)
