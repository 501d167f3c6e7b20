"""Changes typed on a command line."""

from __future__ import annotations

import contextlib
import copy
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.errors import OverrideError, UnknownKeyError, UsageError
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.overrides import Override, apply_overrides, parse_adhoc_arguments, parse_override

CONFIG = {"lr": 0.1, "opt": {"name": "sgd", "betas": [0.9, 0.99]}, "layers": [64, 32], "note": None, "a.b": 1}


@pytest.mark.parametrize(
    "token, change",
    [
        ("lr=1e-3", {"lr": 0.001}),
        ("lr=on", {"lr": "on"}),
        ("lr=", {"lr": None}),
        ("lr=a=b", {"lr": "a=b"}),
        ("lr='1'", {"lr": "1"}),
        ("opt.name=adam", {"opt": {"name": "adam", "betas": [0.9, 0.99]}}),
        ("opt={name: x}", {"opt": {"name": "x"}}),
        ("layers=[1, 2e0]", {"layers": [1, 2.0]}),
        ("layers.0=16", {"layers": [16, 32]}),
        ("opt.betas.1=0.999", {"opt": {"name": "sgd", "betas": [0.9, 0.999]}}),
        ("+layers.2=8", {"layers": [64, 32, 8]}),
        ("~layers.0", {"layers": [32]}),
        ("+momentum=0.9", {"momentum": 0.9}),
        ("+deep.er.key=1", {"deep": {"er": {"key": 1}}}),
        ("+opt.eps=1e-8", {"opt": {"name": "sgd", "betas": [0.9, 0.99], "eps": 1e-8}}),
        ('"a.b"=2', {"a.b": 2}),
    ],
)
def test_an_override_changes_one_place(token, change):
    assert apply_overrides(CONFIG, [token]) == {**CONFIG, **change}


def test_a_removed_key_is_gone():
    assert apply_overrides({"a": {"b": 1, "c": 2}}, ["~a.b"]) == {"a": {"c": 2}}
    assert apply_overrides({"a": 1}, ["~a"]) == {}


def test_overrides_are_applied_from_left_to_right():
    assert apply_overrides({"a": 1}, ["a=2", "+b=3", "b=4", "~a"]) == {"b": 4}


def test_the_types_of_values_survive():
    result = apply_overrides({"a": 0, "b": 0, "c": 0}, ["a=1", "b=1.0", "c=true"])
    assert [type(value) for value in result.values()] == [int, float, bool]


def test_the_input_is_never_changed_nor_shared():
    shared = [1, 2]
    config = {"a": shared, "b": shared, "c": {"d": shared}}
    before = copy.deepcopy(config)
    result = apply_overrides(config, ["a.0=9", "c.d.1=8"])
    assert config == before
    assert result == {"a": [9, 2], "b": [1, 2], "c": {"d": [1, 8]}}
    assert apply_overrides(config, [])["c"] is not config["c"]


@pytest.mark.parametrize(
    "token, nearest",
    [
        ("lrr=1", "lr"),
        ("LR=1", "lr"),
        ("optt.name=1", "opt.name"),
        ("opt.nam=1", "opt.name"),
        ("~opt.nme", "opt.name"),
        ("opt.beta.0=1", "opt.betas.0"),
        ("layers.7=1", "layers.1"),
        ("layers.-1=1", "layers.1"),
        ("zzzzzz=1", None),
    ],
)
def test_an_unknown_key_names_the_nearest(token, nearest):
    with pytest.raises(UnknownKeyError) as caught:
        apply_overrides(CONFIG, [token])
    assert caught.value.facts["nearest"] == nearest
    assert caught.value.exit_code == 2
    if nearest:
        assert nearest in caught.value.message


@pytest.mark.parametrize(
    "token",
    [
        "lr",
        "=1",
        "~",
        "+",
        "",
        ".a=1",
        "a.=1",
        "lr=[1",
        "lr='x",
        "~lr=3",
        "+lr=1",
        "lr.x=1",
        "note.x=1",
        "--lr=1",
        "--lr",
        "+layers.0=1",
        "+lr.x=1",
        "lr=1e999",
    ],
)
def test_what_cannot_be_applied_is_a_typed_error_with_a_hint(token):
    with pytest.raises(OverrideError) as caught:
        apply_overrides(CONFIG, [token])
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_an_override_is_a_value():
    assert parse_override("+a.b=[1]") == Override("add", ("a", "b"), [1], "+a.b=[1]")
    assert parse_override("~a.b").key == "a.b"


@given(st.text(max_size=30))
def test_any_token_applies_or_is_a_usage_error(token):
    with contextlib.suppress(UsageError):
        render_json(apply_overrides(CONFIG, [token]))


@pytest.mark.parametrize(
    "line, config",
    [
        ("--lr 0.1", {"lr": 0.1}),
        ("--lr=1e-3", {"lr": 0.001}),
        ("-n 3 --use-amp", {"n": 3, "use-amp": True}),
        ("--amp --lr 1", {"amp": True, "lr": 1}),
        ("--shift -5 --rate -1e-3 --low -.inf", {"shift": -5, "rate": -0.001, "low": float("-inf")}),
        ("--x -y", {"x": True, "y": True}),
        ("--x 1 --x 2 --x=3", {"x": [1, 2, 3]}),
        ("-v -v", {"v": [True, True]}),
        ("data.csv 5 --lr 1", {"args": ["data.csv", 5], "lr": 1}),
        ("-1 x", {"args": [-1, "x"]}),
        ("--lr 1 -- --not-mine 2", {"lr": 1, "args": ["--not-mine", 2]}),
        ("--model.width 3 --a-b c", {"model.width": 3, "a-b": "c"}),
        ("--out {outputs} --list [1,2]", {"out": "{outputs}", "list": "[1,2]"}),
        ("--flag on --none ~ --quoted '\"5\"'", {"flag": "on", "none": None, "quoted": "5"}),
        ('--bad "\'tis" --big 1e999 --nan .nan', {"bad": "'tis", "big": "1e999", "nan": ".nan"}),
        ("lr=3", {"args": ["lr=3"]}),
        ("--args 1 pos", {"args": [1, "pos"]}),
        ("- --=3", {"args": ["-", "--=3"]}),
        ("--text 'two words' --empty ''", {"text": "two words", "empty": None}),
        ("", {}),
    ],
)
def test_adhoc_arguments_become_a_configuration(line, config):
    assert parse_adhoc_arguments(shlex.split(line)) == config


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_arguments_are_a_configuration(arguments):
    render_json(parse_adhoc_arguments(arguments))
