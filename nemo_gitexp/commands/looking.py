"""`log`, `show`, `outputs`, `checkout`, `diff`: what is recorded."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_gitexp.commands.call import CALL, EXIT_NO, answer_many
from nemo_gitexp.commands.options import Exp, complete_experiments, complete_studies
from nemo_gitexp.documents import SCHEMA
from nemo_gitexp.errors import UsageError

if TYPE_CHECKING:
    from nemo_gitexp.listing import Entry


def log(
    *,
    study: Annotated[str | None, typer.Option("--study", metavar="NAME", autocompletion=complete_studies)] = None,
    status_word: Annotated[
        str | None, typer.Option("--status", metavar="WORD", help="completed, failed, running, …")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="EXPR", help="comparisons, and, or, not over dotted keys")
    ] = None,
    sort: Annotated[str | None, typer.Option("--sort", metavar="KEY", help="ascending; -KEY descends")] = None,
    columns: Annotated[str | None, typer.Option("--columns", metavar="A,B", help="dotted keys")] = None,
    count: Annotated[int | None, typer.Option("-n", metavar="N", min=1, help="how many (20)")] = None,
    show_all: Annotated[bool, typer.Option("--all", help="all, archived and withdrawn ones too")] = False,
    lineage: Annotated[bool, typer.Option("--lineage", help="what was made from what, as a tree")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="comma-separated, full values")] = False,
) -> None:
    """List experiments, newest first."""
    from nemo_gitexp.verbs.log import LogOptions
    from nemo_gitexp.verbs.log import log as verb

    chosen = tuple(name for column in (columns or "").split(",") if (name := column.strip()))
    answer = verb(
        CALL.site(),
        LogOptions(
            study=study,
            status=status_word,
            where=where,
            sort=sort,
            columns=chosen,
            count=count,
            show_all=show_all,
            lineage=lineage,
        ),
    )
    for remark in answer.remarks:
        CALL.console.say(f"warning: {remark}")
    if lineage:
        from nemo_gitexp.report.lineage import render_lineage

        answer_many(list(answer.related), render_lineage(answer.related, style=CALL.console.style))
        return
    if CALL.console.json:
        _answer_entries(answer.entries)
        return
    from nemo_gitexp.report.log import render_log, render_log_csv
    from nemo_gitexp.report.terminal import safe_text

    documents = [entry.document for entry in answer.entries]
    if csv:
        table = render_log_csv(documents, chosen)
        CALL.console.print(safe_text(table, multiline=True) if sys.stdout.isatty() else table)
    elif not documents and answer.n_all:
        CALL.console.print("none can be read\n" if answer.remarks else "no experiment matches\n")
    else:
        CALL.console.print(render_log(documents, chosen, style=CALL.console.style))
        if answer.n_more:
            CALL.console.say(f"{answer.n_more} more: nemo-gitexp log --all, or -n N")


def show(exp: Exp) -> None:
    """Print everything about one experiment, and the commands to reproduce, compare and review it."""
    from nemo_gitexp.report.experiment import render_experiment
    from nemo_gitexp.verbs.show import show as verb

    answer = verb(CALL.site(), exp)
    console = CALL.console
    text = "" if console.json else render_experiment(
        answer.document,
        style=console.style,
        rows=answer.rows,
        remarks=answer.remarks,
        is_repeatable=answer.is_repeatable,
        imported=answer.imported,
    )  # fmt: skip
    console.answer(text, answer.document)


def outputs(
    exp: Exp,
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH…]", help="only these outputs")] = None,
    *,
    get: Annotated[Path | None, typer.Option("--get", metavar="DIR", help="write them there")] = None,
) -> None:
    """List what an experiment made, or fetch it."""
    from nemo_gitexp.report.experiment import render_outputs
    from nemo_gitexp.report.terminal import safe_text
    from nemo_gitexp.verbs.show import outputs as verb

    answer = verb(CALL.site(), exp, paths or [], None if get is None else CALL.place(get), CALL.console.say)
    written = [str(path) for path in answer.written]
    made = answer.document["outputs"]
    text = "".join(f"{safe_text(path)}\n" for path in written) if get is not None else render_outputs(made)
    document = {"schema": SCHEMA, "experiment": answer.document["experiment"], "outputs": made, "written": written}
    CALL.console.answer(text or "it made nothing", document)


def checkout(exp: Exp, directory: Annotated[Path, typer.Argument(metavar="DIR", help="a new directory")]) -> None:
    """Make a directory with the exact state of an experiment, data included."""
    from nemo_gitexp.verbs.checkout import checkout as verb

    answer = verb(CALL.site(), exp, CALL.place(directory), CALL.console.say)
    sha = answer.document["experiment"]
    text = f"{answer.directory}  is at {sha[:12]}; remove it with: git worktree remove {answer.directory}"
    CALL.console.answer(text, {"schema": SCHEMA, "experiment": sha, "directory": str(answer.directory)})


def diff(
    a: Annotated[
        str | None, typer.Argument(metavar="[A]", autocompletion=complete_experiments, help="default: the latest")
    ] = None,
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="[B]",
            autocompletion=complete_experiments,
            help="default: the baseline on this branch, else the completed one before",
        ),
    ] = None,
    *,
    worktree: Annotated[bool, typer.Option("--worktree", help="compare with the present state")] = False,
    layout: Annotated[str, typer.Option("--format", metavar="text|md|json|html")] = "text",
    output: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="write there")] = None,
    show_all: Annotated[bool, typer.Option("--all", help="what is equal too")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="exit 1 when they differ")] = False,
) -> None:
    """Compare two experiments: configuration, seed, code, data, environment, metrics, outputs."""
    from nemo_gitexp.comparison import differs
    from nemo_gitexp.verbs.diff import diff as verb
    from nemo_gitexp.verbs.diff import diff_worktree

    if layout not in ("text", "md", "json", "html"):
        raise UsageError(f"--format {layout} is none of text, md, json, html", hint="--format md")
    if worktree and b is not None:
        raise UsageError("--worktree is the second side already", hint="nemo-gitexp diff A --worktree")
    now = datetime.now(UTC)
    answer = diff_worktree(CALL.site(), a, os.environ, now) if worktree else verb(CALL.site(), a, b)
    for remark in answer.remarks:
        CALL.console.say(f"note: {remark}")
    text = _render_diff(answer, layout, show_all=show_all)
    if output is not None:
        _write_report(CALL.directory / output, text)
    elif CALL.console.json:
        CALL.console.answer("", answer.diff)
    else:
        CALL.console.print(text)
    CALL.exit_code = EXIT_NO if exit_code and differs(answer.diff) else 0


def _answer_entries(entries: Sequence[Entry]) -> None:
    """Print listed experiments as JSON: for a program in the words that they are cached in."""
    if sys.stdout.isatty():
        answer_many([entry.document for entry in entries], "")
    else:
        listed = b", ".join(entry.text for entry in entries)
        CALL.console.print(b'{"schema": %d, "experiments": [%s]}\n' % (SCHEMA, listed))


def _render_diff(answer: object, layout: str, *, show_all: bool) -> str:
    import json

    from nemo_gitexp.report.diff import render_diff, render_diff_html, render_diff_markdown
    from nemo_gitexp.verbs.diff import DiffAnswer

    if not isinstance(answer, DiffAnswer):
        raise TypeError("no difference")
    sides = (answer.diff, answer.a, answer.b)
    if layout == "md":
        return render_diff_markdown(*sides, show_all=show_all)
    if layout == "html":
        return render_diff_html(*sides, show_all=show_all)
    if layout == "json":
        return json.dumps(answer.diff, ensure_ascii=False) + "\n"
    return render_diff(*sides, show_all=show_all, style=CALL.console.style)


def _write_report(path: Path, text: str) -> None:
    from nemo_gitexp.errors import StateDirectoryError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise StateDirectoryError(f"cannot write {path}: {fault.strerror}", path=str(path)) from fault
