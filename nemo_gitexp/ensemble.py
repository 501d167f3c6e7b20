"""Many experiments as one value: what their configurations share, and their metrics with n, spread and interval. Pure.

An interval is given for experiments that differ by their seed alone, and only from two seeds on: how far a number
would move with another seed says nothing about another configuration, and one seed says nothing at all.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from nemo_gitexp.comparison import Goal, flatten_config, same_value
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.metrics import Number, as_float

SEED_KEY: Final = "seed"
T_95: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t, two-sided 95 %, for 1 to 30 degrees of freedom; a bootstrap of 5 values would cover 83 %, not 95."""

_SEVERAL: Final = "the configurations or data differ: no interval"
_NO_SPREAD: Final = "equal for all seeds: how far another seed would move it is not known"
_LARGER: Final = ((30, 2.042), (40, 2.021), (60, 2.000), (120, 1.980), (math.inf, 1.960))


@dataclass(frozen=True, slots=True)
class Member:
    """One experiment of a comparison; `seed` and `data` None where nobody said (a plain mapping)."""

    name: str
    config: Mapping[str, JsonValue]
    metrics: Mapping[str, Number]
    seed: int | None = None
    data: str | None = None

    def leaves(self) -> dict[str, JsonValue]:
        """Return the configuration by dotted path."""
        return flatten_config(self.config)

    def effective_seed(self) -> int | None:
        """Return the seed: the recorded one, or the one in the configuration."""
        written = self.config.get(SEED_KEY)
        return self.seed if self.seed is not None else written if isinstance(written, int) else None


_Numbers: TypeAlias = list[tuple[Member, float]]


def t_quantile(degrees: int) -> float:
    """Return Student's t for a two-sided 95 % interval; beyond 30 interpolated in 1 / degrees, as tables advise."""
    if degrees <= len(T_95):
        return T_95[degrees - 1]
    for (low, high_t), (high, low_t) in itertools.pairwise(_LARGER):
        if degrees <= high:
            inverse = 0.0 if high == math.inf else 1 / high
            return low_t + (high_t - low_t) * (1 / degrees - inverse) / (1 / low - inverse)
    return _LARGER[-1][1]


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % t interval of the mean; None for less than two values."""
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def compare_configurations(members: Sequence[Member]) -> dict[str, JsonValue]:
    """Return `common_configs`, `unique_configs`, `config_differences`, all by dotted path.

    Common is what all have with one value; a difference maps a path to the value of each experiment that has it; unique
    is, by experiment, what no other has. A missing key is not null, and 1 is not 1.0.
    """
    leaves = {member.name: member.leaves() for member in members}
    paths = sorted({path for held in leaves.values() for path in held})
    common: dict[str, JsonValue] = {}
    differences: dict[str, JsonValue] = {}
    unique: dict[str, dict[str, JsonValue]] = {name: {} for name in leaves}
    for path in paths:
        held = {name: values[path] for name, values in leaves.items() if path in values}
        first = next(iter(held.values()))
        if len(held) == 1:
            (name,) = held
            unique[name][path] = first
        elif len(held) == len(members) and all(same_value(first, value) for value in held.values()):
            common[path] = first
        else:
            differences[path] = held
    return {
        "common_configs": common,
        "unique_configs": {name: values for name, values in unique.items() if values},
        "config_differences": differences,
    }


def compare_metric(members: Sequence[Member], name: str, goal: Goal | None) -> dict[str, JsonValue]:
    """Return one metric over the experiments.

    Keys: values and experiments (those that have it, in order); n (finite values), min, max, mean, std (None below
    two), interval (95 %, of the mean over seeds, or None); goal, best (an experiment, or None); groups and paired
    (empty where all are one configuration); notes.
    """
    having = [(member, member.metrics[name]) for member in members if name in member.metrics]
    numbers = [(member, number) for member, value in having if math.isfinite(number := _float(value))]
    finite = [number for _, number in numbers]
    notes = _notes(members, having, finite)
    groups = _grouped(numbers)
    interval, remark = _interval(numbers) if len(groups) < 2 else (None, _SEVERAL)
    return {
        "values": [value for _, value in having],
        "experiments": [member.name for member, _ in having],
        "n": len(finite),
        "min": min(finite, default=None),
        "max": max(finite, default=None),
        "mean": statistics.fmean(finite) if finite else None,
        "std": statistics.stdev(finite) if len(finite) > 1 else None,
        "interval": interval,
        "goal": goal,
        "best": _best(numbers, goal),
        "groups": [_summary(group) for group in groups] if len(groups) > 1 else [],
        "paired": [_paired(groups[0], group, goal) for group in groups[1:]],
        "notes": [*notes, *([remark] if remark else [])],
    }


def _float(value: Number) -> float:
    number = as_float(value)
    return math.nan if number is None else number


def _notes(members: Sequence[Member], having: Sequence[tuple[Member, Number]], finite: Sequence[float]) -> list[str]:
    there = {member.name for member, _ in having}
    missing = [member.name for member in members if member.name not in there]
    notes = [f"missing in {', '.join(missing[:5])}{_more(missing)}"] if missing else []
    if len(finite) < len(having):
        odd = [member.name for member, value in having if not math.isfinite(_float(value))]
        notes.append(f"not finite in {', '.join(odd[:5])}{_more(odd)}: left out of min, max and mean")
    return notes


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 5} more" if len(names) > 5 else ""


def _grouped(numbers: _Numbers) -> list[_Numbers]:
    """Return the experiments by configuration without its seed, and data: each group is one experiment over seeds."""
    groups: list[_Numbers] = []
    shapes: list[tuple[JsonValue, str | None]] = []
    for member, number in numbers:
        shape = {path: value for path, value in member.leaves().items() if path != SEED_KEY}
        for known, group in zip(shapes, groups, strict=True):
            if known[1] == member.data and same_value(known[0], shape):
                group.append((member, number))
                break
        else:
            shapes.append((shape, member.data))
            groups.append([(member, number)])
    return groups


def _interval(numbers: _Numbers) -> tuple[JsonValue, str | None]:
    """Return the interval of the mean over seeds, or None, and why there is none or what it does not say."""
    seeds = [member.effective_seed() for member, _ in numbers]
    if len(numbers) < 2:
        return None, "single seed: no interval" if numbers else "no finite value"
    if None in seeds:
        return None, "the seeds are not known: no interval"
    if len(set(seeds)) < len(seeds):
        return None, "a seed occurs twice: no interval"
    values = [number for _, number in numbers]
    interval = mean_interval(values)
    return list(interval or ()), _NO_SPREAD if len(set(values)) == 1 else None


def _summary(group: _Numbers) -> dict[str, JsonValue]:
    interval, note = _interval(group)
    return {
        "experiments": [member.name for member, _ in group],
        "n": len(group),
        "mean": statistics.fmean(number for _, number in group),
        "interval": interval,
        "note": note,
    }


def _paired(base: _Numbers, other: _Numbers, goal: Goal | None) -> dict[str, JsonValue]:
    """Return how two configurations differ over the seeds that both have, on the same data; `delta` is other - base.

    Shared seeds share their luck: the difference of pairs is known far better than the difference of means.
    """
    before, after = _by_seed(base), _by_seed(other)
    same_data = base[0][0].data == other[0][0].data
    seeds = sorted(before.keys() & after.keys()) if same_data else []
    deltas = [after[seed] - before[seed] for seed in seeds]
    interval = mean_interval(deltas)
    return {
        "base": base[0][0].name,
        "other": other[0][0].name,
        "n": len(deltas),
        "delta": statistics.fmean(deltas) if deltas else None,
        "interval": list(interval) if interval else None,
        "word": _word(interval, len(deltas), goal, same_data=same_data),
    }


def _by_seed(group: _Numbers) -> dict[int, float]:
    """Return values by seed; a seed that occurs twice pairs with nothing."""
    seeds = [member.effective_seed() for member, _ in group]
    return {
        seed: number
        for (_, number), seed in zip(group, seeds, strict=True)
        if seed is not None and seeds.count(seed) == 1
    }


def _word(interval: tuple[float, float] | None, pairs: int, goal: Goal | None, *, same_data: bool) -> str:
    if not same_data:
        return "other data: not comparable"
    if interval is None:
        return "single seed: no interval" if pairs else "no common seed"
    low, high = interval
    if low <= 0 <= high:
        return "not distinguishable"
    if goal is None:
        return "differs"
    return "better" if (low > 0) is (goal == "max") else "worse"


def _best(numbers: _Numbers, goal: Goal | None) -> str | None:
    """Return the experiment with the best value; None when nobody said what is better, or two share it."""
    if goal is None or not numbers:
        return None
    wanted = (max if goal == "max" else min)(number for _, number in numbers)
    holders = [member.name for member, number in numbers if number == wanted]
    return holders[0] if len(holders) == 1 else None
