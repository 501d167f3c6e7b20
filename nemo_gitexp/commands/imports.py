"""`import`: runs that another tool recorded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_gitexp.commands.call import CALL, EXIT_NO
from nemo_gitexp.commands.options import complete_studies
from nemo_gitexp.documents import SCHEMA

if TYPE_CHECKING:
    from nemo_gitexp.importing import ImportAnswer
    from nemo_gitexp.verbs.imports import ImportOptions

imports = typer.Typer(
    rich_markup_mode=None,
    help="Bring in runs that another tool recorded: to be listed, shown and compared, never to be run again.",
    epilog="Example: nemo-gitexp import mlflow mlruns",
)
Into = Annotated[
    str | None,
    typer.Option("--study", metavar="NAME", autocompletion=complete_studies, help="instead of the name it has there"),
]
Only = Annotated[list[str] | None, typer.Option("--run", metavar="ID", help="only this run (id or name; repeat it)")]
Unfinished = Annotated[bool, typer.Option("--unfinished", help="runs that have not ended there, too: as lost")]
PlanOnly = Annotated[bool, typer.Option("--plan", "--dry-run", help="show what would be imported; do nothing")]


@imports.command("mlflow", epilog="Example: nemo-gitexp import mlflow mlruns --experiment digits")
def import_mlflow(
    place: Annotated[
        str, typer.Argument(metavar="PATH_OR_URI", help="mlruns, mlflow.db, or what MLflow's tracking URI is")
    ],
    *,
    study: Into = None,
    experiment: Annotated[
        list[str] | None,
        typer.Option("--experiment", metavar="NAME", help="only this experiment of MLflow (repeat it)"),
    ] = None,
    runs: Only = None,
    unfinished: Unfinished = False,
    plan: PlanOnly = False,
) -> None:
    """Import runs of MLflow: a file store, a SQLite store, or a tracking server where mlflow is installed."""
    from nemo_gitexp.verbs.imports import ImportOptions
    from nemo_gitexp.verbs.imports import import_mlflow as verb

    options = ImportOptions(study, unfinished, plan)
    _import(verb, options, place, CALL.directory, experiments=experiment or (), runs=runs or ())


@imports.command("wandb", epilog="Example: nemo-gitexp import wandb wandb")
def import_wandb(
    places: Annotated[list[str], typer.Argument(metavar="DIR…", help="the directories that wandb writes")],
    *,
    study: Into = None,
    runs: Only = None,
    unfinished: Unfinished = False,
    plan: PlanOnly = False,
) -> None:
    """Import runs of W&B from the logs that wandb leaves on disk, offline or not."""
    from nemo_gitexp.verbs.imports import ImportOptions
    from nemo_gitexp.verbs.imports import import_wandb as verb

    _import(verb, ImportOptions(study, unfinished, plan), places, CALL.directory, runs=runs or ())


@imports.command("dvc", epilog="Example: nemo-gitexp import dvc")
def import_dvc(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REV…]", help="experiments, branches, tags, commits; default: all experiments"),
    ] = None,
    *,
    study: Into = None,
    plan: PlanOnly = False,
) -> None:
    """Import experiments of DVC in this repository."""
    from nemo_gitexp.verbs.imports import ImportOptions
    from nemo_gitexp.verbs.imports import import_dvc as verb

    _import(verb, ImportOptions(study, plan_only=plan), revisions or [])


def _import(verb: Callable[..., ImportAnswer], options: ImportOptions, *what: object, **only: object) -> None:
    answer = verb(CALL.site(), *what, options, **only, now=datetime.now(UTC), say=CALL.console.say)
    _report_import(answer, plan=options.plan_only)


def _report_import(answer: ImportAnswer, *, plan: bool) -> None:
    from nemo_gitexp.report.imports import render_import

    skipped = [{"run": item.run, "reason": item.reason} for item in answer.skipped]
    style = CALL.console.style
    text = render_import(answer.experiments, answer.already, skipped, plan=plan, style=style)
    document = {
        "schema": SCHEMA,
        "experiments": answer.experiments,
        "already": answer.already,
        "skipped": skipped,
    }
    CALL.console.answer(text, document)
    CALL.exit_code = EXIT_NO if any(item.is_damaged for item in answer.skipped) else 0
