"""Settings as a table."""

from __future__ import annotations

from collections.abc import Iterable

from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.report.terminal import Cell, Style, Table, render_table, value_text


def render_config(settings: Iterable[tuple[str, JsonValue, str]], *, style: Style) -> str:
    """Return a line for each setting: its name, its value, where it came from."""
    rows = [(name, "" if value is None else value_text(value), Cell(source, "dim")) for name, value, source in settings]
    return render_table(Table(("setting", "value", "from"), rows, shrink=1), style)
