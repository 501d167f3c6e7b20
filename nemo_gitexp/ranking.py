"""Which combination of a sweep is best: grouped over seeds, by the goal of the study. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_gitexp.comparison import Goal, flatten_config, same_value
from nemo_gitexp.documents import ExperimentDoc
from nemo_gitexp.ensemble import SEED_KEY
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.metrics import as_float
from nemo_gitexp.plainform import canonical_text


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric over the seeds of one combination; `std` None for a single one, all None where none has a finite value.

    `n` counts the finite values.
    """

    n: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, JsonValue]:
        """Return it as `sweep --json` has it."""
        return {"n": self.n, "mean": self.mean, "std": self.std, "min": self.low, "max": self.high}


@dataclass(frozen=True, slots=True)
class Ranked:
    """One combination without its seed: what it sets, its experiments, its metrics by name."""

    values: Mapping[str, JsonValue]
    documents: tuple[ExperimentDoc, ...]
    metrics: Mapping[str, Spread]


def varying(documents: Sequence[ExperimentDoc]) -> list[dict[str, JsonValue]]:
    """Return for each experiment what it does not have in common with all others: keys by dotted path, and `seed`."""
    leaves = [
        {**{key: value for key, value in flatten_config(doc["config"]).items() if key != SEED_KEY}, "": doc["seed"]}
        for doc in documents
    ]
    keys = dict.fromkeys(key for held in leaves for key in held)
    differing = [
        key for key in keys if not all(key in held and same_value(held[key], leaves[0].get(key)) for held in leaves)
    ]
    return [{key or SEED_KEY: held[key] for key in differing if key in held} for held in leaves]


def rank(
    documents: Sequence[ExperimentDoc],
    metric: str | None,
    goal: Goal | None,
    values: Sequence[Mapping[str, JsonValue]] | None = None,
) -> list[Ranked]:
    """Return the combinations, best first where there is a goal; those without a finite value come last.

    Args:
        documents: completed experiments, in the order that counts where nothing else decides.
        metric: what decides.
        goal: whether more or less of it is better.
        values: what each does not share with all that were tried, if those are more than the documents.
    """
    groups: dict[str, list[tuple[dict[str, JsonValue], ExperimentDoc]]] = {}
    for held, document in zip(values or varying(documents), documents, strict=True):
        own = {key: value for key, value in held.items() if key != SEED_KEY}
        groups.setdefault(canonical_text(own), []).append((own, document))
    ranked = [_ranked(members[0][0], [document for _, document in members]) for members in groups.values()]
    if metric is None or goal is None:
        return ranked
    return sorted(ranked, key=lambda item: _place(item, metric, goal))


def best_seed(item: Ranked, metric: str | None, goal: Goal | None) -> ExperimentDoc:
    """Return the experiment of a combination whose seed came out best; the first where nobody said what is better."""
    numbers = [as_float(document["metrics"].get(metric or "", math.nan)) for document in item.documents]
    finite = [(number, -place) for place, number in enumerate(numbers) if number is not None and math.isfinite(number)]
    if goal is None or not finite:
        return item.documents[0]
    _, place = max(finite) if goal == "max" else min(finite, key=lambda pair: (pair[0], -pair[1]))
    return item.documents[-place]


def _place(item: Ranked, metric: str, goal: Goal) -> float:
    spread = item.metrics.get(metric)
    if spread is None or spread.mean is None:
        return math.inf
    return -spread.mean if goal == "max" else spread.mean


def _ranked(values: Mapping[str, JsonValue], documents: Sequence[ExperimentDoc]) -> Ranked:
    names = dict.fromkeys(name for document in documents for name in sorted(document["metrics"]))
    metrics = {name: _spread([document["metrics"].get(name) for document in documents]) for name in names}
    return Ranked(values, tuple(documents), metrics)


def _spread(values: Sequence[float | str | None]) -> Spread:
    numbers = [as_float(value) for value in values if value is not None]
    finite = [number for number in numbers if number is not None and math.isfinite(number)]
    if not finite:
        return Spread(0, None, None, None, None)
    std = statistics.stdev(finite) if len(finite) > 1 else None
    return Spread(len(finite), statistics.fmean(finite), std, min(finite), max(finite))
