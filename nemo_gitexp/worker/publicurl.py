"""Addresses without anything secret in them, for records, links and messages. Pure."""

from __future__ import annotations

import re

_AUTHORITY = re.compile(r"[^/?#]*")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]*\]|[^\[\]:@]*)(?::[0-9]+)?")
_HOST_LATER = re.compile(r".*@(?:localhost\b|[^/?#@]*[.:])", re.DOTALL)
_HOST_IN_PATH = re.compile(r"[^?#]*@(?:localhost\b|[^/?#@]*[.:])")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*[^\s)>}'\".,;:]")


def public_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, any of which may be a secret.

    People write passwords as they are, with `/`, `@`, `?` or `#` in them: then what a parser takes for the host is
    their beginning. Where it is not sure what stands before an `@`, it goes. A fragment that is a page of the site, as
    in MLflow's `#/experiments/1/runs/2`, stays. What has no `://` loses its query and fragment alone.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return re.sub(r"(?s)[?#].*", "", url)
    rest = _without_user(rest)
    place, _, fragment = rest.partition("#")
    place = place.partition("?")[0]
    authority = _authority(place)
    if not _HOST.fullmatch(authority):  # what stands for a port may be a password
        place = authority.partition(":")[0] + place[len(authority) :]
    page = fragment.partition("?")[0]
    return f"{scheme}://{place}" + (f"#{page}" if page.startswith("/") and "@" not in page else "")


def public_text(text: str) -> str:
    """Return a text, such as another program's message, with every URL in it as `public_url` has it."""
    return _IN_TEXT.sub(lambda match: public_url(match.group()), text)


def _without_user(rest: str) -> str:
    was_there = False
    while "@" in rest:
        authority = _authority(rest)
        if "@" in authority:
            rest = rest[authority.rindex("@") + 1 :]
        elif _is_secret(authority, rest, was_there=was_there):
            rest = rest.partition("@")[2]
        else:
            break
        was_there = True
    return rest


def _is_secret(authority: str, rest: str, *, was_there: bool) -> bool:
    """Return whether what reads as a host and a path is the beginning of a user and a password.

    Args:
        authority: what reads as the host.
        rest: the URL from there, with an `@` in what follows.
        was_there: a user was found before it.
    """
    if not _HOST.fullmatch(authority) or (was_there and not authority):
        return True
    later = _HOST_LATER if was_there or ":" in authority else _HOST_IN_PATH
    return bool(later.match(rest)) and (was_there or bool(authority and "." not in authority))


def _authority(rest: str) -> str:
    match = _AUTHORITY.match(rest)
    return match.group() if match else ""
