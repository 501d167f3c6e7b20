"""What a probe changes between two runs of the same first steps, and how their streams are compared. Pure.

One thing at a time: threads, workers of data loaders, the seed of Python's hashes. Nothing of it is recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from nemo_gitexp.documents import ProbeMetricDoc
from nemo_gitexp.entry import CommandEntry, Entry, FunctionEntry, ModuleEntry, ScriptEntry
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import render_key
from nemo_gitexp.metricform import exact_form
from nemo_gitexp.metrics import MetricRow, Number, as_float, row_metrics, row_step, split_volatile
from nemo_gitexp.record import ExperimentRecord
from nemo_gitexp.stages import StagesEntry
from nemo_gitexp.topology import THREAD_VARIABLES
from nemo_gitexp.verdict import RunOutcome

VARIATIONS: Final = ("threads", "workers", "hashseed")
HASH_SEED: Final = "PYTHONHASHSEED"
WORKER_KEYS: Final = (
    "num_workers", "n_workers", "workers", "dataloader_num_workers", "dataloader_workers", "num_data_workers",
    "data_workers", "loader_workers",
)  # fmt: skip
"""What a number of DataLoader workers is called in configurations; dashes count as underscores."""

_Steps: TypeAlias = "dict[int, dict[str, Number]]"


@dataclass(frozen=True, slots=True)
class Varied:
    """An experiment with one thing changed: `before` and `after` are that thing, in words."""

    record: ExperimentRecord
    config: Mapping[str, JsonValue]
    before: str
    after: str


def vary(what: str, record: ExperimentRecord, config: Mapping[str, JsonValue], cores: int) -> Varied | str:
    """Return the experiment with one of `VARIATIONS` changed, or in words why that cannot be done.

    Args:
        what: threads, workers or hashseed.
        record: the experiment.
        config: its configuration.
        cores: of this machine: so many threads there are where the experiment does not say.
    """
    if what == "threads":
        count = _environment(record).get("OMP_NUM_THREADS", str(cores))
        other = "1" if count != "1" else "2"
        return Varied(_with_environment(record, dict.fromkeys(THREAD_VARIABLES, other)), config, count, other)
    if what == "hashseed":
        seed = _environment(record).get(HASH_SEED, "random")
        other = str((int(seed) + 1) % 2**32) if seed.isdigit() else "1"
        return Varied(_with_environment(record, {HASH_SEED: other}), config, seed, other)
    return _with_workers(record, config)


def _environment(record: ExperimentRecord) -> dict[str, str]:
    numeric = record.topology.get("environment")
    return {name: str(value) for name, value in numeric.items()} if isinstance(numeric, Mapping) else {}


def _with_environment(record: ExperimentRecord, changed: Mapping[str, str]) -> ExperimentRecord:
    numeric: dict[str, JsonValue] = {**_environment(record), **changed}
    return replace(record, topology={**record.topology, "environment": numeric})


def _with_workers(record: ExperimentRecord, config: Mapping[str, JsonValue]) -> Varied | str:
    if record.tracked is not None:
        return "the program makes its configuration itself"
    found = _worker_keys(config, ())
    if not found:
        return f"no key of its configuration is a number of workers ({', '.join(WORKER_KEYS[:3])}, …)"
    changed = {path: _other_count(count) for path, count in found.items()}
    entry: Entry | StagesEntry | None = record.entry
    if record.ad_hoc:
        entry = _with_arguments(record.entry, {path[-1]: count for path, count in changed.items()})
        if entry is None:
            return "the command does not name them as an argument of its own"
    before = ", ".join(f"{render_key(path)}={count}" for path, count in found.items())
    after = ", ".join(f"{render_key(path)}={count}" for path, count in changed.items())
    new: Mapping[str, JsonValue] = config
    for path, count in changed.items():
        new = _replaced(new, path, count)
    return Varied(replace(record, entry=entry or record.entry), new, before, after)


def _worker_keys(value: JsonValue, path: tuple[str, ...]) -> dict[tuple[str, ...], int]:
    if not isinstance(value, Mapping):
        return {}
    found: dict[tuple[str, ...], int] = {}
    for key, item in value.items():
        is_count = isinstance(item, int) and not isinstance(item, bool) and item >= 0
        if is_count and key.lower().replace("-", "_") in WORKER_KEYS:
            found[*path, key] = int(str(item))
        found |= _worker_keys(item, (*path, key))
    return found


def _other_count(count: int) -> int:
    """Return another number of workers; never none where there are some: loaders refuse options then."""
    return 2 if count < 2 else count - 1


def _replaced(config: Mapping[str, JsonValue], path: tuple[str, ...], value: int) -> dict[str, JsonValue]:
    head, *rest = path
    below = config[head]
    return {**config, head: _replaced(below, tuple(rest), value) if rest and isinstance(below, Mapping) else value}


def _with_arguments(entry: Entry | StagesEntry, counts: Mapping[str, int]) -> Entry | None:
    """Return the entry of a typed command with other values of some options; None where it has none of them."""
    if isinstance(entry, CommandEntry):
        words = _other_words(entry.argv, counts)
        return replace(entry, argv=words) if words else None
    if isinstance(entry, (ScriptEntry, ModuleEntry)):
        words = _other_words(entry.arguments, counts)
        return replace(entry, arguments=words) if words else None
    return entry if isinstance(entry, FunctionEntry) else None


def _other_words(words: Sequence[str], counts: Mapping[str, int]) -> tuple[str, ...] | None:
    changed = list(words)
    done: set[str] = set()
    for at, word in enumerate(words):
        name, equals, _ = word.partition("=")
        key = name.lstrip("-")
        if not word.startswith("-") or key not in counts:
            continue
        if equals:
            changed[at] = f"{name}={counts[key]}"
        elif at + 1 < len(words):
            changed[at + 1] = str(counts[key])
        done.add(key)
    return tuple(changed) if done == set(counts) else None


def compare_prefixes(
    one: RunOutcome, other: RunOutcome, steps: int, volatile: Collection[str]
) -> tuple[list[ProbeMetricDoc], int]:
    """Return every metric of the first steps of two runs, sorted by name, and how many steps both have.

    Rows without a step are left out. Of the last step only what both logged counts: a run is stopped as soon as that
    step is seen.

    Args:
        one: a run.
        other: the same again, or with one thing changed.
        steps: how many steps were asked for.
        volatile: metrics that are never compared.
    """
    a, b = _first_steps(one, steps, volatile), _first_steps(other, steps, volatile)
    places = sorted({*a, *b})[:steps]
    if places and "stopped" in (one.status, other.status):
        last = places[-1]
        both = a.get(last, {}).keys() & b.get(last, {}).keys()
        for side in (a, b):
            if last in side:
                side[last] = {name: value for name, value in side[last].items() if name in both}
    names = sorted({name for side in (a, b) for place in places for name in side.get(place, {})})
    return [_compared(name, places, a, b) for name in names], len(
        [place for place in places if place in a and place in b]
    )


def _first_steps(run: RunOutcome, steps: int, volatile: Collection[str]) -> _Steps:
    rows: tuple[MetricRow, ...] = split_volatile(run.metrics, volatile)[0]
    found: _Steps = {}
    for row in rows:
        step = row_step(row)
        if step is not None:
            found.setdefault(step, {}).update(row_metrics(row))
    return {step: found[step] for step in sorted(found)[:steps]}


def _compared(name: str, places: Sequence[int], a: _Steps, b: _Steps) -> ProbeMetricDoc:
    first: int | None = None
    largest: float | None = None
    at: int | None = None
    for place in places:
        before, after = a.get(place, {}).get(name), b.get(place, {}).get(name)
        if before is None and after is None:
            continue
        if before is not None and after is not None and exact_form(before) == exact_form(after):
            continue
        first = place if first is None else first
        difference = _difference(before, after)
        if difference is not None and (largest is None or difference > largest):
            largest, at = difference, place
    return {
        "name": name,
        "equal": first is None,
        "first_divergence": first,
        "largest_difference": largest,
        "largest_at": at,
    }


def _difference(before: Number | None, after: Number | None) -> float | None:
    """Return how far apart two values are; None where one is missing or not finite."""
    one, other = as_float(before), as_float(after)
    if one is None or other is None:
        return None
    difference = abs(one - other)
    return difference if difference < float("inf") else None  # also false for NaN
