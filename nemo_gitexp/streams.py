"""The metric stream of an experiment, wherever its result put it: in git, or in the store when it is long."""

from __future__ import annotations

from nemo_gitexp.git.repository import Repository
from nemo_gitexp.metrics import MetricRows, parse_metric_lines
from nemo_gitexp.result import mapping
from nemo_gitexp.store import Experiment, read_metrics


def recorded_rows(repository: Repository, experiment: Experiment) -> MetricRows:
    """Return the recorded metric stream, empty when there is none."""
    if experiment.result is None:
        return ()
    pin = mapping(experiment.result.get("stream")).get("pin")
    if isinstance(pin, str):
        from nemo_gitexp.collect import output_store  # 20 ms that a short stream need not pay

        return parse_metric_lines(output_store(repository).read(pin))[0]
    return parse_metric_lines(read_metrics(repository, experiment) or b"")[0]
