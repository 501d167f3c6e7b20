"""The plugin that makes any experiment of NeMo Run one that records.

Imports NeMo Run: nobody imports this room before it is needed. Annotations are values here: NeMo Run's command line
reads those of the plugin, and knows `Optional` alone.
"""

import logging
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

import nemo_run
from nemo_run.run.experiment import _current_experiment

from nemo_gitexp.errors import UsageError
from nemo_gitexp.nemo import Experiment
from nemo_gitexp.seeds import require_seed
from nemo_gitexp.submitted import SubmittedExperiment

_LOGGER = logging.getLogger("nemo_gitexp")


@dataclass(kw_only=True)
class Plugin(nemo_run.Plugin):  # type: ignore[misc]  # NeMo Run ships no types
    """Makes the NeMo Run experiment that it is given to one that records: all of its tasks, as `Experiment` does.

    For scripts that use `run.run(…, plugins=[gitexp.Plugin()])` or `nemo_run.Experiment`. Where NeMo Run asks no plugin
    (`direct=True`, no executor) that is said as soon as this object is let go of.

    Args:
        study: where the experiment is recorded; None: its title.
        seed: a whole number from 0.
        purpose: one sentence.
        again: run what completed before once more.
    """

    study: Optional[str] = None  # noqa: UP045 - run.plugins.study=… of nemorun
    seed: Optional[int] = None  # noqa: UP045
    purpose: Optional[str] = None  # noqa: UP045
    again: bool = False

    def __post_init__(self) -> None:
        """Watch whether NeMo Run ever asks.

        Raises:
            UsageError: a seed that is none.
        """
        if self.seed is not None:
            require_seed(self.seed)
        self._was_asked = {"yes": False}
        weakref.finalize(self, _say_unasked, self._was_asked, os.getpid())

    def setup(self, task: Any, executor: Any) -> None:
        """Turn the live experiment into one that records.

        Raises:
            UsageError: no experiment is being made.
        """
        del task, executor
        self._was_asked["yes"] = True
        live = _current_experiment.get(None)
        if live is None:
            raise UsageError("no experiment is being made", hint="run.run(…, executor=…, plugins=[gitexp.Plugin()])")
        if not isinstance(live, SubmittedExperiment):
            kind = type(live)
            mixed = {"_is_mixed": True}
            live.__class__ = (
                Experiment if kind is nemo_run.Experiment else type(kind.__name__, (Experiment, kind), mixed)
            )
            live._is_within = False  # noqa: SLF001 - a `with` block that began before leaves by NeMo Run's own way
        if isinstance(live, Experiment):
            live.bind(again=self.again)
        for field_name in ("study", "seed", "purpose"):
            if getattr(self, field_name) is not None:
                setattr(live, field_name, getattr(self, field_name))


def _say_unasked(was_asked: Mapping[str, bool], process: int) -> None:
    if not was_asked["yes"] and os.getpid() == process:
        _LOGGER.warning(
            "nothing was recorded: NeMo Run asks no plugin when it runs directly (direct=True, or no executor) or only "
            "shows what it would do; nemo_gitexp.Plugin() needs an executor: executor=run.LocalExecutor(), or "
            "run.executor=… of nemorun"
        )
