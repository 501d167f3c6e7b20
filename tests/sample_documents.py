"""Documents as the rooms below hand them to comparison, verdict, where and report."""

from __future__ import annotations

from typing import Any, cast

from nemo_gitexp.documents import ExperimentDoc, OutputDoc

SHA_A = "a1b2c3d4e5f60718293a4b5c6d7e8f9001122334"
SHA_B = "e4f5a6b7c8d90a1b2c3d4e5f60718293a4b5c6d7"


def output(path: str = "model.pt", sha256: str = "11" * 32, digest: str | None = None) -> OutputDoc:
    return {"path": path, "sha256": sha256, "digest": digest, "size_bytes": 12_345, "keep": "dvc"}


def experiment(**changes: Any) -> ExperimentDoc:
    """Return a completed experiment of the digits study with the given fields replaced."""
    document = {
        "schema": 1,
        "experiment": SHA_A,
        "ref": "refs/gitexp/digits/20250101_120000_mlp_digits_training_v1a2b3c4d",
        "branch": "exp/digits/20250101_120000_mlp_digits_training_v1a2b3c4d",
        "study": "digits",
        "name": "20250101_120000_mlp_digits_training_v1a2b3c4d",
        "purpose": "Does a wider layer help?",
        "expected": "accuracy above 0.95",
        "sweep": None,
        "identity": "sha256:" + "12" * 32,
        "config_hash": "sha256:" + "1a" * 32,
        "config": {"hidden": 64, "lr": 0.1, "optimizer": {"name": "adam", "betas": [0.9, 0.999]}},
        "seed": 42,
        "determinism": "seeded",
        "topology": {"nodes": 1, "devices": 0, "launcher": None},
        "code": {
            "commit": "c0" * 20,
            "tree": "d0" * 20,
            "key": "sha256:" + "34" * 32,
            "base": "b0" * 20,
            "dirty": False,
            "untracked": [],
        },
        "inputs": [{"path": "data/digits.npz", "pin": "3f" * 16, "strength": "content", "size_bytes": 920_000}],
        "environment_key": "sha256:" + "56" * 32,
        "status": "completed",
        "result": "f0" * 20,
        "metrics": {"accuracy": 0.95, "loss": 0.18},
        "metric_stats": {
            "accuracy": {"last": 0.95, "min": 0.61, "max": 0.952, "n": 10},
            "loss": {"last": 0.18, "min": 0.18, "max": 1.9, "n": 10},
        },
        "started": "2025-01-01T12:00:03.120000Z",
        "ended": "2025-01-01T12:00:09.620000Z",
        "duration_s": 6.5,
        "error": None,
        "outputs": [output()],
        "tasks": [],
        "executor": "local",
        "jobs": [],
        "reproductions": {"best": None, "count": 0},
        "archived": False,
        "withdrawn": False,
        "duplicate_of": None,
    }
    return cast("ExperimentDoc", {**document, **changes})


def environment(python: str = "3.11.7", **packages: str) -> dict[str, Any]:
    """Return an environment document."""
    return {
        "schema": 1,
        "captured": "launch",
        "interpreter": {"implementation": "cpython", "version": python},
        "packages": {"torch": "2.13.0", "numpy": "2.4.6", "rich": "13.9.4", **packages},
    }
