"""Profiles come from several places: how their tables are merged, and what none of the places may say. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from nemo_gitexp.errors import SettingsError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.profileparts import ENV_KEYS, SHAPE_KEYS
from nemo_gitexp.profiletable import holds_reference
from nemo_gitexp.secretwords import find_secret, is_secret_name, is_secret_variable
from nemo_gitexp.topology import NUMERIC_VARIABLES

_INNER_TABLES: Final = (*ENV_KEYS, "tunnel")
_NAMES_OF_SECRETS: Final = ("secret_vars", "image_pull_secrets")
"""Their values are the names under which a cluster keeps secrets."""

_PLACES: Final = ("/", "~", "./", "$")


@dataclass(frozen=True, slots=True)
class MergedProfile:
    """One profile as far as it is known, and where each of its keys came from (`tunnel.host` for inner ones).

    `is_shared`: a committed file defines it, for everybody.
    """

    table: Mapping[str, JsonValue]
    sources: Mapping[str, str]
    is_shared: bool

    @property
    def source(self) -> str:
        """Every place that says something about it."""
        return ", ".join(dict.fromkeys(self.sources.values()))


def merge_profile(
    name: str, earlier: MergedProfile | None, table: Mapping[str, JsonValue], source: str, *, shared: bool
) -> MergedProfile:
    """Return a profile with what one more place says; of `env` and `tunnel`, key by key.

    Args:
        name: of the profile.
        earlier: what is known of it; None: nothing.
        table: what this place says.
        source: how the place is called.
        shared: whether the place is committed (pyproject.toml); else it belongs to this machine alone.

    Raises:
        SettingsError: a secret in what is committed; a key of the shape from this machine, for a profile that others
            have, too.
    """
    if shared:
        _require_no_secrets(name, table, source)
    elif name == "local" or (earlier is not None and earlier.is_shared):
        _require_no_shape(name, table, source)
    merged = dict(earlier.table) if earlier else {}
    sources = dict(earlier.sources) if earlier else {}
    for key, value in table.items():
        known = merged.get(key)
        if key in _INNER_TABLES and isinstance(value, Mapping):
            merged[key] = {**(known if isinstance(known, Mapping) else {}), **value}
            sources |= {f"{key}.{inner}": source for inner in value}
        else:
            merged[key] = value
            sources[key] = source
    is_shared = shared or (earlier is not None and earlier.is_shared)
    return MergedProfile(MappingProxyType(merged), MappingProxyType(sources), is_shared)


def _require_no_secrets(name: str, table: Mapping[str, JsonValue], source: str) -> None:
    for key, text in _texts(table):
        last = key.rpartition(".")[2]
        is_named = (is_secret_name(last) or is_secret_variable(last)) and not text.startswith(_PLACES)
        if not holds_reference(text) and (is_named or find_secret(text, {})):
            variable = last.upper()
            raise SettingsError(
                f"{source}: executors.{name}.{key} looks like a secret, and {source} is committed",
                hint=f'{last} = "${{env:{variable}}}", and export {variable}=… where it is used',
                setting=f"executors.{name}.{key}",
                source=source,
            )


def _texts(value: JsonValue, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield ".".join(path), value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in _NAMES_OF_SECRETS:
                yield from _texts(item, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for item in value:
            # An item has no name of its own: what it holds is what it may be.
            yield from _texts(item, (*path, ""))


def _require_no_shape(name: str, table: Mapping[str, JsonValue], source: str) -> None:
    found = [key for key in table if key in SHAPE_KEYS]
    for key in ENV_KEYS:
        inner = table.get(key)
        if isinstance(inner, Mapping):
            found += [f"{key}.{variable}" for variable in inner if variable in NUMERIC_VARIABLES]
    if found:
        raise SettingsError(
            f"{source}: executors.{name}.{found[0]} belongs to the experiment, not to this machine: "
            "it would change what is recorded, unseen",
            hint=f"[tool.nemo-gitexp.executors.{name}] in pyproject.toml, or another profile in {source}",
            setting=f"executors.{name}.{found[0]}",
            source=source,
            keys=found,
        )
