"""What is a secret by its name or by what it holds, and the ordinary words that are none."""

from __future__ import annotations

import pytest

from nemo_gitexp.secretwords import (
    find_secret,
    find_secrets,
    holds_key,
    holds_secret,
    is_secret_name,
    is_secret_variable,
    known_secrets,
)

HF = "hf_" + "a1" * 17
SECRET_NAMES = [
    "password",
    "passwords",
    "db_password",
    "db.password",
    "dbPassword",
    "PGPASSWORD",
    "passphrase",
    "api_key",
    "api-key",
    "apiKey",
    "api_keys",
    "APIKEY",
    "token",
    "hf_token",
    "HF_TOKEN",
    "access_token",
    "api-tokens",
    "secret",
    "secrets",
    "client_secret",
    "credentials",
    "auth",
    "private_key",
    "aws-secret-access-key",
    "AWS_SECRET_ACCESS_KEY",
    "wandb_api_key",
]
ORDINARY_NAMES = [
    "max_tokens",
    "num_tokens",
    "tokens",
    "token_count",
    "token_type",
    "tokenizer",
    "tokenizer.model",
    "pad_token",
    "eos_token",
    "mask_token",
    "token_embedding_dim",
    "key",
    "keys",
    "key_dim",
    "num_query_keys",
    "author",
    "authority",
    "pass",
    "bypass",
    "compass",
    "secretary",
    "hidden",
    "seed",
    "moe_token_dispatcher_type",
    "keyboard",
]


@pytest.mark.parametrize("name", [name for name in SECRET_NAMES if name != "PGPASSWORD"])
def test_a_name_that_stands_for_a_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ORDINARY_NAMES)
def test_an_ordinary_name(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize("name", [*SECRET_NAMES, "CI_JOB_TOKEN", "GH_TOKEN_PROD", "MYSQL_PWD", "SECRET_KEY_BASE"])
def test_a_variable_that_is_secret(name: str) -> None:
    assert is_secret_variable(name)


@pytest.mark.parametrize(
    "name",
    ["PWD", "OLDPWD", "TOKENIZERS_PARALLELISM", "MAX_TOKENS", "SSH_AUTH_SOCK", "PATH", "HOME", "LR", "XAUTHORITY"],
)
def test_a_variable_that_is_ordinary(name: str) -> None:
    assert not is_secret_variable(name)


@pytest.mark.parametrize(
    "text,what",
    [
        ("hunter22-and-more", "the value of MY_API_TOKEN"),
        ("Bearer hunter22-and-more", "the value of MY_API_TOKEN"),
        (f"--token={HF}", "what looks like a secret"),
        ("postgres://u:pw@h/db", "a URL with a password"),
        ("redis://:pw@h", "a URL with a password"),
    ],
)
def test_a_text_that_holds_a_secret_is_told_without_repeating_it(text: str, what: str) -> None:
    known = known_secrets({"MY_API_TOKEN": "hunter22-and-more", "LR": "hunter22-and-less", "X_TOKEN": "bert"})
    assert find_secret(text, known) == what
    assert holds_secret(text, known)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=5",
        "tokenizer=bert",
        "postgres://h/db",
        "git@host:a/b",
        "http://h:80/a@b",
        "db://$USER:$PW@h",
        "hf_bert",
    ],
)
def test_a_text_that_holds_none(text: str) -> None:
    assert not holds_secret(text, known_secrets({"X_TOKEN": "bert"}))


def test_the_place_of_a_secret_is_named_also_of_a_key_and_of_a_commands_words() -> None:
    document = {
        "model": {"headers": ["Bearer abcdefgh"], "abcdefgh": 1},
        "password": "hunter22x",
        "args": ["--api-key", "k1234567", "--lr", "0.1", "token=k1234567", f"--t={HF}"],
    }
    assert list(find_secrets(document, {"abcdefgh": "API_KEY"})) == [
        ("model.headers.0", "the value of API_KEY"),
        ("model.(a key)", "the value of API_KEY"),
        ("password", "a secret by its name"),
        ("args.1", "a secret by its name"),
        ("args.4", "a secret by its name"),
        ("args.5", "what looks like a secret"),
    ]


def test_ordinary_words_references_and_paths_are_no_secrets() -> None:
    document = {
        "max_tokens": 5,
        "tokenizer": "bert-base-2",
        "token": "<s>",
        "password": "${site:db_password1}",
        "credentials": "configs/creds1.json",
        "auth": "kerberos",
        "args": ["--max_tokens", "50000000", "--tokenizer", "bert2-base", "--password", "{config.password1}", "-v"],
    }
    assert list(find_secrets(document, {})) == []


def test_a_file_that_holds_a_key() -> None:
    assert holds_key(f"x = '{HF}'".encode())
    assert not holds_key(b"x = 'hf_bert'")
