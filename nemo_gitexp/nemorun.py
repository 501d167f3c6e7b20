"""`nemorun … run.plugins=gitexp`: the plugin by its name on NeMo Run's command line, which loads this room by itself.

Registered as an entry point of `nemo_run.cli`. It is imported in every `nemorun`, and must stay cheap. Where that is
the job of an experiment, what it submits is noted: its own end is not the end of that.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import nemo_run

from nemo_gitexp.worker.submissions import MODULE, cover_submissions


def gitexp(
    study: str | None = None,
    seed: int | None = None,
    purpose: str | None = None,
    again: bool = False,  # noqa: FBT001, FBT002 - the plugin's own, as typed
) -> Any:
    """Return the configuration of `nemo_gitexp.Plugin`, for `run.plugins=gitexp run.plugins.seed=3`."""
    from nemo_gitexp.plugin import Plugin

    given = {"study": study, "seed": seed, "purpose": purpose, "again": again or None}
    return nemo_run.Config(Plugin, **{name: value for name, value in given.items() if value is not None})


nemo_run.cli.factory(target=nemo_run.Plugin, name="gitexp")(gitexp)

if os.environ.get("GITEXP_RUN_DIR"):
    cover_submissions(sys.modules[MODULE], os.environ["GITEXP_RUN_DIR"])
