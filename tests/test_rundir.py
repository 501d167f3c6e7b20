"""How files of a run directory are written, also where the file system has no hard links."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nemo_gitexp.errors import StateDirectoryError
from nemo_gitexp.launchers.nemo import take_run
from nemo_gitexp.rundir import RunPaths, write_once


@pytest.fixture(params=[None, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK], ids=["links", "EPERM", "ENOTSUP", "EMLINK"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system with hard links, and some that refuse them, each in its way."""
    if request.param is not None:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("links")
def test_the_first_word_stays_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    word = tmp_path / "scheduler.json"
    assert write_once(word, b"first")
    assert not write_once(word, b"second")
    assert (word.read_bytes(), list(tmp_path.iterdir())) == (b"first", [word])


@pytest.mark.usefixtures("links")
def test_one_process_takes_a_run(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    paths.plan.write_text("{}")
    assert take_run(paths)
    assert not take_run(paths)


def test_a_run_that_cannot_be_written_to_says_so_and_one_that_is_gone_was_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not take_run(RunPaths(tmp_path / "gone"))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StateDirectoryError, match="No space left"):
        take_run(RunPaths(tmp_path))
