"""`config`: every setting with its value and where it came from; nothing secret is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nemo_gitexp.catalog import Site
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.profiletable import holds_reference
from nemo_gitexp.secretwords import find_secret, is_secret_name, is_secret_variable
from nemo_gitexp.settings import Settings

HIDDEN: Final = "(hidden)"
"""Stands for a value that is a secret by its name or its form; references are shown as they are written."""

_TABLES: Final = ("executors", "site", "sources")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: `threads`, `executors.a100.account`, `site.scratch`."""

    name: str
    value: JsonValue
    source: str


def config(site: Site) -> tuple[Setting, ...]:
    """Return every setting, those of executors key by key, in the order: plain ones, executors, site values."""
    settings = site.settings
    return (*_plain(site), *_profiles(settings), *_site_values(settings))


def config_document(settings: tuple[Setting, ...]) -> dict[str, JsonValue]:
    """Return the settings as they are answered under `--json`: plain ones, executors by name and key, site values."""
    document: dict[str, dict[str, JsonValue]] = {"settings": {}, "executors": {}, "site": {}}
    for item in settings:
        said: JsonValue = {"value": item.value, "source": item.source}
        head, _, rest = item.name.partition(".")
        if head == "site" and rest:
            document["site"][rest] = said
        elif head == "executors" and rest:
            name, _, key = rest.partition(".")
            keys = document["executors"].setdefault(name, {})
            document["executors"][name] = {**(keys if isinstance(keys, Mapping) else {}), key: said}
        else:
            document["settings"][item.name] = said
    return {"schema": 1, **document}


def _plain(site: Site) -> Iterator[Setting]:
    settings = site.settings
    places = {"run_root": str(site.run_root), "workspace_root": str(site.workspace_root)}
    for field in dataclasses.fields(settings):
        if field.name not in _TABLES:
            value = places.get(field.name, getattr(settings, field.name))
            yield Setting(field.name, list(value) if isinstance(value, tuple) else value, settings.source(field.name))


def _profiles(settings: Settings) -> Iterator[Setting]:
    for name, table in settings.executors.items():
        for key, value in _flat(table):
            full = f"executors.{name}.{key}"
            yield Setting(full, _shown(key, value), settings.source(full))


def _flat(table: Mapping[str, JsonValue]) -> Iterator[tuple[str, JsonValue]]:
    for key, value in table.items():
        if key in ("env", "env_vars", "tunnel") and isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", item) for inner, item in value.items())
        else:
            yield key, value


def _site_values(settings: Settings) -> Iterator[Setting]:
    for name, value in settings.site.items():
        yield Setting(f"site.{name}", _shown(name, value), settings.source(f"site.{name}"))


def _shown(key: str, value: JsonValue) -> JsonValue:
    """Return a value without what is secret in it."""
    if isinstance(value, Mapping):
        return {inner: _shown(inner, item) for inner, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown("", item) for item in value]
    if not isinstance(value, str):
        return value
    last = key.rpartition(".")[2]
    is_named = (is_secret_name(last) or is_secret_variable(last)) and not holds_reference(value)
    return HIDDEN if is_named or find_secret(value, {}) else value
