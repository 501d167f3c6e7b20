"""YAML 1.2 on PyYAML: the core schema, and everything that is refused."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from nemo_gitexp.errors import DocumentError, GitexpError
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.yaml12 import _LOADERS, MAX_NODES, _Builder, parse_scalar, parse_yaml

SCALARS = [
    ("", None),
    ("~", None),
    ("null", None),
    ("NULL", None),
    ("nUll", "nUll"),
    ("true", True),
    ("False", False),
    ("TRUE", True),
    ("yes", "yes"),
    ("no", "no"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("0", 0),
    ("-12", -12),
    ("+7", 7),
    ("017", 17),
    ("0o17", 15),
    ("0xfF", 255),
    ("0b11", "0b11"),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("1e-3", 0.001),
    ("1E3", 1000.0),
    ("1e3", 1000.0),
    ("-.5", -0.5),
    ("5.", 5.0),
    ("1.5e+3", 1500.0),
    (".", "."),
    ("-", "-"),
    ("1.2.3", "1.2.3"),
    (".inf", math.inf),
    ("-.Inf", -math.inf),
    ("inf", "inf"),
    ("nan", "nan"),
    ("2024-01-01", "2024-01-01"),
    ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00Z"),
    ("=", "="),
    ("\u0661\u0662", "\u0661\u0662"),
]


@pytest.mark.parametrize("text, value", SCALARS)
def test_plain_scalars_follow_the_core_schema_everywhere(text, value):
    for found in (parse_scalar(text), parse_yaml(f"[k, {text}]" if text not in {"", "-"} else "[k, ~]", "s")[1]):
        if text == "-" and found is None:
            continue
        assert found == value
        assert type(found) is type(value)


def test_nan_is_a_float():
    assert math.isnan(parse_scalar(".nan"))


@pytest.mark.parametrize("loader", _LOADERS)
def test_both_loaders_of_pyyaml_give_the_same_values(loader):
    text = "a: on\nb: [1e-3, 017, &x {k: '1'}, *x]\nc: !!str 1\nd: |\n  two\n  lines\n'on': \"\\u20ac\"\nf: !!float 3\n"
    assert _Builder("s", loader).document(text) == {
        "a": "on",
        "b": [0.001, 17, {"k": "1"}, {"k": "1"}],
        "c": "1",
        "d": "two\nlines\n",
        "on": "€",
        "f": 3.0,
    }


@pytest.mark.parametrize(
    "text, problem",
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key a stands here a second time"),
        ("a: {x: 1, 'x': 2}", "the key x stands here a second time"),
        ("1: a", "the key 1 is no string; quote it"),
        ("true: a", "the key true is no string"),
        ("~: a", "the key ~ is no string"),
        ("[a]: b", "a list or mapping is no key"),
        ("&a [*a]", "*a contains itself"),
        ("&a {b: [*a]}", "*a contains itself"),
        ("a: *nowhere", "*nowhere stands for nothing|undefined alias"),
        ("a: 1\n---\nb: 2", "line 2: a second document"),
        ("!!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system is not accepted"),
        ("a: !mine 3", "the tag !mine is not accepted"),
        ("!!set {a}", "the tag !!set is not accepted"),
        ("!!int x", "'x' is no int"),
        ("a: [1, 2", "line"),
        ("\ta: 1", "line 1"),
        ("a: b: c", "line 1"),
        ("a: 1e999", "too large"),
        ("9" * 5000, "too long"),
        ("a: \x01", "control characters"),
        ("<<: 3", "<< merges mappings only"),
    ],
)
def test_ambiguous_or_foreign_text_is_refused_with_its_reason(text, problem):
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text, "conf.yaml")
    assert any(part in caught.value.message for part in problem.split("|"))
    assert caught.value.message.startswith("conf.yaml")


def test_bytes_that_are_no_utf8_are_refused_and_a_byte_order_mark_is_not():
    with pytest.raises(DocumentError, match="no UTF-8 text: byte 3"):
        parse_yaml(b"a: \xff", "s")
    assert parse_yaml(b"\xef\xbb\xbfa: 1", "s") == {"a": 1}
    assert parse_yaml("\ufeffa: 1", "s") == {"a": 1}


def test_a_merge_key_fills_in_what_is_not_written():
    text = "base: &b {x: 1, y: 2}\nmore: &m {y: 8, z: 9}\nuse:\n  y: 3\n  <<: [*b, *m]\nplain: {'<<': 1}\n"
    assert parse_yaml(text, "s")["use"] == {"x": 1, "y": 3, "z": 9}
    assert parse_yaml(text, "s")["plain"] == {"<<": 1}


def test_an_alias_bomb_of_300_bytes_is_refused():
    text = "a: &a [" + ",".join("1" * 10) + "]\n"
    for before, here in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{here}: &{here} [{','.join(['*' + before] * 10)}]\n"
    with pytest.raises(DocumentError, match="aliases expanded"):
        parse_yaml(text, "s")


def test_many_honest_values_and_aliases_are_accepted_up_to_the_cap():
    assert len(parse_yaml("[" + ",".join(["1"] * (MAX_NODES - 1)) + "]", "s")) == MAX_NODES - 1
    with pytest.raises(DocumentError, match="more than"):
        parse_yaml("[" + ",".join(["1"] * MAX_NODES) + "]", "s")


@pytest.mark.parametrize(
    "text",
    ["[" * 101, "[" * 100_000, "- " * 200 + "x", "a: &a " + "[" * 60 + "]" * 60 + "\nb: " + "[" * 60 + "*a" + "]" * 60],
)
def test_deep_nesting_is_refused_also_through_aliases(text):
    with pytest.raises(DocumentError, match=r"nested deeper|line"):
        parse_yaml(text, "s")


def test_depth_100_is_read():
    assert parse_yaml("[" * 100 + "]" * 100, "s") is not None


@pytest.mark.parametrize("loader", _LOADERS)
def test_half_surrogates_never_come_out(loader):
    with pytest.raises((DocumentError, yaml.YAMLError)):
        _Builder("s", loader).document('"\\ud800"')


@pytest.mark.parametrize(
    "text, value",
    [
        ("[1, 1e-3, on]", [1, 0.001, "on"]),
        ("{lr: 1e-3, on: yes}", {"lr": 0.001, "on": "yes"}),
        ('"5"', "5"),
        ("'it''s'", "it's"),
        ("!!str 5", "5"),
        ("*.py", "*.py"),
        ("a # b", "a # b"),
        ("key: value", "key: value"),
        ("@home", "@home"),
        ("- x", "- x"),
        (" 3 ", 3),
        ("${site:DIR}/x", "${site:DIR}/x"),
    ],
)
def test_an_override_value_is_flow_yaml_or_the_text_as_typed(text, value):
    assert parse_scalar(text) == value


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b'"\\UFFFFFFFF"')
@example(b"%YAML 9.9\n---\na")
@example(b"!<tag:yaml.org,2002:int> ''")
@example(b"? &a a\n: *a")
@example(b"{*a : b}")
def test_any_bytes_give_a_renderable_value_or_a_typed_error(text):
    try:
        value = parse_yaml(text, "s")
    except GitexpError:
        return
    render_json(value)


@given(st.text(alphabet="[]{}&*!:-?,'\"|>%@`# \n\tab1.~<\\", max_size=60))
def test_any_yaml_punctuation_gives_a_value_or_a_typed_error(text):
    for parse in (lambda: parse_yaml(text, "s"), lambda: parse_scalar(text)):
        try:
            render_json(parse())
        except GitexpError:
            continue
