"""Holds what is about to be recorded against secrets: configuration, entry point and what people said about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nemo_gitexp.asked import Defined
from nemo_gitexp.errors import SnapshotRefusedError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.secretwords import find_secrets, known_secrets


def require_no_secrets(defined: Defined, env: Mapping[str, str], allows: Callable[[str], bool]) -> None:
    """Check that nothing to be recorded is what a variable keeps secret, a key of a known kind, a URL's password.

    Args:
        defined: what runs; calls that are still to be resolved are looked at as they were given.
        env: of the job; its secret variables are looked for.
        allows: whether a dotted key may hold a secret.

    Raises:
        SnapshotRefusedError: something is; `key` says where, the secret itself is never repeated.
    """
    known = known_secrets(env)
    definition = defined.definition
    documents: list[JsonValue] = [defined.config, *(item.config or {} for item in defined.unresolved)]
    documents += [{"overrides": list(item.overrides)} for item in defined.unresolved]
    documents += [
        {"entry": defined.entry.to_json()},
        {"purpose": definition.purpose, "expected": definition.expected},
    ]
    for document in documents:
        for key, what in find_secrets(document, known):
            if not allows(key):
                raise SnapshotRefusedError(
                    f"{key} is {what}, and would be recorded",
                    hint="give it in an environment variable that the job reads, or allow it: "
                    "secrets_allowed in [tool.nemo-gitexp]",
                    key=key,
                )
