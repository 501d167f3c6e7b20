"""The difference of two experiments as a value. No rendering, no git: the caller passes both documents in.

Missing is not null, and 1 is not 1.0 is not True: a difference in the record is a difference here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar

from nemo_gitexp.documents import (
    SCHEMA,
    CodeDiffDoc,
    ConfigDiffDoc,
    DiffDoc,
    ExperimentDoc,
    FileChangeDoc,
    InputDoc,
    MetricDiffDoc,
    OutputDoc,
    PairDoc,
)
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.keypath import render_key
from nemo_gitexp.metricform import exact_form
from nemo_gitexp.metrics import Number, as_float
from nemo_gitexp.worker.stamped import stable_names

Goal: TypeAlias = Literal["max", "min"]
Side: TypeAlias = Literal["a", "b"]
_Item = TypeVar("_Item")


def flatten_config(config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the leaves by dotted path; lists and empty mappings are leaves.

    Paths are written as `keypath` writes them, so that no two configurations share one by accident.
    """
    leaves: dict[str, JsonValue] = {}
    for key, value in config.items():
        name = render_key([key])
        if isinstance(value, Mapping) and value:
            leaves.update({f"{name}.{path}": leaf for path, leaf in flatten_config(value).items()})
        else:
            leaves[name] = value
    return leaves


def compare_configs(a: Mapping[str, JsonValue], b: Mapping[str, JsonValue]) -> ConfigDiffDoc:
    """Return what both share, what changed, and what only one side has, by dotted path, sorted."""
    flat_a, flat_b = flatten_config(a), flatten_config(b)
    shared = sorted(flat_a.keys() & flat_b.keys())
    return {
        "common": {path: flat_a[path] for path in shared if same_value(flat_a[path], flat_b[path])},
        "changed": {
            path: {"a": flat_a[path], "b": flat_b[path]}
            for path in shared
            if not same_value(flat_a[path], flat_b[path])
        },
        "only_a": {path: flat_a[path] for path in sorted(flat_a.keys() - flat_b.keys())},
        "only_b": {path: flat_b[path] for path in sorted(flat_b.keys() - flat_a.keys())},
    }


def compare_experiments(
    a: ExperimentDoc,
    b: ExperimentDoc,
    *,
    code_files: Sequence[FileChangeDoc],
    environment_a: Mapping[str, JsonValue],
    environment_b: Mapping[str, JsonValue],
    goals: Mapping[str, Goal | None],
    volatile: Collection[str] = (),
) -> DiffDoc:
    """Return the difference of two experiments, the answer of `diff --json`.

    Args:
        a: the side compared against.
        b: the side that is judged.
        code_files: what changed from the code of `a` to the code of `b`.
        environment_a: environment document of `a`; empty when unknown.
        environment_b: environment document of `b`; empty when unknown.
        goals: by metric name, whether more or less is better; None or absent when nobody said.
        volatile: metrics that are shown elsewhere and never compared.
    """
    metrics_a, metrics_b = (
        {name: value for name, value in side["metrics"].items() if name not in volatile} for side in (a, b)
    )
    return {
        "schema": SCHEMA,
        "a": a["experiment"],
        "b": b["experiment"],
        "config": compare_configs(a["config"], b["config"]),
        "seed": {"a": a["seed"], "b": b["seed"]},
        "code": _compare_code(a, b, code_files),
        "inputs": _compare_inputs(a["inputs"], b["inputs"]),
        "environment": {
            "a": a["environment_key"],
            "b": b["environment_key"],
            **environment_changes(environment_a, environment_b),
        },
        "topology": _changed_pairs(flatten_config(a["topology"]), flatten_config(b["topology"])),
        "metrics": compare_metrics(metrics_a, metrics_b, goals),
        "outputs": _compare_outputs(a["outputs"], b["outputs"]),
    }


def differs(diff: DiffDoc) -> bool:
    """Return whether anything differs: state, environment, metrics or outputs; names and dates do not count."""
    config, environment = diff["config"], diff["environment"]
    return bool(
        config["changed"]
        or config["only_a"]
        or config["only_b"]
        or diff["seed"]["a"] != diff["seed"]["b"]
        or diff["code"]["files"]
        or diff["inputs"]
        or diff["topology"]
        or diff["outputs"]
        or environment["a"] != environment["b"]
        or environment["interpreter"]
        or environment["packages"]
        or any(metric_changed(metric) for metric in diff["metrics"].values())
    )


def compare_metrics(
    a: Mapping[str, Number], b: Mapping[str, Number], goals: Mapping[str, Goal | None]
) -> dict[str, MetricDiffDoc]:
    """Return every metric of either side; `delta` is b - a where both are finite."""
    return {name: _compare_metric(a.get(name), b.get(name), goals.get(name)) for name in sorted({*a, *b})}


def metric_changed(metric: MetricDiffDoc) -> bool:
    """Return whether the two values differ in any bit."""
    a, b = metric["a"], metric["b"]
    return (a is None) != (b is None) or (a is not None and b is not None and exact_form(a) != exact_form(b))


def environment_changes(a: Mapping[str, JsonValue], b: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return `{"interpreter": null or {"a", "b"}, "packages": {name: {"a", "b"}}}`, only what differs.

    When either document is empty (unknown), nothing is claimed to differ.
    """
    if not a or not b:
        return {"interpreter": None, "packages": {}}
    interpreter_a, interpreter_b = interpreter_text(a), interpreter_text(b)
    same = interpreter_a == interpreter_b
    packages = _changed_pairs(package_versions(a), package_versions(b))
    return {
        "interpreter": None if same else {"a": interpreter_a, "b": interpreter_b},
        "packages": {name: {"a": pair["a"], "b": pair["b"]} for name, pair in packages.items()},
    }


def interpreter_text(environment: Mapping[str, JsonValue]) -> str | None:
    """Return `cpython 3.11.7`, or None when the document does not say."""
    interpreter = environment.get("interpreter")
    if not isinstance(interpreter, Mapping):
        return None
    return f"{interpreter.get('implementation', 'unknown')} {interpreter.get('version', 'unknown')}"


def package_versions(environment: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return versions by package name."""
    packages = environment.get("packages")
    return {name: str(version) for name, version in packages.items()} if isinstance(packages, Mapping) else {}


def same_value(a: JsonValue, b: JsonValue) -> bool:
    """Return whether two JSON values are the same, type included (1, 1.0 and true are three values)."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_value(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same_value, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return repr(a) == repr(b)
    return type(a) is type(b) and a == b


def same_output(a: OutputDoc, b: OutputDoc) -> bool:
    """Return whether two outputs hold the same result: tensors where both hold tensors, else bytes."""
    identity_a, identity_b = output_identities(a, b)
    return identity_a == identity_b


def paired_outputs(outputs: Iterable[OutputDoc]) -> dict[str, OutputDoc]:
    """Return outputs by the name that they have in every run: an event file of TensorBoard's holds the time in its own.

    Only what has a digest goes by such a name: of anything else the bytes hold the time too.
    """
    items = {item["path"]: item for item in outputs}
    stable = stable_names(path for path, item in items.items() if item["digest"])
    return {(path if stable.get(path) in items else stable.get(path, path)): item for path, item in items.items()}


def output_identities(a: OutputDoc | None, b: OutputDoc | None) -> tuple[str | None, str | None]:
    """Return what names both contents: tensor digests, or `sha256:…` of the bytes when a side has no digest."""
    if all(output is None or output["digest"] for output in (a, b)):
        return a and a["digest"], b and b["digest"]
    return a and _bytes_identity(a), b and _bytes_identity(b)


def _bytes_identity(output: OutputDoc) -> str:
    return f"sha256:{output['sha256'].removeprefix('sha256:')}"


def _compare_code(a: ExperimentDoc, b: ExperimentDoc, files: Sequence[FileChangeDoc]) -> CodeDiffDoc:
    return {
        "a": a["code"]["commit"],
        "b": b["code"]["commit"],
        "files": list(files),
        "insertions": sum(change["insertions"] or 0 for change in files),
        "deletions": sum(change["deletions"] or 0 for change in files),
    }


def _changed_pairs(a: Mapping[str, JsonValue], b: Mapping[str, JsonValue]) -> dict[str, PairDoc]:
    """Return what differs by key; here, where people write nothing, a missing key is null."""
    changed = (key for key in sorted({*a, *b}) if not same_value(a.get(key), b.get(key)))
    return {key: {"a": a.get(key), "b": b.get(key)} for key in changed}


def _compare_inputs(a: Iterable[InputDoc], b: Iterable[InputDoc]) -> list[Mapping[str, JsonValue]]:
    def same(one: InputDoc, other: InputDoc) -> bool:
        return (one["pin"], one["strength"]) == (other["pin"], other["strength"])

    return [
        {
            "path": path,
            "a": one and one["pin"],
            "b": other and other["pin"],
            "strength": {"a": one and one["strength"], "b": other and other["strength"]},
            "size_bytes": {"a": one and one["size_bytes"], "b": other and other["size_bytes"]},
        }
        for path, one, other in _unequal({item["path"]: item for item in a}, {item["path"]: item for item in b}, same)
    ]


def _compare_outputs(a: Iterable[OutputDoc], b: Iterable[OutputDoc]) -> list[Mapping[str, JsonValue]]:
    outputs_a, outputs_b = paired_outputs(a), paired_outputs(b)
    changed: list[Mapping[str, JsonValue]] = []
    for name, one, other in _unequal(outputs_a, outputs_b, same_output):
        path = one["path"] if one else other["path"] if other else name
        identity_a, identity_b = output_identities(one, other)
        sizes = {"a": one and one["size_bytes"], "b": other and other["size_bytes"]}
        changed.append({"path": path, "a": identity_a, "b": identity_b, "size_bytes": sizes})
    return changed


def _unequal(
    a: Mapping[str, _Item], b: Mapping[str, _Item], same: Callable[[_Item, _Item], bool]
) -> list[tuple[str, _Item | None, _Item | None]]:
    pairs = ((key, a.get(key), b.get(key)) for key in sorted({*a, *b}))
    return [(key, one, other) for key, one, other in pairs if one is None or other is None or not same(one, other)]


def _compare_metric(a: Number | None, b: Number | None, goal: Goal | None) -> MetricDiffDoc:
    number_a, number_b = as_float(a), as_float(b)
    finite = isinstance(a, (int, float)) and isinstance(b, (int, float))
    delta = number_b - number_a if finite and number_a is not None and number_b is not None else None
    return {"a": a, "b": b, "delta": delta, "better": _better(number_a, number_b, goal)}


def _better(a: float | None, b: float | None, goal: Goal | None) -> Side | None:
    """Return the better side; NaN loses against every number, and nothing wins against a missing value."""
    if goal is None or a is None or b is None or a == b:
        return None
    if math.isnan(a) or math.isnan(b):
        return None if math.isnan(a) and math.isnan(b) else ("b" if math.isnan(a) else "a")
    return "b" if (b > a) is (goal == "max") else "a"
