"""What the factories refuse, and what they make, before anything runs."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
import threading
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

import nemo_gitexp as gitexp
from nemo_gitexp.errors import (
    CanonicalFormError,
    ConflictingConfigError,
    InsideJobError,
    LaunchError,
    NotARepositoryError,
    SnapshotRefusedError,
    UnbuildableConfigError,
    UnportableFunctionError,
    UsageError,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what NeMo Run imports has been deprecated by others
    import nemo_run

    from nemo_gitexp.prepared import PreparedExperiment

TRAINING = {"lr": 0.1}


@pytest.fixture(autouse=True)
def inside(work, monkeypatch):
    """The working directory is a repository, and nothing of this machine's user is known."""
    monkeypatch.chdir(work.root)
    for name, value in work.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NEMORUN_HOME", raising=False)
    return work


def train(model_config, training_config, seed=1):
    return {"loss": seed}


@dataclass
class Model:
    model_type: str = "mlp"
    hidden: object = None


CREATORS = {
    "organized": lambda model, training, **more: gitexp.create_organized_experiment(model, training, "digits", **more),
    "versioned": lambda model, training, **more: gitexp.create_versioned_experiment(model, training, "digits", **more),
    "tracked": lambda model, training, **more: gitexp.create_tracked_experiment(
        model, training, SimpleNamespace(study="mine"), **more
    ),
    "reproducible": lambda model, training, **more: gitexp.create_reproducible_experiment(model, training, 7, **more),
    "comparison": lambda model, training, **more: gitexp.create_comparison_experiment(
        [model, {"model_type": "cnn"}], training, **more
    ),
}


@pytest.fixture(params=CREATORS)
def create(request):
    return CREATORS[request.param]


def test_every_factory_makes_a_launchable_experiment_with_the_guides_names(create, inside, request):
    experiment = create({"model_type": "mlp"}, TRAINING, train_fn=train)
    assert isinstance(experiment, nemo_run.Experiment)
    assert isinstance(experiment, PreparedExperiment)
    many = len(experiment.jobs) > 1
    assert [job.id for job in experiment.jobs] == (["train_mlp_000", "train_cnn_001"] if many else ["train_mlp"])
    assert all(job.dependencies == [] and isinstance(job.executor, nemo_run.LocalExecutor) for job in experiment.jobs)
    assert experiment.experiment is experiment.document is experiment.result is experiment.ref is None
    assert inside.refs() == {}, "creating records nothing"
    saved = [path.name for path in (inside.root / "experiments").glob("*")]
    is_versioned = "versioned" in request.node.name
    assert saved == ([f"{experiment._title}_config.json"] if is_versioned else [])


def test_the_users_logging_stays_as_it_is(create):
    before = list(logging.getLogger().handlers), logging.getLogger().level
    experiment = create({}, TRAINING, train_fn=train)
    del experiment
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before


def test_the_function_is_the_calling_modules_train_model(create):
    with pytest.raises(UsageError, match="has no train_model, and train_fn was not given"):
        create({}, TRAINING)
    names = {"__name__": "elsewhere", "gitexp": gitexp}
    text = "def train_model(model_config, training_config): ...\nmade = gitexp.create_organized_experiment({}, {}, 'd')"
    exec(text, names)
    assert names["made"]._attempts[0].intent.defined.definition.purpose == "train_model: unknown on d"


BAD_CONFIGS = [
    (5, UsageError, None),
    ("mlp", UsageError, None),
    ([1], UsageError, None),
    (Model, UsageError, None),
    ({"lr": float("nan")}, CanonicalFormError, "lr"),
    ({"a": {"b": object()}}, CanonicalFormError, "a.b"),
    ({"f": lambda: 1}, CanonicalFormError, "f"),
    ({1: 2}, CanonicalFormError, "1"),
    (Model(hidden=(1, 2)), UnbuildableConfigError, "hidden"),
]


@pytest.mark.parametrize("config,kind,key", BAD_CONFIGS, ids=lambda value: repr(value)[:20])
def test_a_configuration_that_cannot_be_recorded_is_refused_by_its_key(config, kind, key):
    for create in (CREATORS["organized"], lambda a, b, **m: CREATORS["organized"](b, a, **m)):
        with pytest.raises(kind) as caught:
            create(config, TRAINING, train_fn=train)
        if key:
            assert str(caught.value.facts["key"]).endswith(f"_config.{key}")


def lacking(model_config):
    return None


def wanting(model_config, training_config, tokenizer):
    return None


def positional(model_config, training_config, /):
    return None


BAD_FUNCTIONS = [
    ("train", UsageError, "no function but a str"),
    (lacking, UsageError, "takes no training_config"),
    (wanting, UsageError, "wants tokenizer"),
    (positional, UsageError, "takes no model_config"),
    (lambda model_config, training_config: threading.Lock() and sys.stdout, None, ""),
]


@pytest.mark.parametrize("function,kind,said", BAD_FUNCTIONS)
def test_a_function_that_cannot_be_called_so_is_refused(create, function, kind, said):
    if kind is None:
        create({}, TRAINING, train_fn=function)
        return
    with pytest.raises(kind, match=said):
        create({}, TRAINING, train_fn=function)


def test_a_function_that_no_job_can_be_given_is_refused():
    lock = threading.Lock()
    with pytest.raises(UnportableFunctionError, match="refers to lock"):
        CREATORS["organized"]({}, TRAINING, train_fn=lambda model_config, training_config: lock)


@pytest.mark.parametrize("name", ["", " ", 5, None])
def test_a_dataset_has_a_name(name):
    with pytest.raises(UsageError, match="dataset_name"):
        gitexp.create_organized_experiment({}, TRAINING, name, train_fn=train)


@pytest.mark.parametrize("configs", [[], [{}], {}, "ab", None, 3])
def test_a_comparison_needs_several_configurations(configs):
    with pytest.raises(UsageError, match="two or more"):
        gitexp.create_comparison_experiment(configs, TRAINING, train_fn=train)


def test_equal_configurations_are_no_comparison():
    with pytest.raises(UsageError, match=r"model_configs\[0\] and model_configs\[2\] are equal"):
        gitexp.create_comparison_experiment([{"a": 1, "b": 2}, {"a": 2}, {"b": 2, "a": 1}], TRAINING, train_fn=train)


def test_seeds_and_trackers_that_are_none_or_disagree_are_refused():
    reproducible = functools.partial(gitexp.create_reproducible_experiment, train_fn=train)
    with pytest.raises(ConflictingConfigError):
        reproducible({}, {"seed": 3}, 4)
    with pytest.raises(ConflictingConfigError):
        reproducible({"deterministic": False}, {})
    for seed in (-1, 1.5, "3", True):
        with pytest.raises(UsageError, match="a seed is"):
            reproducible({}, {}, seed)
    for config in (Seeded(7), nemo_run.Config(Seeded), SimpleNamespace(seed=7), {"seed": np.int64(7)}):
        for parts in ((config, {}), ({}, config)):
            with pytest.raises(ConflictingConfigError, match="seed: 7, and 42 is asked for"):
                reproducible(*parts, 42)
            assert seed_of(reproducible(*parts, np.int64(7))) == 7
    with pytest.raises(ConflictingConfigError, match="deterministic"):
        reproducible(SimpleNamespace(deterministic=False), {})
    with pytest.raises(UsageError, match="is no tracker"):
        gitexp.create_tracked_experiment({}, {}, object(), train_fn=train)
    with pytest.raises(UsageError):
        gitexp.create_tracked_experiment({}, {}, SimpleNamespace(study="../x"), train_fn=train)


@dataclass
class Seeded:
    seed: object = 7


def seed_of(made):
    return made._attempts[0].intent.defined.definition.seed


@pytest.mark.parametrize("name", ["organized", "versioned", "tracked", "comparison"])
def test_the_seed_is_the_one_that_a_configuration_names(name):
    make = functools.partial(CREATORS[name], train_fn=train)
    for config in (Seeded(7), nemo_run.Config(Seeded), SimpleNamespace(seed=7), {"seed": np.int64(7)}):
        assert [seed_of(make(config, {})), seed_of(make({}, config)), seed_of(make(config, config))] == [7, 7, 7]
        with pytest.raises(ConflictingConfigError):
            make(config, {"seed": 8})
    assert seed_of(make({}, {"seed": None})) is None
    for seed in (-1, True, "7", 1.5):
        with pytest.raises(UsageError, match="a seed is"):
            make({}, {"seed": seed})


def test_the_arguments_of_the_function_decide_what_it_is_given():
    def given(function, create=CREATORS["organized"], **config):
        made = create({}, {**TRAINING, **config}, train_fn=function)
        return dict(made._attempts[0].intent.defined.entry.call)

    two = {"model_config": "model_config", "training_config": "training_config"}
    assert given(lambda model_config, training_config: 1) == two
    assert given(train) == {**two, "seed": "{seed}"}
    assert given(lambda model_config, training_config, dataset_name: 1) == {**two, "dataset_name": "dataset"}
    everything = {**two, "dataset": "dataset", "dataset_name": "dataset", "seed": "{seed}"}
    assert given(lambda **rest: 1) == everything
    assert given(lambda model_config, training_config, seed, deterministic=False: 1, CREATORS["reproducible"]) == {
        **two, "seed": "{seed}", "deterministic": "deterministic",
    }  # fmt: skip


def test_what_is_recorded_is_named_after_the_configurations():
    def intent(create, *configs):
        made = create(*configs, train_fn=train)._attempts[0].intent
        return made.defined.study, made.defined.definition.seed, dict(made.defined.config)

    model = nemo_run.Config(Model, model_type="My Net")
    study, seed, config = intent(CREATORS["organized"], model, {"seed": 5})
    assert study.startswith("my-net-")
    assert "-digits" in study
    assert seed == 5
    assert config["dataset"] == "digits"
    assert config["model_config"]["_target_"].endswith("test_factories:Model")
    assert intent(CREATORS["reproducible"], {"type": "cnn"}, {}) == (
        "cnn-reproducible",
        7,
        {"model_config": {"type": "cnn"}, "training_config": {}, "seed": 7, "deterministic": True},
    )
    assert intent(CREATORS["tracked"], {}, {"dataset": "toy"})[0] == "mine"
    assert intent(CREATORS["comparison"], {"type": "a"}, {})[0] == "models-comparison"


def test_what_would_not_run_the_recorded_state_is_refused(monkeypatch):
    experiment = CREATORS["organized"]({}, TRAINING, train_fn=train)
    with pytest.raises(UsageError, match="what was recorded"):
        experiment.run(direct=True)
    with experiment, pytest.raises(UsageError, match="runs what it was made for"):
        experiment.add(nemo_run.Script(inline="true"))
    monkeypatch.setenv("GITEXP_RUN_DIR", "/somewhere")
    inside = CREATORS["versioned"]({}, TRAINING, train_fn=train)
    with pytest.raises(InsideJobError) as caught:
        inside.run()
    assert "__main__" in caught.value.hint


def test_outside_of_a_repository_there_is_nothing_to_record(tmp_path, monkeypatch):
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path / "bare")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(NotARepositoryError):
        CREATORS["organized"]({}, TRAINING, train_fn=train)


def test_nemo_runs_home_is_the_users_where_there_is_one(monkeypatch, tmp_path, inside):
    assert ".git/gitexp/nemo/" in CREATORS["organized"]({}, TRAINING, train_fn=train)._exp_dir
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path))
    assert "gitexp" not in CREATORS["organized"]({}, TRAINING, train_fn=train)._exp_dir
    assert list(tmp_path.iterdir()) == [inside.root, inside.root.parent / "home"]


def slow(model_config, training_config):
    import time

    print("begin", model_config["x"], flush=True)  # noqa: T201 - it is to be seen in the log
    time.sleep(0.3)
    return {"x": model_config["x"]}


def test_no_more_tasks_run_than_may_at_once(inside, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path / "nemo"))
    intents = [CREATORS["organized"]({"x": x}, {}, train_fn=slow)._attempts[0].intent for x in range(3)]
    named = [dataclasses.replace(intent, task=name) for intent, name in zip(intents, "abc", strict=True)]
    site = CREATORS["organized"]({}, {}, train_fn=slow)._site
    experiment = PreparedExperiment("row", named, site=site, width=1)
    with experiment:
        assert {job.id: job.dependencies for job in experiment.jobs} == {"a": [], "b": [], "c": []}
        experiment.run(tail_logs=True)
    times = [(item["started"], item["ended"]) for item in experiment.documents]
    assert times == sorted(times)
    assert times[0][1] <= times[1][0] <= times[1][1] <= times[2][0]
    assert capsys.readouterr().out.splitlines() == ["begin 0", "begin 1", "begin 2"]
    assert list((tmp_path / "nemo/experiments/row").iterdir()), "the user's home of NeMo Run is respected"
    assert {job.state.name for job in experiment.jobs} == {"SUCCEEDED"}
    assert experiment.document is None, "there are three"
    experiment.run()  # once is enough
    assert len(inside.refs()) == 3


def test_an_experiment_that_was_made_before_runs_again_on_request(inside):
    first, second, third = (CREATORS["organized"]({}, TRAINING, train_fn=train) for _ in range(3))
    first.run()
    second.run()
    third.run(again=True)
    assert first.experiment == second.experiment != third.experiment
    assert (second.document["duplicate_of"], third.document["duplicate_of"]) == (first.experiment, None)
    assert second.status(return_dict=True)["train_unknown"]["status"].name == "SUCCEEDED"
    assert third.document["metrics"] == first.document["metrics"] == {"loss": 42}


def test_what_a_program_does_meanwhile_stops_no_job(inside):
    failing = CREATORS["organized"]({"x": 1}, {}, train_fn=slow)

    def fail():
        with failing:
            failing.run()
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert failing.document["status"] == "completed"
    with CREATORS["organized"]({"x": 2}, {}, train_fn=slow) as idle:
        pass
    assert idle.document is None
    pair = [CREATORS["organized"]({"x": x}, {}, train_fn=slow) for x in (3, 4)]
    threads = [threading.Thread(target=each.run) for each in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.document["metrics"] for each in pair] == [{"x": 3}, {"x": 4}]


def gated(model_config, training_config):
    import pathlib
    import time

    while not pathlib.Path(model_config["gate"]).exists():
        time.sleep(0.05)


def test_it_is_over_when_what_runs_has_ended_and_not_before(inside, tmp_path):
    first, second, third = (
        CREATORS["organized"]({"gate": str(tmp_path / "gate")}, {}, train_fn=gated) for _ in range(3)
    )
    with first:
        assert not first.is_over
        first.run()
        thread = threading.Thread(target=second.run)
        thread.start()
        thread.join()
        assert (first.is_over, second.is_over, second.experiment) == (False, False, first.experiment)
        assert second.status(return_dict=True)["train_unknown"]["status"].name in ("RUNNING", "PENDING")
        (tmp_path / "gate").touch()
    third.run()
    assert (first.is_over, third.is_over, third.experiment) == (True, True, first.experiment)


class Broken(PreparedExperiment):
    """An experiment whose worker is gone when it is launched."""

    def _launch_ready(self):
        for attempt in self._waiting:
            attempt.paths.worker.unlink()
        super()._launch_ready()


def test_a_worker_that_cannot_be_started_is_an_error_and_leaves_a_recorded_experiment(inside):
    made = CREATORS["organized"]({}, TRAINING, train_fn=train)
    experiment = Broken("broken", [made._attempts[0].intent], site=made._site)
    with pytest.raises(LaunchError, match=r"the worker did not start: .*start\.py"):
        experiment.run()
    assert len(inside.refs()) == 1
    assert not list(made._site.run_root.iterdir())
    assert experiment.document["status"] == "recorded"
    assert not experiment.is_over


@pytest.mark.parametrize("held,said", [("ghp_" + "a1" * 20, "looks like a secret"), ("x" * 11_000_000, "too large")])
def test_a_function_takes_no_secrets_and_no_data_along_into_git(inside, held, said):
    made = CREATORS["organized"]({}, TRAINING, train_fn=lambda model_config, training_config: {"n": len(held)})
    with pytest.raises(SnapshotRefusedError, match=said):
        made.run()
    assert inside.refs() == {}


def test_a_file_that_git_ignores_holds_no_function_for_a_job(inside):
    inside.write(".gitignore", "hidden.py\n")
    inside.write("hidden.py", "def train(model_config, training_config): ...\n")
    made = CREATORS["organized"]({}, TRAINING, train_fn=train)
    intent = made._attempts[0].intent
    entry = dataclasses.replace(intent.defined.entry, target="hidden.py:train", sha256=None, bytecode=None)
    broken = dataclasses.replace(intent, defined=dataclasses.replace(intent.defined, entry=entry))
    with pytest.raises(UsageError, match="git ignores hidden"):
        PreparedExperiment("x", [broken], site=made._site).run()
    assert inside.refs() == {}
