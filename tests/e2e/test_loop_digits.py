"""The digits study in a fresh clone with neither cache nor remote: made by its stage, learnt, matched bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from builder import Work, make_work

ROOT = Path(__file__).resolve().parents[2]
STUDY = (
    "dvc.yaml",
    "dvc.lock",
    ".dvc/config",
    ".dvc/.gitignore",
    "data/.gitignore",
    "experiments/digits/experiment.yaml",
    "experiments/digits/train.py",
    "experiments/digits/make_data.py",
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Work:
    pytest.importorskip("sklearn")
    place = tmp_path_factory.mktemp("digits")
    upstream = make_work(place / "upstream", place / "home")
    for path in STUDY:
        (upstream.root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, upstream.root / path)
    upstream.commit("the study")
    upstream.git("clone", "-q", str(upstream.root), str(place / "clone"), cwd=place)
    env = {**upstream.env, "DVC_SITE_CACHE_DIR": str(place / "site"), "OMP_WAIT_POLICY": "PASSIVE"}
    return Work(place / "clone", env)


@pytest.mark.slow
def test_digits_run_by_themselves_learn_and_reproduce_bitwise(digits: Work):
    assert not (digits.root / "data/digits.npz").exists()
    answered = digits.gitexp("run", "digits", "--json")
    ran = answered.json
    assert "running the DVC stage digits" in answered.err
    assert ran["metrics"]["accuracy"] > 0.95
    assert ran["inputs"] == [
        {
            "path": "data/digits.npz",
            "pin": "8178562659c1a0473a915dcc18100c67",
            "size_bytes": 117275,
            "strength": "content",
        }
    ]
    (model,) = ran["outputs"]
    assert model["digest"].startswith("sha256:")
    verdict = digits.gitexp("reproduce", ran["experiment"], "--require", "bitwise", "--json").json
    assert (verdict["verdict"], verdict["environment"], verdict["weakest_input"]) == ("bitwise", "same", "content")
    assert verdict["outputs"] == [
        {"path": "model.pt", "recorded": model["digest"], "got": model["digest"], "equal": True}
    ]
    assert {metric["name"] for metric in verdict["metrics"]} == {"accuracy", "loss"}
    assert digits.git("status", "--porcelain") == ""
    record = json.loads(digits.git("show", f"{ran['experiment']}:experiments/digits/record/experiment.json"))
    assert record["determinism"] == "seeded"
