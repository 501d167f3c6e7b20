"""The difference of two experiments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_documents import SHA_B, environment, experiment, output

from nemo_gitexp.comparison import compare_configs, compare_experiments, compare_metrics, differs, flatten_config

CONFIGS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


def diff(a, b, *, files=(), env_a=None, env_b=None, goals=None):
    return compare_experiments(
        a,
        b,
        code_files=files,
        environment_a=environment() if env_a is None else env_a,
        environment_b=environment() if env_b is None else env_b,
        goals=goals or {},
    )


def test_nested_keys_become_dotted_paths_and_lists_stay_whole():
    assert flatten_config({"a": {"b": {"c": 1}, "d": [1, {"x": 2}]}, "e": {}, "f": []}) == {
        "a.b.c": 1,
        "a.d": [1, {"x": 2}],
        "e": {},
        "f": [],
    }


def test_keys_with_dots_quotes_or_nothing_are_quoted():
    flat = flatten_config({"a.b": 1, "a": {"b": 2, "": 3, 'q"': 4}})
    assert flat == {'"a.b"': 1, "a.b": 2, 'a.""': 3, 'a."q\\""': 4}


@given(CONFIGS)
def test_a_configuration_does_not_differ_from_itself(config):
    difference = compare_configs(config, config)
    assert {**difference["changed"], **difference["only_a"], **difference["only_b"]} == {}


@given(CONFIGS, CONFIGS)
def test_the_difference_applied_to_one_side_gives_the_other(a, b):
    difference = compare_configs(a, b)
    patched = {**flatten_config(a), **{key: pair["b"] for key, pair in difference["changed"].items()}}
    patched = {key: value for key, value in patched.items() if key not in difference["only_a"]} | difference["only_b"]
    assert repr(sorted(patched.items())) == repr(sorted(flatten_config(b).items()))


@pytest.mark.parametrize(
    "a, b", [(1, 1.0), (1, True), (0, False), ("1", 1), (None, "null"), (0.0, -0.0), ([1], [1.0]), ({}, [])]
)
def test_values_of_another_type_differ(a, b):
    assert compare_configs({"k": a}, {"k": b})["changed"] == {"k": {"a": a, "b": b}}


def test_missing_is_not_null():
    difference = compare_configs({"k": None}, {})
    assert difference["only_a"] == {"k": None}
    assert difference["changed"] == {}


def test_an_experiment_does_not_differ_from_itself():
    assert not differs(diff(experiment(), experiment()))


def test_two_names_alone_are_no_difference():
    assert not differs(diff(experiment(), experiment(experiment=SHA_B, name="other", started=None)))


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"lr": 0.05}},
        {"seed": 43},
        {"inputs": []},
        {"inputs": [{"path": "data/digits.npz", "pin": "3f" * 16, "strength": "manifest", "size_bytes": 1}]},
        {"environment_key": None},
        {"topology": {"nodes": 2}},
        {"metrics": {"accuracy": 0.95}},
        {"metrics": {"accuracy": 0.95, "loss": 0.1800001}},
        {"outputs": [output(sha256="22" * 32)]},
    ],
)
def test_every_part_of_an_experiment_can_differ(changes):
    assert differs(diff(experiment(), experiment(**changes)))


def test_the_document_holds_what_differs():
    files = [
        {"path": "train.py", "change": "M", "insertions": 3, "deletions": 1},
        {"path": "logo.png", "change": "A", "insertions": None, "deletions": None},
    ]
    other = experiment(
        experiment=SHA_B,
        config={"hidden": 64, "lr": 0.05, "clip": None, "optimizer": {"name": "adam"}},
        metrics={"accuracy": 0.97, "f1": 0.5, "loss": "NaN"},
        inputs=[{"path": "data/digits.npz", "pin": "77" * 16, "strength": "content", "size_bytes": 5}],
        outputs=[output(sha256="22" * 32)],
        topology={"nodes": 2, "devices": 0, "launcher": None},
    )
    document = diff(
        experiment(),
        other,
        files=files,
        env_b=environment("3.12.1", torch="2.12.1", extra="1"),
        goals={"accuracy": "max", "loss": "min"},
    )
    assert document["config"] == {
        "common": {"hidden": 64, "optimizer.name": "adam"},
        "changed": {"lr": {"a": 0.1, "b": 0.05}},
        "only_a": {"optimizer.betas": [0.9, 0.999]},
        "only_b": {"clip": None},
    }
    assert (document["code"]["insertions"], document["code"]["deletions"]) == (3, 1)
    assert document["inputs"] == [
        {
            "path": "data/digits.npz",
            "a": "3f" * 16,
            "b": "77" * 16,
            "strength": {"a": "content", "b": "content"},
            "size_bytes": {"a": 920_000, "b": 5},
        }
    ]
    assert document["environment"]["interpreter"] == {"a": "cpython 3.11.7", "b": "cpython 3.12.1"}
    assert document["environment"]["packages"] == {
        "extra": {"a": None, "b": "1"},
        "torch": {"a": "2.13.0", "b": "2.12.1"},
    }
    assert document["topology"] == {"nodes": {"a": 1, "b": 2}}
    assert document["metrics"]["accuracy"] == {"a": 0.95, "b": 0.97, "delta": pytest.approx(0.02), "better": "b"}
    assert document["metrics"]["loss"] == {"a": 0.18, "b": "NaN", "delta": None, "better": "a"}
    assert document["metrics"]["f1"] == {"a": None, "b": 0.5, "delta": None, "better": None}
    assert document["outputs"][0]["b"] == "sha256:" + "22" * 32


@pytest.mark.parametrize(
    "a, b, goal, better",
    [
        (1.0, 2.0, "max", "b"),
        (1.0, 2.0, "min", "a"),
        (1.0, 2.0, None, None),
        (1.0, 1.0, "max", None),
        ("NaN", 1.0, "min", "b"),
        ("NaN", "NaN", "min", None),
        ("Infinity", 1.0, "min", "b"),
        ("-Infinity", 1.0, "max", "b"),
    ],
)
def test_better_needs_a_goal_and_a_difference(a, b, goal, better):
    assert compare_metrics({"m": a}, {"m": b}, {"m": goal})["m"]["better"] == better


def test_outputs_with_equal_tensors_are_equal_whatever_their_bytes():
    a = experiment(outputs=[output(sha256="11" * 32, digest="sha256:t")])
    b = experiment(outputs=[output(sha256="22" * 32, digest="sha256:t")])
    assert diff(a, b)["outputs"] == []


def test_an_output_without_a_digest_on_one_side_is_compared_and_named_by_its_bytes():
    a = experiment(outputs=[output(sha256="11" * 32, digest="sha256:t")])
    b = experiment(outputs=[output(sha256="22" * 32)])
    named = diff(a, b)["outputs"][0]
    assert (named["a"], named["b"]) == ("sha256:" + "11" * 32, "sha256:" + "22" * 32)


def test_an_unknown_environment_claims_no_package_changes():
    assert diff(experiment(), experiment(), env_b={})["environment"]["packages"] == {}


def test_volatile_metrics_are_never_compared():
    a, b = experiment(metrics={"loss": 0.5, "speed": 1}), experiment(metrics={"loss": 0.5, "speed": 2})
    document = compare_experiments(
        a, b, code_files=[], environment_a={}, environment_b={}, goals={}, volatile=["speed"]
    )
    assert list(document["metrics"]) == ["loss"]
    assert not differs(document)
