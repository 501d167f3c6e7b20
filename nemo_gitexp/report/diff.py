"""The difference of two experiments for a terminal, for a pull request, and as a page of its own."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable, Sequence

from nemo_gitexp.comparison import differs
from nemo_gitexp.documents import DiffDoc, ExperimentDoc
from nemo_gitexp.report.changes import (
    CAUTION,
    LEGEND,
    Change,
    MetricLine,
    Section,
    diff_sections,
    metric_lines,
    side_name,
    summary_line,
)
from nemo_gitexp.report.terminal import Cell, Style, Table, heading, render_table, safe_text, short_hash, text_width

MARKDOWN_LIMIT = 60_000
"""Characters; GitHub refuses a comment over 65,536."""

_TINTS = {"+": "green", "-": "red", "~": "yellow", " ": "dim"}


def render_diff(diff: DiffDoc, a: ExperimentDoc, b: ExperimentDoc, *, show_all: bool = False, style: Style) -> str:
    """Return the difference for a terminal: a summary line first, then a line for every change.

    Args:
        diff: from `comparison.compare_experiments`.
        a: the experiment compared against.
        b: the experiment that is judged.
        show_all: also what is the same.
        style: colours and width.
    """
    summary = textwrap.fill(summary_line(diff), max(style.width, 40))
    parts = [f"a  {safe_text(side_name(a))}\nb  {safe_text(side_name(b))}\n\n{style.paint(summary, 'bold')}\n"]
    if not differs(diff) and not show_all:
        return parts[0]
    parts[0] += style.paint(LEGEND, "dim") + "\n"
    metrics = metric_lines(diff)
    parts += [_metrics_text(metrics, style)] if metrics else []
    parts += [
        heading(section.title, "", style) + _changes_text(section.changes, style)
        for section in diff_sections(diff, show_all=show_all)
    ]
    return "\n".join(parts)


def render_diff_markdown(diff: DiffDoc, a: ExperimentDoc, b: ExperimentDoc, *, show_all: bool = False) -> str:
    """Return the difference as GitHub Markdown; long sections are cut until it fits into a comment."""
    drafts = (_markdown(diff, a, b, limit, show_all=show_all) for limit in (200, 50, 10))
    shortest = _markdown(diff, a, b, 2, show_all=False)[:MARKDOWN_LIMIT]
    return next((text for text in drafts if len(text) <= MARKDOWN_LIMIT), shortest)


def render_diff_html(diff: DiffDoc, a: ExperimentDoc, b: ExperimentDoc, *, show_all: bool = False) -> str:
    """Return the difference as one HTML page that needs nothing else, the same bytes every time."""
    title = _html(f"{b['study']}: {short_hash(a['experiment'])} → {short_hash(b['experiment'])}")
    body = [f"<h1>{title}</h1>", f"<p class=summary>{_html(summary_line(diff))}</p>"]
    body.append(_html_table("", [("a", side_name(a), ""), ("b", side_name(b), "")]))
    metrics = metric_lines(diff)
    if metrics:
        rows = [(line.name, line.a, line.b, line.delta, line.leader) for line in metrics]
        body.append(_html_table("Metrics", rows, ("metric", "a", "b", "b − a", "")))
        body.append(f"<p class=note>{_html(CAUTION)}</p>")
    for section in diff_sections(diff, show_all=show_all):
        lines = [(change.sign, change.name, change.a, change.b, change.note) for change in section.changes]
        body.append(_html_table(section.title, lines, ("", "name", "a", "b", ""), signed=True))
    return _PAGE.format(title=title, body="\n".join(body))


def _metrics_text(metrics: Iterable[MetricLine], style: Style) -> str:
    rows = [
        (
            Cell("~" if line.changed else " ", _TINTS["~" if line.changed else " "]),
            line.name,
            line.a,
            line.b,
            line.delta or ("same" if not line.changed else ""),
            line.leader,
        )
        for line in metrics
    ]
    table = Table(("", "metric", "a", "b", "b - a", ""), rows, "llrrrl", 1, 2, "dim")
    return heading("Metrics", CAUTION, style) + render_table(table, style)


def _changes_text(changes: Iterable[Change], style: Style) -> str:
    lines = [
        (Cell(change.sign, _TINTS[change.sign]), change.name, _values_text(change), change.note) for change in changes
    ]
    names, values = (max((text_width(str(line[column])) for line in lines), default=0) for column in (1, 2))
    return render_table(Table((), lines, shrink=1 if names > values else 2, indent=2), style)


def _values_text(change: Change) -> str:
    if change.sign == "~" and (change.a or change.b):
        return f"{change.a} -> {change.b}"
    return change.b or change.a


def _markdown(diff: DiffDoc, a: ExperimentDoc, b: ExperimentDoc, limit: int, *, show_all: bool) -> str:
    parts = [f"### {_md(b['study'])}: {_code(short_hash(a['experiment']))} → {_code(short_hash(b['experiment']))}\n"]
    parts.append(f"**{_md(summary_line(diff))}**\n")
    parts.append(f"- a: {_code(side_name(a))}\n- b: {_code(side_name(b))}\n")
    metrics = metric_lines(diff)
    if metrics:
        rows = [(_code(m.name), _md(m.a), _md(m.b), m.delta, m.leader) for m in metrics[:limit]]
        parts.append(_md_table(("metric", "a", "b", "b − a", ""), rows, len(metrics)))
        parts.append(f"<sub>{CAUTION}</sub>\n")
    for section in diff_sections(diff, show_all=show_all):
        parts.append(f"**{section.title}**\n")
        parts.append(_md_section(section, limit))
    return "\n".join(parts)


def _md_section(section: Section, limit: int) -> str:
    rows = [
        (change.sign.strip(), _code(change.name), _code(change.a), _code(change.b), _md(change.note))
        for change in section.changes[:limit]
    ]
    return _md_table(("", "name", "a", "b", ""), rows, len(section.changes))


def _md_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], total: int) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    text = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    return text + (f"\n… and {total - len(rows)} more\n" if total > len(rows) else "")


def _code(text: str) -> str:
    """Return text as a code span, which keeps it from being Markdown, HTML or a mention."""
    if not text:
        return ""
    shown = safe_text(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    space = " " if "`" in shown else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _md(text: str) -> str:
    """Return text with everything that Markdown would act on escaped."""
    escaped = re.sub(r"([\\`*_{}\[\]<#|~@&])", r"\\\1", safe_text(text))
    return escaped.replace("\\@", "@\u200b")


def _html(text: str) -> str:
    return html.escape(safe_text(text))


def _html_table(
    title: str, rows: Iterable[tuple[str, ...]], header: tuple[str, ...] = (), *, signed: bool = False
) -> str:
    names = {"+": "added", "-": "removed", "~": "changed", " ": "same"}
    lines = [f"<h2>{_html(title)}</h2>"] if title else []
    lines.append("<table>")
    if header:
        lines.append(f"<tr>{''.join(f'<th>{_html(name)}</th>' for name in header)}</tr>")
    for row in rows:
        kind = f" class={names[row[0]]}" if signed else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{_html(cell)}</td>' for cell in row)}</tr>")
    return "\n".join([*lines, "</table>"])


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin: 1.5rem 0 .3rem; }}
.summary {{ font-weight: 600; }} .note {{ opacity: .7; font-size: .85rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #8884; vertical-align: top; }}
td {{ font-family: ui-monospace, monospace; font-size: .9rem; overflow-wrap: anywhere; }}
.added td:first-child {{ color: #1a7f37; }} .removed td:first-child {{ color: #cf222e; }}
.changed td:first-child {{ color: #9a6700; }} .same {{ opacity: .6; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
