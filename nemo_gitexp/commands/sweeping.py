"""`sweep`."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_gitexp.commands.asking import ask
from nemo_gitexp.commands.call import CALL, EXIT_INTERRUPTED, EXIT_NO
from nemo_gitexp.commands.options import (
    Again,
    CommitData,
    Determinism,
    Executor,
    From,
    Keep,
    Message,
    NoReuse,
    Purpose,
    RequireClean,
    complete_studies,
)
from nemo_gitexp.errors import UsageError

if TYPE_CHECKING:
    from nemo_gitexp.verbs.sweep import SweepAnswer

_SWEEP_ID = re.compile(r"[0-9a-f]{4,12}")


What = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STUDY] [key=a,b,c…]",
        autocompletion=complete_studies,
        help="a study (or FILE.py:RECIPE) and what varies: key=a,b,c  seed=1..5  lr=0.1..0.5:0.1  n=range(1,10,2); "
        "with --resume also the id of a sweep",
    ),
]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", metavar="N", help="at most so many at a time; locally 1")]
Resume = Annotated[
    bool, typer.Option("--resume", help="go on with the latest sweep of the study, or the one that is named")
]


def sweep(
    what: What = None,
    *,
    jobs: Jobs = None,
    zipped: Annotated[bool, typer.Option("--zip", help="first with first, second with second, …")] = False,
    resume: Resume = False,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="one seed for all")] = None,
    executor: Executor = None,
    determinism: Determinism = None,
    message: Message = None,
    purpose: Purpose = None,
    base: From = None,
    plan: Annotated[bool, typer.Option("--plan", help="show the combinations; do nothing")] = False,
    again: Again = False,
    commit_data: CommitData = False,
    require_clean: RequireClean = False,
    keep: Keep = False,
    no_reuse: NoReuse = False,
) -> None:
    """Run every combination as an experiment of its own, but for finished ones; ends in a comparison, best first."""
    from nemo_gitexp.git.snapshot import begin_look

    look = begin_look(CALL.repository())
    from nemo_gitexp.console import SweepBoard
    from nemo_gitexp.verbs.sweep import SweepOptions
    from nemo_gitexp.verbs.sweep import sweep as verb

    study, sweep_id, changes = _study_and_sweep(what or [], resume=resume)
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
    options = SweepOptions(jobs, zipped, plan, resume, sweep_id, again, keep, reuse=not no_reuse)
    board = SweepBoard(CALL.console)
    try:
        answer = verb(
            CALL.site(),
            asked,
            options,
            functools.partial(CALL.nursery, executor),
            board,
            now=datetime.now(UTC),
            look=look,
        )
    finally:
        board.clear()
    _report_sweep(answer)


def _study_and_sweep(words: Sequence[str], *, resume: bool) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Return the study, the id of a sweep to go on with, and what varies."""
    names = [word for word in words if "=" not in word and not word.startswith("~")]
    changes = tuple(word for word in words if word not in names)
    most = 2 if resume else 1
    if len(names) > most:
        raise UsageError(f"{names[most]} is no key=value", hint=f"nemo-gitexp sweep {names[0]} {names[most]}=A,B")
    if resume and len(names) == 1 and _SWEEP_ID.fullmatch(names[0]):
        from nemo_gitexp.asked import list_studies

        if names[0] not in list_studies(CALL.repository().root):
            return None, names[0], changes
    return (*names, None, None)[0], (*names, None, None)[1], changes


def _report_sweep(answer: SweepAnswer) -> None:
    from nemo_gitexp.report.sweep import render_planned, render_sweep

    style, document = CALL.console.style, answer.to_json() if CALL.console.json else {}
    if CALL.console.json:
        text = ""
    elif answer.planned:
        text = render_planned(answer.documents, answer.values, style)
    else:
        metric, goal = answer.metric
        text = render_sweep(answer.documents, answer.ranking, metric, goal, sweep=answer.sweep, style=style)
    CALL.console.answer(text, document)
    if answer.interrupted:
        CALL.exit_code = EXIT_INTERRUPTED
    elif not answer.planned and not answer.is_whole:
        CALL.exit_code = EXIT_NO
