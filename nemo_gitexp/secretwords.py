"""What must not be recorded: names that stand for secrets, and texts that hold one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import render_key

SCAN_CHARACTERS = 1_000_000
"""How much of a text or file is searched; keys stand in small ones."""

SHORTEST_SECRET = 8
"""Shorter values of variables are too common as words to be looked for."""

_KEYS = (
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{50,}\b|\bglpat-[A-Za-z0-9_-]{20,}\b"
    r"|\bhf_[A-Za-z0-9]{30,}\b|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}\b|\bxox[abprs]-[A-Za-z0-9-]{20,}\b"
    r"|\bAIza[0-9A-Za-z_-]{35}\b|\bnvapi-[A-Za-z0-9_-]{40,}\b|\bpypi-[A-Za-z0-9_-]{60,}\b"
)
_KEY_TEXT = re.compile(_KEYS, re.ASCII)
_KEY_BYTES = re.compile(_KEYS.encode())
_URL_PASSWORD = re.compile(r"://[^/@\s:]*:(?![${<*])[^/@\s]+@")
"""`scheme://user:password@`, but for a password that is a reference (`$PW`, `{pw}`) or is starred out."""

_VARIABLE = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|(?:^|_)AUTH(?:_|$)|_PWD$", re.IGNORECASE
)
_ORDINARY_VARIABLE = re.compile(r"MAX_\w*TOKENS?$|TOKENS?_(?:LIMIT|COUNT)$|_(?:SOCK|FILE|PATH|DIR)$", re.IGNORECASE)

_PARAMETER = re.compile(
    r"(?:^|_)(?:passw(?:or)?ds?|passphrases?|pwd|secrets?|credentials?|auth|authorization"
    r"|(?:api|access|private|secret|signing|encryption)_?keys?"
    r"|(?:api|auth|access|bearer|refresh|session|secret|private|hf|hub|wandb|github|gitlab|slack|bot)_?tokens?)$"
    r"|^token$"
)
_REFERENCE = re.compile(r"[${<]|.*[/\s]")
_OPTION = re.compile(r"-{0,2}(?P<name>[\w.-]+)=(?P<value>.*)", re.DOTALL)


def is_secret_variable(name: str) -> bool:
    """Return whether a variable of the environment is one whose value goes to the job of this launch alone.

    Wider than `is_secret_name`, for what is left out costs little here; `TOKENIZERS_PARALLELISM`, `PWD` and places
    (`SSH_AUTH_SOCK`) are ordinary.
    """
    if name == "PWD":
        return False
    return is_secret_name(name) or bool(_VARIABLE.search(name) and not _ORDINARY_VARIABLE.search(name))


def is_secret_name(name: str) -> bool:
    """Return whether a parameter is a secret by its name, in any spelling: `db.password`, `api-key`, `hfToken`.

    `max_tokens`, `tokenizer`, `pad_token`, `token_count`, `key` are ordinary.
    """
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return _PARAMETER.search(re.sub(r"[^A-Za-z0-9]+", "_", snake).strip("_").lower()) is not None


def holds_key(content: bytes) -> bool:
    """Return whether the beginning of a file holds a key of a known kind."""
    return _KEY_BYTES.search(content[:SCAN_CHARACTERS]) is not None


def known_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """Return the values that variables keep secret, as far as they can be told from words, with their variables."""
    return {value: name for name, value in env.items() if len(value) >= SHORTEST_SECRET and is_secret_variable(name)}


def find_secret(text: str, known: Mapping[str, str]) -> str | None:
    """Return what a text holds that is secret, in words that never repeat it; None: nothing.

    Args:
        text: any.
        known: values that are secret, with the names of their variables (`known_secrets`).
    """
    looked = text[:SCAN_CHARACTERS]
    for value, name in known.items():
        if value in looked:
            return f"the value of {name}"
    if _KEY_TEXT.search(looked):
        return "what looks like a secret"
    return "a URL with a password" if _URL_PASSWORD.search(looked) else None


def holds_secret(text: str, known: Mapping[str, str] | None = None) -> bool:
    """Return whether `find_secret` finds something."""
    return find_secret(text, known or {}) is not None


def find_secrets(
    value: JsonValue, known: Mapping[str, str], path: tuple[str | int, ...] = ()
) -> Iterator[tuple[str, str]]:
    """Yield the dotted path of every text of a document that holds a secret, keys among them, and what it is.

    A text below a name that says secret counts when it looks made up (eight characters or more, with a digit; no path,
    no reference). A list is also read as a command's words: `--token VALUE`, `token=VALUE`.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if what := find_secret(key, known):
                yield render_key((*path, "(a key)")), what
            elif isinstance(item, str) and _is_given(key, item) and not find_secret(item, known):
                yield render_key((*path, key)), "a secret by its name"
            else:
                yield from find_secrets(item, known, (*path, key))
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            if isinstance(item, str) and not find_secret(item, known) and _is_given_word(value, at):
                yield render_key((*path, at)), "a secret by its name"
            else:
                yield from find_secrets(item, known, (*path, at))
    elif isinstance(value, str) and (what := find_secret(value, known)):
        yield render_key(path), what


def _is_given(name: str, text: str) -> bool:
    is_made_up = len(text) >= SHORTEST_SECRET and any(letter.isdigit() for letter in text)
    return is_made_up and _REFERENCE.match(text) is None and is_secret_name(name)


def _is_given_word(words: Sequence[JsonValue], at: int) -> bool:
    word, before = str(words[at]), words[at - 1] if at else None
    if option := _OPTION.fullmatch(word):
        return _is_given(option["name"], option["value"])
    return isinstance(before, str) and before.startswith("-") and _is_given(before.lstrip("-"), word)
