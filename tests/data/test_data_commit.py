"""`--commit-data` pins what lies in the work tree now."""

from __future__ import annotations

import pytest
from conftest import NAME, dvc

from nemo_gitexp.data.commit import commit_data
from nemo_gitexp.data.worktree import worktree_state
from nemo_gitexp.errors import DataError, UntrackedDataError


def test_changed_file_directory_and_stage_output_are_pinned(repo, verified, capsys):
    (repo.root / NAME).unlink()
    (repo.root / NAME).write_text("new content")
    (repo.root / "data/raw/new.txt").write_text("one more")
    (repo.root / "data/drift.txt").unlink()
    (repo.root / "data/drift.txt").write_text("by hand")
    paths = [NAME, "data/raw", "data/drift.txt"]
    before = [repo.pin(path).pin for path in paths]
    pins = commit_data(repo.root, paths, lock_paths=["dvc.lock"])
    assert [pin.path for pin in pins] == paths
    assert all(new.pin != old for new, old in zip(pins, before, strict=True))
    assert {worktree_state(repo.root, pin, verified) for pin in pins} == {"match"}
    assert all(repo.object(path).is_file() for path in paths)
    assert capsys.readouterr().out == ""


def test_untracked_file_is_added(repo):
    (repo.root / "data/new file.csv").write_text("a,b\n")
    (pin,) = commit_data(repo.root, ["data/new file.csv"])
    assert pin.source == "data/new file.csv.dvc"
    assert "/new file.csv" in (repo.root / "data/.gitignore").read_text()
    assert dvc(repo.root, "status", "data/new file.csv.dvc").startswith("Data and pipelines are up to date")


def test_unchanged_data_keep_their_pointers(repo):
    pointer = repo.root / f"{NAME}.dvc"
    before = pointer.read_bytes()
    commit_data(repo.root, [NAME])
    assert pointer.read_bytes() == before


def test_part_of_a_tracked_directory_is_refused(repo):
    with pytest.raises(UntrackedDataError, match="inside data/raw"):
        commit_data(repo.root, ["data/raw/one.txt"])


def test_missing_file_is_refused_with_what_dvc_said(repo):
    with pytest.raises(DataError, match="absent"):
        commit_data(repo.root, ["data/absent"])


def test_repository_without_dvc_names_dvc_init(tmp_path):
    with pytest.raises(DataError) as caught:
        commit_data(tmp_path, ["x"])
    assert caught.value.hint == "dvc init"
