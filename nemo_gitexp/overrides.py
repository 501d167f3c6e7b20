"""Changes typed on a command line: `key=value`, `+key=value`, `~key`, and the arguments of an ad-hoc command.

Pure: a configuration goes in, a changed copy comes out. Which keys mean something is not known here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nemo_gitexp.errors import DocumentError, OverrideError, UnknownKeyError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import KeyPath, find_nearest, render_key, split_key
from nemo_gitexp.yaml12 import parse_scalar, resolve_plain

Action: TypeAlias = Literal["set", "add", "remove"]
_POSITION = re.compile(r"0|[1-9][0-9]{0,5}", re.ASCII)
_Node: TypeAlias = "dict[str, JsonValue] | list[JsonValue]"


@dataclass(frozen=True, slots=True)
class Override:
    """One change: `set` an existing key, `add` a new one, `remove` one; `token` is how it was typed."""

    action: Action
    path: KeyPath
    value: JsonValue
    token: str

    @property
    def key(self) -> str:
        """The dotted path."""
        return render_key(self.path)


def parse_override(token: str) -> Override:
    """Return the change that `key=value`, `+key=value` or `~key` asks for; values are YAML 1.2.

    Raises:
        OverrideError: no `=`, an empty key, or a value that is no YAML.
    """
    action: Action = "remove" if token.startswith("~") else "add" if token.startswith("+") else "set"
    text = token if action == "set" else token[1:]
    try:
        path, rest = split_key(text)
    except ValueError as fault:
        raise OverrideError(f"{token!r} has no readable key: {fault}", hint="write key=value", token=token) from fault
    if text.startswith("-"):
        better = text.lstrip("-") if rest else f"{text.lstrip('-')}=VALUE"
        raise OverrideError(f"{token!r} is an option, not a key=value", hint=f"write {better}", token=token)
    if action == "remove":
        if rest:
            raise OverrideError(f"{token!r} removes a key, it takes no value", hint=f"~{render_key(path)}", token=token)
        return Override(action, path, None, token)
    if not rest:
        raise OverrideError(f"{token!r} has no '='", hint=f"write {text}=VALUE", token=token)
    try:
        return Override(action, path, parse_scalar(rest[1:]), token)
    except DocumentError as fault:
        problem = fault.facts.get("problem", fault.message)
        hint = f"quote what is text: {render_key(path)}='\"…\"'"
        raise OverrideError(f"{token!r} has no readable value: {problem}", hint=hint, token=token) from fault


def apply_overrides(config: Mapping[str, JsonValue], changes: Iterable[str | Override]) -> dict[str, JsonValue]:
    """Return a copy of the configuration with the changes made, from left to right.

    Args:
        config: never changed, and never shared with the result.
        changes: `key=value` for a key that is there, `+key=value` for one that is not, `~key`. Numbers address
            list items (`layers.0=64`); `+layers.2=…` appends where the list has two.

    Raises:
        OverrideError: a token that cannot be parsed, a `+key` that is there, a path through a plain value.
        UnknownKeyError: a key that is not there, with `key` and the `nearest` one.
    """
    result = {key: _copied(value) for key, value in config.items()}
    for change in changes:
        _apply(result, parse_override(change) if isinstance(change, str) else change)
    return result


def parse_adhoc_arguments(arguments: Sequence[str]) -> dict[str, JsonValue]:
    """Return the configuration that a command's own arguments stand for.

    Leading dashes go, inner dashes stay; values are YAML 1.2 scalars (never lists or maps: `{outputs}` is text); a
    bare flag is true; `--x v` takes `v` unless it starts with `-` and is no number; repeats make a list; positional
    arguments go to `args`, and so does everything after `--`.
    """
    found: dict[str, list[JsonValue]] = {}
    positionals: list[JsonValue] = []
    waiting = list(reversed(arguments))
    while waiting:
        argument = waiting.pop()
        if argument == "--":
            positionals.extend(_scalar(text) for text in reversed(waiting))
            break
        name, equals, text = argument.lstrip("-").partition("=")
        if not _is_option(argument) or not name:
            positionals.append(_scalar(argument))
        elif equals:
            found.setdefault(name, []).append(_scalar(text))
        elif waiting and not _is_option(waiting[-1]):
            found.setdefault(name, []).append(_scalar(waiting.pop()))
        else:
            found.setdefault(name, []).append(True)
    config: dict[str, JsonValue] = {key: values[0] if len(values) == 1 else values for key, values in found.items()}
    if positionals:
        config["args"] = [*found.get("args", []), *positionals]
    return config


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and not isinstance(_scalar(argument), (int, float))


def _scalar(text: str) -> JsonValue:
    try:
        value = parse_scalar(text) if text[:1] in {"'", '"'} else resolve_plain(text.strip())
    except DocumentError:
        return text  # no scalar, or a number beyond all numbers: the command makes of it what it likes
    return text if isinstance(value, float) and math.isnan(value) else value  # NaN has no canonical form


def _apply(config: dict[str, JsonValue], change: Override) -> None:
    parent = _parent(config, change)
    last = change.path[-1]
    if isinstance(parent, list):
        _change_list(parent, last, config, change)
    elif change.action == "add":
        if last in parent:
            raise OverrideError(f"{change.key} is there already", hint=change.token[1:], key=change.key)
        parent[last] = _copied(change.value)
    elif last not in parent:
        raise _unknown(config, change)
    elif change.action == "remove":
        del parent[last]
    else:
        parent[last] = _copied(change.value)


def _change_list(items: list[JsonValue], part: str, config: dict[str, JsonValue], change: Override) -> None:
    position = _position(part)
    if position is None or position >= len(items) + (change.action == "add"):
        raise _unknown(config, change)
    if change.action == "remove":
        del items[position]
    elif change.action == "set":
        items[position] = _copied(change.value)
    elif position == len(items):
        items.append(_copied(change.value))
    else:
        raise OverrideError(f"{change.key} is there already", hint=change.token[1:], key=change.key)


def _parent(config: dict[str, JsonValue], change: Override) -> _Node:
    """Return the container that the last key belongs to; `add` makes the mappings that are missing."""
    node: _Node = config
    for depth, part in enumerate(change.path[:-1], 1):
        child: JsonValue
        if isinstance(node, list):
            position = _position(part)
            if position is None or position >= len(node):
                raise _unknown(config, change)
            child = node[position]
        elif part in node:
            child = node[part]
        elif change.action == "add":
            child = node[part] = {}
        else:
            raise _unknown(config, change)
        if not isinstance(child, (dict, list)):
            above = render_key(change.path[:depth])
            hint = f"{above}={{{change.path[depth]}: …}} replaces it"
            raise OverrideError(f"{above} is {_described(child)}, it has no keys", hint=hint, key=change.key)
        node = child
    return node


def _unknown(config: dict[str, JsonValue], change: Override) -> UnknownKeyError:
    known = list(_all_keys(config, ()))
    last_parts = {key.rpartition(".")[2]: key for key in known}
    nearest = find_nearest(change.key, known) or last_parts.get(find_nearest(change.key, last_parts) or "")
    likely = f"; did you mean {nearest}?" if nearest else ""
    hint = f"to add a new key: +{change.token.lstrip('+')}"
    if change.action == "remove":
        hint = f"~{nearest}" if nearest else f"its keys are: {', '.join(known) or 'none'}"
    return UnknownKeyError(
        f"the configuration has no key {change.key}{likely}", hint=hint, key=change.key, nearest=nearest
    )


def _all_keys(value: JsonValue, above: tuple[str | int, ...]) -> Iterable[str]:
    pairs: Iterable[tuple[str | int, JsonValue]] = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for key, item in pairs:
        yield render_key((*above, key))
        yield from _all_keys(item, (*above, key))


def _position(part: str) -> int | None:
    return int(part) if _POSITION.fullmatch(part) else None


def _described(value: JsonValue) -> str:
    return "null" if value is None else f"the value {value!r}"


def _copied(value: JsonValue) -> JsonValue:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return value
