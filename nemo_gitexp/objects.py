"""Configurations that are objects: whether a job will have the very same ones, made from what the record holds.

Nothing is assumed: the launching process makes them once from the plain form and compares. Calls of functions and of
classes without fields are not made here (a model may need a node's memory); their arguments are.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, cast

from nemo_gitexp.errors import CanonicalFormError, UnbuildableConfigError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import render_key
from nemo_gitexp.plainform import declared_fields, is_buildable, main_module_name
from nemo_gitexp.versioning import config_hash, plain_config
from nemo_gitexp.worker.rebuild import TARGET, NoSuchTargetError, Rebuilder, has_fields, is_target, make

if TYPE_CHECKING:
    from nemo_gitexp.worker.shapes import JsonValue as ShapedJson

_Path = tuple[str | int, ...]


def buildable_config(config: object) -> tuple[dict[str, JsonValue], bool]:
    """Return the plain form of a configuration, and whether a job has to build objects from it (`FunctionEntry.build`).

    A configuration of mappings, lists and scalars alone is passed on as JSON has it: tuples as lists, paths as text.
    Where it holds an object, all of it must come out of the building as it was given.

    Side effects: the constructors of dataclasses and the like run once.

    Raises:
        CanonicalFormError: no mapping or object at the top, or a value without a stable form (`key` is its path).
        UnbuildableConfigError: a job would get something else (`key` is its dotted path).
    """
    plain = plain_config(config)
    build = describes_objects(config)
    if build:
        require_buildable(config, plain)
    return plain, build


def describes_objects(config: object) -> bool:
    """Return whether a configuration holds objects at any depth: dataclasses, `run.Config`, named tuples, partials."""
    if isinstance(config, Mapping):
        return any(describes_objects(item) for item in config.values())
    if isinstance(config, type):
        return False
    if declared_fields(config) is not None or is_buildable(config) or isinstance(config, functools.partial):
        return True
    is_row = isinstance(config, (Sequence, AbstractSet)) and not isinstance(config, (str, bytes))
    return is_row and any(describes_objects(item) for item in config)  # type: ignore[attr-defined]  # it is a row


def require_buildable(config: object, plain: Mapping[str, JsonValue]) -> None:
    """Check that a job that builds the plain form gets the configuration that was given.

    Args:
        config: as given.
        plain: its plain form.

    Side effects: the constructors of dataclasses and the like run once.

    Raises:
        UnbuildableConfigError: it would not; `key` is the dotted path of the first value that comes out differently.
    """
    _require_importable(plain, ())
    try:
        made = _Trial(_modules()).restore(cast("ShapedJson", dict(plain)), None, ())
    except NoSuchTargetError as fault:
        raise _refusal(fault.path, str(fault), "define it at the top level of a module") from fault
    _compare(config, made, ())
    if _holds_descriptions(config):
        return  # which have no values yet for the fields that a constructor computes
    try:
        again = config_hash(made)
    except CanonicalFormError as fault:
        raise _refusal((), f"is not the same when it is built again: {fault.message}", "") from fault
    if again != config_hash(plain):
        raise _refusal(_first_difference(plain, made), "is not the same when it is built again", _HINT)


_HINT = "annotate the field with its type, or use text, numbers, lists and mappings"


class _Trial(Rebuilder):
    """A rebuilding that makes what has fields, and stands a `run.Config` in for any other call."""

    def restore(self, value: ShapedJson, hint: object, path: _Path) -> object:
        try:
            return super().restore(value, hint, path)
        except (NoSuchTargetError, UnbuildableConfigError):
            raise
        except Exception as fault:
            raise _refusal(path, f"cannot be built again: {type(fault).__name__}: {fault}", _HINT) from fault

    def make(self, target: Callable[..., object], positional: list[object], named: dict[str, object]) -> object:
        if has_fields(target):
            return make(target, positional, named)
        fiddle = sys.modules.get("fiddle")
        if fiddle is None:  # nobody but Fiddle describes calls
            return functools.partial(target, *positional, **named)
        return fiddle.Config(target, *positional, **named)


def _modules() -> dict[str, types.ModuleType]:
    return {main_module_name(): sys.modules["__main__"]}


def _require_importable(plain: JsonValue, path: _Path) -> None:
    """Refuse targets of a process without a file: no job has its `__main__`."""
    if isinstance(plain, Mapping):
        target = plain.get(TARGET)
        if isinstance(target, str) and is_target(target) and target.startswith("__main__:"):
            name = target.removeprefix("__main__:")
            raise _refusal(path, f"is a {name} of this session, which no job can import", "define it in a module")
        for key, item in plain.items():
            _require_importable(item, (*path, key))
    elif isinstance(plain, list):
        for at, item in enumerate(plain):
            _require_importable(item, (*path, at))


def _compare(given: object, made: object, path: _Path) -> None:
    """Refuse the first value of the rebuilt configuration that is not the given one."""
    parts = _pairs(given, made)
    if parts is not None:
        for key, one, other in parts:
            _compare(one, other, (*path, key) if key != "" else path)
    elif not _is_same(given, made):
        _refuse_other(given, made, path)


def _pairs(given: object, made: object) -> list[tuple[str | int, object, object]] | None:
    """Return the parts of a container on both sides; None for a leaf, and for what is of another kind."""
    if is_buildable(given) or isinstance(given, functools.partial):
        return _call_pairs(given, made)
    same_kind = type(made) is type(given)
    fields = None if isinstance(given, type) else declared_fields(given)
    if fields is not None and same_kind:
        return [(name, value, getattr(made, name, None)) for name, value in fields.items()]
    if isinstance(given, Mapping) and isinstance(made, Mapping):
        return [(str(key), value, made.get(str(key))) for key, value in given.items()]
    if isinstance(given, (list, tuple)) and isinstance(made, (list, tuple)) and same_kind:
        return [(at, *pair) for at, pair in enumerate(zip(given, made, strict=False))]
    return None


def _call_pairs(given: object, made: object) -> list[tuple[str | int, object, object]] | None:
    """Return the arguments of a described call on both sides: built, it is what it describes."""
    if not isinstance(given, functools.partial):
        named = _arguments(given)
        had = made.keywords if isinstance(made, functools.partial) else {}
        return [(name, value, had.get(name, getattr(made, name, None))) for name, value in named.items()]
    if not isinstance(made, functools.partial) or made.func is not given.func:
        return None
    return [("", dict(given.keywords), dict(made.keywords)), ("", list(given.args), list(made.args))]


def _is_same(given: object, made: object) -> bool:
    if isinstance(made, (str, list)) and not isinstance(given, (str, list)):
        return False  # numpy would compare its dtypes with their names, and its arrays item by item
    try:
        return bool(given == made)
    except (TypeError, ValueError, RuntimeError):  # arrays have no single answer
        return False


def _refuse_other(given: object, made: object, path: _Path) -> None:
    kinds = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
    shown = f"{type(made).__module__}.{type(made).__qualname__}".removeprefix("builtins.")
    was = f"a {kinds}, and a job would get {repr(made)[:60]} ({shown})"
    raise _refusal(path, f"is {was}", _HINT)


def _arguments(buildable: object) -> dict[str, object]:
    """Return the arguments that a `run.Config` or `run.Partial` was given by name."""
    arguments: Mapping[object, object] = getattr(buildable, "__arguments__", {})
    return {key: value for key, value in arguments.items() if isinstance(key, str)}


def _holds_descriptions(config: object) -> bool:
    if is_buildable(config):
        return True
    if isinstance(config, functools.partial):
        return _holds_descriptions([*config.args, *config.keywords.values()])
    fields = None if isinstance(config, type) else declared_fields(config)
    if fields is not None or isinstance(config, Mapping):
        return any(_holds_descriptions(item) for item in (config if fields is None else fields).values())  # type: ignore[attr-defined]  # a mapping
    return isinstance(config, (list, tuple)) and any(_holds_descriptions(item) for item in config)


def _first_difference(plain: Mapping[str, JsonValue], made: object) -> _Path:
    parts = made if isinstance(made, Mapping) else declared_fields(made) or {}
    for key, value in plain.items():
        if key in parts and config_hash({"": value}) != config_hash({"": parts[key]}):
            return (key,)
    return ()


def _refusal(path: _Path, problem: str, hint: str) -> UnbuildableConfigError:
    key = render_key(path)
    return UnbuildableConfigError(f"{key or 'the configuration'} {problem}", hint=hint, key=key)
