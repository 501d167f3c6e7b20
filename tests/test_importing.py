"""What is recorded of runs of other tools, and what is said of those that cannot be: nothing that nobody can read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from builder import Work
from rewriting import commit_files

from nemo_gitexp.catalog import Site, open_site
from nemo_gitexp.git.repository import open_repository
from nemo_gitexp.imported import ForeignRun, Skipped
from nemo_gitexp.importing import ImportAnswer, import_runs
from nemo_gitexp.inputpin import InputPin

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUN = ForeignRun(
    tool="wandb", group="a", run="x", name="x", source="wandb", status="exit code 0", outcome="completed", config={}
)
UNFIT = {"half": "\ud800"}


@pytest.fixture
def site(work: Work, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name, value in work.env.items():
        monkeypatch.setenv(name, value)
    return open_site(open_repository(work.root), work.env)


def imported(site: Site, *runs: ForeignRun, plan_only: bool = False) -> ImportAnswer:
    return import_runs(site, runs, study=None, now=NOW, say=lambda _: None, plan_only=plan_only)


def studies(answer: ImportAnswer) -> tuple[list[str], list[str], list[str]]:
    """Return the studies of what is new and what was there, and the runs that were left out."""
    new, already = ([document["study"] for document in found] for found in (answer.experiments, answer.already))
    return new, already, [item.run for item in answer.skipped]


def test_a_run_left_out_hides_none_of_the_same_id_in_another_project(site: Site) -> None:
    other = replace(RUN, group="b")
    assert studies(imported(site, replace(RUN, config=UNFIT), other)) == (["b"], [], ["x"])
    assert studies(imported(site, replace(RUN, config=UNFIT), other)) == ([], ["b"], ["x"])


@pytest.mark.parametrize("plan_only", [True, False])
def test_a_record_that_nobody_could_read_is_not_written(work: Work, site: Site, plan_only: bool) -> None:
    outside = replace(RUN, inputs=(InputPin("/mnt/shared/x.csv", "0" * 32, 1, 1),))
    answer = imported(site, outside, plan_only=plan_only)
    assert (answer.experiments, answer.already) == ([], [])
    (left,) = answer.skipped
    assert left.is_damaged
    assert left.reason.startswith("no record can hold it: experiment.json is damaged: the path of an input leaves")
    assert work.refs() == {}


def test_one_that_was_recorded_and_cannot_be_read_any_more_is_said(work: Work, site: Site) -> None:
    (document,) = imported(site, RUN).experiments
    message = work.git("log", "-1", "--format=%B", str(document["result"]))
    files = {f"experiments/{document['study']}/record/result.json": "no document"}
    work.git("update-ref", document["ref"], commit_files(work, document["experiment"], files, message))
    answer = imported(site, RUN, replace(RUN, group="b"))
    assert studies(answer) == (["b"], [], ["x"])
    assert isinstance(answer.skipped[0], Skipped)
    assert answer.skipped[0].is_damaged
    assert f"it is recorded as {document['experiment'][:12]}, which cannot be read: " in answer.skipped[0].reason
