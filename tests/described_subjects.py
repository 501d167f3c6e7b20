"""Configured calls of every kind, built of plain specifications, so that two processes can have the same one.

Run as a script it answers `{"spec"}` with the text of the config.json of that call, and `{"spec", "config"}` with what
it makes of a config.json, a line each.
"""

from __future__ import annotations

import collections
import enum
import functools
import json
import sys
import types
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fiddle
import nemo_run as run
import numpy as np
import torch


def local() -> Any:
    def inner() -> None: ...

    return inner


class Holder:
    def method(self) -> None: ...


class Activation(enum.Enum):
    RELU = "relu"
    GELU = "gelu"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Flags(enum.Flag):
    FAST = 1
    SAFE = 2


class Size(NamedTuple):
    height: int
    width: int = 8


@dataclass(frozen=True)
class Frozen:
    rate: float = 0.5
    names: tuple[str, ...] = ("a",)


@dataclass
class Model:
    hidden: int = 64
    activation: Activation = Activation.RELU
    dtype: torch.dtype = torch.float32
    layers: list[int] = field(default_factory=lambda: [1, 2])
    inner: Any = None


class Optim:
    """Holds what it is given in its own way; never made while a call is described."""

    def __init__(self, lr: Any = 0.1, *, betas: tuple[float, float] = (0.9, 0.99), place: Path = Path("here")) -> None:
        raise AssertionError("it is described, not made")


def train(model: Any = None, optim: Any = None, lr: float = 0.1, path: Path | None = None, **rest: Any) -> None:
    raise AssertionError("it is described, not called")


def placed(first: Any, second: Any = 2, /, third: Any = 3) -> None:
    raise AssertionError("it is described, not called")


def gather(first: Any, *others: Any) -> None:
    raise AssertionError("it is described, not called")


def scale(value: float, by: Any = 2.0) -> float:
    raise AssertionError("it is described, not called")


HERE = sys.modules[__name__]
KINDS = {
    "run.Config": run.Config,
    "run.Partial": run.Partial,
    "fdl.Config": fiddle.Config,
    "fdl.Partial": fiddle.Partial,
}
SEQUENCES = {"list": list, "tuple": tuple, "deque": collections.deque, "set": set, "frozenset": frozenset}
MAPPINGS = {"dict": dict, "ordered": collections.OrderedDict, "namespace": lambda items: types.SimpleNamespace(**items)}


ODD = {
    "lambda": lambda: lambda: 1,
    "local": local,
    "method": lambda: Holder().method,
    "object": Holder,
    "bytes": lambda: b"x",
    "int keys": lambda: {1: 2},
    "range": lambda: range(3),
    "defaultdict": lambda: collections.defaultdict(list, x=[1]),
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "empty array": lambda: np.zeros((0, 3)),
    "factory": lambda: fiddle.ArgFactory(Model),
    "varargs": lambda: fiddle.Config(gather, 1, 2, 3),
}


def build(spec: Any, pool: list[Any]) -> Any:  # noqa: C901, PLR0911 - one line a kind
    """Return the value that a specification `[kind, …]` stands for; `["pool", n]` is the same object each time."""
    kind, *rest = spec
    if kind == "plain":
        return float(rest[0][1:]) if isinstance(rest[0], str) and rest[0].startswith("=") else rest[0]
    if kind == "pool":
        return pool[rest[0] % len(pool)] if pool else None
    if kind == "odd":
        return ODD[rest[0]]()
    if kind in ("array", "tensor"):
        library, make = (np, np.array) if kind == "array" else (torch, torch.tensor)
        return make(rest[1], dtype=getattr(library, rest[0]))
    if kind == "enum":
        return functools.reduce(lambda one, other: one | other, [getattr(HERE, rest[0])[name] for name in rest[1:]])
    if kind == "path":
        return {"Path": Path, "PurePosixPath": PurePosixPath}[rest[0]](rest[1])
    if kind == "named":
        return functools.reduce(getattr, rest[0].split("."), {"torch": torch, "numpy": np, "here": HERE}[rest[1]])
    if kind == "numpy":
        return getattr(np, rest[0])(rest[1])
    if kind in SEQUENCES:
        return SEQUENCES[kind]([build(item, pool) for item in rest[0]])
    items = {key: build(item, pool) for key, item in rest[-1].items()}
    if kind in MAPPINGS:
        return MAPPINGS[kind](items)
    if kind == "functools":
        return functools.partial(scale, *[build(item, pool) for item in rest[0]], **items)
    if kind == "object":
        return getattr(HERE, rest[0])(**items)
    return KINDS[kind](getattr(HERE, rest[0]), *[build(item, pool) for item in rest[1]], **items)


def build_call(spec: Any) -> Any:
    pool: list[Any] = []
    for item in spec["pool"]:
        pool.append(build(item, pool))
    return build(spec["call"], pool)


def unlike(given: Any, made: Any, seen: tuple[dict[int, int], dict[int, int]] | None = None) -> list[str]:
    """Return what differs: types, values, and which parts are one and the same object."""
    seen = seen or ({}, {})
    if type(given) is not type(made):
        return [f"{type(given)} became {type(made)}"]
    if isinstance(given, (fiddle.Buildable, list, dict)) or (is_dataclass(given) and not isinstance(given, type)):
        places = [memory.setdefault(id(value), len(memory)) for memory, value in zip(seen, (given, made), strict=True)]
        if places[0] != places[1]:
            return [f"{given!r} is shared otherwise: {places}"]
    ours, theirs = _held(given), _held(made)
    if ours is None or theirs is None:
        return [] if repr(given) == repr(made) else [f"{given!r} became {made!r}"]
    missing = [f"{key} is gone" for key in ours if key not in theirs]
    return missing + [line for key in ours if key in theirs for line in unlike(ours[key], theirs[key], seen)]


def _held(value: Any) -> dict[Any, Any] | None:  # noqa: PLR0911 - one line a kind
    if isinstance(value, fiddle.Buildable):
        return dict(value.__arguments__)
    if isinstance(value, functools.partial):
        return {"func": value.func, **dict(enumerate(value.args)), **value.keywords}
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple, collections.deque)):
        return dict(enumerate(value))
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return {"dtype": value.dtype, "shape": tuple(value.shape), "items": repr(value.tolist())}
    if isinstance(value, (set, frozenset)):
        return {repr(item): type(item) for item in value}
    if isinstance(value, types.SimpleNamespace) or (is_dataclass(value) and not isinstance(value, type)):
        return vars(value)
    return None


def describe(spec: Any) -> dict[str, Any]:
    """Return the config.json of a call, as text."""
    from nemo_gitexp.described import describe_call
    from nemo_gitexp.jsontext import render_json
    from nemo_gitexp.versioning import config_hash

    config = describe_call(build_call(spec))
    return {"config": render_json(config).decode(), "hash": config_hash(config)}


def restore(spec: Any, config: str) -> dict[str, Any]:
    """Return what becomes of a config.json, beside the call that it was written for."""
    from nemo_gitexp.described import describe_call, in_recorded_order, restore_call
    from nemo_gitexp.jsontext import parse_json
    from nemo_gitexp.versioning import config_hash

    document = parse_json(config.encode(), "config.json")
    call, made = build_call(spec), restore_call(document)
    has_no_answer = any(word in json.dumps(spec) for word in ("functools", "array", "tensor"))  # to what is equal
    return {
        "is_equal": has_no_answer or bool(made == call or made == in_recorded_order(call)),
        "unlike": unlike(call, made),
        "is_described_alike": describe_call(made) == document,
        "hash": config_hash(describe_call(call)),
    }


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    from nemo_gitexp.errors import GitexpError

    try:
        return restore(asked["spec"], asked["config"]) if "config" in asked else describe(asked["spec"])
    except GitexpError as fault:
        return {"error": type(fault).__name__, "message": fault.message, "key": fault.facts.get("key")}


if __name__ == "__main__":
    import described_subjects

    for line in sys.stdin:
        sys.stdout.write(json.dumps(described_subjects.answer(json.loads(line))) + "\n")
        sys.stdout.flush()
