"""`import`: runs of MLflow, W&B and DVC become experiments, marked as imported; what has not ended waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from nemo_gitexp.catalog import Site
from nemo_gitexp.imported import ForeignRun, Skipped
from nemo_gitexp.importing import ImportAnswer, import_runs
from nemo_gitexp.naming import require_name


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import: into which study (None: by what each run belongs to), whether unfinished ones too, or a plan."""

    study: str | None = None
    unfinished: bool = False
    plan_only: bool = False


def import_mlflow(
    site: Site,
    place: str,
    cwd: Path,
    options: ImportOptions,
    *,
    experiments: Sequence[str] = (),
    runs: Sequence[str] = (),
    now: datetime,
    say: Callable[[str], None],
) -> ImportAnswer:
    """Import runs of an MLflow store.

    Raises:
        ImportSourceError, UnknownRunError: it cannot be read, or has no such run.
        GitexpError: nothing could be recorded.
    """
    from nemo_gitexp.sources.mlflow import MlflowAsked, read_mlflow_runs

    asked = MlflowAsked(tuple(experiments), tuple(runs))
    return _record(site, read_mlflow_runs(place, cwd, site.repository.root, asked), options, now, say)


def import_wandb(
    site: Site,
    places: Sequence[str],
    cwd: Path,
    options: ImportOptions,
    *,
    runs: Sequence[str] = (),
    now: datetime,
    say: Callable[[str], None],
) -> ImportAnswer:
    """Import runs that wandb left on disk.

    Raises:
        ImportSourceError, UnknownRunError: they cannot be read, or there is no such run.
        GitexpError: nothing could be recorded.
    """
    from nemo_gitexp.sources.wandb import read_wandb_runs

    return _record(site, read_wandb_runs(places, cwd, site.repository.root, runs), options, now, say)


def import_dvc(
    site: Site, revisions: Sequence[str], options: ImportOptions, *, now: datetime, say: Callable[[str], None]
) -> ImportAnswer:
    """Import experiments of DVC in this repository, or the commits that are named.

    Raises:
        ImportSourceError, UnknownRunError: there is none, or no such.
        GitexpError: nothing could be recorded.
    """
    from nemo_gitexp.sources.dvc import read_dvc_runs

    return _record(site, read_dvc_runs(site.repository, revisions), options, now, say)


def _record(
    site: Site,
    found: tuple[list[ForeignRun], list[Skipped]],
    options: ImportOptions,
    now: datetime,
    say: Callable[[str], None],
) -> ImportAnswer:
    if options.study is not None:
        require_name(options.study, "study")
    runs, skipped = found
    waiting = [] if options.unfinished else [run for run in runs if run.outcome is None]
    for run in waiting:
        reason = f"it has not ended there ({run.status}); --unfinished imports it as lost"
        skipped.append(Skipped(run.run, reason, is_damaged=False))
    wanted = [run for run in runs if options.unfinished or run.outcome is not None]
    answer = import_runs(site, wanted, study=options.study, now=now, say=say, plan_only=options.plan_only)
    return replace(answer, skipped=[*skipped, *answer.skipped])
