"""Where words meet the terminal: answers on stdout, talk and progress on stderr. Knows no verbs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TextIO

from nemo_gitexp.report.terminal import Style, human_duration, safe_text

if TYPE_CHECKING:
    from nemo_gitexp.execution import LatestRow
    from nemo_gitexp.metrics import MetricRow, Number
    from nemo_gitexp.sweeping import Child

PIPED_WIDTH = 200
PROGRESS_EVERY_S = 0.2


def write(stream: TextIO, text: str | bytes) -> None:
    """Write to a standard stream at once; one that nobody reads any more (`| head`) is silent from then on.

    A job that is being followed must come to its result all the same.

    Raises:
        OSError: it cannot be written (a full disk); it is silent from then on, so that leaving does not fail again.
    """
    content = text if isinstance(text, bytes) else text.encode(stream.encoding or "utf-8", "backslashreplace")
    try:
        stream.flush()
        stream.buffer.write(content)
        stream.buffer.flush()
    except OSError as fault:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, stream.fileno())
        os.close(silence)
        if not isinstance(fault, BrokenPipeError):
            raise


@dataclass(slots=True)
class Console:
    """The person's terminal: what they want to see and how wide it is."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    color: bool | None = None

    @property
    def style(self) -> Style:
        """How reports on stdout are to look."""
        is_terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size((80, 24)).columns if is_terminal or "COLUMNS" in os.environ else PIPED_WIDTH
        return Style(color=self._colored(is_terminal=is_terminal), width=width)

    @property
    def error_style(self) -> Style:
        """How errors on stderr are to look."""
        is_terminal = sys.stderr.isatty()
        return Style(color=self._colored(is_terminal=is_terminal), width=shutil.get_terminal_size((80, 24)).columns)

    def _colored(self, *, is_terminal: bool) -> bool:
        if self.color is not None:
            return self.color
        return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def answer(self, text: str, document: Mapping[str, object]) -> None:
        """Print the answer, as JSON or as text."""
        if self.json:
            self.print(json.dumps(document, ensure_ascii=False, indent=1 if sys.stdout.isatty() else None) + "\n")
        elif text:
            self.print(text.rstrip("\n") + "\n")

    def print(self, text: str | bytes) -> None:
        """Write to stdout as it stands."""
        write(sys.stdout, text)

    def say(self, line: str) -> None:
        """Print one line of talk, unless quiet."""
        if not self.quiet:
            write(sys.stderr, safe_text(line) + "\n")


class TerminalWatcher:
    """Shows a running job: its log as it comes, and on a terminal a line with time and latest metrics."""

    def __init__(self, console: Console) -> None:
        """Show on this console."""
        self._console = console
        self._shown = False
        self._last = -1.0
        self._live = sys.stderr.isatty() and not console.quiet and not console.json

    def log(self, text: bytes) -> None:
        """Print new log text."""
        if self._console.quiet:
            return
        self.clear()
        write(sys.stderr, text)

    def progress(self, elapsed_s: float, row: MetricRow | None) -> None:
        """Redraw the progress line, a few times a second."""
        if not self._live or elapsed_s - self._last < PROGRESS_EVERY_S:
            return
        self._last = elapsed_s
        from nemo_gitexp.metrics import row_metrics
        from nemo_gitexp.report.experiment import metrics_line

        step = f"  step {row['step']}" if row and row.get("step") is not None else ""
        metrics = f"  {metrics_line(row_metrics(row))}" if row else ""
        width = shutil.get_terminal_size((80, 24)).columns
        line = f"running {human_duration(elapsed_s)}{step}{metrics}"[: width - 1]
        write(sys.stderr, f"\r\x1b[K{safe_text(line)}")
        self._shown = True

    def say(self, line: str) -> None:
        """Print one line of talk."""
        self.clear()
        self._console.say(line)

    def clear(self) -> None:
        """Take the progress line away."""
        if self._shown:
            write(sys.stderr, "\r\x1b[K")
            self._shown = False


class SweepBoard:
    """Shows a sweep: on a terminal a table that is drawn anew, elsewhere a line for each combination that has ended."""

    def __init__(self, console: Console) -> None:
        """Show on this console."""
        self._console = console
        self._lines = 0
        self._last = -1.0
        self._rows: dict[str, LatestRow] = {}
        self._live = sys.stderr.isatty() and not console.quiet and not console.json

    def update(self, children: Sequence[Child], elapsed_s: float) -> None:
        """Redraw the table, a few times a second."""
        if not self._live or elapsed_s - self._last < PROGRESS_EVERY_S:
            return
        self._last = elapsed_s
        from nemo_gitexp.report.sweep import render_progress

        size = shutil.get_terminal_size((80, 24))
        running = [child for child in children if child.stage == "running"][: max(1, size.lines - 4)]
        rows = [(child.status, child.values, self._metrics(child)) for child in running]
        style = replace(self._console.error_style, width=size.columns - 1)
        text = render_progress(rows, [child.status for child in children], elapsed_s, style=style)
        write(sys.stderr, self._taken_away() + text)
        self._lines = text.count("\n")

    def ended(self, child: Child, children: Sequence[Child]) -> None:
        """Print one line about a combination that has ended."""
        from nemo_gitexp.report.sweep import render_ended

        done = sum(other.stage == "ended" for other in children)
        said = child.fault.message if child.fault else None
        style, place = self._console.error_style, f"{done}/{len(children)}"
        line = render_ended(child.values, child.status, child.document, said, place, style=style)
        self.clear()
        if not self._console.quiet:
            write(sys.stderr, f"{line}\n")

    def say(self, line: str) -> None:
        """Print one line of talk."""
        self.clear()
        self._console.say(line)

    def clear(self) -> None:
        """Take the table away."""
        if self._lines:
            write(sys.stderr, self._taken_away())
            self._lines = 0

    def _taken_away(self) -> str:
        return f"\x1b[{self._lines}A\r\x1b[J" if self._lines else ""

    def _metrics(self, child: Child) -> Mapping[str, Number]:
        """Return the latest metrics of a combination that runs."""
        if child.paths is None:
            return {}
        from nemo_gitexp.execution import LatestRow
        from nemo_gitexp.metrics import row_metrics

        row = self._rows.setdefault(child.paths.run, LatestRow(child.paths.metrics)).row()
        return row_metrics(row) if row else {}
