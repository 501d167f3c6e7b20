"""Many experiments recorded at once: one snapshot, as few processes as for one, all of them or none."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from builder import Work

from nemo_gitexp.asked import Asked, define
from nemo_gitexp.catalog import open_site
from nemo_gitexp.errors import GitCommandError
from nemo_gitexp.git.repository import open_repository
from nemo_gitexp.recording import Plan, plan_many, record_plans
from nemo_gitexp.store import read_experiments, verify_experiment
from nemo_gitexp.tips import list_tips

STUDY = "purpose: p\ncommand: python train.py --lr {config.lr}\nconfig: {lr: 0.1}\n"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def dirty(work: Work, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A repository with a study and a changed script; this process sees what its commands see."""
    work.write("experiments/toy/experiment.yaml", STUDY)
    work.commit()
    work.write("train.py", "print(1)\n")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in work.env.items():
        monkeypatch.setenv(name, value)
    return work


def planned(work: Work, count: int, *, seeds: int = 1) -> tuple[object, list[Plan]]:
    site = open_site(open_repository(work.root), os.environ)
    asked = Asked(cwd=work.root, env=os.environ, study="toy", sweep="abc")
    wanted = [
        replace(asked, overrides=(f"lr={number}",), seed=seed) for number in range(count) for seed in range(seeds)
    ]
    return site, plan_many(site, [(each, define(work.root, each)) for each in wanted], NOW)


def processes(work: Work, count: int, trace: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Plan and record so many experiments and return how many processes of git that took."""
    trace.mkdir()
    monkeypatch.setenv("GIT_TRACE2_EVENT", str(trace))
    site, plans = planned(work, count)
    record_plans(site, plans, site.repository.begin_identities())
    monkeypatch.delenv("GIT_TRACE2_EVENT")
    return len(list(trace.iterdir()))


def test_more_experiments_take_no_more_processes(dirty: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (processes(dirty, count, tmp_path / f"t{count}", monkeypatch) for count in (2, 40))
    assert many <= few  # the first time also asks git what it is
    assert len(dirty.refs()) == 42


def test_all_stand_on_one_commit_of_code_and_agree_with_their_commits(dirty: Work) -> None:
    site, plans = planned(dirty, 2, seeds=3)
    made = record_plans(site, plans, site.repository.begin_identities())
    assert len({item.record.code.commit for item in made}) == 1
    assert dirty.git("show", f"{made[0].record.code.commit}:train.py") == "print(1)"
    names = [item.record.name for item in made]
    assert [name.partition("_v")[2][8:] for name in names] == ["", "-2", "-3"] * 2  # seeds share a configuration
    read = read_experiments(site.repository, list_tips(site.repository))
    assert sorted(item.record.name for item in read) == sorted(names)
    for item in read:
        verify_experiment(site.repository, item)
    assert dirty.refs("refs/gitexp-tmp/") == {}
    assert dirty.git("fsck", "--strict") == ""


def test_signed_ones_are_refused_together_where_no_key_is(dirty: Work) -> None:
    dirty.git("config", "commit.gpgsign", "true")
    dirty.git("config", "user.signingkey", "nobody")
    site, plans = planned(dirty, 3)
    with pytest.raises(GitCommandError):
        record_plans(site, plans, site.repository.begin_identities())
    assert dirty.refs() == {}
    assert dirty.refs("refs/gitexp-tmp/") == {}
