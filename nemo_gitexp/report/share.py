"""What `push` and `pull` did, as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nemo_gitexp.report.terminal import Cell, Style, Table, human_size, plural, render_table, safe_text, short_hash

Row = Mapping[str, str]
"""One experiment: `experiment`, `study`, `name`, `what`."""


def render_shared(rows: Sequence[Row], lines: Iterable[str], *, style: Style) -> str:
    """Return the experiments that moved, one a line, and what is to be said beside them."""
    cells = [
        (Cell(short_hash(row["experiment"]), "yellow"), f"{row['study']}/{row['name']}", row["what"]) for row in rows
    ]
    return render_table(Table((), cells, shrink=1), style) + "".join(f"{safe_text(line)}\n" for line in lines if line)


def pushed_lines(
    remote: str, *, moved: int, same: int, behind: int, facts: int, data: Mapping[str, object], branches: Sequence[str]
) -> list[str]:
    """Return what is to be said after a push."""
    parts = [plural(moved, "experiment")] if moved else []
    parts += [plural(facts, "fact")] if facts else []
    parts += [data_words(data)] if data["objects"] else []
    lines = [f"pushed {', '.join(parts)} to {remote}" if parts else f"{remote} has everything already"]
    if same and parts:
        lines.append(f"{plural(same, 'experiment was', 'experiments were')} there already")
    if behind:
        lines.append(f"{remote} knows more of {plural(behind, 'experiment')}: nemo-gitexp pull {remote}")
    return lines + [f"branch {name}" for name in branches]


def pulled_lines(remote: str, *, came: int, facts: int, data: Mapping[str, object]) -> list[str]:
    """Return what is to be said after a pull."""
    parts = [plural(came, "experiment")] if came else []
    parts += [plural(facts, "fact")] if facts > 0 else []
    parts += [data_words(data)] if data["objects"] else []
    return [f"{', '.join(parts)} from {remote}" if parts else f"nothing new at {remote}"]


def data_words(data: Mapping[str, object]) -> str:
    """Return `3 objects (1.2 MB) by the DVC remote store`."""
    objects, size = data["objects"], data["size_bytes"]
    count = plural(objects if isinstance(objects, int) else 0, "object")
    sized = f" ({human_size(size)})" if isinstance(size, int) and size else ""
    remotes = data["remotes"]
    named = f" by the DVC remote {', '.join(map(str, remotes))}" if isinstance(remotes, list) and remotes else ""
    return f"{count} of data{sized}{named}"
