"""What `doctor` found, as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from nemo_gitexp.finding import Finding
from nemo_gitexp.report.terminal import Style, heading, plural, safe_text

_TINTS: Final[Mapping[str, str]] = {"ok": "green", "warning": "yellow", "missing": "red"}
_WIDTH: Final = max(len(word) for word in _TINTS)


def render_diagnosis(machine: Iterable[Finding], executors: Mapping[str, Iterable[Finding]], *, style: Style) -> str:
    """Return a line for each thing that was looked at, below it what mends it, and a count at the end."""
    named = {"this machine": list(machine), **{f"executor {name}": list(items) for name, items in executors.items()}}
    parts = [_section(title, items, style) for title, items in named.items()]
    lacking = sum(finding.state == "missing" for items in named.values() for finding in items)
    verdict = style.paint(f"{plural(lacking, 'thing')} missing", "red") if lacking else style.paint("all fine", "green")
    return "\n".join([*parts, verdict]) + "\n"


def _section(title: str, findings: Sequence[Finding], style: Style) -> str:
    width = max((len(finding.check) for finding in findings), default=0)
    return heading(title, "", style) + "".join(_lines(finding, width, style) for finding in findings)


def _lines(finding: Finding, width: int, style: Style) -> str:
    word = style.paint(finding.state.ljust(_WIDTH), _TINTS[finding.state])
    line = f"  {word}  {safe_text(finding.check).ljust(width)}  {safe_text(finding.said)}\n"
    return line + (f"  {' ' * (_WIDTH + width + 2)}  → {safe_text(finding.mend)}\n" if finding.mend else "")
