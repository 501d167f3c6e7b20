"""Every concept of the guide under exactly its names: readers paste the guide's calls, keywords included."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import nemo_gitexp
from nemo_gitexp.factories import TRACKED_METRICS

SIGNATURES = {
    "ExperimentNaming.create_experiment_name": "(model_type, dataset, experiment_type, timestamp=None)",
    "ExperimentNaming.create_task_name": "(task_type, model_config, index=None)",
    "create_organized_experiment": "(model_config, training_config, dataset_name, *, train_fn=None)",
    "config_hash": "(config)",
    "ExperimentVersioning.generate_config_hash": "(config)",
    "ExperimentVersioning.create_versioned_experiment": "(base_name, config, version=None)",
    "ExperimentVersioning.save_experiment_config": "(experiment_name, config, output_dir='./experiments')",
    "create_versioned_experiment": "(model_config, training_config, dataset_name, *, train_fn=None)",
    "ExperimentMetrics": (
        "(experiment_name, start_time, end_time=None, duration=None, status='running', config_hash='', "
        "metrics=<factory>)"
    ),
    "ExperimentMetrics.complete": "(self, final_metrics=None)",
    "ExperimentMetrics.fail": "(self, error)",
    "ExperimentTracker": "(study=None, *, repository=None)",
    "ExperimentTracker.start_experiment": "(self, experiment_name, config, *, seed=None, purpose=None)",
    "ExperimentTracker.complete_experiment": "(self, experiment_name, final_metrics=None)",
    "ExperimentTracker.fail_experiment": "(self, experiment_name, error)",
    "ExperimentTracker.get_experiment_summary": "(self)",
    "create_tracked_experiment": "(model_config, training_config, tracker, *, train_fn=None)",
    "ReproducibilityManager.set_seed": "(seed, *, bitwise=False)",
    "ReproducibilityManager.create_reproducible_config": "(base_config, seed)",
    "ReproducibilityManager.save_reproducibility_info": "(experiment_name, seed, config, output_dir='./experiments')",
    "create_reproducible_experiment": "(model_config, training_config, seed=42, *, train_fn=None)",
    "ExperimentPipeline": "(name, *, config=None, seed=None, data=(), purpose=None)",
    "ExperimentPipeline.add_stage": (
        "(self, stage_name, stage_function, dependencies=None, *, config=None, outputs=())"
    ),
    "ExperimentPipeline.create_pipeline_experiment": "(self)",
    "create_data_pipeline": "()",
    "ExperimentComparator.compare_configurations": "(experiments)",
    "ExperimentComparator.compare_metrics": "(experiments, metric_names)",
    "create_comparison_experiment": "(model_configs, training_config, *, train_fn=None)",
    "log_metrics": "(metrics, step=None)",
    "track": (
        "(study, *, config=None, seed=None, determinism=None, determinism_reason=None, purpose=None, expected=None, "
        "model=None, dataset=None, data=None, notebook=None, repository=None)"
    ),
}
PROPERTIES = ["ExperimentTracker.experiments", "ExperimentPipeline.results"]
UNBOUND = ["ExperimentNaming", "ExperimentVersioning", "ReproducibilityManager", "ExperimentComparator"]
DOORS = ("Experiment", "Plugin", "run")
"""What stands in for names of NeMo Run's own, and imports it."""

HEAVY = ("torch", "numpy", "nemo_run", "git", "dvc", "yaml", "rich", "typer", "cloudpickle")
MEMBERS = [
    {"name": "a", "config": {"lr": 0.1, "model": {"width": 1}}, "metrics": {"loss": 0.5}},
    {"name": "b", "config": {"lr": 0.1, "model": {"width": 2, "depth": 3}}, "metrics": {"loss": 0.25}},
]


def concept(path: str) -> object:
    found: object = nemo_gitexp
    for name in path.split("."):
        found = inspect.getattr_static(found, name) if isinstance(found, type) else getattr(found, name)
    return found


@pytest.mark.parametrize("path", SIGNATURES)
def test_it_is_called_as_the_guide_calls_it(path):
    found = concept(path)
    function = found.__func__ if isinstance(found, staticmethod) else found
    signature = inspect.signature(function)
    empty = inspect.Signature.empty
    bare = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    assert str(signature.replace(parameters=bare, return_annotation=empty)) == SIGNATURES[path]
    assert path.partition(".")[0] not in UNBOUND or isinstance(found, staticmethod), "works without an instance"


@pytest.mark.parametrize("path", PROPERTIES)
def test_what_the_guide_reads_is_read_without_a_call(path):
    assert isinstance(concept(path), property)


def test_an_experiments_metrics_have_the_guides_fields():
    fields = "experiment_name start_time end_time duration status config_hash metrics"
    assert [field.name for field in dataclasses.fields(nemo_gitexp.ExperimentMetrics)] == fields.split()


def test_a_tracker_has_a_logger_and_the_guides_summary(monkeypatch):
    monkeypatch.setenv("RANK", "1")  # a process that records nothing
    tracker = nemo_gitexp.ExperimentTracker()
    assert tracker.logger.name.startswith("nemo_gitexp")
    assert tracker.get_experiment_summary() == {
        "total_experiments": 0, "completed": 0, "failed": 0, "running": 0, "experiments": {},
    }  # fmt: skip


def test_a_tracked_function_has_the_guides_metrics():
    assert [name for name, _ in TRACKED_METRICS] == ["final_loss", "final_accuracy", "epochs_completed"]


def test_a_pipeline_holds_what_was_added():
    pipeline = nemo_gitexp.ExperimentPipeline("p")
    assert (pipeline.name, pipeline.stages, pipeline.results) == ("p", [], {})
    pipeline.add_stage("a", test_a_pipeline_holds_what_was_added)
    assert list(pipeline.stages[0])[:3] == ["name", "function", "dependencies"]


def test_comparisons_have_the_guides_keys():
    configurations = nemo_gitexp.ExperimentComparator.compare_configurations(MEMBERS)
    assert list(configurations)[:3] == ["common_configs", "unique_configs", "config_differences"]
    metrics = nemo_gitexp.ExperimentComparator.compare_metrics(MEMBERS, ["loss"])
    assert list(metrics) == ["loss"]
    assert {"values", "experiments", "n", "min", "max", "mean", "std", "interval"} <= set(metrics["loss"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what NeMo Run imports has been deprecated by others
        from nemo_gitexp.compared import ComparisonExperiment
    made = ComparisonExperiment.comparison.fget(SimpleNamespace(results=[]))
    assert list(made) == ["results", "config_comparison", "metrics_comparison"]


def test_names_have_the_guides_form():
    create = nemo_gitexp.ExperimentNaming.create_experiment_name
    assert create("mlp", "mnist", "training", "20240102_030405") == "20240102_030405_mlp_mnist_training"
    create_task = nemo_gitexp.ExperimentNaming.create_task_name
    assert [create_task("train", {"type": "mlp"}), create_task("train", {}, 3)] == ["train_mlp", "train_unknown_003"]
    versioning = nemo_gitexp.ExperimentVersioning
    short = versioning.generate_config_hash({"lr": 0.1})
    assert nemo_gitexp.config_hash({"lr": 0.1}).removeprefix("sha256:").startswith(short)
    assert len(short) == 8
    assert versioning.create_versioned_experiment("base", {"lr": 0.1}) == f"base_v{short}"


def test_files_have_the_guides_names_and_keys(tmp_path: Path):
    saved = nemo_gitexp.ExperimentVersioning.save_experiment_config("a", {"lr": 0.1}, tmp_path)
    assert saved == tmp_path / "a_config.json"
    info = nemo_gitexp.ReproducibilityManager.save_reproducibility_info("a", 1, {"lr": 0.1}, tmp_path)
    assert info == tmp_path / "a_reproducibility.json"
    keys = {"experiment_name", "seed", "config", "timestamp"}
    more = {"code", "config_hash", "data", "environment", "determinism"}
    assert set(json.loads(info.read_text())) == keys | more
    made = nemo_gitexp.ReproducibilityManager.create_reproducible_config({"lr": 0.1}, 1)
    assert made == {"lr": 0.1, "seed": 1, "deterministic": True}


def test_importing_costs_nothing_and_every_name_is_there():
    names = sorted({path.partition(".")[0] for path in SIGNATURES} | {"GitexpError", "__version__"})
    assert nemo_gitexp.__all__ == sorted([*names, *DOORS])
    assert dir(nemo_gitexp) == nemo_gitexp.__all__
    text = (
        f"import sys, nemo_gitexp\nprint([name for name in {HEAVY!r} if name in sys.modules])\n"
        f"from nemo_gitexp import {', '.join(names)}\nprint('nemo_run' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "False"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nemo_gitexp.nothing
