"""The metric stream of an experiment, wherever its result put it: in git, or in the store when it is long."""

from __future__ import annotations

from nemo_gitexp.errors import MissingDataError
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.metrics import MetricRows, parse_metric_lines
from nemo_gitexp.result import mapping
from nemo_gitexp.store import Experiment, read_metrics


def recorded_rows(repository: Repository, experiment: Experiment) -> MetricRows:
    """Return the recorded metric stream, empty when there is none.

    Raises:
        MissingDataError: it was too long for git, and the store here does not have it.
        CorruptDataError: what the store has is another.
    """
    if experiment.result is None:
        return ()
    pin = mapping(experiment.result.get("stream")).get("pin")
    if not isinstance(pin, str):
        return parse_metric_lines(read_metrics(repository, experiment) or b"")[0]
    from nemo_gitexp.collect import output_store  # 20 ms that a short stream need not pay

    store = output_store(repository)
    try:
        return parse_metric_lines(store.read(pin))[0]
    except MissingDataError as fault:
        raise MissingDataError(
            f"the metric stream of {experiment.tip.name} is not on this machine",
            hint=f"nemo-gitexp push where it ran, and here: nemo-gitexp pull REMOTE {experiment.sha[:12]}",
            missing=[pin],
        ) from fault
