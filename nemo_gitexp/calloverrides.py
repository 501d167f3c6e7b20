"""What is typed as `key=value` for a configured call: by dotted path, with the types that its parameters have.

Looks at the functions and classes that the call names: in the process that resolves it, nowhere else.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nemo_gitexp.callvalues import called_name, find_called, fit_value, is_call, refused, value_at
from nemo_gitexp.described import describe_call, restore_call
from nemo_gitexp.errors import (
    CanonicalFormError,
    MissingModuleError,
    OverrideError,
    RecipeError,
    UnbuildableConfigError,
    UnknownKeyError,
)
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import KeyPath, find_nearest, parse_key, render_key
from nemo_gitexp.overrides import Override, apply_overrides, parse_override
from nemo_gitexp.worker.rebuild import (
    ARGUMENTS,
    PARTIAL,
    SHARED,
    TARGET,
    TYPES,
    NoSuchTargetError,
    Rebuilder,
)

_MEANT = (TARGET, PARTIAL, ARGUMENTS, TYPES, SHARED)


def override_call(described: Mapping[str, JsonValue], tokens: Sequence[str]) -> dict[str, JsonValue]:
    """Return the configuration of a call with the changes made.

    Args:
        described: as `describe_call` returns it, defaults written out.
        tokens: `key=value`, `+key=value`, `~key`, as typed; the later ones see what the earlier ones made.

    Raises:
        OverrideError: a value that the parameter does not take.
        UnknownKeyError: a key that the configuration has not, and no parameter.
    """
    call = dict(described)
    for token in tokens:
        call = _changed(call, token)
    return call


def _changed(described: Mapping[str, JsonValue], token: str) -> dict[str, JsonValue]:
    plain = {key: value for key, value in described.items() if key not in (TYPES, SHARED)}
    tags, shared = _texts(described, TYPES), _texts(described, SHARED)
    change = _through_sharing(parse_override(token), shared)
    _require_meant(change)
    change, *beside_it = _without_beside(fit_value(_of_parameter(change, plain), plain, tags))
    changed = apply_overrides(plain, [change])
    shared = _still_shared(shared, change.path)
    for place, first in shared.items():
        _put(changed, parse_key(place), value_at(changed, parse_key(first)))
    kept = {key: tag for key, tag in tags.items() if _keeps_type(parse_key(key), change.path, plain, changed)}
    kept |= beside_it[0]
    shared |= beside_it[1]
    beside = {name: items for name, items in ((TYPES, kept), (SHARED, shared)) if items}
    try:
        made = describe_call(restore_call({**changed, **beside}))
    except MissingModuleError as fault:
        raise refused(change, fault.message, f"{change.key}=module:name") from fault
    except (CanonicalFormError, UnbuildableConfigError) as fault:
        raise refused(change, fault.message, fault.hint) from fault
    if " " in kept.get(change.key, "") and value_at(made, change.path) != change.value:
        raise refused(change, f"{change.key} is an array of another type", f"{kept[change.key]} holds something else")
    return made


def _without_beside(change: Override) -> tuple[Override, dict[str, str], dict[str, str]]:
    """Return the change with what stands beside a value that a factory made, by whole dotted path."""
    if not is_call(change.value):
        return change, {}, {}
    value = {key: item for key, item in change.value.items() if key not in (TYPES, SHARED)}

    def below(key: str) -> str:
        return render_key((*change.path, *parse_key(key)))

    types = {below(key): tag for key, tag in _texts(change.value, TYPES).items()}
    shared = {below(key): below(first) for key, first in _texts(change.value, SHARED).items()}
    return replace(change, value=value), types, shared


def _texts(described: Mapping[str, JsonValue], key: str) -> dict[str, str]:
    items = described.get(key)
    return {name: str(text) for name, text in items.items()} if isinstance(items, Mapping) else {}


# ---------------------------------------------------------------------------------------------------------- which key


def _through_sharing(change: Override, shared: Mapping[str, str]) -> Override:
    """Return the change at the path where its object is kept, when the same object stands in several places."""
    for length in range(len(change.path) - 1, 0, -1):
        first = shared.get(render_key(change.path[:length]))
        if first is not None:
            return _through_sharing(replace(change, path=(*parse_key(first), *change.path[length:])), shared)
    return change


def _still_shared(shared: Mapping[str, str], replaced: KeyPath) -> dict[str, str]:
    """Return the places that still hold the same object as others, after what stood at a path is another one."""

    def is_gone(key: str) -> bool:
        return parse_key(key)[: len(replaced)] == replaced

    heirs: dict[str, str] = {}
    kept: dict[str, str] = {}
    for place, first in shared.items():
        if is_gone(place):
            continue
        if not is_gone(first):
            kept[place] = first
        elif first in heirs:
            kept[place] = heirs[first]
        else:
            heirs[first] = place
    return kept


def _require_meant(change: Override) -> None:
    last = change.path[-1]
    if last not in _MEANT or last == ARGUMENTS:
        return
    if last == TARGET and len(change.path) > 1 and change.action == "set":
        return
    hint = "run another recipe" if last == TARGET else "change what the recipe gives"
    raise OverrideError(f"{change.key} is what the recipe calls", hint=hint, token=change.token, key=change.key)


def _of_parameter(change: Override, plain: Mapping[str, JsonValue]) -> Override:
    """Return the change as an addition where it gives a parameter that has neither a value nor a default yet.

    Raises:
        UnknownKeyError: the function or class has no such parameter.
    """
    parent, name = value_at(plain, change.path[:-1]), change.path[-1]
    if change.action == "remove" or not is_call(parent) or name in parent or name in _MEANT:
        return change
    parameters = _parameters(parent, change)
    if parameters is None:
        return change
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    names = [item.name for item in parameters.values() if item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)]
    if name in names:
        return replace(change, action="add")
    if takes_any:
        return change
    near = find_nearest(name, names)
    nearest = render_key((*change.path[:-1], near)) if near else None
    raise UnknownKeyError(
        f"{called_name(parent)} takes no {name}" + (f"; did you mean {nearest}?" if nearest else ""),
        hint=f"it takes {', '.join(names) or 'nothing'}",
        key=change.key,
        nearest=nearest,
    )


def _parameters(call: Mapping[str, JsonValue], change: Override) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(find_called(call, change)).parameters
    except (TypeError, ValueError):  # written in C
        return None


def _keeps_type(key: KeyPath, path: KeyPath, before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]) -> bool:
    if key[: len(path)] != path:
        return True
    return key == path and type(value_at(before, path)) is type(value_at(after, path))


def _put(config: dict[str, JsonValue], path: Sequence[str], value: object) -> None:
    parent: Any = value_at(config, path[:-1])
    key: Any = int(path[-1]) if isinstance(parent, list) else path[-1]
    parent[key] = copy.deepcopy(value)


# ------------------------------------------------------------------------------------------------------ whole or not


def require_complete(described: Mapping[str, JsonValue]) -> None:
    """Check that the call, and every object that is made for it, has all that it needs.

    Raises:
        RecipeError: a parameter without a value; `missing` lists all of them by dotted path.
    """
    missing = list(_missing(described, (), is_called=True))
    if missing:
        hint = " ".join(f"{key}=VALUE" for key in missing)
        raise RecipeError(
            f"{called_name(described)} is called without {', '.join(missing)}", hint=hint, missing=missing
        )


def _missing(node: object, path: KeyPath, *, is_called: bool) -> Iterator[str]:
    if isinstance(node, list):
        for at, item in enumerate(node):
            yield from _missing(item, (*path, str(at)), is_called=True)
    if not isinstance(node, Mapping):
        return
    if is_call(node) and (is_called or node.get(PARTIAL) is not True):
        yield from _unbound(node, path)
    for key, item in node.items():
        yield from _missing(item, (*path, key), is_called=False)


def _unbound(call: Mapping[str, JsonValue], path: KeyPath) -> Iterator[str]:
    try:
        signature = inspect.signature(Rebuilder().find(str(call[TARGET]), path))
    except (NoSuchTargetError, TypeError, ValueError):
        return
    given = call.get(ARGUMENTS)
    places = len(given) if isinstance(given, list) else 0
    for at, item in enumerate(signature.parameters.values()):
        is_open = item.default is item.empty and item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)
        by_place = at < places and item.kind is not item.KEYWORD_ONLY
        if is_open and not by_place and item.name not in call:
            yield render_key((*path, item.name))
