"""`status`, `logs`, `cancel`, `collect`: runs that are on their way, or were."""

from __future__ import annotations

from typing import Annotated

import typer

from nemo_gitexp.commands.call import CALL, EXIT_NO, FAILED_STATUSES, answer_many
from nemo_gitexp.commands.options import Exp, complete_experiments
from nemo_gitexp.commands.telling import tell_remote, tell_remote_at_times
from nemo_gitexp.console import TerminalWatcher
from nemo_gitexp.documents import SCHEMA


def status(
    exps: Annotated[list[str] | None, typer.Argument(metavar="[EXP…]", autocompletion=complete_experiments)] = None,
    *,
    push: Annotated[
        bool, typer.Option("--push", help="tell a remote, too: status --push [REMOTE] [EXP…], which shows it to others")
    ] = False,
) -> None:
    """Say how runs stand: those named, or all that are not finished."""
    from nemo_gitexp.report.experiment import render_status
    from nemo_gitexp.verbs.follow import status as verb

    site, words = CALL.site(), list(exps or [])
    if push:
        words = tell_remote(words)
    documents = verb(site, words)
    if not push:
        tell_remote_at_times()
    answer_many(documents, render_status(documents, style=CALL.console.style) if documents else "nothing is running\n")


def logs(
    exp: Exp, *, follow: Annotated[bool, typer.Option("-f", "--follow", help="go on until the run has ended")] = False
) -> None:
    """Print the log of a run."""
    from nemo_gitexp.verbs.follow import follow_logs, read_logs

    log = read_logs(CALL.site(), exp, CALL.console.say)
    if CALL.console.json:
        text = b"".join(log.pieces).decode("utf-8", "replace")
        CALL.console.answer("", {"schema": SCHEMA, "experiment": log.tip.record, "log": text})
    elif follow:
        document = follow_logs(CALL.site(), log, _LogPrinter())
        CALL.exit_code = EXIT_NO if document["status"] in FAILED_STATUSES else 0
    else:
        for piece in log.pieces:
            CALL.console.print(piece)


def cancel(exp: Exp) -> None:
    """Stop a run; it is recorded as cancelled."""
    from nemo_gitexp.report.experiment import render_run_summary
    from nemo_gitexp.verbs.follow import cancel as verb

    document = verb(CALL.site(), exp, TerminalWatcher(CALL.console))
    CALL.console.answer(render_run_summary(document, style=CALL.console.style), document)


def collect() -> None:
    """Make the result commits of all runs that have ended."""
    from nemo_gitexp.report.experiment import render_status
    from nemo_gitexp.verbs.follow import collect as verb

    documents = verb(CALL.site())
    answer_many(documents, render_status(documents, style=CALL.console.style) if documents else "nothing to collect\n")


class _LogPrinter:
    """Writes a job's log to stdout: for `logs` it is the answer."""

    def log(self, text: bytes) -> None:
        CALL.console.print(text)

    def progress(self, elapsed_s: float, row: object) -> None:
        """Nothing beside the log."""

    def say(self, line: str) -> None:
        CALL.console.say(line)
