"""Executor profiles: what of a profile belongs to the experiment, and what to the site. Pure.

A profile is one table `[tool.nemo-gitexp.executors.NAME]`. Its shape (nodes, tasks, devices, launcher, image, numeric
variables) is recorded and part of the identity; all else is bound per machine and never recorded. Which fields NeMo
Run's executors have is not known here: `profilefields` holds `options` against them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar, cast

from nemo_gitexp.errors import SettingsError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.profileparts import SHAPE_KEYS, TUNNEL_KEYS, ExecutorProfile, Place, ProfileShape, TunnelProfile
from nemo_gitexp.profiletable import REFERENCE, parse_profile, render_profile

__all__ = [
    "ExecutorProfile",
    "Place",
    "ProfileShape",
    "Reference",
    "TunnelProfile",
    "bind_profile",
    "find_references",
    "missing_references",
    "parse_profile",
    "profile_topology",
    "render_profile",
]

_Part = TypeVar("_Part", TunnelProfile, Place)


@dataclass(frozen=True, slots=True)
class Reference:
    """`${source:name}` in the value of `key`; `source` is env or site."""

    key: str
    source: str
    name: str

    @property
    def text(self) -> str:
        """As it is written."""
        return f"${{{self.source}:{self.name}}}"


def profile_topology(profile: ExecutorProfile, base: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the topology of a record.

    Args:
        profile: whose shape the run has.
        base: the topology of a local run (`topology.topology`); its numeric variables win, so that it is to be made
            from an environment in which the profile's are.
    """
    shape, numeric = profile.shape, base.get("environment")
    known = dict(numeric) if isinstance(numeric, Mapping) else {}
    env: dict[str, JsonValue] = {**shape.environment, **known}
    return {
        **base,
        "nodes": shape.nodes,
        "tasks_per_node": shape.tasks_per_node,
        "devices": shape.devices,
        "launcher": shape.launcher,
        "image": shape.image,
        "environment": {name: env[name] for name in sorted(env)},
    }


def find_references(profile: ExecutorProfile) -> tuple[Reference, ...]:
    """Return every `${env:NAME}` and `${site:NAME}` in a profile, by key."""
    return tuple(
        Reference(key, match[1], match[2])
        for key, text in _texts_of(_referring(profile), ())
        for match in REFERENCE.finditer(text)
    )


def missing_references(
    profile: ExecutorProfile, site: Mapping[str, str], env: Mapping[str, str]
) -> tuple[Reference, ...]:
    """Return the references that have no value on this machine; an empty variable is none."""
    known = {name.lower() for name in site}
    return tuple(
        reference
        for reference in find_references(profile)
        if not (env.get(reference.name) if reference.source == "env" else reference.name.lower() in known)
    )


def bind_profile(profile: ExecutorProfile, site: Mapping[str, str], env: Mapping[str, str]) -> ExecutorProfile:
    """Return the profile with every reference replaced. What comes back holds secrets: it is never recorded or shown.

    Args:
        profile: as parsed.
        site: values by name, whatever the case of the name.
        env: the environment.

    Raises:
        SettingsError: a value is missing; names each, `references` too.
    """
    if missing := missing_references(profile, site, env):
        first = missing[0]
        command = f"export {first.name}=…" if first.source == "env" else f"git config gitexp.site.{first.name} VALUE"
        said = ", ".join(f"{item.text} (for {item.key})" for item in missing)
        raise SettingsError(
            f"executor {profile.name}: this machine has no value for {said}",
            hint=command,
            setting=f"executors.{profile.name}.{first.key}",
            references=[item.text for item in missing],
        )
    known = {name.lower(): value for name, value in site.items()}

    def bound(text: str) -> str:
        return REFERENCE.sub(lambda match: env[match[2]] if match[1] == "env" else known[match[2].lower()], text)

    options = cast("Mapping[str, JsonValue]", _mapped(profile.options, bound))
    return replace(
        profile,
        options=MappingProxyType(dict(options)),
        tunnel=None if profile.tunnel is None else _bound_texts(profile.tunnel, TUNNEL_KEYS[1:], bound),
        env=MappingProxyType({name: bound(value) for name, value in profile.env.items()}),
        place=_bound_texts(profile.place, ("python", "root", "cache", "image_at"), bound),
    )


def _referring(profile: ExecutorProfile) -> dict[str, JsonValue]:
    """Return what of a profile may hold references, as in its table."""
    table = render_profile(profile)
    return {key: value for key, value in table.items() if key not in SHAPE_KEYS}


def _texts_of(value: JsonValue, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield ".".join(path), value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts_of(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts_of(item, path)


def _mapped(value: JsonValue, change: Callable[[str], str]) -> JsonValue:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(item, change) for item in value]
    return value


def _bound_texts(part: _Part, keys: Iterable[str], bound: Callable[[str], str]) -> _Part:
    texts = {key: bound(text) for key in keys if isinstance(text := getattr(part, key), str)}
    return replace(part, **cast("dict[str, Any]", texts))  # keys of texts alone
