"""Several configurations as one experiment of NeMo Run: each an experiment commit of its own, compared at the end."""

from __future__ import annotations

from collections.abc import Mapping

from nemo_gitexp.comparator import ExperimentComparator
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.prepared import PreparedExperiment
from nemo_gitexp.result import mapping


class ComparisonExperiment(PreparedExperiment):
    """An experiment whose tasks differ by their configuration; one that fails does not stop the others."""

    def run(  # type: ignore[override]  # it has something to return
        self,
        sequential: bool = False,  # noqa: FBT001, FBT002 - NeMo Run's own signature
        detach: bool = False,  # noqa: FBT001, FBT002
        tail_logs: bool = False,  # noqa: FBT001, FBT002
        direct: bool = False,  # noqa: FBT001, FBT002
        *,
        again: bool | None = None,
    ) -> Mapping[str, object] | None:
        """Run as `Experiment.run` does; return `comparison` where that is known already, outside of a `with` block."""
        super().run(sequential, detach, tail_logs, direct, again=again)
        return self.comparison if self.is_over else None

    @property
    def results(self) -> list[dict[str, JsonValue]]:
        """What came of each configuration, in their order, failed ones too.

        Keys: name, config, metrics, seed, status, error (type and message, or None), experiment and result (shas).
        """
        return [_result(document) for document in self.documents]

    @property
    def comparison(self) -> dict[str, object]:
        """`results`, `config_comparison` and `metrics_comparison`, the latter two as `ExperimentComparator` has them.

        Metrics are compared over the configurations that have them; `notes` names the others.
        """
        results = self.results
        names = sorted({name for result in results for name in mapping(result["metrics"])})
        is_pair = len(results) > 1
        return {
            "results": results,
            "config_comparison": ExperimentComparator.compare_configurations(results) if is_pair else {},
            "metrics_comparison": ExperimentComparator.compare_metrics(results, names) if is_pair else {},
        }


def _result(document: ExperimentDoc) -> dict[str, JsonValue]:
    error = document["error"]
    return {
        "name": document["name"],
        "config": dict(document["config"]),
        "metrics": dict(document["metrics"]),
        "seed": document["seed"],
        "status": document["status"],
        "error": {"type": error["type"], "message": error["message"]} if error else None,
        "experiment": document["experiment"],
        "result": document["result"],
    }
