"""Paths that a shell would read differently: NeMo Run, which puts them unquoted before one, is given others."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from nemo_gitexp.errors import LaunchError
from nemo_gitexp.plainlinks import drop_dangling_links, drop_link, plain_root
from nemo_gitexp.rundir import RunPaths

ODD = ["with space", "x;touch injected;y", "$(touch injected)", "it's", "a&b", "a\nb", "*", "ö"]


def run_below(directory: Path) -> RunPaths:
    paths = RunPaths(directory / "runs" / f"{'a' * 40}.12345678")
    paths.root.mkdir(parents=True)
    return paths


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("name", ODD)
def test_a_run_directory_that_a_shell_reads_differently_has_a_plain_name_too(tmp_path, home, name):
    paths = run_below(tmp_path / name)
    link = plain_root(paths)
    assert shlex.quote(str(link)) == str(link)
    assert plain_root(paths).resolve() == paths.root.resolve()
    drop_link(paths)
    assert not link.is_symlink()


def test_a_plain_path_is_its_own_name_and_leaves_nothing_in_the_home(tmp_path, home):
    paths = run_below(tmp_path / "plain")
    assert plain_root(paths) == paths.root
    assert not list(home.iterdir())


def test_links_to_what_is_gone_are_tidied_and_others_stay(tmp_path, home):
    gone, there = run_below(tmp_path / "a b"), run_below(tmp_path / "c d")
    there = RunPaths(there.root.rename(there.root.with_name(f"{'b' * 40}.12345678")))
    links = plain_root(gone), plain_root(there)
    gone.root.rmdir()
    drop_dangling_links()
    assert [link.is_symlink() for link in links] == [False, True]


def test_where_the_home_is_no_better_the_setting_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    with pytest.raises(LaunchError, match="unquoted") as raised:
        plain_root(run_below(tmp_path / "with space"))
    assert "gitexp.run-root" in (raised.value.hint or "")


def test_a_link_of_that_name_to_somewhere_else_is_not_taken(tmp_path, home):
    paths = run_below(tmp_path / "with space")
    link = plain_root(paths)
    link.unlink()
    link.symlink_to(tmp_path)
    with pytest.raises(LaunchError, match="unquoted"):
        plain_root(paths)


def test_a_user_without_a_home_has_no_links_and_is_told_the_setting(tmp_path, monkeypatch):
    def unknown(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    paths = run_below(tmp_path / "with space")
    drop_dangling_links()
    drop_link(paths)
    with pytest.raises(LaunchError, match="unquoted"):
        plain_root(paths)
    assert [path.name for path in tmp_path.iterdir()] == ["with space"]
