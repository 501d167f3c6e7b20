"""What git filters and nested submodules put on disk is part of the state: a clone without them restores nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builder import Work, make_work

READER = "print(repr(open('notes.up').read()))\n"
RESTORE = ("reproduce", "latest", "--require", "restored", "--json")


def configure(work: Work) -> None:
    work.git("config", "filter.shout.clean", "tr a-z A-Z")
    work.git("config", "filter.shout.smudge", "tr A-Z a-z")


def cloned(work: Work, place: Path) -> Work:
    work.git("clone", "-q", str(work.root), str(place), cwd=work.root)
    clone = Work(place, work.env)
    clone.git("fetch", "-q", "origin", "refs/gitexp/*:refs/gitexp/*")
    return clone


@pytest.fixture
def shouting(work: Work) -> Work:
    """A repository with a filter that is configured here; git stores NOISE where the file says noise."""
    configure(work)
    work.write(".gitattributes", "*.up filter=shout\n")
    work.write("read.py", READER)
    work.write("notes.up", "noise\n")
    work.commit()
    return work


def test_a_clone_without_the_filter_restores_nothing(shouting: Work, tmp_path: Path) -> None:
    ran = shouting.gitexp("run", "--json", "--", "python", "read.py").json
    assert ran["status"] == "completed"
    clone = cloned(shouting, tmp_path / "clone")
    error = clone.gitexp(*RESTORE, code=3).json["error"]
    assert error["type"] == "WorkspaceError"
    assert "shout" in error["message"]
    assert "filter.shout.smudge" in error["hint"]
    assert clone.gitexp("checkout", "latest", str(tmp_path / "there"), "--json", code=3).json["error"]
    configure(clone)
    assert clone.gitexp(*RESTORE).json["met"]
    assert clone.gitexp("reproduce", "latest", "--require", "executed", "--json").json["met"]


def test_a_filter_that_fails_here_is_noticed_before_the_job_starts(shouting: Work) -> None:
    shouting.git("config", "filter.shout.smudge", "false")
    error = shouting.gitexp("run", "--json", "--", "python", "read.py", code=3).json["error"]
    assert error["type"] == "WorkspaceError"
    shouting.git("config", "filter.shout.smudge", "tr A-Z a-z")
    assert shouting.gitexp("launch", "latest", "--json").json["status"] == "completed"


def test_what_was_recorded_without_the_filter_is_restored_without_it(shouting: Work, tmp_path: Path) -> None:
    clone = cloned(shouting, tmp_path / "clone")
    clone.gitexp("run", "--", "python", "read.py")
    assert "NOISE" in clone.gitexp("logs", "latest").out
    assert clone.gitexp(*RESTORE).json["met"]
    configure(clone)
    assert clone.gitexp(*RESTORE, code=3).json["error"]["type"] == "WorkspaceError"


def test_what_the_filter_made_of_a_file_is_part_of_what_was_run(shouting: Work) -> None:
    first = shouting.gitexp("run", "--json", "--", "python", "read.py").json
    assert shouting.gitexp("run", "--json", "--", "python", "read.py").json["duplicate_of"] == first["experiment"]
    shouting.git("config", "--unset", "filter.shout.smudge")
    shouting.write("notes.up", "NOISE\n")
    assert shouting.git("status", "--short") == ""
    second = shouting.gitexp("run", "--json", "--", "python", "read.py").json
    assert (second["status"], second["duplicate_of"]) == ("completed", None)
    assert "NOISE" in shouting.gitexp("logs", second["experiment"]).out


def test_attributes_without_a_filter_ask_for_nothing(work: Work) -> None:
    work.write(".gitattributes", "*.bat eol=crlf\n")
    work.write("go.bat", "echo\r\n")
    work.gitexp("run", "--", "python", "train.py")
    assert work.gitexp(*RESTORE).json["met"]


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
def test_large_files_that_are_not_fetched_are_not_restored(work: Work, tmp_path: Path) -> None:
    work.git("lfs", "install", "--local")
    work.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    work.write("weights.bin", bytes(range(256)))
    work.write("read.py", "print(len(open('weights.bin', 'rb').read()))\n")
    work.commit()
    work.gitexp("run", "--", "python", "read.py")
    assert work.gitexp("logs", "latest").out == "256\n"
    clone = cloned(work, tmp_path / "clone")
    error = clone.gitexp(*RESTORE, code=3).json["error"]
    assert "lfs" in error["message"]
    assert "git lfs" in error["hint"]
    clone.git("lfs", "install", "--local")
    clone.git("lfs", "pull")
    assert clone.gitexp(*RESTORE).json["met"]


def test_a_nested_submodule_that_is_missing_is_named(work: Work, tmp_path: Path) -> None:
    work.env["GIT_ALLOW_PROTOCOL"] = "file"
    work.git("config", "protocol.file.allow", "always")
    inner = make_work(tmp_path / "inner", tmp_path / "home", files={"deep.py": "d = 1\n"})
    outer = make_work(tmp_path / "outer", tmp_path / "home", files={"lib.py": "v = 1\n"})
    outer.env["GIT_ALLOW_PROTOCOL"] = "file"
    outer.git("submodule", "--quiet", "add", str(inner.root), "nested")
    outer.commit()
    work.git("submodule", "--quiet", "add", str(outer.root), "deps/lib")
    work.git("submodule", "--quiet", "update", "--init", "--recursive")
    work.commit()
    work.gitexp("run", "--", "python", "train.py")
    for place in ("deps/lib", "deps/lib/nested"):  # the workspaces of submodules leave no note behind
        assert len(work.git("-C", place, "worktree", "list").splitlines()) == 1
    clone = cloned(work, tmp_path / "clone")
    clone.git("config", "protocol.file.allow", "always")
    clone.git("submodule", "--quiet", "update", "--init")
    error = clone.gitexp(*RESTORE, code=3).json["error"]
    assert "deps/lib/nested" in error["message"]
    assert "--recursive" in error["hint"]
    clone.git("submodule", "--quiet", "update", "--init", "--recursive")
    assert clone.gitexp(*RESTORE).json["met"]
