"""`init`, `config`, `doctor`: whether repository, machine and sites are ready."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from nemo_gitexp.commands.call import CALL, EXIT_NO
from nemo_gitexp.commands.options import Executor
from nemo_gitexp.documents import SCHEMA
from nemo_gitexp.errors import UsageError


def init(
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="write a commented experiments/NAME/experiment.yaml")
    ] = None,
    *,
    hooks: Annotated[bool, typer.Option("--hooks/--no-hooks", help="git hooks; this version has none")] = False,
) -> None:
    """Make a repository ready: attributes, ignored local state, fetch refspecs, DVC where data is declared."""
    from nemo_gitexp.verbs.init import init as verb

    if hooks:
        raise UsageError("this version installs no git hooks", hint="nemo-gitexp init --no-hooks")

    answer = verb(CALL.repository(), study=study)
    lines = [*answer.done] or ["nothing to do: the repository is ready"]
    if answer.to_commit:
        lines += ["", "to commit:", f"  git add {' '.join(answer.to_commit)}", '  git commit -m "nemo-gitexp init"']
    CALL.console.answer("\n".join(lines), {"schema": SCHEMA, "done": answer.done, "to_commit": answer.to_commit})


def config() -> None:
    """Show every setting, its value, and where it comes from; nothing secret is shown."""
    from nemo_gitexp.report.config import render_config
    from nemo_gitexp.verbs.config import config as verb
    from nemo_gitexp.verbs.config import config_document

    settings = verb(CALL.site())
    rows = [(item.name, item.value, item.source) for item in settings]
    CALL.console.answer(render_config(rows, style=CALL.console.style), config_document(settings))


def doctor(executor: Executor = None) -> None:
    """Say whether this machine, and an executor's site, can do the job, and what to install; submits nothing."""
    from nemo_gitexp.report.doctor import render_diagnosis
    from nemo_gitexp.verbs.doctor import doctor as verb

    answer = verb(CALL.site(), executor, os.environ)
    text = render_diagnosis(answer.machine, answer.executors, style=CALL.console.style)
    CALL.console.answer(text, answer.to_json())
    CALL.exit_code = 0 if answer.is_fine else EXIT_NO
