"""Git-native reproducibility for NeMo Run.

Every name below is imported when it is first used: `import nemo_gitexp` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nemo_gitexp.comparator import ExperimentComparator as ExperimentComparator
    from nemo_gitexp.errors import GitexpError as GitexpError
    from nemo_gitexp.factories import create_comparison_experiment as create_comparison_experiment
    from nemo_gitexp.factories import create_organized_experiment as create_organized_experiment
    from nemo_gitexp.factories import create_reproducible_experiment as create_reproducible_experiment
    from nemo_gitexp.factories import create_tracked_experiment as create_tracked_experiment
    from nemo_gitexp.factories import create_versioned_experiment as create_versioned_experiment
    from nemo_gitexp.metriclog import log_metrics as log_metrics
    from nemo_gitexp.naming import ExperimentNaming as ExperimentNaming
    from nemo_gitexp.nemo import Experiment as Experiment
    from nemo_gitexp.nemo import run as run
    from nemo_gitexp.pipeline import ExperimentPipeline as ExperimentPipeline
    from nemo_gitexp.pipeline import create_data_pipeline as create_data_pipeline
    from nemo_gitexp.plugin import Plugin as Plugin
    from nemo_gitexp.reproducibility import ReproducibilityManager as ReproducibilityManager
    from nemo_gitexp.tracker import ExperimentMetrics as ExperimentMetrics
    from nemo_gitexp.tracker import ExperimentTracker as ExperimentTracker
    from nemo_gitexp.tracking import track as track
    from nemo_gitexp.versioning import config_hash as config_hash
    from nemo_gitexp.versions import ExperimentVersioning as ExperimentVersioning

__version__ = "0.1.0"

_ROOMS = {
    "Experiment": "nemo",
    "ExperimentComparator": "comparator",
    "ExperimentMetrics": "tracker",
    "ExperimentNaming": "naming",
    "ExperimentPipeline": "pipeline",
    "ExperimentTracker": "tracker",
    "ExperimentVersioning": "versions",
    "GitexpError": "errors",
    "Plugin": "plugin",
    "ReproducibilityManager": "reproducibility",
    "config_hash": "versioning",
    "create_comparison_experiment": "factories",
    "create_data_pipeline": "pipeline",
    "create_organized_experiment": "factories",
    "create_reproducible_experiment": "factories",
    "create_tracked_experiment": "factories",
    "create_versioned_experiment": "factories",
    "log_metrics": "metriclog",
    "run": "nemo",
    "track": "tracking",
}

__all__ = sorted(["__version__", *_ROOMS])  # noqa: PLE0605 - the table above is the one list of names


def __getattr__(name: str) -> object:
    """Import a public name from its room."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)


if hasattr(sys.modules.get("nemo_run"), "cli"):  # a script of NeMo Run's CLI, which loads no entry points by itself
    importlib.import_module("nemo_gitexp.nemorun")
