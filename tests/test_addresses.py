"""Addresses of inputs: what they mean, and what is none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.addresses import HubAddress, address_fault, parse_hub_address, split_output
from nemo_gitexp.errors import DefinitionError


@pytest.mark.parametrize(
    "url,address",
    [
        ("hf://gpt2", HubAddress("gpt2")),
        ("hf://org/name", HubAddress("org/name")),
        ("hf://org/name/a/b.bin", HubAddress("org/name", path="a/b.bin")),
        ("hf://gpt2@v1/config.json", HubAddress("gpt2", revision="v1", path="config.json")),
        ("hf://datasets/org/set@main/train/", HubAddress("org/set", "dataset", path="train")),
        ("hf://spaces/org/app@x", HubAddress("org/app", "space", "x")),
        ("hf://org/name@refs/pr/3/a.bin", HubAddress("org/name", revision="refs/pr/3", path="a.bin")),
        ("hf://org/name@feature%2Fx/a.bin", HubAddress("org/name", revision="feature/x", path="a.bin")),
    ],
)
def test_an_address_of_the_hub_reads_as_the_hub_reads_it(url, address):
    assert parse_hub_address(url) == address
    assert parse_hub_address(str(address)) == address


@pytest.mark.parametrize(
    "url", ["hf://", "hf://@main", "hf://a/b@", "hf://a/b@-x", "hf://a/b@a..b", "hf://datasets/", "hf://a/b/../c"]
)
def test_what_is_no_address_of_the_hub_is_refused(url):
    with pytest.raises(DefinitionError):
        parse_hub_address(url)
    assert address_fault(url)


def test_an_output_of_an_experiment_is_read_in_every_way_that_its_slashes_allow():
    assert split_output("exp://study/name/ckpt/m.pt") == [
        ("study", "name/ckpt/m.pt"),
        ("study/name", "ckpt/m.pt"),
        ("study/name/ckpt", "m.pt"),
    ]
    for none in ("exp://", "exp://a", "exp://a/", "exp:///a", "exp://a/../b"):
        assert split_output(none) == []
        assert address_fault(none)


@given(st.text(max_size=40))
def test_no_text_makes_anything_but_a_fault(text):
    for scheme in ("hf://", "exp://"):
        address_fault(scheme + text)
    with contextlib.suppress(DefinitionError):
        address = parse_hub_address(f"hf://{text}")
        assert ".." not in address.path.split("/")
        assert parse_hub_address(str(address)) == address
