"""What is varied: values as YAML 1.2 reads them, taken apart as Hydra does, ranges counted in decimals."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.errors import OverrideError, UsageError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.overrides import parse_override
from nemo_gitexp.plainform import canonical_text
from nemo_gitexp.sweepgrammar import combine, parse_axes, parse_axis

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=4)


@given(st.lists(values, min_size=1, max_size=4, unique_by=canonical_text))
def test_a_list_of_values_means_each_value_as_run_would_read_it(wanted: list[JsonValue]) -> None:
    typed = [canonical_text(value) for value in wanted]
    axis = parse_axis(f"key={','.join(typed)}")
    assert [canonical_text(value) for value in axis.values] == [
        canonical_text(parse_override(f"key={text}").value) for text in typed
    ]
    assert [parse_override(change.token) for change in axis.changes] == list(axis.changes)


@given(st.integers(-1000, 1000), st.integers(0, 50), st.integers(1, 9), st.sampled_from([1, 10, 1000]))
def test_a_range_holds_both_its_ends_and_each_value_as_it_is_written(
    first: int, count: int, step: int, part: int
) -> None:
    texts = [str(Decimal(first + step * number) / part) for number in range(count + 1)]
    if part > 1 and "." not in texts[0]:
        texts[0] += ".0"
    axis = parse_axis(f"key={texts[0]}..{texts[-1]}:{Decimal(step) / part}")
    assert list(axis.values) == [float(text) if part > 1 else int(text) for text in texts]
    assert not any(isinstance(value, float) and math.isnan(value) for value in axis.values)


@pytest.mark.parametrize(
    "token, expected",
    [
        ("seed=1..3", [1, 2, 3]),
        ("n=5..1:-2", [5, 3, 1]),
        ("n=1..3,7", [1, 2, 3, 7]),
        ("lr=0.1..0.3:0.1", [0.1, 0.2, 0.3]),
        ("lr=1e-1, on ,1_0", [0.1, "on", "1_0"]),
        ("lr=range(0.1,0.4,0.1)", [0.1, 0.2, 0.3]),
        ("n=range(start=1,stop=6,step=2)", [1, 3, 5]),
        ("n=range(3)", [0, 1, 2]),
        ("name=choice('a,b',c)", ["a,b", "c"]),
        ("layers=[1,2],[3]", [[1, 2], [3]]),
        ("layers=[1,2]", [[1, 2]]),
        ("o={lr: 1, m: 2},{lr: 3}", [{"lr": 1, "m": 2}, {"lr": 3}]),
        ("name=f(x,y)", ["f(x,y)"]),
        ("+new=1,2", [1, 2]),
        ("lr=0.1,1e-1", [0.1, 0.1]),
        ("lr=0.1,0.1", [0.1, 0.1]),
        ("city=Köln,東京 都,a@b", ["Köln", "東京 都", "a@b"]),
        ("name=", [None]),
    ],
)
def test_values_are_read_as_they_are_written(token: str, expected: list[JsonValue]) -> None:
    assert list(parse_axis(token).values) == expected


@pytest.mark.parametrize(
    "token",
    ["lr", "=1", "lr=interval(0,1)", "lr=glob(*)", "lr=range(1,0)", "n=3..1", "lr=0.1..1", "lr=1..2:0", "lr=range(a,b)",
     "lr=choice()", "lr=1,", "city=Köln,,Bonn", "lr=1e307..1e309:9e307", "lr=choice(1,2),3", "lr=range(1,2,0)",
     "lr=int(3)", "~lr=1", "--lr=1,2"],
)  # fmt: skip
def test_what_names_no_values_is_refused_with_a_hint(token: str) -> None:
    with pytest.raises(OverrideError) as caught:
        parse_axis(token)
    assert caught.value.hint


@pytest.mark.parametrize(
    "token",
    ["n=1..20000", "n=1..1e40:1", "n=1..1e999999999:1", "n=0..1:1e-999999999", "n=range(0,1e9)", "lr=0..1:1e-9"],
)
def test_more_values_than_anybody_runs_are_refused_at_once(token: str) -> None:
    with pytest.raises(UsageError, match="more than 10,000"):
        parse_axis(token)


def test_each_meets_each_or_the_first_the_first() -> None:
    axes = parse_axes(["a=1,2", "b=x,y", "c=0"])
    grid = [tuple(change.token for change in changes) for changes in combine(axes, zipped=False)]
    assert grid == [("a=1", "b=x", "c=0"), ("a=1", "b=y", "c=0"), ("a=2", "b=x", "c=0"), ("a=2", "b=y", "c=0")]
    zipped = [tuple(change.token for change in changes) for changes in combine(axes, zipped=True)]
    assert zipped == [("a=1", "b=x", "c=0"), ("a=2", "b=y", "c=0")]
    twice = combine(parse_axes(["a=1,1,2", "b=x,y,z"]), zipped=True)
    assert [tuple(change.token for change in changes) for changes in twice] == [
        ("a=1", "b=x"), ("a=1", "b=y"), ("a=2", "b=z")
    ]  # fmt: skip
    with pytest.raises(UsageError, match="a has 2, b has 3"):
        combine(parse_axes(["a=1,2", "b=1..3"]), zipped=True)
    with pytest.raises(UsageError, match="1,000,000 combinations"):
        combine(parse_axes(["a=1..1000", "b=1..1000"]), zipped=False)
    with pytest.raises(UsageError, match="given twice"):
        parse_axes(["a=1", "a=2"])
