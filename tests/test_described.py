"""A configured call as configuration: another process makes an equal one of its config.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent

TEXT = st.text(max_size=6).filter(lambda text: not text.startswith("="))  # which is how a float is spelt
KEYS = st.sampled_from(["a", "b", "x.y", 'q"', "", "é", "_x_", "0"])
LEAVES = st.one_of(
    st.tuples(st.just("plain"), st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXT),
    st.tuples(st.just("plain"), st.floats(allow_nan=False, allow_infinity=False)),
    st.tuples(st.just("plain"), st.sampled_from(["=inf", "=-inf", "described_subjects:train", "Activation.RELU"])),
    st.sampled_from([("enum", "Activation", "GELU"), ("enum", "Level", "HIGH"), ("enum", "Flags", "FAST", "SAFE")]),
    st.tuples(st.just("path"), st.sampled_from(["Path", "PurePosixPath"]), st.sampled_from(["a/b", "/x y", "."])),
    st.sampled_from(
        [("named", name, "torch") for name in ("float16", "relu", "nn.ReLU", "nn.functional.gelu", "strided")]
        + [("named", name, "numpy") for name in ("float32", "mean", "add")]
        + [("named", name, "here") for name in ("scale", "Model", "Optim")]
        + [("numpy", "dtype", "int8"), ("numpy", "float32", 1.5), ("numpy", "int64", 3)]
    ),
    st.tuples(st.just("pool"), st.integers(0, 3)),
)  # fmt: skip


MEMBERS = st.one_of(  # a set of several types has no stable form that says which is which
    st.lists(st.tuples(st.just("plain"), TEXT), max_size=3),
    st.lists(st.tuples(st.just("plain"), st.integers(0, 99)), max_size=3),
    st.lists(st.tuples(st.just("plain"), st.sampled_from(["=inf", 0.5, -1.0])), max_size=3),
    st.lists(st.sampled_from([("enum", "Activation", "GELU"), ("enum", "Activation", "RELU")]), max_size=3),
    st.lists(st.tuples(st.just("path"), st.just("Path"), st.sampled_from(["a", "b"])), max_size=3),
)


def holding(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.sampled_from(["hidden", "activation", "dtype", "layers", "inner"])
    optim = st.dictionaries(st.sampled_from(["lr", "betas", "place"]), inner)
    third = st.dictionaries(st.just("third"), inner)
    calls = st.sampled_from(["run.Config", "run.Partial", "fdl.Config", "fdl.Partial"])
    few = st.lists(inner, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(["list", "tuple", "deque"]), few),
        st.tuples(st.sampled_from(["set", "frozenset"]), MEMBERS),
        st.tuples(st.sampled_from(["dict", "ordered"]), st.dictionaries(KEYS, inner, max_size=3)),
        st.tuples(st.just("namespace"), st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)),
        st.tuples(calls, st.just("Model"), st.just([]), st.dictionaries(fields, inner, max_size=3)),
        st.tuples(calls, st.just("Optim"), st.just([]), optim),
        st.tuples(calls, st.just("placed"), st.lists(inner, min_size=1, max_size=2), third),
        st.tuples(st.just("object"), st.just("Size"), st.fixed_dictionaries({"height": inner})),
        st.tuples(st.just("object"), st.just("Frozen"), st.dictionaries(st.sampled_from(["rate", "names"]), inner)),
        st.tuples(st.just("functools"), st.lists(inner, max_size=1), st.dictionaries(st.just("by"), inner)),
    )  # fmt: skip


VALUES = st.recursive(LEAVES, holding, max_leaves=8)
PARAMETERS = st.sampled_from(["model", "optim", "lr", "path", "extra"])
CALLS = st.fixed_dictionaries(
    {
        "pool": st.lists(holding(LEAVES), max_size=2),
        "call": st.tuples(st.just("run.Partial"), st.just("train"), st.just([]), st.dictionaries(PARAMETERS, VALUES)),
    }
)


class Asked:
    """A process that describes calls and makes them again."""

    def __init__(self, hash_seed: str) -> None:
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
        argv = [sys.executable, str(HERE / "described_subjects.py")]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def __call__(self, spec: Any, config: str | None = None) -> dict[str, Any]:
        asked = {"spec": spec} if config is None else {"spec": spec, "config": config}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[Asked, Asked]]:
    """Two processes in which texts hash differently, so that sets are in different orders."""
    both = Asked("1"), Asked("4242")
    yield both
    for each in both:
        each.process.communicate()


@given(CALLS)
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_another_process_makes_an_equal_call_of_the_configuration(asked: tuple[Asked, Asked], spec: Any) -> None:
    one, other = asked
    told = one(spec)
    if "error" in told:
        raise AssertionError(told)
    made = other(spec, told["config"])
    assert made == {"is_equal": True, "is_described_alike": True, "unlike": [], "hash": told["hash"]}


def call(**arguments: Any) -> dict[str, Any]:
    return {"pool": [], "call": ["run.Partial", "train", [], arguments]}


MODEL = ["run.Config", "Model", [], {}]


def test_the_configuration_reads_like_one(asked: tuple[Asked, Asked]) -> None:
    told = asked[0](call(model=["run.Config", "Model", [], {"hidden": ["plain", 128]}], path=["path", "Path", "out"]))
    assert json.loads(told["config"]) == {
        "_partial_": True,
        "_target_": "described_subjects:train",
        "lr": 0.1,
        "model": {
            "_target_": "described_subjects:Model",
            "activation": "Activation.RELU",
            "dtype": "torch.float32",
            "hidden": 128,
            "inner": None,
            "layers": [1, 2],
        },
        "optim": None,
        "path": "out",
    }


def test_what_json_and_annotations_cannot_tell_stands_beside_the_values(asked: tuple[Asked, Asked]) -> None:
    spec = call(model=["tuple", [["enum", "Level", "HIGH"]]], optim=["named", "relu", "torch"], extra=["plain", "=inf"])
    config = json.loads(asked[0](spec)["config"])
    assert (config["model"], config["optim"], config["extra"]) == (
        [2],
        "torch:_VariableFunctionsClass.relu",
        "Infinity",
    )
    assert config["_types_"] == {
        "extra": "builtins:float",
        "model": "builtins:tuple",
        "model.0": "described_subjects:Level",
        "optim": "reference",
    }


def test_objects_that_stand_in_several_places_do_so_again(asked: tuple[Asked, Asked]) -> None:
    spec = {
        "pool": [MODEL],
        "call": ["run.Partial", "train", [], {"model": ["pool", 0], "optim": ["list", [["pool", 0]]]}],
    }
    told = asked[0](spec)
    assert json.loads(told["config"])["_shared_"] == {"optim.0": "model"}
    assert asked[1](spec, told["config"])["unlike"] == []
    apart = asked[0](call(model=MODEL, optim=["list", [MODEL]]))
    assert "_shared_" not in json.loads(apart["config"])
    assert apart["hash"] != told["hash"]


@pytest.mark.parametrize(
    "pool, arguments",
    [
        ([["deque", []]], {"model": ["dict", {"a": ["pool", 0], "b": ["pool", 0]}], "optim": MODEL, "extra": MODEL}),
        ([], {"model": ["dict", {"b": MODEL, "a": MODEL}]}),
        (
            [["list", []], ["dict", {"a": ["pool", 0]}]],
            {"optim": ["dict", {"a": ["pool", 1]}], "lr": ["run.Config", "placed", [["pool", 0], ["pool", 1]], {}]},
        ),
    ],
    ids=["beside defaults", "out of order", "one in another"],
)
def test_what_is_shared_is_so_again(asked: tuple[Asked, Asked], pool: list[Any], arguments: dict[str, Any]) -> None:
    spec = {"pool": pool, "call": ["run.Partial", "train", [], arguments]}
    told = asked[0](spec)
    made = asked[1](spec, told["config"])
    assert made == {"is_equal": True, "is_described_alike": True, "unlike": [], "hash": told["hash"]}


def test_defaults_left_out_and_written_out_are_the_same_configuration(asked: tuple[Asked, Asked]) -> None:
    given = ["run.Config", "Model", [], {"hidden": ["plain", 64], "activation": ["enum", "Activation", "RELU"]}]
    assert asked[0](call(model=MODEL))["hash"] == asked[1](call(model=given, lr=["plain", 0.1]))["hash"]


def test_arrays_keep_their_type(asked: tuple[Asked, Asked]) -> None:
    spec = call(model=["array", "int8", [1, 2]], optim=["tensor", "bfloat16", [[1.0], [2.0]]])
    told = asked[0](spec)
    assert json.loads(told["config"])["_types_"] == {
        "model": "numpy:ndarray int8",
        "optim": "torch:Tensor torch.bfloat16",
    }
    assert asked[1](spec, told["config"])["unlike"] == []


@pytest.mark.parametrize(
    "value, error, key, said",
    [
        (["list", [["dict", {"x": ["plain", "=nan"]}]]], "CanonicalFormError", "model.0.x", "NaN"),
        (["odd", "lambda"], "CanonicalFormError", "model", "lambda"),
        (["odd", "local"], "CanonicalFormError", "model", "defined inside a function"),
        (["odd", "method"], "CanonicalFormError", "model", "method"),
        (["odd", "bytes"], "CanonicalFormError", "model", "bytes"),
        (["odd", "object"], "CanonicalFormError", "model", "no stable form"),
        (["odd", "int keys"], "CanonicalFormError", "model.1", "no text"),
        (["odd", "range"], "UnbuildableConfigError", "model", "range"),
        (["odd", "defaultdict"], "UnbuildableConfigError", "model", "defaultdict"),
        (["odd", "parameter"], "UnbuildableConfigError", "model", "Parameter"),
        (["odd", "empty array"], "UnbuildableConfigError", "model", "ndarray"),
        (["odd", "factory"], "UnbuildableConfigError", "model", "ArgFactory"),
        (["odd", "varargs"], "UnbuildableConfigError", "model", "*args"),
        (["set", [["plain", 1], ["enum", "Activation", "GELU"]]], "UnbuildableConfigError", "model", "set"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_no_job_would_get_back_is_refused_by_its_key(
    asked: tuple[Asked, Asked], value: Any, error: str, key: str, said: str
) -> None:
    told = asked[0](call(model=value))
    assert (told["error"], told["key"]) == (error, key)
    assert said in told["message"]


def test_a_parameter_with_a_name_of_ours_is_refused(asked: tuple[Asked, Asked]) -> None:
    for name in ("_types_", "_shared_", "_target_", "_args_"):
        assert "meaning of its own" in asked[0](call(**{name: ["plain", 1]}))["message"]


def test_a_target_that_is_gone_is_named(asked: tuple[Asked, Asked]) -> None:
    config = json.dumps({"_target_": "described_subjects:train", "model": {"_target_": "gone.away:Model"}})
    told = asked[0](call(), config)
    assert (told["error"], told["key"]) == ("MissingModuleError", "model._target_")
    assert "gone" in told["message"]
