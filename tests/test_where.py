"""The language of `log --where` and `--sort`."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sample_documents import experiment

from nemo_gitexp.errors import UsageError
from nemo_gitexp.where import MISSING, nearest_columns, parse_where, resolve, sorted_by

DOCUMENT = experiment(
    config={"lr": 0.05, "name": "on", "flag": True, "layers": [64, 32], "none": None, "opt": {"beta.1": 0.9}},
    metrics={"accuracy": 0.97, "val/acc": 0.96, "train.loss": 0.2, "diverged": "NaN", "huge": "Infinity"},
)


@pytest.mark.parametrize(
    "text",
    [
        "metrics.accuracy > 0.95 and config.lr < 0.1",
        "metrics.accuracy>0.95",
        "0.95 < metrics.accuracy",
        "metrics.accuracy >= 0.97",
        "metrics.accuracy == 97e-2",
        "metrics.val/acc > .9",
        "metrics.`val/acc` > 0.9",
        'metrics."val/acc" > 0.9',
        "`metrics.val/acc` > 0.9",
        "'metrics.val/acc' > 0.9",
        "metrics.train.loss < 1",
        "config.opt.`beta.1` == 0.9",
        "config.opt.beta.1 == 0.9",
        "config.layers.0 == 64",
        "accuracy > 0.9",
        "lr <= 0.05",
        "status == completed",
        'status == "completed"',
        "'completed' == status",
        "status != failed",
        "name ~ '*mlp*'",
        "name !~ '*cnn*'",
        "seed == 42",
        "seed > -1",
        "config.flag == true",
        "config.flag",
        "not archived",
        "not (archived or withdrawn)",
        "error == null",
        "result != null",
        "config.none == null",
        "started > '2024-12-31' and started < '2025-01-02'",
        "metrics.huge > 1e300",
        "archived or seed == 42 and status == completed",
        "NOT archived AND seed == 42",
        "not not config.flag",
        "metrics.accuracy > metrics.val/acc",
    ],
)
def test_true_expressions(text):
    assert parse_where(text)(DOCUMENT) is True


@pytest.mark.parametrize(
    "text",
    [
        "metrics.missing > 0",
        "metrics.missing == null",
        "metrics.missing != 1",
        "nonsense",
        "config.name > 1",
        "config.name != 1",
        "config.flag == 1",
        "config.lr == 'text'",
        "config.none < 1",
        "metrics.diverged > 0",
        "metrics.diverged < 0",
        "metrics.diverged >= metrics.diverged",
        "seed ~ '4*'",
        "seed !~ '4*'",
        "metrics.missing !~ '*'",
        "name ~ 'MLP'",
        "archived",
        "config.layers == 64",
        "(archived or seed == 42) and status == failed",
    ],
)
def test_false_expressions(text):
    assert parse_where(text)(DOCUMENT) is False


@pytest.mark.parametrize(
    "text, column, words",
    [
        ("", 1, "a key or a value expected"),
        ("   ", 1, "a key or a value expected"),
        ("metrics.accuracy >", 19, "a key or a value expected"),
        ("seed = 42", 6, "write `==`"),
        ("seed == 42 && archived", 12, "write `and`"),
        ("!archived", 1, "write `not`"),
        ("(seed == 42", 12, "closing parenthesis"),
        ("seed == 42)", 11, "')'"),
        ("seed == 42 status", 12, "'status'"),
        ("0 < seed < 50", 10, "chained"),
        ("name == 'open", 9, "never closed"),
        ("42", 3, "operator expected"),
        ("experiment == 9b1c", 15, "in quotes"),
        ("seed == and", 9, "not 'and'"),
        ("a $ b", 3, "no meaning"),
        ("(" * 60 + "seed" + ")" * 60, 51, "nested parentheses"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_column(text, column, words):
    with pytest.raises(UsageError) as caught:
        parse_where(text)
    assert f"column {column}:" in caught.value.message
    assert words in caught.value.message
    assert caught.value.facts["column"] == column


def test_nothing_is_executed():
    with pytest.raises(UsageError):
        parse_where("__import__('os').getcwd()")


WORDS = [*"az01.<>=!~()'\"`& \\-eé\n", "metrics.", " and ", " not ", " or ", "seed", "==", "0.5", "'x'", "true", "null"]


@given(st.lists(st.sampled_from(WORDS)).map("".join))
@example("`")
def test_any_text_gives_a_predicate_or_a_usage_error(text):
    try:
        predicate = parse_where(text)
    except UsageError as fault:
        column = fault.facts["column"]
    else:
        assert predicate(DOCUMENT) in {True, False}
        column = 1
    assert 1 <= column <= len(text) + 1


def test_resolving_prefers_the_longest_key_and_tells_missing_from_null():
    assert resolve({"a": {"b": 1}, "a.b": 2}, ["a", "b"]) == 2
    assert resolve({"a": {"b": None}}, ["a", "b"]) is None
    assert resolve({"a": {"b": None}}, ["a", "c"]) is MISSING
    assert resolve({"a.b": 1, "a": {"b.c": 3}}, ["a", "b", "c"]) == 3


def test_what_has_no_value_sorts_last_in_both_directions():
    values = {"two": 2, "none": None, "nan": "NaN", "inf": "Infinity", "one": 1}
    documents = [experiment(name=name, metrics={} if value is None else {"m": value}) for name, value in values.items()]
    assert [doc["name"] for doc in sorted_by(documents, "metrics.m", dict)] == ["one", "two", "inf", "nan", "none"]
    assert [doc["name"] for doc in sorted_by(documents, "m", dict, descending=True)] == [
        "inf",
        "two",
        "one",
        "nan",
        "none",
    ]


def test_equal_values_keep_their_order_in_both_directions():
    documents = [experiment(name=name) for name in "abc"]
    assert [doc["name"] for doc in sorted_by(documents, "seed", dict, descending=True)] == ["a", "b", "c"]


def test_values_of_different_kinds_sort_without_an_error():
    values = [None, "x", 1, True, [1], {"a": 1}, 0.5]
    documents = [experiment(config={"k": value}) for value in values]
    ordered = [doc["config"]["k"] for doc in sorted_by(documents, "config.k", dict)]
    assert ordered == [0.5, 1, True, "x", [1], {"a": 1}, None]


def test_a_mistyped_column_has_neighbours():
    assert nearest_columns("metrics.acuracy", [DOCUMENT])[0] == "metrics.accuracy"
    assert nearest_columns("statsu", [])[0] == "status"
