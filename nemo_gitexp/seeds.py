"""The seed of an experiment: the one that is asked for, or the one that its configuration names at `seed`.

Seeds nothing, and knows no default.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

from nemo_gitexp.definition import MAX_SEED
from nemo_gitexp.errors import ConflictingConfigError, UsageError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.plainform import plain_value
from nemo_gitexp.versioning import plain_config


def require_seed(seed: object) -> int:
    """Return a seed as a plain number; any whole number from 0, of numpy and torch too.

    Raises:
        UsageError: no whole number (True is none), or a negative one.
    """
    number = _whole_number(seed)
    if number is None:
        raise UsageError(f"a seed is a whole number from 0, not {seed!r}", hint="seed=42", key="seed")
    return number


def named_seed(config: object) -> JsonValue:
    """Return what a configuration has at `seed`, whatever that is, in plain form; None where it names none.

    Args:
        config: a mapping, dataclass, `run.Config`, namespace, … (what `config_hash` takes); None names none.

    Raises:
        CanonicalFormError: a value without a stable form.
    """
    if config is None:
        return None
    return plain_value(config.get("seed")) if isinstance(config, Mapping) else plain_config(config).get("seed")


def agreed_seed(seed: object, *configs: object) -> int | None:
    """Return the seed that is asked for, else the one that configurations name; None: nobody chose one.

    Args:
        seed: what is asked for beside the configurations; None: nothing.
        configs: as `named_seed` takes them.

    Raises:
        ConflictingConfigError: a configuration names another one than is asked for, or than another names.
        UsageError: a seed that is no whole number from 0 to 2^63 - 1.
        CanonicalFormError: an object without a stable form.
    """
    chosen = None if seed is None else _recordable(seed)
    for there in map(named_seed, configs):
        if there is None:
            continue
        if chosen is None:
            chosen = _recordable(there)
        elif _whole_number(there) != chosen:
            said = f"{chosen} is asked for" if seed is not None else f"another one seed: {chosen}"
            raise ConflictingConfigError(
                f"the configuration says seed: {there!r}, and {said}", hint="name one seed", key="seed"
            )
    return chosen


def _recordable(seed: object) -> int:
    number = require_seed(seed)
    if number > MAX_SEED:
        raise UsageError(f"a seed is at most 2^63 - 1, not {number}", hint="seed=42", key="seed")
    return number


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        return None
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what is none is told so
    except TypeError:
        return None
    return number if number >= 0 else None
