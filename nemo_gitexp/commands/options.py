"""The options and arguments that several verbs share, and what completes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from nemo_gitexp.errors import GitexpError


def complete_experiments(incomplete: str) -> list[str]:
    """Return the names, shas and words that could complete an EXP; silence where nothing can be read."""
    try:
        from nemo_gitexp.git.repository import open_repository
        from nemo_gitexp.tips import list_tips

        tips = list_tips(open_repository(Path.cwd()))
    except (GitexpError, OSError):
        return []
    words = ["latest", *(f"latest:{study}" for study in sorted({tip.study for tip in tips}))]
    return [word for word in [*words, *(tip.name for tip in tips)] if word.startswith(incomplete)]


def complete_studies(incomplete: str) -> list[str]:
    """Return the studies that have a definition."""
    try:
        from nemo_gitexp.asked import list_studies
        from nemo_gitexp.git.repository import open_repository

        return [study for study in list_studies(open_repository(Path.cwd()).root) if study.startswith(incomplete)]
    except (GitexpError, OSError):
        return []


def complete_executors(incomplete: str) -> list[str]:
    """Return the executor profiles."""
    try:
        from nemo_gitexp.catalog import open_site
        from nemo_gitexp.git.repository import open_repository

        profiles = open_site(open_repository(Path.cwd()), os.environ).settings.executors
    except (GitexpError, OSError):
        return []
    return [name for name in profiles if name.startswith(incomplete)]


Exp = Annotated[
    str,
    typer.Argument(
        metavar="EXP", autocompletion=complete_experiments, help="sha, ref, branch, name, latest or latest:STUDY"
    ),
]
Executor = Annotated[
    str | None, typer.Option("--executor", metavar="NAME", autocompletion=complete_executors, help="executor profile")
]
Detach = Annotated[bool, typer.Option("--detach", help="hand the prompt back once the job is on its way")]
Chain = Annotated[
    int, typer.Option("--chain", metavar="N", min=1, help="N jobs; each goes on where the one before was cut off")
]
Keep = Annotated[bool, typer.Option("--keep", help="keep the workspace")]
NoReuse = Annotated[bool, typer.Option("--no-reuse", help="run every stage of a pipeline, whatever is known already")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="seed of Python, numpy, torch")]
Determinism = Annotated[
    str | None, typer.Option("--determinism", metavar="off|seeded|bitwise", help="how far to go for equal numbers")
]
Message = Annotated[str | None, typer.Option("-m", "--message", metavar="TEXT", help="why this is run")]
Purpose = Annotated[
    str | None, typer.Option("--purpose", metavar="TEXT", help="recorded instead of the study's purpose")
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="EXP", autocompletion=complete_experiments, help="start from its configuration"),
]
Again = Annotated[bool, typer.Option("--again", help="run also what was run before")]
CommitData = Annotated[bool, typer.Option("--commit-data", help="pin changed inputs with DVC first")]
RequireClean = Annotated[bool, typer.Option("--require-clean", help="refuse when the work tree differs from HEAD")]
