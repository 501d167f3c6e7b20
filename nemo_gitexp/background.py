"""The process behind `--detach`: starts a run the same way as a command that stays, with nobody to talk to.

Run as a module. Why a run could not be started is left in its directory.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nemo_gitexp.catalog import Site, open_site
from nemo_gitexp.destination import require_destination
from nemo_gitexp.errors import GitexpError
from nemo_gitexp.execution import Conditions, Silence, after_start, start_run
from nemo_gitexp.git.repository import open_repository
from nemo_gitexp.handover import accept, take_order
from nemo_gitexp.jsontext import JsonValue, render_json
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.moments import iso_now
from nemo_gitexp.rundir import RunPaths, write_beside
from nemo_gitexp.store import read_experiments
from nemo_gitexp.submitters import Supervisor
from nemo_gitexp.worker.machine import started_document


def main() -> int:
    """Take one run from stdin, say so, start it."""
    gc.disable()
    repository = open_repository(Path(sys.argv[1]))
    site = open_site(repository, os.environ)
    order = take_order()
    if not isinstance(order, Mapping):
        return 0
    paths = RunPaths(Path(str(order["run_dir"])))
    workspace = str(site.workspace_root / paths.run)
    write_beside(paths.launching, render_json({**started_document(iso_now()), "workspace": workspace}))
    accept()
    conditions = Conditions(
        interpreter=_path(order["interpreter"]),
        probe_interpreter=_path(order["probe_interpreter"]),
        keep=bool(order["keep"]),
        reuse=bool(order["reuse"]),
    )
    # Only now: what it imports would compete with the command that wants to leave.
    with Supervisor(repository.state_dir) as supervisor:
        return _start(site, paths, conditions, supervisor)


def _start(site: Site, paths: RunPaths, conditions: Conditions, supervisor: Supervisor) -> int:
    watcher, launching = Silence(), paths.launching.read_bytes()
    try:
        tip = find_experiment(site.repository, paths.run.partition(".")[0])
        (experiment,) = read_experiments(site.repository, [tip])
        conditions = replace(conditions, profile=require_destination(site, experiment.record.executor, os.environ))
        start_run(site, experiment, paths, conditions, supervisor, watcher)
    except Exception as error:
        # Nobody is there to read an error: the run's own directory keeps it, and whoever looks records it.
        paths.root.mkdir(parents=True, exist_ok=True)
        write_beside(paths.launching, launching)
        write_beside(paths.refused, render_json({"message": f"{type(error).__name__}: {error}"}))
        if isinstance(error, GitexpError):
            return error.exit_code
        raise
    after_start(site, experiment, paths, watcher)
    return 0


def _path(text: JsonValue) -> Path | None:
    return Path(text) if isinstance(text, str) else None


if __name__ == "__main__":
    sys.exit(main())
