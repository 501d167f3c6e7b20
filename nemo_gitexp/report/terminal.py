"""What every report needs: style, safe text, tables, human units. Strings in, strings out.

Text from commits, jobs and remotes is untrusted: it passes `safe_text` before it reaches a terminal.
Tables are written by hand because rich needs a second for 1,000 rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from nemo_gitexp.jsontext import JsonValue, render_json_line
from nemo_gitexp.metrics import Number, as_float

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movement
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC: window titles, links, clipboard
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-Z\\^-~]"
)
_JOINERS = "\u200c\u200d"  # needed by emoji and by several scripts
_PLAIN_STRING = re.compile(r"[A-Za-z_./-][\w./:@+-]*")
_BARS = "▁▂▃▄▅▆▇█"
_MIN_SHRUNK = 8
_GAP = "  "

STATUS_TINTS = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "lost": "yellow",
    "launched": "cyan",
    "running": "cyan",
    "requeued": "cyan",
}


@dataclass(frozen=True, slots=True)
class Style:
    """How a report is to look: with colours or without, and how many columns it may use."""

    color: bool = False
    width: int = 80

    def paint(self, text: str, tint: str) -> str:
        """Return the text in a tint ("red", "bold cyan", or "" for none)."""
        if not self.color or not tint or not text:
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in tint.split())}m{text}\x1b[0m"


@dataclass(frozen=True, slots=True)
class Cell:
    """One table cell with a tint."""

    text: str
    tint: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; all of its text is untrusted.

    Args:
        header: column names; empty for none.
        rows: cells; every row as long as the first.
        align: one letter a column, `l` or `r`; columns beyond it are `l`.
        shrink: the column that gives way when the table is too wide; None for none.
        indent: spaces before every line.
    """

    header: tuple[str, ...]
    rows: Sequence[Sequence[Cell | str]]
    align: str = ""
    shrink: int | None = None
    indent: int = 0
    header_tint: str = field(default="bold")


def render_table(table: Table, style: Style) -> str:
    """Return the table, a line a row, without trailing blanks; empty when it has no rows."""
    rows = [tuple(_clean_cell(cell) for cell in row) for row in table.rows]
    if not rows:
        return ""
    head = [tuple(Cell(safe_text(name), table.header_tint) for name in table.header)] if table.header else []
    widths = [max(text_width(row[column].text) for row in head + rows) for column in range(len(rows[0]))]
    _shrink(widths, table.shrink, style.width - table.indent)
    return "".join(_render_row(row, widths, table, style) for row in head + rows)


def safe_text(text: str, *, multiline: bool = False) -> str:
    r"""Return text that cannot command a terminal: escape sequences removed, other control characters as `\x07`.

    Also escaped: lone surrogates, line separators and the marks that turn the reading direction around. Newlines stay
    only when `multiline`.
    """
    if text.isprintable():
        return text
    bare = _ESCAPES.sub("", text)
    if multiline:
        bare = bare.replace("\r\n", "\n").expandtabs()
    return "".join(char if _is_harmless(char, multiline=multiline) else _escape(char) for char in bare)


def log_line(text: str) -> str:
    """Return one line of a job's log as a terminal would have left it: progress bars overwrite their line."""
    shown = text.rstrip("\r\n").rsplit("\r", 1)[-1]
    return safe_text(shown.expandtabs())


def text_width(text: str) -> int:
    """Return how many columns the text takes; East Asian wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata  # a millisecond, and most text is ASCII

    return sum(
        0 if unicodedata.combining(char) or char in _JOINERS else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def shorten(text: str, width: int) -> str:
    """Return the text in at most `width` columns, the middle replaced by `…` (names differ at both ends)."""
    if text_width(text) <= width:
        return text
    tail = (width - 1) // 2
    head = width - 1 - tail
    return f"{_cut(text, head)}…{_cut(text[::-1], tail)[::-1]}"


def pad(text: str, width: int, align: str = "l") -> str:
    """Return the text padded with blanks to `width` columns."""
    blanks = " " * (width - text_width(text))
    return blanks + text if align == "r" else text + blanks


def sparkline(values: Sequence[Number], width: int = 20) -> str:
    """Return a curve in block characters; long curves keep the last value of each bucket, non-finite ones are `×`."""
    numbers = [number for value in values if (number := as_float(value)) is not None]
    if len(numbers) > width:
        numbers = [numbers[(place + 1) * len(numbers) // width - 1] for place in range(width)]
    finite = [number for number in numbers if abs(number) < float("inf")]
    if not finite:
        return "×" * len(numbers)
    low, high = min(finite), max(finite)
    return "".join(_bar(number, low, high) for number in numbers)


def human_size(size_bytes: int | None) -> str:
    """Return `12.3 kB`; `?` when unknown."""
    if size_bytes is None:
        return "?"
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError(unit)


def human_duration(seconds: float | None) -> str:
    """Return `12 ms`, `6.5 s`, `1 min 5 s`, `2 h 3 min`, `3 d 4 h`; `-` when unknown."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
    raise AssertionError(seconds)


def human_time(moment: str | None) -> str:
    """Return `2025-01-01 12:00:03` from an ISO 8601 UTC time; `-` when unknown."""
    return "-" if moment is None else safe_text(moment[:19].replace("T", " "))


def human_number(value: Number | None) -> str:
    """Return a metric in at most six significant digits; `-` when there is none."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, int):
        return str(value)
    return min(f"{value:.6g}", repr(value), key=len)


def number_pair(a: Number | None, b: Number | None) -> tuple[str, str]:
    """Return two metrics with as many digits as it takes to tell them apart."""
    short = human_number(a), human_number(b)
    if short[0] != short[1] or a == b or a is None or b is None:
        return short
    return str(a), str(b)


def value_text(value: JsonValue) -> str:
    """Return a config value on one line; a string keeps its quotes where it could be read as something else."""
    if isinstance(value, str) and _PLAIN_STRING.fullmatch(value) and value not in {"true", "false", "null"}:
        return safe_text(value)
    return safe_text(render_json_line(value).decode(errors="replace").strip())


def short_hash(text: str | None, length: int = 8) -> str:
    """Return the first digits of a sha or of `sha256:…`; `-` when there is none."""
    return "-" if text is None else safe_text(text.removeprefix("sha256:")[:length])


def short_pin(pin: str | None, length: int = 12) -> str:
    """Return the beginning of what pins an input: of a hash, or of the revision in an address."""
    revision = pin.rpartition("@")[2] if pin is not None and "://" in pin else pin
    return short_hash(revision, length)


def plural(count: int, one: str, many: str = "") -> str:
    """Return `1 key`, `2 keys`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def heading(title: str, note: str, style: Style) -> str:
    """Return a section title with a dim note behind it."""
    return style.paint(title, "bold") + (f"  {style.paint(note, 'dim')}" if note else "") + "\n"


def _clean_cell(cell: Cell | str) -> Cell:
    return Cell(safe_text(cell)) if isinstance(cell, str) else Cell(safe_text(cell.text), cell.tint)


def _shrink(widths: list[int], column: int | None, available: int) -> None:
    if column is None:
        return
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - available
    if excess > 0:
        widths[column] = max(widths[column] - excess, min(widths[column], _MIN_SHRUNK))


def _render_row(row: Sequence[Cell], widths: Sequence[int], table: Table, style: Style) -> str:
    cells: list[str] = []
    last = max((column for column, cell in enumerate(row) if cell.text), default=-1)
    for column, cell in enumerate(row[: last + 1]):
        text = shorten(cell.text, widths[column])
        align = table.align[column : column + 1] or "l"
        padded = text if column == last and align == "l" else pad(text, widths[column], align)
        cells.append(style.paint(padded, cell.tint))
    return " " * table.indent + _GAP.join(cells) + "\n"


def _is_harmless(char: str, *, multiline: bool) -> bool:
    return char.isprintable() or char in _JOINERS or char == "\u00a0" or (multiline and char == "\n")


def _escape(char: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    code = ord(char)
    return named.get(char) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def _cut(text: str, width: int) -> str:
    """Return the longest beginning that fits."""
    used = 0
    for place, char in enumerate(text):
        used += text_width(char)
        if used > width:
            return text[:place]
    return text


def _bar(number: float, low: float, high: float) -> str:
    if not low <= number <= high:
        return "×"
    span = high - low
    place = (number - low) / span if 0 < span < float("inf") else 0.5
    return _BARS[min(int(place * len(_BARS)), len(_BARS) - 1)]
