"""Config hashes: the canonical bytes of a configuration and their SHA-256. No files, no git.

`sha256:<64 hex>` of one line of JSON: anybody can check a record with ten lines of any language
(docs/record-format.md). What becomes which JSON value is decided in `plainform`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from nemo_gitexp.errors import CanonicalFormError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.plainform import canonical_text, plain_value


def plain_config(config: object) -> dict[str, JsonValue]:
    """Return the configuration as `config.json` holds it: dicts with text keys, lists and scalars.

    Args:
        config: a mapping, dataclass, `run.Config`/`run.Partial`, OmegaConf node or namespace. Infinity becomes its
            name, a set a sorted list, a path POSIX text, a class or function `module:name`.

    Raises:
        CanonicalFormError: no mapping at the top, or a value without a stable form (`key` is its dotted path).
    """
    plain = plain_value(config)
    if not isinstance(plain, Mapping):
        raise CanonicalFormError(
            f"a configuration is a mapping of keys to values, not {type(config).__name__}",
            hint='name what it says: {"lr": 0.1}',
            key="",
        )
    return dict(plain)


def canonical_bytes(config: object) -> bytes:
    """Return the bytes that are hashed: the plain form as JSON without spaces, keys sorted by code point, UTF-8.

    Raises:
        CanonicalFormError: a value without a stable form (`key` is its dotted path).
    """
    return canonical_text(plain_value(config)).encode()


def config_hash(config: object) -> str:
    """Return `sha256:<64 hex>`, the same in every process, Python version and key order.

    1, 1.0, "1", True, None and a missing key all differ. `config_hash(plain_config(c)) == config_hash(c)`, also after
    a round trip through `config.json`.

    Raises:
        CanonicalFormError: a value without a stable form (`key` is its dotted path).
    """
    return "sha256:" + hashlib.sha256(canonical_bytes(config)).hexdigest()
