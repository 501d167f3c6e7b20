"""The guide's `ExperimentComparator`: two to five hundred experiments, recorded ones by name, others as mappings."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from nemo_gitexp.comparison import Goal
from nemo_gitexp.ensemble import Member, compare_metric
from nemo_gitexp.ensemble import compare_configurations as compare_members
from nemo_gitexp.errors import UnknownKeyError, UsageError
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.metriclog import plain_number
from nemo_gitexp.metrics import Number, as_float
from nemo_gitexp.versioning import config_hash, plain_config

if TYPE_CHECKING:
    from nemo_gitexp.catalog import Found

MOST_EXPERIMENTS = 500


class ExperimentComparator:
    """Compares experiments with each other.

    Each of `experiments` is an EXP (sha, ref, branch, name, `latest`) of the repository that holds the working
    directory, or a mapping with `name`, `config`, `metrics` and, where they are known, `seed` and `goals`.
    """

    @staticmethod
    def compare_configurations(experiments: Sequence[str | Mapping[str, object]]) -> dict[str, JsonValue]:
        """Return `common_configs`, `unique_configs` and `config_differences`, by dotted path.

        Shapes: {path: value}, {name: {path: value}}, {path: {name: value}}. A key that an experiment does not have is
        missing there, which is not null; 1 is not 1.0.

        Raises:
            UsageError: fewer than two or more than 500 experiments, a name twice, or a mapping of another shape.
            UnknownExperimentError, AmbiguousExperimentError, RecordError: a name that says no experiment.
            CanonicalFormError: a configuration without a stable form.
        """
        members, _ = _members(experiments)
        return compare_members(members)

    @staticmethod
    def compare_metrics(
        experiments: Sequence[str | Mapping[str, object]], metric_names: Sequence[str]
    ) -> dict[str, dict[str, JsonValue]]:
        """Return for each metric its values, their spread, and what can be said about them.

        Keys: values, experiments, n, min, max, mean, std, interval, goal, best, groups, paired, notes.

        `interval` is the 95 % t interval of the mean, given only for experiments that differ by their seed alone;
        `notes` says why there is none, which experiments lack the metric, and which values are not finite. Where
        several configurations ran, `groups` has one entry each (experiments, n, mean, interval), and `paired` compares
        the first with each other one over the seeds that both have on the same data: n, delta, interval and a word
        (better, worse, differs, not distinguishable, single seed: no interval).

        Raises:
            UnknownKeyError: a metric that no experiment has; `nearest` may be meant.
            UsageError and others: as `compare_configurations`.
        """
        members, goals = _members(experiments)
        names = _metric_names(metric_names)
        known = sorted({name for member in members for name in member.metrics})
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(known[:10]) or 'no metric at all'}"
                raise UnknownKeyError(
                    f"no experiment has the metric {name}", hint=hint, key=name, nearest=near[0] if near else None
                )
        return {name: compare_metric(members, name, goals.get(name)) for name in names}


def _metric_names(given: object) -> list[str]:
    items = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [None]
    names = [item for item in items if isinstance(item, str)]
    if len(names) != len(items):
        hint = f"[{given!r}]" if isinstance(given, str) else '["loss"]'
        raise UsageError("metric_names is a list of names", hint=hint)
    return names


def _members(experiments: Sequence[str | Mapping[str, object]]) -> tuple[list[Member], dict[str, Goal]]:
    if isinstance(experiments, str) or not isinstance(experiments, Sequence):
        raise UsageError("experiments is a list", hint="[first, second]")
    if not 2 <= len(experiments) <= MOST_EXPERIMENTS:
        raise UsageError(f"{len(experiments)} experiments cannot be compared", hint=f"give 2 to {MOST_EXPERIMENTS}")
    goals: dict[str, Goal] = {}
    recorded = _find([item for item in experiments if isinstance(item, str)])
    members = [
        _recorded(recorded[item], goals) if isinstance(item, str) else _described(item, goals) for item in experiments
    ]
    names = [member.name for member in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two experiments have the name {twice[0]}", hint="name each once", names=twice)
    return members, goals


def _find(texts: Sequence[str]) -> dict[str, Found]:
    if not texts:
        return {}
    from nemo_gitexp.catalog import find_current, open_site
    from nemo_gitexp.thisrepository import find_repository
    from nemo_gitexp.tips import list_tips

    site = open_site(find_repository(), os.environ)
    tips = list_tips(site.repository)
    return {text: find_current(site, text, tips) for text in texts}


def _recorded(found: Found, goals: dict[str, Goal]) -> Member:
    record = found.experiment.record
    for goal in record.metrics.goals:
        if goal.goal is not None:
            goals.setdefault(goal.name, goal.goal)
    pins: JsonValue = {item.path: item.pin for item in record.inputs}
    document = found.document
    is_seed_known = record.imported is None or not record.seed_is_default
    seed = record.seed if is_seed_known else None
    return Member(document["name"], document["config"], document["metrics"], seed, config_hash(pins))


def _described(item: Mapping[str, object], goals: dict[str, Goal]) -> Member:
    name, config, metrics = item.get("name"), item.get("config", {}), item.get("metrics", {})
    if not (isinstance(name, str) and name and isinstance(metrics, Mapping)):
        raise UsageError(
            "an experiment is a name, or a mapping with name, config and metrics",
            hint='{"name": "a", "config": {"lr": 0.1}, "metrics": {"loss": 0.5}}',
        )
    numbers: dict[str, Number] = {}
    for key, value in metrics.items():
        numbers[str(key)] = _number(name, str(key), value)
    directions = item.get("goals")
    for key, value in directions.items() if isinstance(directions, Mapping) else ():
        if value not in ("min", "max"):
            raise UsageError(f"the goal of {key} is min or max, not {value!r}", hint='{"loss": "min"}', key=str(key))
        goals.setdefault(str(key), cast("Goal", value))
    seed = item.get("seed")
    return Member(name, plain_config(config), numbers, seed if isinstance(seed, int) else None)


def _number(name: str, key: str, value: object) -> Number:
    if isinstance(value, str) and as_float(value) is not None:
        return value  # as records spell what is not finite
    try:
        return plain_number(key, value)
    except TypeError as fault:
        raise UsageError(f"{fault}, in {name}", hint="give numbers", key=key) from fault
