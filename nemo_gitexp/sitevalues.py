"""What belongs to a machine or a person: `${site:NAME}`, recorded by name and bound per machine. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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


def site_words(site: Mapping[str, str], texts: Iterable[str]) -> dict[str, str]:
    """Return for each site value the word that stands for it in records, the same on every machine.

    Args:
        site: values by name; git keeps no case of a name.
        texts: of the record; a name is spelled as in them, else in lower case.
    """
    spelled = {match[1].lower(): match[0] for text in texts for match in _REFERENCE.finditer(text)}
    words = {value: f"${{site:{name.lower()}}}" for name, value in site.items() if value}
    # Of two names with one value, the one that the record knows counts.
    return words | {value: spelled[name.lower()] for name, value in site.items() if value and name.lower() in spelled}
