"""Copies of runs on machines that do not answer for a while: they go later. `ssh` is a program on PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from builder import make_work

from nemo_gitexp.catalog import Site, open_site
from nemo_gitexp.collect import discard_run, discard_workspace
from nemo_gitexp.git.repository import open_repository
from nemo_gitexp.relocation import Relocation, write_relocation
from nemo_gitexp.remote import RemoteHost
from nemo_gitexp.rundir import RunPaths, reserve_run
from nemo_gitexp.tidy import tidy


class Far:
    """A machine that is this one, behind an ssh that answers or not, and the copies of runs on it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        commands = directory / "bin"
        commands.mkdir(parents=True)
        ssh = commands / "ssh"
        ssh.write_text(
            f"#!/bin/sh\necho asked >> {directory}/asked\n[ -e {directory}/up ] || exit 255\n"
            'for last; do :; done; exec sh -c "$last"\n'
        )
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")

    def carry(self, paths: RunPaths) -> tuple[Path, Path]:
        run, workspace = self.directory / "runs" / paths.run, self.directory / "workspaces" / paths.run
        for place in (run, workspace):
            place.mkdir(parents=True)
        (run / "variables.json").write_text('{"TOKEN": "s3cr3t"}')
        host = RemoteHost("far")
        write_relocation(paths, Relocation(str(run), str(workspace), str(run), str(workspace), host))
        return run, workspace

    def asked(self) -> int:
        path = self.directory / "asked"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def wake_up(self) -> None:
        (self.directory / "up").touch()


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Far:
    return Far(tmp_path / "far", monkeypatch)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    work = make_work(tmp_path / "w", tmp_path / "home")
    return open_site(open_repository(work.root), work.env)


def ended(site: Site, letter: str) -> RunPaths:
    paths = reserve_run(site.run_root, site.workspace_root, letter * 40)
    paths.result.write_text("{}")
    return paths


def test_a_copy_goes_although_the_workspace_here_went_before_and_is_asked_for_once(site: Site, far: Far) -> None:
    paths = ended(site, "a")
    copies = far.carry(paths)
    far.wake_up()
    discard_workspace(site.repository, paths)
    assert not any(copy.exists() for copy in copies)
    discard_workspace(site.repository, paths)
    assert far.asked() == 1


def test_copies_on_a_machine_that_does_not_answer_go_later_and_it_is_asked_once_each_time(site: Site, far: Far) -> None:
    first, second = ended(site, "a"), ended(site, "b")
    copies = [*far.carry(first), *far.carry(second)]
    discard_run(site.repository, first)
    discard_workspace(site.repository, second)
    shutil.rmtree(second.root)
    assert all(copy.exists() for copy in copies)
    before = far.asked()
    tidy(site)
    assert (far.asked(), all(copy.exists() for copy in copies)) == (before + 1, True)
    far.wake_up()
    tidy(site)
    assert not any(copy.exists() for copy in copies)
    assert not list(site.run_root.iterdir())
    asked = far.asked()
    tidy(site)
    assert far.asked() == asked


def test_a_kept_copy_loses_its_secrets_first_and_goes_when_it_is_kept_no_more(site: Site, far: Far) -> None:
    paths = ended(site, "a")
    run, workspace = far.carry(paths)
    paths.plan.write_text('{"keep_workspace": true}')
    discard_workspace(site.repository, paths)
    assert (run / "variables.json").exists()
    far.wake_up()
    discard_workspace(site.repository, paths)
    assert ((run / "variables.json").exists(), workspace.exists()) == (False, True)
    discard_workspace(site.repository, paths, kept_too=True)
    assert (run.exists(), workspace.exists()) == (False, False)
