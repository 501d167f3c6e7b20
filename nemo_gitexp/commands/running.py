"""`run` and `launch`."""

from __future__ import annotations

import functools
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_gitexp.commands.asking import ask, study_and_changes
from nemo_gitexp.commands.call import CALL, EXIT_INTERRUPTED, EXIT_NO
from nemo_gitexp.commands.options import (
    Again,
    Chain,
    CommitData,
    Detach,
    Determinism,
    Executor,
    Exp,
    From,
    Keep,
    Message,
    NoReuse,
    Purpose,
    RequireClean,
    Seed,
    complete_studies,
)
from nemo_gitexp.commands.telling import tell_remote_at_times, telling
from nemo_gitexp.console import TerminalWatcher

if TYPE_CHECKING:
    from nemo_gitexp.verbs.launch import StarterFactory
    from nemo_gitexp.verbs.run import RunAnswer


What = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STUDY] [key=value…] [-- COMMAND ARGS…]",
        autocompletion=complete_studies,
        help="a study and changes to its configuration, or a command after --",
    ),
]


def run(
    what: What = None,
    *,
    seed: Seed = None,
    executor: Executor = None,
    determinism: Determinism = None,
    message: Message = None,
    purpose: Purpose = None,
    base: From = None,
    plan: Annotated[bool, typer.Option("--plan", help="show what would be recorded and run; do nothing")] = False,
    detach: Detach = False,
    again: Again = False,
    commit_data: CommitData = False,
    require_clean: RequireClean = False,
    record_only: Annotated[bool, typer.Option("--record-only", help="record, do not run")] = False,
    chain: Chain = 1,
    keep: Keep = False,
    no_reuse: NoReuse = False,
) -> None:
    """Record the present state as an experiment, run exactly it, and record the result."""
    from nemo_gitexp.git.snapshot import begin_look

    look = begin_look(CALL.repository())  # git looks at the files while Python imports the rest
    from nemo_gitexp.verbs.run import RunOptions
    from nemo_gitexp.verbs.run import run as verb

    study, changes = study_and_changes(what or [])
    asked = ask(
        study,
        changes,
        base=base,
        seed=seed,
        executor=executor,
        determinism=determinism,
        message=message,
        purpose=purpose,
        commit_data=commit_data,
        require_clean=require_clean,
    )
    options = RunOptions(
        plan_only=plan,
        record_only=record_only,
        detach=detach,
        again=again,
        keep=keep,
        reuse=not no_reuse,
        chain=chain,
    )
    watcher = TerminalWatcher(CALL.console)
    watching = telling(watcher)
    answer = verb(
        CALL.site(), asked, options, _starter(executor, detach=detach), watching, now=datetime.now(UTC), look=look
    )
    watcher.clear()
    if answer.outcome == "ongoing" and sys.stdin.isatty() and sys.stderr.isatty() and not CALL.console.json:
        answer = _offer_to_follow(answer, watcher)
    _report_run(answer)
    tell_remote_at_times()


def launch(
    exp: Exp, *, detach: Detach = False, chain: Chain = 1, keep: Keep = False, no_reuse: NoReuse = False
) -> None:
    """Run an experiment that was recorded only, or that was lost."""
    from nemo_gitexp.verbs.launch import launch as verb
    from nemo_gitexp.verbs.run import RunOptions

    watcher = TerminalWatcher(CALL.console)
    options = RunOptions(detach=detach, keep=keep, reuse=not no_reuse, chain=chain)
    answer = verb(CALL.site(), exp, options, _starter(detach=detach), telling(watcher), os.environ)
    watcher.clear()
    _report_run(answer)
    tell_remote_at_times()


def _starter(executor: str | None = None, *, detach: bool) -> StarterFactory:
    is_local = executor is None or executor == "local"
    return CALL.background if detach and is_local else functools.partial(CALL.launcher, executor)


def _report_run(answer: RunAnswer) -> None:
    from nemo_gitexp.report.experiment import render_experiment, render_run_summary

    document, style = answer.document, CALL.console.style
    if CALL.console.json:
        text = ""
    elif answer.outcome == "planned":
        text = render_experiment(document, style=style)
    elif answer.outcome == "detached":
        text = f"{document['experiment'][:12]}  {document['status']}\nnemo-gitexp logs {document['experiment'][:12]} -f"
    else:
        text = render_run_summary(document, style=style)
    CALL.console.answer(text, document)
    if answer.interrupted:
        CALL.exit_code = EXIT_INTERRUPTED
    elif answer.outcome == "ran" and document["status"] != "completed":
        CALL.exit_code = EXIT_NO


def _offer_to_follow(answer: RunAnswer, watcher: TerminalWatcher) -> RunAnswer:
    from nemo_gitexp.verbs.follow import follow_logs, read_logs
    from nemo_gitexp.verbs.run import RunAnswer

    name = answer.document["name"]
    CALL.console.say(f"the same experiment is running already: {name}")
    if not typer.confirm("follow it?", default=True, err=True):
        return answer
    log = read_logs(CALL.site(), answer.document["experiment"], watcher.say)
    return RunAnswer("ran", follow_logs(CALL.site(), log, watcher))
