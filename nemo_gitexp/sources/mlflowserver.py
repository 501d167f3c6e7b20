"""Runs of an MLflow tracking server, through the mlflow package: what there is first, then the wanted histories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nemo_gitexp.errors import ImportSourceError
from nemo_gitexp.sources.mlflowdatabase import real, seconds
from nemo_gitexp.sources.place import require_known, shown_url, shown_words
from nemo_gitexp.worker.mlflowfiles import MetricPoint, MlflowRun


class ServerStore:
    """A tracking server; of experiments that nobody asked for not even the runs are listed."""

    def __init__(self, url: str, experiments: Sequence[str]) -> None:
        """Remember which server, and which experiments (name or id; empty: all)."""
        self._url = url
        self._experiments = experiments

    def list_runs(self) -> list[MlflowRun]:
        """Return the runs that were not deleted; of their metrics there are the names alone.

        Raises:
            ImportSourceError: the server does not answer, or the package is missing.
            UnknownRunError: it has no such experiment.
        """
        with self._asked() as client:
            groups = {item.experiment_id: item.name for item in client.search_experiments()}
            require_known(self._experiments, {*groups, *groups.values()}, "experiment", shown_url(self._url))
            wanted = [
                key for key, name in groups.items() if not self._experiments or {key, name} & {*self._experiments}
            ]
            found: list[MlflowRun] = []
            token: str | None = None
            while wanted:
                page = client.search_runs(wanted, max_results=1000, page_token=token)
                found += [_head(run, groups) for run in page]
                token = page.token
                if not token:
                    break
            return found

    def read_runs(self, runs: Sequence[MlflowRun]) -> Iterator[MlflowRun]:
        """Yield runs that were listed with their histories: one request a metric.

        Raises:
            ImportSourceError: the server does not answer.
        """
        with self._asked() as client:
            for run in runs:
                histories = {key: client.get_metric_history(run.run_id, key) for key in run.metrics}
                yield run._replace(metrics={key: _points(history) for key, history in histories.items()})

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        shown = shown_url(self._url)
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError as fault:
            raise ImportSourceError(
                f"reading the tracking server {shown} needs the mlflow package, which is not installed here",
                hint="pip install mlflow-skinny, or give the store itself: nemo-gitexp import mlflow mlruns",
                source=shown,
                package="mlflow",
            ) from fault
        try:
            yield MlflowClient(self._url)
        except (MlflowException, OSError, ValueError) as fault:  # ValueError: of addresses that are none
            said = shown_words(str(fault).split("\n", maxsplit=1)[0], self._url)
            raise ImportSourceError(
                f"the tracking server {shown} does not answer: {said}", hint=f"curl {shown}/health", source=shown
            ) from fault


def _head(run: Any, groups: dict[str, str]) -> MlflowRun:
    info, kept = run.info, run.data
    return MlflowRun(
        path="",
        run_id=info.run_id,
        name=info.run_name or "",
        experiment_id=info.experiment_id,
        experiment=groups.get(info.experiment_id, ""),
        status=info.status,
        started=seconds(info.start_time),
        ended=seconds(info.end_time),
        artifact_uri=info.artifact_uri or "",
        is_deleted=info.lifecycle_stage == "deleted",
        params=dict(kept.params),
        tags=dict(kept.tags),
        metrics=dict.fromkeys(kept.metrics, ()),
        damaged=0,
    )


def _points(history: Any) -> tuple[MetricPoint, ...]:
    return tuple(MetricPoint(point.timestamp, real(point.value), point.step) for point in history)
