"""Executor profiles as tables of settings: read with every fault named, and written. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal, cast

from nemo_gitexp.errors import SettingsError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.profileparts import (
    DATA_WAYS,
    ENV_KEYS,
    KINDS,
    LAUNCHERS,
    OWN_KEYS,
    PLACE_KEYS,
    REFUSED_KEYS,
    SHAPE_KEYS,
    SHAPE_SPELLINGS,
    TUNNEL_KEYS,
    TUNNELS,
    DataWay,
    ExecutorProfile,
    Kind,
    Place,
    ProfileShape,
    TunnelProfile,
)
from nemo_gitexp.profileshape import shape_faults
from nemo_gitexp.topology import NUMERIC_VARIABLES

REFERENCE: Final = re.compile(r"\$\{(env|site):([A-Za-z0-9_.-]+)\}")
_WRITTEN_OUT: Final = ("additional_parameters", "setup_lines")
"""Fields whose values NeMo Run writes into scripts as they are."""
_INSTEAD: Final[Mapping[str, str]] = MappingProxyType({"root": " (the setting run_root says where local runs lie)"})
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def parse_profile(name: str, table: Mapping[str, JsonValue]) -> ExecutorProfile:
    """Return the profile in one table of settings.

    Args:
        name: of the profile.
        table: as merged from all sources; keys that are none of ours become `options`, unchecked.

    Raises:
        SettingsError: with all `faults`, and the `nearest` valid word of the first that has one.
    """
    reader = _Reader(name, table)
    kind = cast("Kind", reader.word("type", KINDS) or "local")
    if name != "local" and table.get("type") is None:
        reader.fault("type", f"is needed: one of {', '.join(KINDS)}")
    shape = reader.shape(kind)
    numeric, env = reader.variables()
    tunnel = reader.tunnel(kind)
    profile = ExecutorProfile(
        name=name,
        kind=kind,
        shape=replace(shape, environment=MappingProxyType(numeric)),
        options=MappingProxyType(reader.options()),
        tunnel=tunnel,
        env=MappingProxyType(env),
        place=reader.place(kind, tunnel),
    )
    reader.require_no_faults()
    return profile


def render_profile(profile: ExecutorProfile) -> dict[str, JsonValue]:
    """Return the table that `parse_profile` makes the profile from again; what is as by default is left out."""
    shape, tunnel, place = profile.shape, profile.tunnel, profile.place
    table: dict[str, JsonValue] = {"type": profile.kind, **profile.options}
    table |= {key: cast("JsonValue", getattr(shape, key)) for key in SHAPE_SPELLINGS if getattr(shape, key) is not None}
    if shape.environment or profile.env:
        table["env"] = {**shape.environment, **profile.env}
    if tunnel is not None:
        given = {key: cast("JsonValue", getattr(tunnel, key)) for key in TUNNEL_KEYS[1:]}
        table["tunnel"] = {"type": tunnel.kind, **{key: value for key, value in given.items() if value is not None}}
    own = ("python",) if profile.kind == "local" else PLACE_KEYS
    table |= {key: cast("JsonValue", getattr(place, key)) for key in own if getattr(place, key) is not None}
    return table


def holds_variable(value: JsonValue) -> bool:
    """Return whether a value, or a text within it, refers to the environment, which is where secrets are."""
    if isinstance(value, Mapping):
        return any(holds_variable(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(holds_variable(item) for item in value)
    return isinstance(value, str) and any(match[1] == "env" for match in REFERENCE.finditer(value))


def holds_reference(text: str) -> bool:
    """Return whether a text holds a reference."""
    return REFERENCE.search(text) is not None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the word that is most likely meant, if any resembles it."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def unknown_key(near: str | None) -> str:
    """Return what is wrong with a key that nobody knows."""
    return f"is no key; did you mean {near}?" if near else "is no key"


def profile_error(name: str, faults: Iterable[tuple[str, str, str | None]]) -> SettingsError:
    """Return the error that names all faults of a profile: each the key, what is wrong with it, the nearest word."""
    found = list(faults)
    key, _, near = next((fault for fault in found if fault[2]), found[0])
    said = "; ".join(f"{key} {what}" for key, what, _ in found)
    return SettingsError(
        f"executor {name}: {said}",
        hint=f"did you mean {near}?" if near else f"nemo-gitexp doctor --executor {name}",
        setting=f"executors.{name}.{key}",
        faults=[f"{key} {what}" for key, what, _ in found],
        nearest=near,
    )


class _Reader:
    """Reads the keys of one table and gathers what is wrong with them."""

    def __init__(self, name: str, table: Mapping[str, JsonValue]) -> None:
        self._name = name
        self._table = table
        self._faults: list[tuple[str, str, str | None]] = []

    def fault(self, key: str, what: str, near: str | None = None) -> None:
        self._faults.append((key, what, near))

    def require_no_faults(self) -> None:
        if self._faults:
            raise profile_error(self._name, self._faults)

    def word(self, key: str, words: Iterable[str]) -> str | None:
        value, known = self._table.get(key), tuple(words)
        if value is None or value in known:
            return None if value is None else str(value)
        near = nearest(value, known) if isinstance(value, str) else None
        self.fault(key, f"= {value!r} is none of {', '.join(known)}", near)
        return known[0]

    def shape(self, kind: Kind) -> ProfileShape:
        found = {key: self._spelled(key) for key in SHAPE_SPELLINGS}
        image = self._image(found["image"])
        launcher = found["launcher"]
        shape = ProfileShape(
            nodes=self._count(found["nodes"], 1) or 1,
            tasks_per_node=self._count(found["tasks_per_node"], 1) or 1,
            devices=self._count(found["devices"], 0),
            launcher=None if launcher is None else self.word(launcher, LAUNCHERS),
            image=image,
        )
        self._faults += shape_faults(kind, shape)
        return shape

    def _spelled(self, key: str) -> str | None:
        """Return which spelling of a key of the shape the table has."""
        given = [spelling for spelling in SHAPE_SPELLINGS[key] if spelling in self._table]
        if len(given) > 1:
            self.fault(given[1], f"is {given[0]} once more")
        return given[0] if given else None

    def _count(self, key: str | None, least: int) -> int | None:
        if key is None:
            return None
        value = self._table[key]
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        self.fault(key, f"= {value!r} is no whole number of at least {least}")
        return None

    def _image(self, key: str | None) -> str | None:
        if key is None:
            return None
        text = _text(self, key, self._table[key])
        if text is not None and holds_reference(text):
            self.fault(key, "is recorded, so it cannot refer to this machine; image_at says where a site keeps it")
        return text

    def variables(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the numeric variables, which are recorded, and the others."""
        given = [key for key in ENV_KEYS if key in self._table]
        if len(given) > 1:
            self.fault("env_vars", "is env once more")
        table = self._mapping(given[0]) if given else {}
        numeric: dict[str, str] = {}
        others: dict[str, str] = {}
        for name, value in sorted(table.items()):
            key = f"{given[0]}.{name}"
            if not _VARIABLE.fullmatch(name):
                self.fault(key, "is no name of a variable")
            elif not isinstance(value, (str, int, float)) or isinstance(value, bool) or "\0" in str(value):
                self.fault(key, f"= {value!r} is no text and no number")
            elif name not in NUMERIC_VARIABLES:
                others[name] = str(value)
            elif holds_reference(str(value)):
                self.fault(key, "changes numbers and is recorded, so it cannot refer to this machine")
            else:
                numeric[name] = str(value)
        return numeric, others

    def tunnel(self, kind: Kind) -> TunnelProfile | None:
        if "tunnel" not in self._table:
            return None
        if kind != "slurm":
            self.fault("tunnel", f"is for slurm, not for {kind}")
        inner = _Reader(self._name, {f"tunnel.{key}": value for key, value in self._mapping("tunnel").items()})
        inner._faults = self._faults
        return inner.tunnel_itself()

    def tunnel_itself(self) -> TunnelProfile:
        for key in self._table:
            plain = key.removeprefix("tunnel.")
            if plain not in TUNNEL_KEYS:
                near = nearest(plain, TUNNEL_KEYS)
                self.fault(key, unknown_key(near), near)
        way = self.word("tunnel.type", TUNNELS) or ("ssh" if "tunnel.host" in self._table else "local")
        texts = {key: self.text(f"tunnel.{key}") for key in TUNNEL_KEYS if key not in ("type", "port")}
        if holds_variable(texts["pre_command"]):
            # It stands in arguments of ssh, which everybody sees, and in the run directory.
            self.fault("tunnel.pre_command", "cannot refer to the environment, it is no secret; use env for variables")
        port = self._count("tunnel.port" if "tunnel.port" in self._table else None, 1)
        return TunnelProfile(kind=cast('Literal["local", "ssh"]', way), port=port, **texts)

    def place(self, kind: Kind, tunnel: TunnelProfile | None) -> Place:
        if kind == "local":
            for key in [key for key in PLACE_KEYS if key != "python" and key in self._table]:
                self.fault(key, f"is for other machines than this one: leave it out{_INSTEAD.get(key, '')}")
            return Place(self.text("python"))
        root, cache = self.text("root"), self.text("cache")
        is_near = kind in ("local", "docker") or (kind == "slurm" and (tunnel is None or tunnel.kind == "local"))
        shared = self._table.get("shared", is_near or (kind == "slurm" and root is None))
        if not isinstance(shared, bool):
            self.fault("shared", f"= {shared!r} is neither true nor false")
        way = self.word("data", DATA_WAYS) or ("cache" if cache else "copy")
        if way == "cache" and cache is None:
            self.fault("data", '= "cache" needs cache, a DVC cache on the site', "cache")
        return Place(self.text("python"), root, bool(shared), cache, cast("DataWay", way), self.text("image_at"))

    def options(self) -> dict[str, JsonValue]:
        own = {*OWN_KEYS, *SHAPE_KEYS, *ENV_KEYS}
        rest = {key: value for key, value in self._table.items() if key not in own}
        for key in [key for key in rest if key in REFUSED_KEYS]:
            self.fault(key, f"cannot be set: {REFUSED_KEYS[key]}")
            del rest[key]
        way = self._table.get("tunnel")
        for key in _WRITTEN_OUT if isinstance(way, Mapping) and way.get("job_dir") else ():
            if holds_variable(rest.get(key)):
                self.fault(key, "refers to the environment, and others may read tunnel.job_dir; use env for variables")
        return rest

    def text(self, key: str) -> str | None:
        return None if self._table.get(key) is None else _text(self, key, self._table[key])

    def _mapping(self, key: str) -> Mapping[str, JsonValue]:
        value = self._table[key]
        if isinstance(value, Mapping):
            return value
        self.fault(key, f"= {value!r} is no table")
        return {}


def _text(reader: _Reader, key: str, value: JsonValue) -> str | None:
    if isinstance(value, str) and value and "\0" not in value:
        return value
    reader.fault(key, f"= {value!r} is no text")
    return None
