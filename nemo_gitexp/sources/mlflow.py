"""Runs of MLflow: of a file store, a SQLite store, or a tracking server (through the mlflow package)."""

from __future__ import annotations

import math
import sqlite3
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from nemo_gitexp.errors import ImportSourceError
from nemo_gitexp.imported import ForeignRun, Skipped, metric_rows, nested_params, typed_params
from nemo_gitexp.sources.place import is_url, recorded_place, require_known, require_place, shown_url, utc
from nemo_gitexp.worker.mlflowfiles import (
    META,
    MetricPoint,
    MlflowRun,
    find_mlflow_runs,
    is_mlflow_run,
    is_mlflow_store,
    mlflow_metric_rows,
    read_mlflow_run,
)

_OUTCOMES = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "cancelled", "RUNNING": None, "SCHEDULED": None}
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class MlflowAsked:
    """Which runs: all, those of some experiments (name or id), those of some ids or names."""

    experiments: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


def read_mlflow_runs(place: str, cwd: Path, root: Path, asked: MlflowAsked) -> tuple[list[ForeignRun], list[Skipped]]:
    """Return the runs of an MLflow store that people have not deleted.

    Args:
        place: a directory (a store, an experiment or a run of it, or one that holds `mlruns`), a SQLite file, or the
            URI that MLflow would be given: `file:…`, `sqlite:///…`, `http…`.
        cwd: what relative paths start from.
        root: of the repository, to which records name paths.
        asked: which of them.

    Raises:
        ImportSourceError: there is no such store, it holds no run, or the package that reads it is missing.
        UnknownRunError: an experiment or run that was asked for is not there.
    """
    skipped: list[Skipped] = []
    if is_url(place):
        source, found = shown_url(place), list(_server_runs(place, asked.experiments))
    else:
        path = require_place(_path(place, cwd), "mlflow")
        source = recorded_place(path, root)
        found = list(_sqlite_runs(path) if path.is_file() else _file_runs(path, skipped))
    kept = [run for run in found if not run.is_deleted]
    if not kept and not skipped:
        hint = "nemo-gitexp import mlflow mlruns, or the URI that the runs were logged to"
        raise ImportSourceError(f"{source} holds no run of MLflow", hint=hint, source=source)
    names = {name for run in kept for name in (run.experiment, run.experiment_id)}
    require_known(asked.experiments, names, "experiment", source)
    of_experiments = [run for run in kept if _is_of(asked.experiments, (run.experiment, run.experiment_id))]
    require_known(asked.runs, {name for run in of_experiments for name in (run.run_id, run.name)}, "run", source)
    chosen = [run for run in of_experiments if _is_of(asked.runs, (run.run_id, run.name))]
    if asked.runs:
        skipped = []
    runs = [_foreign(run, source) for run in chosen]
    return [run for run in runs if isinstance(run, ForeignRun)], [
        *skipped,
        *(run for run in runs if isinstance(run, Skipped)),
    ]


def _is_of(wanted: Collection[str], names: Sequence[str]) -> bool:
    return not wanted or any(name in wanted for name in names)


def _path(place: str, cwd: Path) -> Path:
    if place.startswith("sqlite:///"):
        return cwd / place.removeprefix("sqlite:///")
    for head in ("file://", "file:"):
        if place.startswith(head):
            return cwd / unquote(place.removeprefix(head))
    if "://" in place:
        raise ImportSourceError(
            f"a store at {shown_url(place)} is read through a tracking server only",
            hint="mlflow server --backend-store-uri URI, then nemo-gitexp import mlflow http://127.0.0.1:5000",
            source=shown_url(place),
        )
    return cwd / place


def _foreign(run: MlflowRun, source: str) -> ForeignRun | Skipped:
    if run.status not in _OUTCOMES:
        return Skipped(run.run_id, f"it has no status that is known: {run.status or 'none'}")
    rows, bad_lines = metric_rows(mlflow_metric_rows(run))
    remarks = []
    broken = sorted(name for name, text in run.params.items() if "\ufffd" in text)
    if broken:
        remarks.append(f"has parameters that are no text, recorded as far as they are: {', '.join(broken)}")
    return ForeignRun(
        tool="mlflow",
        group=run.experiment or run.experiment_id,
        run=run.run_id,
        name=run.name or run.run_id,
        source=source,
        status=run.status,
        outcome=_OUTCOMES[run.status],
        config=nested_params(typed_params(run.params)),
        rows=rows,
        bad_lines=bad_lines + run.damaged,
        started=utc(run.started),
        ended=utc(run.ended),
        commit=run.tags.get("mlflow.source.git.commit"),
        url=f"{source}/#/experiments/{run.experiment_id}/runs/{run.run_id}" if is_url(source) else None,
        remarks=tuple(remarks),
    )


# ------------------------------------------------------------------------------------------------------- file stores


def _file_runs(place: Path, skipped: list[Skipped]) -> Iterator[MlflowRun]:
    directory = str(place)
    if is_mlflow_run(directory):
        directories = [directory]
    elif is_mlflow_store(directory):
        directories = find_mlflow_runs(directory)
        skipped += _damaged_runs(place.glob("*/*"))
    elif is_mlflow_store(str(place / "mlruns")):
        directories = find_mlflow_runs(str(place / "mlruns"))
        skipped += _damaged_runs(place.glob("mlruns/*/*"))
    else:
        directories = [str(path) for path in sorted(place.iterdir()) if is_mlflow_run(str(path))]
        skipped += _damaged_runs(place.iterdir()) if (place / META).is_file() else []
    for path in sorted(directories):
        try:
            yield read_mlflow_run(path)
        except OSError as fault:
            skipped.append(Skipped(Path(path).name, f"it cannot be read: {fault.strerror}"))


def _damaged_runs(directories: Iterator[Path]) -> list[Skipped]:
    """Return the directories that hold what runs hold, and no meta.yaml that says which run."""
    candidates = [path for path in sorted(directories) if (path / "metrics").is_dir() or (path / "params").is_dir()]
    lost = [path for path in candidates if not path.is_symlink() and not is_mlflow_run(str(path))]
    return [Skipped(path.name, f"its {META} is missing or damaged") for path in lost]


# ----------------------------------------------------------------------------------------------------- SQLite stores


def _sqlite_runs(path: Path) -> Iterator[MlflowRun]:
    """Yield the runs of a SQLite store; it is opened for reading only.

    Source: `mlflow/store/tracking/dbmodels/models.py`; these tables and columns are the same since MLflow 1.0.
    """
    with path.open("rb") as file:
        is_database = file.read(len(_SQLITE)) == _SQLITE
    if not is_database:
        raise _no_store(path, "it is neither a directory nor a SQLite file")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            yield from _database_runs(database, str(path))
    except sqlite3.Error as fault:
        raise _no_store(path, str(fault)) from fault


def _no_store(path: Path, why: str) -> ImportSourceError:
    hint = "nemo-gitexp import mlflow mlruns, or a SQLite file of MLflow: mlflow.db"
    return ImportSourceError(f"{path} is no store of MLflow: {why}", hint=hint, source=str(path))


def _database_runs(database: sqlite3.Connection, path: str) -> Iterator[MlflowRun]:
    params, tags = (_texts(database, table) for table in ("params", "tags"))
    points: dict[str, dict[str, list[MetricPoint]]] = {}
    query = "SELECT run_uuid, key, timestamp, value, step, is_nan FROM metrics ORDER BY run_uuid, key, step, timestamp"
    for run, key, timestamp, value, step, is_nan in database.execute(query):
        point = MetricPoint(timestamp, math.nan if is_nan else _real(value), step)
        points.setdefault(run, {}).setdefault(key, []).append(point)
    rows = database.execute(
        "SELECT run_uuid, runs.name, runs.experiment_id, experiments.name, status, start_time, end_time, artifact_uri,"
        " runs.lifecycle_stage, experiments.lifecycle_stage FROM runs JOIN experiments USING (experiment_id)"
        " ORDER BY start_time, run_uuid"
    )
    for run, name, experiment_id, experiment, status, started, ended, artifacts, stage, above in rows:
        yield MlflowRun(
            path=path,
            run_id=run,
            name=name or tags.get(run, {}).get("mlflow.runName", ""),
            experiment_id=str(experiment_id),
            experiment=experiment or "",
            status=status or "",
            started=_seconds(started),
            ended=_seconds(ended),
            artifact_uri=artifacts or "",
            is_deleted="deleted" in (stage, above),
            params=params.get(run, {}),
            tags=tags.get(run, {}),
            metrics={key: tuple(values) for key, values in points.get(run, {}).items()},
            damaged=0,
        )


def _texts(database: sqlite3.Connection, table: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for run, key, value in database.execute(f"SELECT run_uuid, key, value FROM {table}"):  # noqa: S608 - our own words
        found.setdefault(run, {})[key] = str(value)
    return found


def _real(value: float) -> float:
    """Return a value as it was logged: databases keep infinity as the largest float (MLflow, `sqlalchemy_store.py`)."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


# -------------------------------------------------------------------------------------------------- tracking servers


def _server_runs(url: str, experiments: Sequence[str]) -> Iterator[MlflowRun]:
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as fault:
        raise ImportSourceError(
            f"reading the tracking server {shown_url(url)} needs the mlflow package, which is not installed here",
            hint="pip install mlflow-skinny, or give the store itself: nemo-gitexp import mlflow mlruns",
            source=shown_url(url),
            package="mlflow",
        ) from fault
    client = MlflowClient(url)
    try:
        groups = {item.experiment_id: item.name for item in client.search_experiments()}
        require_known(experiments, {*groups, *groups.values()}, "experiment", shown_url(url))
        wanted = [key for key, name in groups.items() if _is_of(experiments, (key, name))]
        token: str | None = None
        while wanted:
            page = client.search_runs(wanted, max_results=1000, page_token=token)
            for run in page:
                yield _server_run(client, run, groups)
            token = page.token
            if not token:
                break
    except (MlflowException, OSError) as fault:
        said = str(fault).split("\n", maxsplit=1)[0]
        raise ImportSourceError(
            f"the tracking server {shown_url(url)} does not answer: {said}", hint=f"curl {shown_url(url)}/health",
            source=shown_url(url),
        ) from fault  # fmt: skip


def _server_run(client: Any, run: Any, groups: dict[str, str]) -> MlflowRun:
    info, kept = run.info, run.data
    histories = {key: client.get_metric_history(info.run_id, key) for key in kept.metrics}
    return MlflowRun(
        path="",
        run_id=info.run_id,
        name=info.run_name or "",
        experiment_id=info.experiment_id,
        experiment=groups.get(info.experiment_id, ""),
        status=info.status,
        started=_seconds(info.start_time),
        ended=_seconds(info.end_time),
        artifact_uri=info.artifact_uri or "",
        is_deleted=info.lifecycle_stage == "deleted",
        params=dict(kept.params),
        tags=dict(kept.tags),
        metrics={
            key: tuple(MetricPoint(point.timestamp, _real(point.value), point.step) for point in points)
            for key, points in histories.items()
        },
        damaged=0,
    )
