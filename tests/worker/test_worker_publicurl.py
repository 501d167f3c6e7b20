"""Addresses in records, links and messages hold nothing secret, and lead where they led."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.worker.publicurl import public_text, public_url


@pytest.mark.parametrize(
    "url, public",
    [
        ("https://user:p/w@host/x", "https://host/x"),
        ("https://user:p?w@host/x", "https://host/x"),
        ("https://user:1/w@host.example/x", "https://host.example/x"),
        ("https://user:a@b@host/x", "https://host/x"),
        ("https://token@host.example:8443/x?key=1#top", "https://host.example:8443/x"),
        ("postgresql+psycopg2://ada:pw@host/db", "postgresql+psycopg2://host/db"),
        ("ssh://git@host.example/team/code.git", "ssh://host.example/team/code.git"),
        ("git@host.example:team/code.git", "git@host.example:team/code.git"),
        ("https://host.example/@team/run", "https://host.example/@team/run"),
        ("https://host.example:8443/a@b.c", "https://host.example:8443/a@b.c"),
        ("https://host/x?mail=a@b.c", "https://host/x"),
        ("http://[::1]:5000/#/experiments/1/runs/2?token=1", "http://[::1]:5000/#/experiments/1/runs/2"),
        ("https://user:secret", "https://user"),
        ("file:///a@b.c/store", "file:///a@b.c/store"),
    ],
)
def test_what_may_be_secret_goes_and_the_place_stays(url: str, public: str) -> None:
    assert public_url(url) == public


ODD = st.text("/?#@:.a1", max_size=6)


@given(ODD, ODD, st.sampled_from(["https", "postgresql"]))
def test_no_password_however_odd_is_left(before: str, after: str, scheme: str) -> None:
    assert "s3cr3t" not in public_url(f"{scheme}://ada:{before}s3cr3t{after}@host.example/x")


@given(st.text("/?#@:.ab[]1", max_size=20))
def test_a_public_address_is_its_own(rest: str) -> None:
    public = public_url(f"https://{rest}")
    assert public_url(public) == public


def test_addresses_in_a_message_are_public() -> None:
    said = "cannot reach 'https://ada:pw@host.example/api?key=1' (http://[::1]:5000/): see https://host.example:80/x."
    assert (
        public_text(said)
        == "cannot reach 'https://host.example/api' (http://[::1]:5000/): see https://host.example:80/x."
    )
    assert public_text("no address: ada@host") == "no address: ada@host"
