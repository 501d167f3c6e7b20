"""What a stage returns, through files: the same value comes back, the same value gives the same bytes."""

from __future__ import annotations

import enum
import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_gitexp.worker.results import StageResultError, load_result, save_result


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.StrEnum):
    RED = "red"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20)
KEYS = st.text(max_size=5) | st.integers() | st.tuples(st.integers())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(st.integers() | st.text(), max_size=4)
    ),
    max_leaves=12,
)


def through_files(value: object, place: Path) -> object:
    save_result(value, str(place))
    return load_result(str(place))


def same(a: object, b: object) -> bool:
    """Tell whether two values are equal and of equal types, NaN equal to itself."""
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = zip(a.items(), b.items(), strict=False)
        return len(a) == len(b) and all(same(x, y) and same(v, w) for (x, v), (y, w) in pairs)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_value_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("result")
    assert same(through_files(value, folder / "a"), value)
    save_result(value, str(folder / "b"))
    assert (folder / "a/result/value.json").read_bytes() == (folder / "b/result/value.json").read_bytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.zeros((0, 3), dtype=np.int8),
        np.array(["a", "bc"]),
        np.array(3.5),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    ],
)
def test_arrays_keep_shape_and_type(tmp_path: Path, array: np.ndarray) -> None:
    back = through_files({"x": [array]}, tmp_path / "r")["x"][0]  # type: ignore[index]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert (back == array).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tensors_keep_shape_and_type(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    back = through_files({"weights": {"w": tensor.t()}}, tmp_path / "r")["weights"]["w"]  # type: ignore[index]
    assert back.dtype == dtype
    assert torch.equal(back, tensor.t())


def test_a_state_of_a_module_keeps_its_order_and_a_conjugate_its_sign(tmp_path: Path) -> None:
    state = torch.nn.Linear(2, 1).state_dict()
    back = through_files({"state": state, "conj": torch.tensor([1 + 2j]).conj()}, tmp_path / "r")
    assert type(back["state"]) is type(state)  # type: ignore[index]
    assert list(back["state"]) == list(state)  # type: ignore[index]
    assert torch.equal(back["conj"], torch.tensor([1 - 2j]))  # type: ignore[index]


def test_a_tensor_with_a_gradient_and_a_scalar_of_numpy_are_values(tmp_path: Path) -> None:
    value = {"w": torch.ones(2, requires_grad=True), "loss": np.float32(0.5), "n": np.int64(3)}
    back = through_files(value, tmp_path / "r")
    assert torch.equal(back["w"], torch.ones(2))  # type: ignore[index]
    assert back["loss"] == np.float32(0.5)  # type: ignore[index]
    assert type(back["n"]) is np.int64  # type: ignore[index]


def test_paths_below_the_outputs_move_with_them(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    save_result({"model": here / "model.pt", "all": here}, str(here))
    here.rename(there)
    assert load_result(str(there)) == {"model": there / "model.pt", "all": there}


@pytest.mark.parametrize("path", [Path("/usr/share/x"), Path("data.csv")])
def test_a_path_elsewhere_is_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StageResultError, match="outside of the stage's outputs"):
        save_result({"x": path}, str(tmp_path))


@pytest.mark.parametrize(
    "value, where",
    [
        ({"a": [1, object()]}, r"result\['a'\]\[1\] is of type object"),
        ({"model": torch.nn.Linear(1, 1)}, r"result\['model'\] is of type torch.nn.*state_dict"),
        (np.array([object()]), "an array of Python objects"),
        ({"s": torch.eye(2).to_sparse()}, "sparse"),
        (lambda: 1, "result is of type function"),
        (Counter("ab"), r"result is of type collections.Counter"),
        ({"p": Point(1, 2)}, r"result\['p'\] is of type .*Point"),
        ([Colour.RED], r"result\[0\] is of type .*Colour"),
        (np.ma.masked_array([1, 2], [0, 1]), "MaskedArray"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_what_no_file_stands_for_is_refused_with_its_place(tmp_path: Path, value: object, where: str) -> None:
    with pytest.raises(StageResultError, match=where):
        save_result(value, str(tmp_path / "r"))


def test_a_value_that_contains_itself_is_refused(tmp_path: Path) -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(StageResultError, match="contains itself"):
        save_result(loop, str(tmp_path / "r"))
