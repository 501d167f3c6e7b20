"""The guide's factories: a function, a model configuration and a training configuration as a launchable experiment.

Each returns a `nemo_run.Experiment` that records what it runs. `train_fn` is called in the job, with `model_config=`
and `training_config=`, and with `dataset_name=` and `seed=` where it takes them; the numbers that it returns are the
metrics. The study is `<model>-<dataset>`, or `<model>-<type>` where no dataset is named; the model is what the
configuration calls `model_type`, the seed what one of the configurations has at `seed`.

A job imports the module of its function. Where that is the script itself, launching stands below
`if __name__ == "__main__":`, and what is imported at its top (NeMo Run takes 2 s) is imported in the job too.
"""

from __future__ import annotations

import inspect
import os
import sys
import types
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, SupportsIndex

from nemo_gitexp.asked import Asked, Defined
from nemo_gitexp.attempt import Intent, this_environment, this_python
from nemo_gitexp.carried import function_name
from nemo_gitexp.catalog import Site, open_site
from nemo_gitexp.definition import StudyDefinition
from nemo_gitexp.environment import available_cores
from nemo_gitexp.errors import UsageError
from nemo_gitexp.functions import function_entry
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.naming import ExperimentNaming, model_type, require_name, slug
from nemo_gitexp.objects import buildable_config
from nemo_gitexp.plainform import declared_fields, is_buildable
from nemo_gitexp.recording import experiment_name
from nemo_gitexp.reproducibility import ReproducibilityManager
from nemo_gitexp.result import mapping
from nemo_gitexp.seeds import agreed_seed, require_seed
from nemo_gitexp.thisrepository import find_repository
from nemo_gitexp.versioning import config_hash
from nemo_gitexp.versions import ExperimentVersioning

if TYPE_CHECKING:
    from nemo_gitexp.compared import ComparisonExperiment
    from nemo_gitexp.prepared import PreparedExperiment

TrainFunction = Callable[..., object]

DEFAULT_FUNCTION = "train_model"
UNKNOWN = "unknown"
TRACKED_METRICS = (
    ("final_loss", ("final_loss", "loss", "train_loss", "val_loss")),
    ("final_accuracy", ("final_accuracy", "accuracy", "acc", "val_accuracy", "val_acc")),
    ("epochs_completed", ("epochs_completed", "epochs", "epoch", "num_epochs")),
)
"""The guide's three metrics, and the names under which a returned value may have them."""


class StudyHolder(Protocol):
    """A tracker, as far as a factory needs it: the study that it lists, None for the experiment's own name."""

    study: str | None


def create_organized_experiment(
    model_config: object, training_config: object, dataset_name: str, *, train_fn: TrainFunction | None = None
) -> PreparedExperiment:
    """Return an experiment whose names say what it is.

    Args:
        model_config: a mapping, dataclass, `run.Config` or the like.
        training_config: the same.
        dataset_name: any text.
        train_fn: what is run; None: the calling module's `train_model`. A function at the top level of a module goes
            by name, any other by value.

    Raises:
        UsageError: no train function, one that cannot be called so, configurations that are none, or a bad seed in one.
        ConflictingConfigError: the two name different seeds.
        UnportableFunctionError: a function that no job can be given.
        CanonicalFormError, UnbuildableConfigError: a value that cannot be recorded, or not be built again.
        NotARepositoryError: neither the working directory nor the script or notebook that runs is in a repository.
    """
    wish = _wish(train_fn, sys._getframe(1), "training", _required_text(dataset_name))  # noqa: SLF001 - whose train_model is meant
    return _experiment(_prepared(wish, model_config, training_config))


def create_versioned_experiment(
    model_config: object, training_config: object, dataset_name: str, *, train_fn: TrainFunction | None = None
) -> PreparedExperiment:
    """Return an experiment whose name changes with its configuration, which is saved beside the studies.

    Side effects: `experiments/<name>_config.json` below the root of the repository, not in a job.

    Args and errors: as `create_organized_experiment`.
    """
    wish = _wish(train_fn, sys._getframe(1), "training", _required_text(dataset_name))  # noqa: SLF001 - whose train_model is meant
    prepared = _prepared(wish, model_config, training_config)
    if not os.environ.get("GITEXP_RUN_DIR"):
        place = prepared.site.repository.root / "experiments"
        ExperimentVersioning.save_experiment_config(prepared.name, prepared.defined.config, place)
    return _experiment(prepared)


def create_tracked_experiment(
    model_config: object, training_config: object, tracker: StudyHolder, *, train_fn: TrainFunction | None = None
) -> PreparedExperiment:
    """Return an experiment that a tracker lists, completed or failed, wherever it ran.

    What `train_fn` returns, a mapping or an object, gives the metrics final_loss, final_accuracy and epochs_completed,
    also under the usual shorter names; a failure keeps its error and its log.

    Args:
        model_config: as `create_organized_experiment`.
        training_config: the same.
        tracker: its `study` is the experiment's; where that is None, the experiment's name is.
        train_fn: as `create_organized_experiment`.

    Raises:
        UsageError: a tracker without a study attribute, and as `create_organized_experiment`.
    """
    if not hasattr(tracker, "study"):
        raise UsageError(f"{type(tracker).__name__} is no tracker", hint="tracker = gitexp.ExperimentTracker()")
    wish = _wish(train_fn, sys._getframe(1), "tracked", None)  # noqa: SLF001 - whose train_model is meant
    wish = replace(wish, returns=TRACKED_METRICS, study=tracker.study, is_tracked=True)
    return _experiment(_prepared(wish, model_config, training_config))


def create_reproducible_experiment(
    model_config: object,
    training_config: object,
    seed: SupportsIndex = 42,
    *,
    train_fn: TrainFunction | None = None,
) -> PreparedExperiment:
    """Return an experiment that is seeded in the job, before its first line runs.

    Its configuration has `seed` and `deterministic` beside the two.

    Args:
        model_config: as `create_organized_experiment`.
        training_config: the same.
        seed: a whole number from 0.
        train_fn: as `create_organized_experiment`.

    Raises:
        ConflictingConfigError: one of the configurations has another seed, or says that it is not deterministic.
        UsageError and others: as `create_organized_experiment`.
    """
    wish = _wish(train_fn, sys._getframe(1), "reproducible", None)  # noqa: SLF001 - whose train_model is meant
    return _experiment(_prepared(replace(wish, seed=require_seed(seed)), model_config, training_config))


def create_comparison_experiment(
    model_configs: Sequence[object], training_config: object, *, train_fn: TrainFunction | None = None
) -> ComparisonExperiment:
    """Return an experiment that runs each configuration as an experiment of its own and compares them at the end.

    They share a sweep, have no branches, and run at the same time, as many as there are cores.

    Args:
        model_configs: two or more, all different.
        training_config: as `create_organized_experiment`.
        train_fn: the same.

    Raises:
        UsageError: fewer than two, or two that are equal; and as `create_organized_experiment`.
    """
    wish = _wish(train_fn, sys._getframe(1), "comparison", None)  # noqa: SLF001 - whose train_model is meant
    _require_several(model_configs)
    kinds = {_model_name(config) for config in model_configs}
    study = slug(f"{kinds.pop() if len(kinds) == 1 else 'models'}-comparison")
    wish = replace(wish, study=study, sweep=uuid.uuid4().hex[:12])
    prepared = [_prepared(wish, config, training_config, index) for index, config in enumerate(model_configs)]
    _require_different(prepared)
    from nemo_gitexp.compared import ComparisonExperiment

    title = ExperimentNaming.create_experiment_name(study.removesuffix("-comparison"), "none", "comparison", wish.now)
    intents = [item.intent for item in prepared]
    return ComparisonExperiment(title, intents, site=prepared[0].site, width=available_cores())


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a factory wants beside the configurations; `seed` is one asked for by itself, `study` None: by the rule."""

    function: TrainFunction
    site: Site
    now: datetime
    type: str
    dataset: str | None
    seed: int | None = None
    study: str | None = None
    is_tracked: bool = False
    sweep: str | None = None
    returns: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class _Prepared:
    name: str
    site: Site
    intent: Intent

    @property
    def defined(self) -> Defined:
        return self.intent.defined


def _required_text(dataset: object) -> str:
    if not isinstance(dataset, str) or not dataset.strip():
        raise UsageError(f"dataset_name is a text, not {dataset!r}", hint='"digits"')
    return dataset


def _wish(train_fn: TrainFunction | None, caller: types.FrameType, kind: str, dataset: str | None) -> _Wish:
    function = train_fn if train_fn is not None else caller.f_globals.get(DEFAULT_FUNCTION)
    if function is None:
        module = caller.f_globals.get("__name__", "the calling module")
        raise UsageError(
            f"there is no function to run: {module} has no {DEFAULT_FUNCTION}, and train_fn was not given",
            hint=f"def {DEFAULT_FUNCTION}(model_config, training_config): …, or train_fn=…",
        )
    if not callable(function):
        raise UsageError(f"train_fn is no function but a {type(function).__name__}", hint="train_fn=train_model")
    site = open_site(find_repository(), os.environ)
    return _Wish(function, site, datetime.now(UTC), kind, dataset)


def _prepared(wish: _Wish, model_config: object, training_config: object, index: int | None = None) -> _Prepared:
    """Return the intent to run one configuration."""
    _require_config(model_config, "model_config" if index is None else f"model_configs[{index}]")
    _require_config(training_config, "training_config")
    given: dict[str, object] = {"model_config": model_config, "training_config": training_config}
    if wish.seed is not None:
        given |= ReproducibilityManager.create_reproducible_config({}, wish.seed)
    if wish.dataset is not None:
        given["dataset"] = wish.dataset
    config, build = buildable_config(given)
    call = _call(wish.function, config)
    seed = _agreed_seed(wish.seed, mapping(config["training_config"]), mapping(config["model_config"]))
    model = _model_name(model_config)
    dataset = wish.dataset or _named_dataset(training_config) or "none"
    definition = StudyDefinition(
        purpose=f"{function_name(wish.function)}: {model}" + (f" on {dataset}" if dataset != "none" else ""),
        model=model,
        dataset=dataset,
        type=wish.type,
        seed=seed,
    )
    name = experiment_name(definition, config_hash(config), wish.now)
    study = _study(wish, model, dataset, name)
    entry, carried = function_entry(wish.function, root=wish.site.repository.root, study=study, name="train_fn")
    entry = replace(entry, build=build, call=call, returns=wish.returns, python=this_python())
    defined = Defined(
        study, replace(definition, function=entry.target), entry, config, ad_hoc=False, workdir=".", carried=carried
    )
    asked = Asked(cwd=wish.site.repository.root, env=this_environment(), study=study, sweep=wish.sweep)
    task = ExperimentNaming.create_task_name("train", model_config, index)
    return _Prepared(name, wish.site, Intent(task, asked, defined, wish.now, within_study=wish.is_tracked))


def _experiment(prepared: _Prepared) -> PreparedExperiment:
    from nemo_gitexp.prepared import PreparedExperiment

    return PreparedExperiment(prepared.name, [prepared.intent], site=prepared.site)


def _study(wish: _Wish, model: str, dataset: str, name: str) -> str:
    if wish.study is not None:
        return require_name(wish.study, "study")
    if wish.is_tracked:
        return slug(name)
    return slug(f"{slug(model)}-{slug(dataset) if dataset != 'none' else wish.type}")


def _require_config(config: object, what: str) -> None:
    is_namespace = isinstance(config, types.SimpleNamespace)
    is_object = not isinstance(config, type) and (declared_fields(config) is not None or is_buildable(config))
    if not (isinstance(config, Mapping) or is_object or is_namespace):
        raise UsageError(
            f"{what} is no configuration but a {type(config).__name__}",
            hint="give a mapping of names to values, a dataclass or a run.Config",
        )


def _require_several(configs: object) -> None:
    if not isinstance(configs, Sequence) or isinstance(configs, str) or len(configs) < 2:
        raise UsageError("a comparison needs a list of two or more configurations", hint="[first, second]")


def _require_different(prepared: Sequence[_Prepared]) -> None:
    seen: dict[str, int] = {}
    for index, item in enumerate(prepared):
        hashed = config_hash(item.defined.config)
        if hashed in seen:
            raise UsageError(
                f"model_configs[{seen[hashed]}] and model_configs[{index}] are equal", hint="leave one of them out"
            )
        seen[hashed] = index


def _call(function: TrainFunction, config: Mapping[str, JsonValue]) -> tuple[tuple[str, str], ...]:
    """Return the arguments of the train function by name, and where each comes from.

    Raises:
        UsageError: it does not take the two configurations by name, or wants something that nobody gives.
    """
    known = {key: key for key in config} | {"seed": "{seed}"}
    if "dataset" in config:
        known["dataset_name"] = "dataset"
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have none
        return (("model_config", "model_config"), ("training_config", "training_config"))
    named = {item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)}
    if any(item.kind is item.VAR_KEYWORD for item in parameters):
        named |= known.keys()
    missing = [name for name in ("model_config", "training_config") if name not in named]
    if missing:
        raise UsageError(
            f"{function_name(function)} takes no {missing[0]}",
            hint=f"def {DEFAULT_FUNCTION}(model_config, training_config): …",
            parameter=missing[0],
        )
    empty = inspect.Parameter.empty
    unknown = [
        item.name
        for item in parameters
        if item.default is empty and item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL) and item.name not in known
    ]
    if unknown:
        raise UsageError(
            f"{function_name(function)} wants {unknown[0]}, which no factory gives",
            hint="give it a default, or functools.partial(train_fn, …)",
            parameter=unknown[0],
        )
    return tuple((name, known[name]) for name in sorted(named & known.keys()))


def _agreed_seed(seed: int | None, *parts: Mapping[str, JsonValue]) -> int | None:
    """Return the seed; where one is asked for by itself, the configurations must not be against determinism either."""
    if seed is not None:
        for part in parts:
            ReproducibilityManager.create_reproducible_config(part, seed)
    return agreed_seed(seed, *parts)


def _model_name(config: object) -> str:
    found = model_type(config)
    return found if isinstance(found, str) and found.strip() else UNKNOWN


def _value(config: object, key: str) -> object:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _named_dataset(training_config: object) -> str | None:
    for key in ("dataset", "dataset_name"):
        found = _value(training_config, key)
        if isinstance(found, str) and found.strip():
            return found
    return None
