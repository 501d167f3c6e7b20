"""Canonical form and config hash."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import fiddle
import hash_subjects
import numpy as np
import omegaconf
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_gitexp.errors import CanonicalFormError
from nemo_gitexp.jsontext import parse_json, render_json
from nemo_gitexp.versioning import canonical_bytes, config_hash, plain_config

HERE = Path(__file__).parent
VECTORS = json.loads((HERE / "hash_vectors.json").read_text())
SUBJECTS = hash_subjects.SUBJECTS

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
CONFIGS = st.dictionaries(st.text(max_size=5), JSON, max_size=5)


def typed(value):
    """Return a value that equals another one only if their types do as well."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    name = {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value) if isinstance(value, float) else None
    return ("str", name) if name else (type(value).__name__, repr(value) if isinstance(value, float) else value)


def shuffled(value):
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


def test_there_are_vectors_enough_and_only_the_reordered_one_repeats():
    assert len(VECTORS) >= 60
    assert len({vector["hash"] for vector in VECTORS}) == len(VECTORS) - 1


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["why"])
def test_a_vector_keeps_its_hash_for_ever(vector):
    assert config_hash(vector["config"]) == vector["hash"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["why"])
def test_the_documented_recipe_alone_gives_the_same_hash(vector):
    text = json.dumps(vector["config"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert "sha256:" + hashlib.sha256(text.encode()).hexdigest() == vector["hash"]


def ask(python: str, hash_seed: str) -> list[str]:
    env = {"PYTHONPATH": str(HERE.parent), "PYTHONHASHSEED": hash_seed, "PATH": os.environ["PATH"]}
    argv = [python, str(HERE / "hash_subjects.py")]
    return json.loads(subprocess.run(argv, env=env, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_hashes_do_not_depend_on_the_process_or_its_hash_seed(hash_seed):
    # imported here, run as a script there: `hash_subjects:Optimizer` in both
    assert ask(sys.executable, hash_seed) == [config_hash(subject) for subject in SUBJECTS]


def answers(python: str) -> bool:
    return subprocess.run([python, "-c", "import json"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_hashes_do_not_depend_on_the_python_version(version):
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [shutil.which(f"python{version}"), *map(str, pyenv.glob(f"versions/{version}.*/bin/python"))]
    pythons = [python for python in found if python and answers(python)]
    if not pythons:
        pytest.skip(f"no python{version} on this machine")
    assert ask(pythons[0], "7") == [config_hash(subject) for subject in SUBJECTS]


def test_the_hash_of_every_kind_of_subject_is_known():
    """A change here changes the identity of recorded experiments: it needs a new schema, not a new constant."""
    digest = hashlib.sha256("\n".join(config_hash(subject) for subject in SUBJECTS).encode()).hexdigest()
    assert digest[:16] == "91f6a2d1e14ea2ff"


@pytest.mark.parametrize("subject", SUBJECTS, ids=range(len(SUBJECTS)))
def test_the_plain_form_and_its_record_have_the_same_hash(subject):
    plain = plain_config(subject)
    assert config_hash(plain) == config_hash(subject)
    assert config_hash(parse_json(render_json(plain), "config.json")) == config_hash(subject)


@given(CONFIGS)
def test_a_hash_survives_the_record(config):
    assert config_hash(parse_json(render_json(plain_config(config)), "config.json")) == config_hash(config)


@given(CONFIGS)
def test_key_order_does_not_matter(config):
    assert canonical_bytes(shuffled(config)) == canonical_bytes(config)


@given(CONFIGS, CONFIGS)
def test_hashes_are_equal_exactly_when_typed_values_are(a, b):
    assert (config_hash(a) == config_hash(b)) == (typed(a) == typed(b))


@given(CONFIGS)
def test_the_plain_form_shares_nothing_with_the_configuration(config):
    before = canonical_bytes(config)
    plain = plain_config(config)
    plain["new"] = 1
    for value in plain.values():
        if isinstance(value, list):
            value.append(1)
    assert canonical_bytes(config) == before


def test_look_alikes_differ():
    values = [1, 1.0, "1", True, None, [1], {}, "None", "1.0", "true", 0, False, 0.0, "", []]
    alike = [{}, *({"a": value} for value in values)]
    assert len({config_hash(config) for config in alike}) == len(alike)


def test_a_whole_hash_is_a_sha256():
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", config_hash({"lr": 0.1}))


def test_numpy_values_are_their_python_values():
    values = [
        np.int64(3),
        np.float64(0.1),
        np.float32(0.5),
        np.bool_(True),
        np.str_("x"),
        np.array([1, 2]),
        np.array([[0.5]]),
        np.array(3),
    ]
    assert plain_config({"v": values})["v"] == [3, 0.1, 0.5, True, "x", [1, 2], [[0.5]], 3]
    assert config_hash({"v": values}) == config_hash({"v": [3, 0.1, 0.5, True, "x", [1, 2], [[0.5]], 3]})
    assert config_hash({"v": np.float32(0.1)}) != config_hash({"v": 0.1})
    assert plain_config({"t": np.dtype("float32"), "c": np.float32, "f": np.tanh}) == {
        "t": "float32",
        "c": "numpy:float32",
        "f": "numpy:tanh",
    }


def test_torch_values_are_their_python_values():
    values = [
        torch.tensor(1.5),
        torch.tensor([1, 2]),
        torch.tensor(True),
        torch.nn.Parameter(torch.ones(2)),
        torch.Size([1, 2]),
    ]
    assert plain_config({"v": values})["v"] == [1.5, [1, 2], True, [1.0, 1.0], [1, 2]]
    assert plain_config({"t": torch.bfloat16, "d": torch.device("cuda:1"), "f": torch.relu}) == {
        "t": "torch.bfloat16",
        "d": "cuda:1",
        "f": "torch:_VariableFunctionsClass.relu",
    }


def test_omegaconf_is_resolved_and_site_values_stay():
    config = omegaconf.OmegaConf.create(
        {"a": 1, "b": "${a}", "l": [1, "${b}"], "n": None, "c": {"d": "${..a}"}, "s": "${site:DIR}/x", "m": {}}
    )
    plain = {"a": 1, "b": 1, "l": [1, 1], "n": None, "c": {"d": 1}, "s": "${site:DIR}/x", "m": {}}
    assert plain_config(config) == plain
    assert config_hash({"inner": config}) == config_hash({"inner": plain})


@dataclasses.dataclass
class Adam:
    lr: float = 0.1
    betas: list[float] = dataclasses.field(default_factory=lambda: [0.9, 0.999])


@dataclasses.dataclass
class Sgd:
    lr: float = 0.1
    betas: list[float] = dataclasses.field(default_factory=lambda: [0.9, 0.999])


def fit(model, /, epochs: int = 3, *rest: int, lr: float = 0.1) -> None:
    """Stand for any function of a user."""


def test_a_config_of_nemo_run_equals_its_object_with_the_defaults_written_out():
    Config = pytest.importorskip("nemo_run").Config  # noqa: N806 - a class
    assert config_hash(Config(Adam)) == config_hash(Adam())
    assert config_hash(Config(Adam, lr=0.1)) == config_hash(Config(Adam))
    assert config_hash(Config(Adam, lr=0.2)) == config_hash(Adam(lr=0.2))
    assert config_hash({"opt": Config(Adam)}) != config_hash({"opt": Config(Sgd)})


def test_a_fiddle_config_keeps_positional_arguments_and_partials_apart():
    partial = fiddle.Partial(fit, fiddle.Config(Adam), 5, 6, 7)
    assert plain_config(partial) == {
        "_target_": "test_versioning:fit",
        "_partial_": True,
        "_args_": [{"_target_": "test_versioning:Adam", "lr": 0.1, "betas": [0.9, 0.999]}, 6, 7],
        "epochs": 5,
        "lr": 0.1,
    }
    assert config_hash(fiddle.Config(fit, 1)) != config_hash(fiddle.Partial(fit, 1))


def test_objects_of_different_classes_differ_and_so_does_a_mapping():
    assert len({config_hash(value) for value in (Adam(), Sgd(), dataclasses.asdict(Adam()))}) == 3


def test_sharing_is_no_cycle():
    shared = {"x": [1]}
    assert config_hash({"a": shared, "b": [shared, shared]}) == config_hash(
        {"a": {"x": [1]}, "b": [{"x": [1]}, {"x": [1]}]}
    )


def cycle() -> dict[str, object]:
    config: dict[str, object] = {}
    config["a"] = {"b": [1, config]}
    return config


def nested(depth: int) -> dict[str, object]:
    config: dict[str, object] = {}
    for _ in range(depth):
        config = {"a": config}
    return config


def local_function():
    def inside() -> None:
        """Stand for a closure."""

    return inside


@pytest.mark.parametrize(
    "config,key,word",
    [
        ({"a": {"b": math.nan}}, "a.b", "NaN"),
        ({"a": [0, np.float32("nan")]}, "a.1", "NaN"),
        ({"a": torch.tensor([[0.0, math.nan]])}, "a.0.1", "NaN"),
        ({"s": {math.nan}}, "s.{…}", "NaN"),
        (cycle(), "a.b.1", "contains itself"),
        (nested(101), ".".join(["a"] * 100), "nested deeper"),
        ({"opt": {"f": lambda: 1}}, "opt.f", "lambda"),
        ({"f": functools.partial(lambda: 1)}, "f._target_", "lambda"),
        ({"f": local_function()}, "f", "inside, defined inside a function"),
        ({"f": Adam().__repr__}, "f", "method __repr__ of an object"),
        ({"a.b": {"c": object()}}, '"a.b".c', "no stable form"),
        ({"lock": threading.Lock()}, "lock", "no stable form"),
        ({"g": (number for number in [1])}, "g", "generator"),
        ({"b": b"x"}, "b", "bytes"),
        ({"c": 1j}, "c", "complex"),
        ({"c": np.complex64(1)}, "c", "complex64"),
        ({"a": {1: "x"}}, "a.1", "no text"),
        ({"a": {None: "x"}}, "a.None", "no text"),
        ({"a": {("x", "y"): 1}}, "a.('x', 'y')", "no text"),
        ({"a": "\ud800"}, "a", "surrogate"),
        ({"a": 10**5000}, "a", "bits"),
        ({"a": np.zeros(10_001)}, "a", "data, not configuration"),
        ({"a": torch.empty(2, device="meta")}, "a", "cannot be listed"),
        ({"a": range(10**9)}, "a", "range"),
        ({"m": torch.nn.Linear(1, 1)}, "m", "no stable form"),
        (omegaconf.OmegaConf.create({"a": {"b": "???"}}), "a.b", "cannot be resolved"),
        (omegaconf.OmegaConf.create({"a": "${nowhere}"}), "a", "cannot be resolved"),
        (fiddle.Config(Adam, lr=math.nan), "lr", "NaN"),
        ({"c": fiddle.Config(Adam, betas=[lambda: 1])}, "c.betas.0", "lambda"),
    ],
)
def test_what_has_no_stable_form_is_refused_by_its_key(config, key, word):
    with pytest.raises(CanonicalFormError) as caught:
        config_hash(config)
    assert caught.value.facts["key"] == key
    assert key in caught.value.message
    assert caught.value.hint
    assert word in caught.value.message


@pytest.mark.parametrize("value", [[1], "text", None, 3])
def test_a_configuration_is_a_mapping_at_the_top(value):
    with pytest.raises(CanonicalFormError, match="mapping of keys"):
        plain_config(value)


def test_nesting_up_to_the_records_own_limit_is_accepted():
    config = nested(99)
    assert config_hash(parse_json(render_json(plain_config(config)), "c")) == config_hash(config)


def test_hashing_imports_no_library():
    code = (
        "import sys; from nemo_gitexp.versioning import config_hash;"
        "config_hash({'a': [1, {'b': {2}}]}); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HERE.parent)
    assert not {"numpy", "torch", "omegaconf", "fiddle", "yaml"} & set(done.stdout.split())
