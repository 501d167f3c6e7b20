"""Configurations of every kind the hash accepts; as a program: prints their hashes, one JSON list.

Standard library only and by path, so that other Python versions and hash seeds can be asked.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import pathlib
import sys
import types
import uuid

from nemo_gitexp.versioning import config_hash


@dataclasses.dataclass
class Optimizer:
    name: str = "adam"
    betas: tuple[float, ...] = (0.9, 0.999)
    extra: dict[str, object] = dataclasses.field(default_factory=dict)


class Colour(enum.Enum):
    RED = enum.auto()
    BLUE = enum.auto()


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.StrEnum):
    FAST = "fast"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - the untyped kind exists as well


def train(epochs: int, lr: float = 0.1) -> None:
    """Stand for any function of a user."""


SUBJECTS: list[object] = [
    {"text": {f"name{number}" for number in range(50)}, "mixed": {1, "a", (2, 3), None, 2.5, frozenset({"x", "y"})}},
    {"numbers": {10, 9, 2**70, -3, 0.5}},
    Optimizer(extra={"b": {1, 2}, "a": Colour.BLUE}),
    {"enums": [Colour.RED, Level.LOW, Mode.FAST, Access.READ | Access.WRITE]},
    {"paths": [pathlib.Path("/data/x"), pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("a\\b")]},
    {"times": [dt.date(2024, 1, 2), dt.datetime(2024, 1, 2, 3, 4, 5, 6, dt.UTC), dt.time(1, 2)]},
    {"words": [uuid.UUID(int=5), decimal.Decimal("1.50")]},
    {"code": [train, Optimizer, len, dict, functools.partial(train, 3, lr=0.2)]},
    Point(1, {"y": [1.0]}),
    argparse.Namespace(lr=0.1, data=pathlib.Path("d")),
    types.SimpleNamespace(a=types.MappingProxyType({"z": 1, "a": 2})),
    collections.OrderedDict(b=range(3), a=collections.deque([1, 2])),
    {"floats": [0.1, 1e22, 1e-7, 5e-324, float("inf"), float("-inf"), -0.0]},
]

if __name__ == "__main__":
    sys.stdout.write(json.dumps([config_hash(subject) for subject in SUBJECTS]))
