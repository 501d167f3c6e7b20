"""Runs of recorded experiments that are prepared as for a launcher, and looked at as a collector does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from builder import Work

from nemo_gitexp.catalog import Site, open_site
from nemo_gitexp.collect import discard_run, keep_outputs, output_store, read_leavings
from nemo_gitexp.git.repository import open_repository
from nemo_gitexp.launch import RunRequest, prepare_run
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.result import build_result
from nemo_gitexp.rundir import RunPaths, reserve_run
from nemo_gitexp.runs import inspect_run
from nemo_gitexp.store import Experiment, read_experiments
from nemo_gitexp.workspace import Workspace, restore


@dataclass(frozen=True, slots=True)
class Prepared:
    """One prepared run with its workspace."""

    site: Site
    experiment: Experiment
    paths: RunPaths
    workspace: Workspace

    def change_plan(self, **values: object) -> None:
        """Set values in its plan."""
        self.paths.plan.write_text(json.dumps({**json.loads(self.paths.plan.read_text()), **values}))

    def result(self) -> Mapping[str, bytes]:
        """Return the files of the result commit that collecting this run would make; outputs go to the store."""
        store = output_store(self.site.repository)
        left = read_leavings(self.experiment, inspect_run(self.paths))
        keep_outputs(store, self.paths, left.worker)
        files = build_result(self.experiment.record, replace(left, log=None), store.add_bytes)
        return {"result.json": files.result, "metrics.jsonl": files.metrics}

    def drop(self) -> None:
        """Remove it."""
        discard_run(self.site.repository, self.paths)


def prepare(work: Work, sha: str, monkeypatch: pytest.MonkeyPatch, interpreter: Path | None) -> Prepared:
    """Prepare a run of a recorded experiment as `run` does, up to the launcher."""
    for name, value in work.env.items():
        monkeypatch.setenv(name, value)
    repository = open_repository(work.root)
    site = open_site(repository, work.env)
    (experiment,) = read_experiments(repository, [find_experiment(repository, sha)])
    paths = reserve_run(site.run_root, site.workspace_root, experiment.sha)
    workspace = restore(repository, experiment.sha, experiment.record, site.workspace_root / paths.run)
    request = RunRequest(
        sha=experiment.sha,
        record=experiment.record,
        config=experiment.config,
        workspace=workspace,
        user_root=repository.root,
        common_dir=repository.common_dir,
        interpreter=interpreter,
        probe_interpreter=None,
    )
    prepare_run(paths, request)
    return Prepared(site, experiment, paths, workspace)
