"""The verdict of a reproduction: which level it reached. Judges values; runs and reads nothing.

recorded → restored (state proven, nothing run) → executed (exit 0, all outputs made) → metrics (within tolerance)
→ bitwise (outputs and stream equal). A level with nothing to compare is not reached.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

from nemo_gitexp.comparison import output_identities, paired_outputs, same_output
from nemo_gitexp.definition import MetricsSpec
from nemo_gitexp.documents import (
    SCHEMA,
    DivergenceDoc,
    DriftDoc,
    InputDoc,
    OutputDoc,
    VerdictDoc,
    VerdictMetricDoc,
    VerdictOutputDoc,
)
from nemo_gitexp.drift import EnvironmentClass, rank_drift
from nemo_gitexp.errors import UsageError
from nemo_gitexp.metricform import exact_form
from nemo_gitexp.metrics import STEP, MetricRow, MetricRows, Number, metric_stats, row_metrics, row_step, split_volatile

Level: TypeAlias = Literal["recorded", "restored", "executed", "metrics", "bitwise"]
InputStrength: TypeAlias = Literal["content", "manifest", "named", "none"]

LEVELS: tuple[Level, ...] = ("recorded", "restored", "executed", "metrics", "bitwise")
WHOLE = "whole"

_STRENGTHS: tuple[InputStrength, ...] = ("named", "manifest", "content")


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What one run came to, as far as a verdict is concerned.

    Args:
        status: `completed`, `failed`, `cancelled`, `lost`, or `stopped` (a prefix run that saw its steps).
        exit_code: None when a signal ended it.
        metrics: the stream, rows as `metrics.parse_metric_lines` returns them.
        outputs: what it made.
        missing_outputs: declared, and not made.
    """

    status: str
    exit_code: int | None
    metrics: MetricRows = ()
    outputs: tuple[OutputDoc, ...] = ()
    missing_outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricRules:
    """How metrics are compared: absolute tolerance by name (absent or None: exact), and the names never compared."""

    tolerances: Mapping[str, float | None]
    volatile: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a verdict rests on and is stored with.

    Args:
        environment: class from `drift.compare_environments`; numeric drift turns "same" into "drifted".
        drift: everything that differed, in any order.
        weakest_input: from `weakest_input`.
        reproduction: ref of the stored reproduction.
    """

    environment: EnvironmentClass = "unknown"
    drift: tuple[DriftDoc, ...] = ()
    weakest_input: InputStrength = "none"
    reproduction: str | None = None


def judge(
    recorded: RunOutcome,
    got: RunOutcome | None,
    *,
    experiment: str,
    required: Level,
    rules: MetricRules,
    circumstances: Circumstances,
    steps: int | None = None,
) -> VerdictDoc:
    """Return the verdict of one reproduction, the answer of `reproduce --json`.

    Args:
        recorded: the recorded run.
        got: the reproduction; None when the state was only restored.
        experiment: record sha.
        required: the level asked for.
        rules: tolerances and volatile names from the record.
        circumstances: what the verdict rests on.
        steps: N of `--steps N`: only the first N steps are compared, outputs are not. A recorded run of no more steps,
            repeated to its end, is compared whole: the verdict claims no step that there is not.
    """
    if steps is not None and got is not None and _is_whole(recorded, got, steps):
        steps = None
    drift = rank_drift(circumstances.drift)
    verdict: VerdictDoc = {
        "schema": SCHEMA,
        "experiment": experiment,
        "verdict": "restored",
        "scope": WHOLE if steps is None else f"0-{steps}",
        "required": required,
        "met": False,
        "environment": _environment_class(circumstances.environment, drift),
        "weakest_input": circumstances.weakest_input,
        "drift": list(drift),
        "metrics": [],
        "outputs": [],
        "first_divergence": None,
        "reproduction": circumstances.reproduction,
    }
    if got is not None:
        old, new = _comparable_streams(recorded, got, rules.volatile, steps)
        verdict["metrics"] = compare_last_values(old, new, rules)
        verdict["outputs"] = compare_outputs(recorded.outputs, got.outputs) if steps is None else []
        verdict["first_divergence"] = first_divergence(old, new)
        verdict["verdict"] = _level(got, verdict, same_start=_same_start(old, new), is_prefix=steps is not None)
    verdict["met"] = level_reached(verdict["verdict"], required)
    return verdict


def metric_rules(spec: MetricsSpec) -> MetricRules:
    """Return the rules that a definition or a record states."""
    return MetricRules(
        {goal.name: goal.tolerance for goal in spec.goals}, frozenset(goal.name for goal in spec.goals if goal.volatile)
    )


def require_level(name: str) -> Level:
    """Return the level of this name.

    Raises:
        UsageError: no level is called that.
    """
    if name not in LEVELS:
        raise UsageError(f"{name!r} is no level of a verdict", hint=f"one of {', '.join(LEVELS[1:])}", level=name)
    return name


def level_reached(verdict: str, required: str) -> bool:
    """Return whether a verdict is at least the level asked for."""
    return LEVELS.index(require_level(verdict)) >= LEVELS.index(require_level(required))


def weakest_input(inputs: Iterable[InputDoc]) -> InputStrength:
    """Return the weakest strength that a verdict rests on; a strength nobody knows counts as "named"."""
    strengths = {item["strength"] for item in inputs}
    if not strengths:
        return "none"
    return "named" if strengths - set(_STRENGTHS) else next(name for name in _STRENGTHS if name in strengths)


def compare_last_values(
    recorded: Sequence[MetricRow], got: Sequence[MetricRow], rules: MetricRules
) -> list[VerdictMetricDoc]:
    """Return every metric of either stream with its last values, sorted by name; one that a side lacks is not ok."""
    old, new = metric_stats(recorded), metric_stats(got)
    compared: list[VerdictMetricDoc] = []
    for name in sorted({*old, *new}):
        before = old[name]["last"] if name in old else None
        after = new[name]["last"] if name in new else None
        tolerance = rules.tolerances.get(name)
        ok = before is not None and after is not None and within_tolerance(before, after, tolerance)
        compared.append({"name": name, "recorded": before, "got": after, "tolerance": tolerance, "ok": ok})
    return compared


def within_tolerance(recorded: Number, got: Number, tolerance: float | None) -> bool:
    """Return whether two values are at most `tolerance` apart, in decimal arithmetic; None means the same bits.

    Decimal, because 0.952 - 0.95 > 0.002 in binary, and nobody who wrote 0.002 means that.
    """
    if exact_form(recorded) == exact_form(got):
        return True
    if tolerance is None or isinstance(recorded, str) or isinstance(got, str):
        return False
    return abs(Decimal(repr(recorded)) - Decimal(repr(got))) <= Decimal(repr(tolerance))


def compare_outputs(recorded: Iterable[OutputDoc], got: Iterable[OutputDoc]) -> list[VerdictOutputDoc]:
    """Return every output of either run by path, by tensor digest where both have one, else by bytes."""
    old, new = paired_outputs(recorded), paired_outputs(got)
    compared: list[VerdictOutputDoc] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        before_identity, after_identity = output_identities(before, after)
        equal = before is not None and after is not None and same_output(before, after)
        path = (before or after or {"path": name})["path"]
        compared.append({"path": path, "recorded": before_identity, "got": after_identity, "equal": equal})
    return compared


def first_divergence(recorded: Sequence[MetricRow], got: Sequence[MetricRow]) -> DivergenceDoc | None:
    """Return the first step, and there the first metric by name, in which two streams differ in any bit.

    Rows without a step come last and are compared by their place among each other.
    """
    old, new = _by_place(recorded), _by_place(got)
    for place in sorted({*old, *new}):
        before, after = old.get(place, {}), new.get(place, {})
        for name in sorted({*before, *after}):
            if name not in before or name not in after or exact_form(before[name]) != exact_form(after[name]):
                stepless, number = place
                return {"metric": name, "step": None if stepless else number}
    return None


def _environment_class(named: EnvironmentClass, drift: Iterable[DriftDoc]) -> EnvironmentClass:
    """Threads, devices and flags belong to the environment as much as packages do."""
    drifted = any(item["kind"] in {"numerics", "loaded", "package"} for item in drift)
    return "drifted" if named == "same" and drifted else named


def _level(got: RunOutcome, verdict: VerdictDoc, *, same_start: bool, is_prefix: bool) -> Level:
    """Return the level reached, from the comparisons already in the verdict."""
    if not _was_executed(got, is_prefix=is_prefix):
        return "restored"
    metrics, outputs = verdict["metrics"], verdict["outputs"]
    if not same_start or not all(metric["ok"] for metric in metrics) or not (metrics or outputs):
        return "executed"
    if verdict["first_divergence"] is None and all(output["equal"] for output in outputs):
        return "bitwise"
    return "metrics" if metrics else "executed"


def _was_executed(got: RunOutcome, *, is_prefix: bool) -> bool:
    if is_prefix and got.status == "stopped":
        return True
    return got.status == "completed" and got.exit_code == 0 and (is_prefix or not got.missing_outputs)


def _comparable_streams(
    recorded: RunOutcome, got: RunOutcome, volatile: frozenset[str], steps: int | None
) -> tuple[MetricRows, MetricRows]:
    """Return the two streams without volatile metrics, both cut to the first `steps` steps."""
    old, _ = split_volatile(recorded.metrics, volatile)
    new, _ = split_volatile(got.metrics, volatile)
    if steps is None:
        return old, new
    old, new = _first_steps(old, steps), _first_steps(new, steps)
    if got.status == "stopped" and new:
        # The job was stopped as soon as its last step was seen, perhaps before it had logged all of that step.
        old = _cut_row(old, row_step(new[-1]), row_metrics(new[-1]).keys())
    return old, new


def _is_whole(recorded: RunOutcome, got: RunOutcome, steps: int) -> bool:
    """Return whether a prefix run was the whole run: it was not stopped, and the recorded one has no further step."""
    return got.status == "completed" and 0 < len(_steps_of(recorded.metrics)) <= steps


def _steps_of(rows: Iterable[MetricRow]) -> list[int]:
    return sorted({step for row in rows if (step := row_step(row)) is not None})


def _first_steps(rows: MetricRows, steps: int) -> MetricRows:
    seen = _steps_of(rows)[:steps]
    return tuple(row for row in rows if row_step(row) in seen)


def _cut_row(rows: MetricRows, step: int | None, names: Collection[str]) -> MetricRows:
    def cut(row: MetricRow) -> MetricRow:
        return {name: value for name, value in row.items() if name in names or name == STEP}

    cut_rows = (cut(row) if row_step(row) == step else row for row in rows)
    return tuple(row for row in cut_rows if row_metrics(row))


def _same_start(recorded: MetricRows, got: MetricRows) -> bool:
    """Return whether the reproduction began where the recorded run began; else it has loaded an earlier result."""
    starts = [min((s for row in rows if (s := row_step(row)) is not None), default=None) for rows in (recorded, got)]
    return starts[0] == starts[1]


def _by_place(rows: Iterable[MetricRow]) -> dict[tuple[bool, int], dict[str, Number]]:
    """Return metrics by (False, step), or by (True, place) for rows without a step."""
    places: dict[tuple[bool, int], dict[str, Number]] = {}
    stepless = 0
    for row in rows:
        step = row_step(row)
        place = (True, stepless) if step is None else (False, step)
        stepless += step is None
        places.setdefault(place, {}).update(row_metrics(row))
    return places
