"""Runs in a SQLite store of MLflow: what there is first, then the histories of those that are wanted."""

from __future__ import annotations

import math
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from nemo_gitexp.errors import ImportSourceError
from nemo_gitexp.worker.mlflowfiles import MetricPoint, MlflowRun

_SQLITE = b"SQLite format 3\0"
_TOGETHER = 100
"""The tables are asked for so many runs at a time: stores before MLflow 1.13 have no index by run."""


class DatabaseStore:
    """A SQLite store; it is opened for reading only.

    Source: `mlflow/store/tracking/dbmodels/models.py`; these tables and columns are the same since MLflow 1.0.
    """

    def __init__(self, path: Path) -> None:
        """Check that the file is a database.

        Raises:
            ImportSourceError: it is none.
        """
        with path.open("rb") as file:
            is_database = file.read(len(_SQLITE)) == _SQLITE
        if not is_database:
            raise _no_store(path, "it is neither a directory nor a SQLite file")
        self._path = path

    def list_runs(self) -> list[MlflowRun]:
        """Return all runs, deleted ones too, without parameters, tags and metrics.

        Raises:
            ImportSourceError: it is no store of MLflow.
        """
        with self._opened() as database:
            return [_head(row, str(self._path)) for row in database.execute(_HEADS)]

    def read_runs(self, runs: Sequence[MlflowRun]) -> Iterator[MlflowRun]:
        """Yield runs that were listed with all that they hold.

        Raises:
            ImportSourceError: it is no store of MLflow.
        """
        with self._opened() as database:
            for start in range(0, len(runs), _TOGETHER):
                yield from _whole(database, runs[start : start + _TOGETHER])

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)) as database:
                yield database
        except sqlite3.Error as fault:
            raise _no_store(self._path, str(fault)) from fault


_HEADS = """
SELECT run_uuid, runs.name, runs.experiment_id, experiments.name, status, start_time, end_time, artifact_uri,
  runs.lifecycle_stage, experiments.lifecycle_stage,
  (SELECT value FROM tags WHERE tags.run_uuid = runs.run_uuid AND tags.key = 'mlflow.runName')
FROM runs JOIN experiments USING (experiment_id) ORDER BY start_time, run_uuid
"""


def _no_store(path: Path, why: str) -> ImportSourceError:
    hint = "nemo-gitexp import mlflow mlruns, or a SQLite file of MLflow: mlflow.db"
    return ImportSourceError(f"{path} is no store of MLflow: {why}", hint=hint, source=str(path))


def _head(row: tuple[object, ...], path: str) -> MlflowRun:
    run, name, experiment_id, experiment, status, started, ended, artifacts, stage, above, tagged = row
    return MlflowRun(
        path=path,
        run_id=str(run),
        name=str(name or tagged or ""),
        experiment_id=str(experiment_id),
        experiment=str(experiment or ""),
        status=str(status or ""),
        started=seconds(started),
        ended=seconds(ended),
        artifact_uri=str(artifacts or ""),
        is_deleted="deleted" in (stage, above),
        params={},
        tags={},
        metrics={},
        damaged=0,
    )


def _whole(database: sqlite3.Connection, runs: Sequence[MlflowRun]) -> Iterator[MlflowRun]:
    wanted = [run.run_id for run in runs]
    marks = ", ".join("?" * len(wanted))
    params, tags = (_texts(database, table, wanted) for table in ("params", "tags"))
    points: dict[str, dict[str, list[MetricPoint]]] = {}
    query = (
        "SELECT run_uuid, key, timestamp, value, step, is_nan FROM metrics"  # noqa: S608 - our own words and marks
        f" WHERE run_uuid IN ({marks}) ORDER BY run_uuid, key, step, timestamp"
    )
    for run_id, key, timestamp, value, step, is_nan in database.execute(query, wanted):
        point = MetricPoint(timestamp, math.nan if is_nan else real(value), step)
        points.setdefault(run_id, {}).setdefault(key, []).append(point)
    for run in runs:
        metrics = {key: tuple(values) for key, values in points.get(run.run_id, {}).items()}
        yield run._replace(params=params.get(run.run_id, {}), tags=tags.get(run.run_id, {}), metrics=metrics)


def _texts(database: sqlite3.Connection, table: str, wanted: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    marks = ", ".join("?" * len(wanted))
    query = f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN ({marks})"  # noqa: S608 - as above
    for run, key, value in database.execute(query, wanted):
        found.setdefault(run, {})[key] = str(value)
    return found


def real(value: float) -> float:
    """Return a value as it was logged: databases keep infinity as the largest float (MLflow, `sqlalchemy_store.py`)."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value


def seconds(milliseconds: object) -> float | None:
    """Return a moment as MLflow's databases and servers keep it; None where there is none."""
    return milliseconds / 1000 if isinstance(milliseconds, (int, float)) else None
