"""What a profile sets, held against the fields that NeMo Run's executors have: by name and by type. Pure.

The fields themselves come from NeMo Run (`launchers.executors.read_fields`), in the form of a document, so that they
can be looked at where NeMo Run is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from nemo_gitexp.errors import SettingsError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.profileparts import (
    OWN_KEYS,
    REFUSED_KEYS,
    SHAPE_KEYS,
    ExecutorProfile,
    Kind,
    ProfileShape,
)
from nemo_gitexp.profiletable import holds_reference, nearest, profile_error, unknown_key
from nemo_gitexp.secretwords import is_secret_name

FieldType: TypeAlias = JsonValue
"""text, whole, number, flag, none, any; or ["list", type], ["table", type], ["either", type, …]."""

Fault: TypeAlias = "tuple[str, str, str | None]"
"""A key, what is wrong with it, and the nearest valid word."""

SHAPE_FIELDS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "local": {"tasks_per_node": "ntasks_per_node"},
        "slurm": {
            "nodes": "nodes",
            "tasks_per_node": "ntasks_per_node",
            "devices": "gpus_per_node",
            "image": "container_image",
        },
        "docker": {"tasks_per_node": "ntasks_per_node", "devices": "num_gpus", "image": "container_image"},
        "skypilot": {
            "nodes": "num_nodes",
            "tasks_per_node": "torchrun_nproc_per_node",
            "devices": "gpus_per_node",
            "image": "container_image",
        },
        "lepton": {
            "nodes": "nodes",
            "tasks_per_node": "nprocs_per_node",
            "devices": "gpus_per_node",
            "image": "container_image",
        },
        "dgxcloud": {
            "nodes": "nodes",
            "tasks_per_node": "nprocs_per_node",
            "devices": "gpus_per_node",
            "image": "container_image",
        },
        "kubeflow": {
            "nodes": "num_nodes",
            "tasks_per_node": "nprocs_per_node",
            "devices": "gpus_per_node",
            "image": "image",
        },
        "kuberay": {"image": "image"},
    }
)
"""For each kind, the field of NeMo Run's executor that a key of the shape becomes."""

_OURS: Final = frozenset({"launcher", "env_vars", "tunnel"})
"""Fields that keys of our own become."""

_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "text": "a text",
        "whole": "a whole number",
        "number": "a number",
        "flag": "true or false",
        "none": "nothing",
        "any": "anything",
    }
)


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One field: the type of its values, and whether it must be given."""

    type: FieldType
    required: bool


@dataclass(frozen=True, slots=True)
class KindFields:
    """The executor of one kind, by the name of its class; `fields` is None where it cannot be imported."""

    name: str
    fields: Mapping[str, FieldRule] | None


def render_fields(kinds: Mapping[str, KindFields]) -> dict[str, JsonValue]:
    """Return the document of all kinds."""
    return {
        kind: {
            "class": item.name,
            "fields": None
            if item.fields is None
            else {name: {"type": rule.type, "required": rule.required} for name, rule in item.fields.items()},
        }
        for kind, item in kinds.items()
    }


def parse_fields(document: JsonValue) -> dict[str, KindFields]:
    """Return what `render_fields` wrote.

    Raises:
        SettingsError: it is damaged.
    """
    try:
        return {str(kind): _parse_kind(item) for kind, item in _mapping(document).items()}
    except (KeyError, TypeError) as fault:
        raise SettingsError(
            f"the fields of NeMo Run's executors are damaged: {fault}", setting="", source=""
        ) from fault


def _parse_kind(item: JsonValue) -> KindFields:
    table = _mapping(item)
    fields = table["fields"]
    if fields is None:
        return KindFields(str(table["class"]), None)
    rules = {name: _mapping(rule) for name, rule in _mapping(fields).items()}
    return KindFields(
        str(table["class"]), {name: FieldRule(rule["type"], bool(rule["required"])) for name, rule in rules.items()}
    )


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is no table")
    return value


def find_faults(profile: ExecutorProfile, known: KindFields, *, is_bound: bool = False) -> list[Fault]:
    """Return what of a profile NeMo Run's executor does not know or cannot take; empty: nothing.

    Values of bound profiles, and of keys that are secrets by their name, are not repeated. Where the executor cannot
    be imported (an extra is not installed) nothing is known, and nothing is wrong.
    """
    if known.fields is None:
        return []
    faults = _shape_faults(profile)
    words = {*known.fields, *OWN_KEYS, *SHAPE_KEYS} - {*REFUSED_KEYS}
    for key, value in profile.options.items():
        rule = known.fields.get(key)
        if rule is None or key in _OURS:
            near = nearest(key, words)
            faults.append((key, f"{unknown_key(near)} ({known.name})", near))
        else:
            is_hidden = is_bound or is_secret_name(key)
            wrong = _mismatches(key, converted(value, rule.type), rule.type)
            faults += [
                (where, f"= {'…' if is_hidden else repr(item)} is not {what}", None) for where, item, what in wrong
            ]
    return faults


def require_valid(profile: ExecutorProfile, kinds: Mapping[str, KindFields]) -> None:
    """Check a profile against NeMo Run's fields.

    Raises:
        SettingsError: with all `faults`, and the nearest valid key of one that has none.
    """
    if faults := find_faults(profile, kinds[profile.kind]):
        raise profile_error(profile.name, faults)


def find_missing(profile: ExecutorProfile, known: KindFields) -> list[Fault]:
    """Return what must be given before anything can be submitted, as faults whose nearest word is the key itself."""
    missing = [
        name
        for name, rule in (known.fields or {}).items()
        if rule.required and name not in profile.options and name not in _given(profile)
    ]
    missing += ["root"] if not profile.place.shared and profile.kind == "slurm" and profile.place.root is None else []
    tunnel = profile.tunnel
    if tunnel is not None and tunnel.kind == "ssh":
        missing += [] if tunnel.host else ["tunnel.host"]
    return [(key, "is missing", None) for key in missing]


def _given(profile: ExecutorProfile) -> set[str]:
    """Return the required fields of NeMo Run that the shape or the place gives."""
    names = SHAPE_FIELDS[profile.kind]
    given = {field for key, field in names.items() if getattr(profile.shape, key) is not None}
    return given | {"nemo_run_dir", "pvc_nemo_run_dir"} if profile.place.root else given


def _shape_faults(profile: ExecutorProfile) -> list[Fault]:
    plain, names = ProfileShape(), SHAPE_FIELDS[profile.kind]
    set_keys = [key for key in ("image",) if getattr(profile.shape, key) != getattr(plain, key) and key not in names]
    return [(key, f"cannot be set: {profile.kind} jobs run in no container", None) for key in set_keys]


def _mismatches(where: str, value: JsonValue, kind: FieldType) -> list[tuple[str, JsonValue, str]]:
    """Return each value that is not of its type, and what it should be, down to the items of lists and tables."""
    if _fits(value, kind):
        return []
    if isinstance(kind, (list, tuple)) and kind[0] == "list" and isinstance(value, (list, tuple)):
        return [fault for at, item in enumerate(value) for fault in _mismatches(f"{where}[{at}]", item, kind[1])]
    if isinstance(kind, (list, tuple)) and kind[0] == "table" and isinstance(value, Mapping):
        return [fault for key, item in value.items() for fault in _mismatches(f"{where}.{key}", item, kind[1])]
    return [(where, value, describe_type(kind))]


def _fits(value: JsonValue, kind: FieldType) -> bool:
    if not isinstance(kind, (list, tuple)):
        return kind == "any" or str(kind) in _simple_types(value)
    if kind[0] == "either":
        return any(_fits(value, item) for item in kind[1:])
    if kind[0] == "list":
        return isinstance(value, (list, tuple)) and all(_fits(item, kind[1]) for item in value)
    return isinstance(value, Mapping) and all(_fits(item, kind[1]) for item in value.values())


def _simple_types(value: JsonValue) -> tuple[str, ...]:
    if isinstance(value, str):
        # What a reference stands for is known where it is bound.
        return ("text", "whole", "number", "flag") if holds_reference(value) else ("text",)
    if isinstance(value, bool):
        return ("flag",)
    if isinstance(value, int):
        return ("whole", "number")
    return ("number",) if isinstance(value, float) else ()


def describe_type(kind: FieldType) -> str:
    """Return a type in words."""
    if isinstance(kind, (list, tuple)):
        if kind[0] == "either":
            return " or ".join(dict.fromkeys(describe_type(item) for item in kind[1:] if item != "none"))
        return f"a {kind[0]} of {_plural(kind[1])}"
    return _WORDS.get(str(kind), str(kind))


def _plural(kind: FieldType) -> str:
    words = {"text": "texts", "whole": "whole numbers", "number": "numbers", "flag": "flags", "any": "anything"}
    return words.get(kind, kind) if isinstance(kind, str) else describe_type(kind).removeprefix("a ") + "s"


def converted(value: JsonValue, kind: FieldType) -> JsonValue:
    """Return a value as a field takes it: a text becomes the number it says.

    Of what references stand for and of git's configuration there are texts alone.
    """
    if isinstance(value, str) and not _fits(value, kind):
        for wanted in kind[1:] if isinstance(kind, (list, tuple)) and kind[0] == "either" else [kind]:
            found = _number(value, wanted)
            if found is not None:
                return found
    return value


def _number(text: str, kind: FieldType) -> JsonValue:
    if kind == "flag":
        return {"true": True, "false": False}.get(text.lower())
    try:
        return int(text) if kind == "whole" else float(text) if kind == "number" else None
    except ValueError:
        return None


def kind_fields(kinds: Mapping[str, KindFields], kind: Kind) -> KindFields:
    """Return the fields of one kind; of a kind that NeMo Run does not have, none."""
    return kinds.get(kind) or KindFields(kind, None)
