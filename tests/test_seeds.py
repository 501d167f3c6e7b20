"""A seed is asked for, or named by a configuration, and both at once only where they agree."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nemo_gitexp as gitexp
from nemo_gitexp.errors import ConflictingConfigError, UsageError
from nemo_gitexp.seeds import agreed_seed, named_seed, require_seed


@dataclass
class Config:
    lr: float = 0.1
    seed: object = 7


NAMING = [
    {"seed": 7},
    {"seed": np.int64(7)},
    {"seed": torch.tensor(7)},
    Config(),
    Config(seed=np.uint8(7)),
    SimpleNamespace(seed=7),
    argparse.Namespace(seed=7),
]
NAMING_NONE = [{}, {"seed": None}, {"model": {"seed": 7}}, Config(seed=None), SimpleNamespace(lr=1), None]
NO_SEEDS = [-1, 7.0, "7", True, np.bool_(1), 2**63, [7], {"a": 7}]


@pytest.mark.parametrize("config", NAMING, ids=repr)
def test_any_whole_number_of_any_configuration_is_the_seed(config):
    assert (named_seed(config), agreed_seed(None, config), agreed_seed(np.int32(7), config)) == (7, 7, 7)
    assert type(agreed_seed(None, config)) is int
    assert gitexp.track("digits", config=config)._told.seed == 7
    with pytest.raises(ConflictingConfigError, match="seed: 7, and 8 is asked for") as caught:
        agreed_seed(8, config)
    assert caught.value.facts["key"] == "seed"
    with pytest.raises(ConflictingConfigError):
        gitexp.track("digits", config=config, seed=8)


@pytest.mark.parametrize("config", NAMING_NONE, ids=repr)
def test_where_nobody_names_one_nobody_chose_one(config):
    assert (named_seed(config), agreed_seed(None, config), agreed_seed(3, config)) == (None, None, 3)
    assert gitexp.track("digits", config=config)._told.seed is None


def test_a_run_config_names_the_seed_that_its_target_gets(quiet_nemo_run):
    assert agreed_seed(None, quiet_nemo_run.Config(Config)) == 7
    assert agreed_seed(None, quiet_nemo_run.Config(Config, seed=8)) == 8
    assert agreed_seed(None, quiet_nemo_run.Partial(Config, seed=np.int64(9))) == 9


@pytest.fixture
def quiet_nemo_run():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what NeMo Run imports has been deprecated by others
        import nemo_run
    return nemo_run


@pytest.mark.parametrize("seed", NO_SEEDS, ids=repr)
def test_what_is_no_seed_is_refused_wherever_it_stands(seed):
    for call in (
        lambda: agreed_seed(seed),
        lambda: agreed_seed(None, {"seed": seed}),
        lambda: agreed_seed(None, Config(seed=seed)),
        lambda: agreed_seed(7, {"seed": seed}),
        lambda: gitexp.track("digits", seed=seed),
        lambda: gitexp.track("digits", config={"seed": seed}),
    ):
        with pytest.raises(UsageError, match="seed"):
            call()


def test_two_configurations_have_one_seed():
    assert agreed_seed(None, {"lr": 1}, {"seed": 3}, Config(seed=3)) == 3
    with pytest.raises(ConflictingConfigError, match="seed: 4, and another one seed: 3"):
        agreed_seed(None, {"seed": 3}, {"seed": 4})


def test_no_seed_is_too_large_where_it_is_only_set():
    assert require_seed(2**70) == 2**70
