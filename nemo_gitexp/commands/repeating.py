"""`reproduce` and `probe`: the same again, recorded or not yet."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_gitexp.commands.asking import ask, study_and_changes
from nemo_gitexp.commands.call import CALL, EXIT_CANNOT_BISECT, EXIT_INTERRUPTED, EXIT_NO
from nemo_gitexp.commands.options import Determinism, Executor, Exp, Seed, complete_experiments
from nemo_gitexp.console import TerminalWatcher
from nemo_gitexp.errors import CostLimitError, UsageError

if TYPE_CHECKING:
    from nemo_gitexp.asked import Asked
    from nemo_gitexp.documents import ExperimentDoc, VerdictDoc


def reproduce(
    exp: Exp,
    *,
    require: Annotated[
        str, typer.Option("--require", metavar="restored|executed|metrics|bitwise", help="the level that counts as yes")
    ] = "metrics",
    executor: Executor = None,
    env_mode: Annotated[
        str,
        typer.Option(
            "--env",
            metavar="check|recreate|ignore",
            help="compare the environment, make the recorded one anew, or neither",
        ),
    ] = "check",
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="stop when the metric stream has N steps")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="show what would be run and what it cost; do nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="run although it is expensive")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="keep workspace and run directory")] = False,
    times: Annotated[int, typer.Option("--times", metavar="N", help="run N times; the worst verdict counts")] = 1,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="exit codes for git bisect run: 125 when it cannot be tried")
    ] = False,
) -> None:
    """Run a recorded experiment again, in its exact state, and say how far it came out the same."""
    from nemo_gitexp.verbs.reproduce import ReproduceOptions
    from nemo_gitexp.verbs.reproduce import reproduce as verb

    options = ReproduceOptions(
        require=require,
        executor=executor,
        env_mode=env_mode,
        steps=steps,
        plan_only=plan,
        confirmed=yes,
        keep=keep,
        times=times,
    )
    if bisect:
        CALL.failure_code = EXIT_CANNOT_BISECT
    watcher = TerminalWatcher(CALL.console)
    launcher = functools.partial(CALL.launcher, executor)
    try:
        answer = verb(CALL.site(), exp, options, launcher, watcher, os.environ)
    except CostLimitError as fault:
        if not _agrees(f"{fault.message}; go on?"):
            raise
        answer = verb(CALL.site(), exp, replace(options, confirmed=True), launcher, watcher, os.environ)
    watcher.clear()
    if answer.interrupted:
        CALL.exit_code = EXIT_INTERRUPTED
        return
    if answer.verdict is None:
        _report_reproduction_plan(answer.document, answer.cost_device_hours)
        return
    _report_verdict(answer.verdict, answer.runs, answer.kept)


def probe(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXP | [STUDY] [key=value…] [-- COMMAND ARGS…]",
            autocompletion=complete_experiments,
            help="an experiment, or what run would be given",
        ),
    ] = None,
    *,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="how many steps of the metric stream")] = 10,
    varied: Annotated[
        str, typer.Option("--vary", metavar="threads,workers,hashseed", help="once more with each of these changed")
    ] = "",
    seed: Seed = None,
    executor: Executor = None,
    determinism: Determinism = None,
) -> None:
    """Run the first steps twice and compare, before the whole computation is paid for. Records nothing."""
    from nemo_gitexp.report.probe import render_probe
    from nemo_gitexp.verbs.probe import ProbeOptions
    from nemo_gitexp.verbs.probe import probe as verb

    options = ProbeOptions(steps, tuple(dict.fromkeys(word for word in varied.split(",") if word)), executor)
    subject = _probed(what or [], seed=seed, executor=executor, determinism=determinism)
    watcher = TerminalWatcher(CALL.console)
    launcher = functools.partial(CALL.launcher, executor)
    answer = verb(CALL.site(), subject, options, launcher, watcher, env=os.environ, now=datetime.now(UTC))
    watcher.clear()
    document = answer.document
    if document is None:
        CALL.exit_code = EXIT_INTERRUPTED
        return
    CALL.console.answer(render_probe(document, style=CALL.console.style), document)
    CALL.exit_code = 0 if document["equal"] and not document["depends_on"] else EXIT_NO


def _probed(words: Sequence[str], *, seed: int | None, executor: str | None, determinism: str | None) -> str | Asked:
    """Return what is to be probed: an experiment's name, or what `run` would be asked for."""
    from nemo_gitexp.verbs.probe import names_run

    if CALL.command is None and words and not names_run(CALL.repository().root, words[0]):
        if len(words) > 1 or seed is not None or determinism is not None:
            hint = f"nemo-gitexp run STUDY --from {words[0]} key=value, or probe a STUDY with changes"
            raise UsageError(f"an experiment is probed as it is recorded: {words[0]}", hint=hint)
        return words[0]
    if CALL.command is None and not words:
        raise UsageError("what is to be probed?", hint="nemo-gitexp probe EXP, or probe STUDY, or probe -- COMMAND")
    study, changes = study_and_changes(words)
    return ask(study, changes, seed=seed, executor=executor, determinism=determinism, message="probe")


def _agrees(question: str) -> bool:
    """Return whether somebody at a terminal says yes; where nobody can be asked: no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or CALL.console.json:
        return False
    return typer.confirm(question, default=False, err=True)


def _report_verdict(verdict: VerdictDoc, runs: int, kept: Path | None) -> None:
    from nemo_gitexp.report.verdict import render_verdict

    CALL.console.answer(render_verdict(verdict, style=CALL.console.style, runs=runs), verdict)
    if kept is not None:
        CALL.console.say(f"the run is kept in {kept}")
    CALL.exit_code = 0 if verdict["met"] else EXIT_NO


def _report_reproduction_plan(document: ExperimentDoc, cost: float | None) -> None:
    from nemo_gitexp.report.experiment import render_experiment
    from nemo_gitexp.report.verdict import cost_words

    limit = CALL.site().settings.reproduce_cost_limit
    asks = f", more than {limit:g}: that needs --yes" if cost is not None and cost > limit else ""
    spent = "nobody knows how long" if cost is None else f"{cost:.3g} device-hours ({cost_words(document)}){asks}"
    text = (
        ""
        if CALL.console.json
        else render_experiment(document, style=CALL.console.style)
        + f"\nwould run it again; the recorded run took {spent}\n"
    )
    CALL.console.answer(text, {**document, "cost_device_hours": cost})
