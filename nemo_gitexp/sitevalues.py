"""`${site:NAME}` in configurations, arguments and output paths: recorded by name, bound per machine. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nemo_gitexp.errors import SettingsError
from nemo_gitexp.jsontext import JsonValue

_REFERENCE = re.compile(r"\$\{site:([A-Za-z0-9_.-]+)\}")


def bind_site(value: JsonValue, site: Mapping[str, str]) -> JsonValue:
    """Return a value with every `${site:NAME}` in its texts replaced; keys stay.

    Args:
        value: a configuration, a list of arguments, a path.
        site: values by name, whatever the case of the name.

    Raises:
        SettingsError: this machine has no value of that name.
    """
    if isinstance(value, str):
        return bind_text(value, site)
    if isinstance(value, Mapping):
        return {key: bind_site(item, site) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bind_site(item, site) for item in value]
    return value


def bind_text(text: str, site: Mapping[str, str]) -> str:
    """Return a text with every `${site:NAME}` replaced.

    Raises:
        SettingsError: this machine has no value of that name.
    """
    known = {name.lower(): value for name, value in site.items()}

    def bound(match: re.Match[str]) -> str:
        name = match[1]
        if name.lower() not in known:
            raise SettingsError(
                f"this machine has no value for ${{site:{name}}}",
                hint=f"git config gitexp.site.{name} VALUE",
                setting=f"site.{name}",
            )
        return known[name.lower()]

    return _REFERENCE.sub(bound, text)


def site_words(site: Mapping[str, str]) -> dict[str, str]:
    """Return for each site value the word that stands for it in records."""
    return {value: f"${{site:{name}}}" for name, value in site.items() if value}
