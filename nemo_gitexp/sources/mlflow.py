"""Runs of MLflow: of a file store, a SQLite store, or a tracking server (through the mlflow package)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from nemo_gitexp.errors import ImportSourceError
from nemo_gitexp.imported import ForeignRun, Skipped, metric_rows, nested_params, typed_params
from nemo_gitexp.sources.mlflowdatabase import DatabaseStore
from nemo_gitexp.sources.mlflowserver import ServerStore
from nemo_gitexp.sources.place import is_url, recorded_place, require_known, require_place, shown_url, utc
from nemo_gitexp.worker.mlflowfiles import (
    META,
    MlflowRun,
    find_mlflow_runs,
    is_mlflow_run,
    is_mlflow_store,
    mlflow_metric_rows,
    read_mlflow_head,
    with_histories,
)

_OUTCOMES = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "cancelled", "RUNNING": None, "SCHEDULED": None}


class Store(Protocol):
    """Where runs lie: they are listed first, so that only what is asked for is read whole."""

    def list_runs(self) -> list[MlflowRun]:
        """Return the runs, without what may be large."""

    def read_runs(self, runs: Sequence[MlflowRun]) -> Iterator[MlflowRun]:
        """Yield runs that were listed with all that they hold."""


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
    store, source = _open(place, cwd, root, asked)
    kept = [run for run in store.list_runs() if not run.is_deleted]
    skipped = store.skipped if isinstance(store, FileStore) else []
    if not kept and not skipped:
        hint = "nemo-gitexp import mlflow mlruns, or the URI that the runs were logged to"
        raise ImportSourceError(f"{source} holds no run of MLflow", hint=hint, source=source)
    chosen = _chosen(kept, asked, source)
    known = [run for run in chosen if run.status in _OUTCOMES]
    unknown = [
        Skipped(run.run_id, f"it has no status that is known: {run.status or 'none'}")
        for run in chosen
        if run.status not in _OUTCOMES
    ]
    # What was damaged is none of the runs that were asked for, as far as anybody knows.
    return [_foreign(run, source) for run in store.read_runs(known)], [*([] if asked.runs else skipped), *unknown]


def _open(place: str, cwd: Path, root: Path, asked: MlflowAsked) -> tuple[Store, str]:
    """Return the store and how records name it."""
    if is_url(place):
        return ServerStore(place, asked.experiments), shown_url(place)
    path = require_place(_path(place, cwd), "mlflow")
    return (DatabaseStore(path) if path.is_file() else FileStore(path)), recorded_place(path, root)


def _chosen(runs: Sequence[MlflowRun], asked: MlflowAsked, source: str) -> list[MlflowRun]:
    names = {name for run in runs for name in (run.experiment, run.experiment_id)}
    require_known(asked.experiments, names, "experiment", source)
    of_experiments = [run for run in runs if _is_of(asked.experiments, (run.experiment, run.experiment_id))]
    require_known(asked.runs, {name for run in of_experiments for name in (run.run_id, run.name)}, "run", source)
    return [run for run in of_experiments if _is_of(asked.runs, (run.run_id, run.name))]


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


def _foreign(run: MlflowRun, source: str) -> ForeignRun:
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


class FileStore:
    """A directory that `mlflow` wrote: a store, an experiment or a run of it, or one that holds `mlruns`."""

    def __init__(self, place: Path) -> None:
        """Remember where; `skipped` are the runs that cannot be read, when they have been listed."""
        self._place = place
        self.skipped: list[Skipped] = []

    def list_runs(self) -> list[MlflowRun]:
        """Return all runs without their metrics."""
        found: list[MlflowRun] = []
        for path in self._directories():
            try:
                found.append(read_mlflow_head(path))
            except OSError as fault:
                self.skipped.append(Skipped(Path(path).name, f"it cannot be read: {fault.strerror}"))
        return found

    def read_runs(self, runs: Sequence[MlflowRun]) -> Iterator[MlflowRun]:
        """Yield runs that were listed with their metrics."""
        return map(with_histories, runs)

    def _directories(self) -> list[str]:
        place = self._place
        if is_mlflow_run(str(place)):
            return [str(place)]
        for store in (place, place / "mlruns"):
            if is_mlflow_store(str(store)):
                self.skipped = _damaged_runs(store.glob("*/*"))
                return sorted(find_mlflow_runs(str(store)))
        self.skipped = _damaged_runs(place.iterdir()) if (place / META).is_file() else []
        return [str(path) for path in sorted(place.iterdir()) if is_mlflow_run(str(path))]


def _damaged_runs(directories: Iterator[Path]) -> list[Skipped]:
    """Return the directories that hold what runs hold, and no meta.yaml that says which run."""
    candidates = [path for path in sorted(directories) if (path / "metrics").is_dir() or (path / "params").is_dir()]
    lost = [path for path in candidates if not path.is_symlink() and not is_mlflow_run(str(path))]
    return [Skipped(path.name, f"its {META} is missing or damaged") for path in lost]
