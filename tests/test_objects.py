"""Configurations that are objects come out of the building as they went in, or are refused by key."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import functools
import pathlib
import uuid
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, Optional, Union

import pytest

from nemo_gitexp.errors import CanonicalFormError, UnbuildableConfigError
from nemo_gitexp.objects import buildable_config
from nemo_gitexp.worker.rebuild import NoSuchTargetError, rebuild


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Mode(enum.IntEnum):
    FAST = 1


class Pair(NamedTuple):
    low: float
    high: Optional[pathlib.PurePosixPath] = None  # noqa: UP045 - both spellings


@dataclass(frozen=True)
class Adam:
    lr: float = 0.1
    betas: tuple[float, ...] = (0.9, 0.99)
    colour: Colour = Colour.RED
    mode: Mode = Mode.FAST


@dataclass
class Model:
    optimizer: Adam = field(default_factory=Adam)
    layers: list[Pair] = field(default_factory=lambda: [Pair(0.5)])
    where: pathlib.Path | None = None
    names: set[str] = field(default_factory=set)
    either: Union[int, Colour, str] = "x"  # noqa: UP007 - both spellings
    since: dt.date = dt.date(2026, 1, 2)
    key: uuid.UUID = field(default_factory=lambda: uuid.UUID(int=3))
    limit: float = float("inf")
    queue: collections.deque[int] = field(default_factory=collections.deque)
    table: dict[str, tuple[int, int]] = field(default_factory=dict)
    activation: Any = None
    kind: type = int
    twice: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.twice = self.optimizer.lr * 2


@dataclass
class Loose:
    value: Any = None


def build(width: int, colour: Colour = Colour.RED) -> dict[str, Any]:
    raise AssertionError("a call is not made in the launching process")


def scaled(x: float, *, by: float) -> float:
    return x * by


GIVEN: list[object] = [
    Model(),
    Model(
        Adam(1, (), Colour.BLUE), [Pair(1.0, pathlib.PurePosixPath("a/b"))], pathlib.Path("data"), {"a", "b"},
        Colour.BLUE, queue=collections.deque([1, 2]), table={"a": (1, 2)}, kind=dict,
    ),
    {"model": Model(either=3), "plain": [1, 2.5, None, "x", {"deep": Adam()}]},
    Loose(Adam(lr=3.0)),
    Loose(functools.partial(scaled, by=2.0)),
    {"_target_": "torch.optim.SGD", "model": Adam()},
]  # fmt: skip


@pytest.mark.parametrize("given", GIVEN, ids=lambda value: type(value).__name__)
def test_a_built_configuration_is_the_one_that_was_given(given):
    plain, build = buildable_config(given)
    assert build
    made = rebuild(plain)
    if isinstance(given, Loose) and isinstance(given.value, functools.partial):
        assert (made.value.func, made.value.keywords) == (scaled, {"by": 2.0})
    else:
        assert made == given
        assert type(made) is type(given)


def test_mappings_alone_are_data_and_nothing_is_built():
    given = {"a": (1, 2), "path": pathlib.Path("x"), "_target_": "pkg:Thing", "kind": int, "deep": {"c": Colour.RED}}
    plain, build = buildable_config(given)
    assert not build
    assert plain["a"] == [1, 2]


@pytest.mark.parametrize(
    "given,key",
    [
        ({"m": Loose((1, 2))}, "m.value"),
        ({"m": Loose(), "deep": {"er": [pathlib.Path("x")]}}, "deep.er.0"),
        ({"m": Loose(Colour.RED)}, "m.value"),
        ({"m": Loose({1, 2})}, "m.value"),
        ({"m": Loose(float("inf"))}, "m.value"),
        ({"m": Loose(SimpleNamespace(a=1))}, "m.value"),
        ({"m": Adam(), "other": {"_target_": "tests:Thing"}}, "other._target_"),
        ({"m": Adam(), "other": {"_target_": "test_objects:Adam", "lr": 1.0}}, "other"),
    ],
)
def test_what_would_come_out_differently_is_refused_by_its_key(given, key):
    with pytest.raises(UnbuildableConfigError) as caught:
        buildable_config(given)
    assert caught.value.facts["key"] == key


def test_a_class_that_cannot_be_made_from_its_fields_is_refused():
    @dataclass
    class Inner:
        a: int

    @dataclass
    class Extra:
        a: int
        seed: dataclasses.InitVar[int]

        def __post_init__(self, seed: int) -> None:
            self.a += seed

    with pytest.raises(CanonicalFormError):
        buildable_config({"m": Inner(1)})
    globals()["Extra"], Extra.__qualname__ = Extra, "Extra"
    with pytest.raises(UnbuildableConfigError, match="seed"):
        buildable_config({"m": Extra(1, 2)})
    with pytest.raises(NoSuchTargetError):
        rebuild({"_target_": "test_objects:Nobody"})


def test_descriptions_of_nemo_run_are_checked_without_calling_what_they_describe():
    run = pytest.importorskip("fiddle")
    given = {
        "model": run.Config(Model, optimizer=run.Config(Adam, lr=0.5)),
        "call": run.Config(build, 3),
        "later": run.Partial(scaled, by=3.0),
    }
    plain, build_it = buildable_config(given)
    assert build_it
    made = rebuild({key: plain[key] for key in ("model", "later")})
    assert made["model"] == Model(Adam(lr=0.5))
    assert made["later"](2.0) == 6.0
    with pytest.raises(AssertionError, match="not made"):
        rebuild(plain)


def test_leaves_of_torch_and_numpy_are_restored_where_they_are_annotated():
    torch = pytest.importorskip("torch")
    import numpy as np

    made = dataclasses.make_dataclass("Typed", [("dtype", torch.dtype), ("scale", np.float32), ("kind", np.dtype)])
    made.__module__ = __name__
    globals()["Typed"] = made
    given = made(torch.bfloat16, np.float32(0.1), np.dtype("float64"))
    assert rebuild(buildable_config(given)[0]) == given
    with pytest.raises(UnbuildableConfigError):
        buildable_config(Loose(torch.float32))
