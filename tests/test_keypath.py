"""Dotted key paths: one way to write, one way to read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.comparison import flatten_config
from nemo_gitexp.keypath import find_nearest, parse_key, render_key

KEYS = st.text(min_size=0, max_size=8).filter(lambda key: "=" not in key or "." in key)


@given(st.lists(KEYS, min_size=1, max_size=4).map(tuple))
def test_reading_what_was_written_gives_the_path(path):
    assert parse_key(render_key(path)) == path


@given(st.lists(KEYS, min_size=1, max_size=3).map(tuple))
def test_the_comparison_writes_paths_the_same_way(path):
    config: object = 1
    for key in reversed(path):
        config = {key: config}
    assert list(flatten_config(config)) == [render_key(path)]


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", '"a', '"a"b', "a=b"])
def test_an_unreadable_path_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"key|unexpected"):
        parse_key(text)


def test_the_nearest_name_ignores_case_and_gives_up_on_strangers():
    assert find_nearest("LR", ["momentum", "lr"]) == "lr"
    assert find_nearest("epoch", ["epochs", "lr"]) == "epochs"
    assert find_nearest("zzz", ["epochs", "lr"]) is None
