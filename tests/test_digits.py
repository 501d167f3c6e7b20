"""The digits study: its data is the same everywhere, its script is ordinary and learns, its definition fits both."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nemo_gitexp.definition import parse_definition

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "experiments" / "digits"
ONE_EPOCH = '{"hidden": 16, "epochs": 1}'


def run_python(*arguments, **env):
    """Run the tests' own interpreter without a launcher's variables; returns stdout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GITEXP_")}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**clean, "OMP_NUM_THREADS": "2", **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The data file, made by the script."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    run_python(STUDY / "make_data.py", path)
    return path


@pytest.fixture(scope="module")
def dvc_lock():
    """The stage `digits` of dvc.lock."""
    return yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["digits"]


def test_data_made_twice_is_byte_for_byte_equal(digits, tmp_path):
    run_python(STUDY / "make_data.py", tmp_path / "again.npz")
    assert digits.read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_data_is_what_dvc_lock_pins(digits, dvc_lock):
    (out,) = dvc_lock["outs"]
    assert (out["path"], out["md5"], out["size"]) == ("data/digits.npz", md5(digits), digits.stat().st_size)


def test_dvc_lock_knows_the_present_script(dvc_lock):
    (dep,) = dvc_lock["deps"]
    assert (dep["path"], dep["md5"]) == ("experiments/digits/make_data.py", md5(STUDY / "make_data.py"))


def test_script_runs_bare_and_beats_its_expectation(digits, tmp_path):
    said = run_python(STUDY / "train.py", "--data", digits, "--out", tmp_path / "out")
    assert float(said.split()[-1]) > 0.95
    assert (tmp_path / "out" / "model.pt").stat().st_size > 0


def test_every_epoch_is_one_metric_line(digits, tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"hidden": 16, "epochs": 3}')
    run_python(
        *(STUDY / "train.py", "--data", digits, "--out", tmp_path, "--config", config),
        GITEXP_METRICS=str(tmp_path / "metrics.jsonl"),
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(set(row) == {"step", "loss", "accuracy"} for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_seeding_is_left_to_the_launcher_when_there_is_one(digits, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(ONE_EPOCH)
    script = [STUDY / "train.py", "--data", digits, "--out", tmp_path, "--config", config]
    launcher = (
        "import runpy, sys, torch; torch.manual_seed(7); sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    bare = run_python(*script, "--seed", "7")
    seeded_by_launcher = run_python("-c", launcher, *script, GITEXP_SEED="7")
    seeded_by_nobody = run_python(*script, GITEXP_SEED="7")
    assert bare == seeded_by_launcher != seeded_by_nobody


def test_missing_data_is_answered_with_the_command_that_makes_it(tmp_path):
    done = subprocess.run(
        [sys.executable, str(STUDY / "train.py"), "--data", str(tmp_path / "none.npz")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "dvc repro digits" in done.stderr


def test_definition_names_what_script_and_dvc_know(digits):
    definition = parse_definition((STUDY / "experiment.yaml").read_bytes(), "experiments/digits/experiment.yaml")
    defaults = run_python(
        "-c",
        "import json, sys, dataclasses; sys.path.insert(0, sys.argv[1]); import train;"
        "print(json.dumps(dataclasses.asdict(train.Config())))",
        STUDY,
    )
    assert definition.config == json.loads(defaults)
    assert [spec.path for spec in definition.data] == ["data/digits.npz"]
    assert [spec.path for spec in definition.outputs] == ["model.pt"]
    assert definition.seed == 42
