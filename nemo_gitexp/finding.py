"""What `doctor` finds out about one thing. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from nemo_gitexp.errors import GitexpError
from nemo_gitexp.jsontext import JsonValue

State: TypeAlias = Literal["ok", "warning", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: its name: git, sacct, known_hosts, …
        state: ok; missing (no job can run without it); warning (some can, or it could not be found out).
        said: what was found.
        mend: the command or edit that mends it; empty where there is nothing to mend.
    """

    check: str
    state: State
    said: str
    mend: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the finding as a document."""
        return {"check": self.check, "state": self.state, "said": self.said, "mend": self.mend}


def found(check: str, said: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, "ok", said)


def missing(check: str, said: str, mend: str) -> Finding:
    """Return a finding that something is missing."""
    return Finding(check, "missing", said, mend)


def warning(check: str, said: str, mend: str = "") -> Finding:
    """Return a finding that something may be wrong."""
    return Finding(check, "warning", said, mend)


def refused(check: str, error: GitexpError) -> Finding:
    """Return what an error says as a finding."""
    return Finding(check, "missing", error.message, error.hint)
