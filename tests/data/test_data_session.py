"""DVC set up by us behaves like DVC set up by itself, and stages nothing."""

from __future__ import annotations

import pytest
from conftest import dvc, git

from nemo_gitexp.data.cache import find_cache
from nemo_gitexp.data.session import initialise_dvc, run_dvc
from nemo_gitexp.errors import StateDirectoryError


@pytest.fixture
def fresh(tmp_path):
    git(tmp_path, "init", "-q", "-b", "main")
    return tmp_path


def test_what_is_staged_stays_staged_and_the_cache_is_ignored(fresh):
    (fresh / "x.txt").write_text("x")
    initialise_dvc(fresh)
    dvc(fresh, "add", "-q", "x.txt")
    untracked = git(fresh, "status", "--porcelain", "--untracked-files=all").splitlines()
    expected = [".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "x.txt.dvc"]
    assert untracked == [f"?? {name}" for name in expected]
    assert find_cache(fresh).cache_dir.is_dir()


def test_it_equals_what_dvc_makes(fresh, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    dvc(other, "init", "-q")
    initialise_dvc(fresh)
    for name in (".dvc/.gitignore", ".dvc/config"):
        assert (fresh / name).read_text() == (other / name).read_text()


def test_existing_files_stay(fresh):
    initialise_dvc(fresh)
    (fresh / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    initialise_dvc(fresh)
    assert "analytics" in (fresh / ".dvc" / "config").read_text()


def test_directory_that_cannot_be_written_is_named(fresh):
    (fresh / ".dvc").write_text("")
    with pytest.raises(StateDirectoryError):
        initialise_dvc(fresh)


def test_a_failing_command_is_quoted(fresh):
    assert "not inside of a DVC repository" in run_dvc(["status"], fresh)
