"""What differed between two runs and can explain a miss, ranked. Values in, values out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, TypeAlias

from nemo_gitexp.comparison import flatten_config, interpreter_text, package_versions, same_value
from nemo_gitexp.documents import DiffDoc, DriftDoc
from nemo_gitexp.jsontext import JsonValue, render_json_line

EnvironmentClass: TypeAlias = Literal["same", "drifted", "unknown"]

DRIFT_KINDS = ("code", "config", "data", "seed", "topology", "numerics", "loaded", "package", "cosmetic")
"""What can explain a miss, likeliest first. `loaded`: packages the job imported; `package`: the other ones."""

_NUMERIC_PACKAGES = frozenset({
    "apex", "cupy", "flash-attn", "intel-openmp", "jax", "jaxlib", "megatron-core", "mkl", "numpy", "scipy",
    "tensorflow", "torch", "transformer-engine", "triton", "xformers",
})  # fmt: skip
_NUMERIC_PREFIXES = ("nvidia-", "cupy-", "transformer-engine-", "jax-cuda", "pytorch-triton")

_COSMETIC_WORDS = frozenset({
    "boot_id", "disk", "host", "hostname", "kernel", "libc", "load", "memory", "memory_bytes", "os", "pid", "platform",
    "ram_bytes", "uptime", "CUDA_VISIBLE_DEVICES",
})  # fmt: skip
_SEED_SETTINGS = ("seeds", "rank_seeds", "self_seeded", "hash_seed", "torch.initial_seed")
_TOLD_ELSEWHERE = ("python", "loaded_packages", "smuggled", "seeding_faults")
"""Settings that environments compare already, or that say nothing about numbers."""


def compare_environments(
    recorded: Mapping[str, JsonValue], here: Mapping[str, JsonValue], loaded: Collection[str] = ()
) -> tuple[EnvironmentClass, tuple[DriftDoc, ...]]:
    """Return the environment class and the ranked drift of two environment documents.

    Args:
        recorded: environment document of the record; empty when unknown.
        here: environment document of the reproduction; empty when unknown.
        loaded: names of the packages that the recorded run imported.

    Returns:
        "same" when interpreter and all packages are equal, "unknown" when a document says nothing, else "drifted".
    """
    before, after = interpreter_text(recorded), interpreter_text(here)
    if before is None or after is None or "packages" not in recorded or "packages" not in here:
        return "unknown", ()
    drift: list[DriftDoc] = []
    if before != after:
        drift.append({"kind": _interpreter_kind(before, after), "name": "python", "recorded": before, "here": after})
    old, new = package_versions(recorded), package_versions(here)
    imported = {_normal_name(name) for name in loaded}
    drift += [
        _drift(_package_kind(name, imported), name, old.get(name), new.get(name))
        for name in {*old, *new}
        if old.get(name) != new.get(name)
    ]
    return ("drifted" if drift else "same"), rank_drift(drift)


def compare_settings(recorded: Mapping[str, JsonValue], here: Mapping[str, JsonValue]) -> tuple[DriftDoc, ...]:
    """Return the ranked drift of what was read back in two jobs (threads, device, flags) or of two machines.

    Only what both documents say is compared: a job that never imported torch tells nothing about its threads.
    """
    old, new = flatten_config(recorded), flatten_config(here)
    known = (key for key in sorted(old.keys() & new.keys()) if not _is_below(key, _TOLD_ELSEWHERE))
    changed = (key for key in known if not same_value(old[key], new[key]))
    return rank_drift(_drift(_setting_kind(key), key, old[key], new[key]) for key in changed)


def drift_of(diff: DiffDoc) -> tuple[DriftDoc, ...]:
    """Return the differences of two experiments as ranked drift, `a` being the recorded side; packages apart."""
    config = diff["config"]
    drift = [_drift("code", change["path"], None, change["change"]) for change in diff["code"]["files"]]
    drift += [_drift("config", key, pair["a"], pair["b"]) for key, pair in config["changed"].items()]
    drift += [_drift("config", key, value, None) for key, value in config["only_a"].items()]
    drift += [_drift("config", key, None, value) for key, value in config["only_b"].items()]
    drift += [_drift("data", str(item["path"]), item["a"], item["b"]) for item in diff["inputs"]]
    if diff["seed"]["a"] != diff["seed"]["b"]:
        drift.append(_drift("seed", "seed", diff["seed"]["a"], diff["seed"]["b"]))
    drift += [_drift("topology", key, pair["a"], pair["b"]) for key, pair in diff["topology"].items()]
    return rank_drift(drift)


def rank_drift(drift: Iterable[DriftDoc]) -> tuple[DriftDoc, ...]:
    """Return the drift, likeliest explanation first; within a kind torch and numpy lead, then names in order."""

    def place(item: DriftDoc) -> tuple[int, bool, str]:
        return _rank(item["kind"]), item["name"] not in {"torch", "numpy"}, item["name"]

    return tuple(sorted(drift, key=place))


def _interpreter_kind(before: str, after: str) -> str:
    """A patch release keeps the numbers; another implementation or minor version need not."""
    return "package" if before.split(".")[:2] == after.split(".")[:2] else "numerics"


def _package_kind(name: str, loaded: Collection[str]) -> str:
    normal = _normal_name(name)
    if normal in _NUMERIC_PACKAGES or normal.startswith(_NUMERIC_PREFIXES):
        return "numerics"
    return "loaded" if normal in loaded else "package"


def _setting_kind(key: str) -> str:
    if _is_below(key, _SEED_SETTINGS):
        return "seed"
    return "cosmetic" if key.rsplit(".", 1)[-1] in _COSMETIC_WORDS else "numerics"


def _is_below(key: str, names: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _normal_name(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _rank(kind: str) -> int:
    return DRIFT_KINDS.index(kind) if kind in DRIFT_KINDS else len(DRIFT_KINDS)


def _drift(kind: str, name: str, recorded: JsonValue, here: JsonValue) -> DriftDoc:
    return {"kind": kind, "name": name, "recorded": _text(recorded), "here": _text(here)}


def _text(value: JsonValue) -> str | None:
    """Return a value as the one-line text that a drift holds; None stays "not there"."""
    return value if value is None or isinstance(value, str) else render_json_line(value).decode().strip()
