"""The guide's versions: short hashes, versioned names, saved configurations."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nemo_gitexp
from nemo_gitexp.errors import CanonicalFormError, InvalidNameError, StateDirectoryError, UsageError
from nemo_gitexp.versioning import config_hash
from nemo_gitexp.versions import ExperimentVersioning

CONFIG = {"model": {"hidden": 64, "layers": [1, 2]}, "lr": 0.1}
VALUES = st.integers() | st.floats(allow_nan=False) | st.text() | st.none()


@dataclasses.dataclass
class Optimizer:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, math.inf)


def test_the_short_hash_is_the_beginning_of_the_whole():
    assert ExperimentVersioning.generate_config_hash(CONFIG) == config_hash(CONFIG)[7:15]
    assert ExperimentVersioning().generate_config_hash(config=CONFIG) == config_hash(CONFIG)[7:15]
    assert nemo_gitexp.ExperimentVersioning is ExperimentVersioning


def test_a_versioned_name_ends_in_the_hash_or_the_given_version():
    short = config_hash(CONFIG)[7:15]
    assert ExperimentVersioning.create_versioned_experiment("mlp_mnist", CONFIG) == f"mlp_mnist_v{short}"
    assert ExperimentVersioning.create_versioned_experiment("mlp_mnist", CONFIG, version="2.1") == "mlp_mnist_v2.1"
    assert ExperimentVersioning.create_versioned_experiment(base_name="a", config=CONFIG, version=0) == "a_v0"


def test_a_versioned_name_can_be_a_ref_or_is_refused():
    name = ExperimentVersioning.create_versioned_experiment("mlp", {"x": 1})
    assert subprocess.run(["git", "check-ref-format", f"refs/gitexp/{name}"], check=False).returncode == 0
    impossible = [("a b", None), ("../up", None), ("-x", None), ("x" * 200, None), ("a", "1..2"), ("a", "1.lock")]
    for base, version in impossible:
        with pytest.raises(InvalidNameError) as refusal:
            ExperimentVersioning.create_versioned_experiment(base, CONFIG, version)
        assert refusal.value.facts["suggestion"]
    with pytest.raises(UsageError):
        ExperimentVersioning.create_versioned_experiment("a", CONFIG, "")


def test_a_saved_configuration_keeps_its_hash(tmp_path: Path):
    config = {"optimizer": Optimizer(), "path": Path("a/b"), "who": "ü"}
    path = ExperimentVersioning.save_experiment_config("exp_1", config, output_dir=tmp_path / "new" / "place")
    assert path == tmp_path / "new/place/exp_1_config.json"
    assert config_hash(json.loads(path.read_text())) == config_hash(config)
    assert list(path.parent.iterdir()) == [path]
    again = ExperimentVersioning.save_experiment_config("exp_1", {"a": 1}, str(path.parent))
    assert json.loads(again.read_text()) == {"a": 1}


def test_the_default_place_is_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert ExperimentVersioning.save_experiment_config("x", {}) == Path("experiments/x_config.json")
    assert (tmp_path / "experiments/x_config.json").read_text() == "{}\n"


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_configuration_round_trips(tmp_path: Path, config: dict[str, object]):
    path = ExperimentVersioning.save_experiment_config("law", config, tmp_path)
    assert config_hash(json.loads(path.read_bytes())) == config_hash(config)


def test_nothing_is_saved_when_something_is_wrong(tmp_path: Path):
    for name in ("../out", "a/b", "", "-x", None):
        with pytest.raises(InvalidNameError):
            ExperimentVersioning.save_experiment_config(name, CONFIG, tmp_path)
    with pytest.raises(CanonicalFormError) as refusal:
        ExperimentVersioning.save_experiment_config("x", {"a": {"b": [1, math.nan]}}, tmp_path)
    assert refusal.value.facts["key"] == "a.b.1"
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError):
        ExperimentVersioning.save_experiment_config("x", CONFIG, tmp_path / "file")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
