"""A remembered hash is used only for a file that cannot have changed since; losing the memory loses nothing."""

from __future__ import annotations

import os
import threading
import time

import pytest

from nemo_gitexp.data.verified import VerifiedFiles, hash_file

HOUR_NS = 3_600_000_000_000


def aged(path, text: str):
    path.write_text(text)
    then = time.time_ns() - HOUR_NS
    os.utime(path, ns=(then, then))
    return path


@pytest.fixture
def place(tmp_path):
    return tmp_path / "state" / "verified.db"


def test_hash_is_remembered_across_processes(tmp_path, place):
    path = aged(tmp_path / "x", "x")
    with VerifiedFiles(place) as memory:
        assert memory.known(path.stat()) is None
        md5 = memory.md5(path)
    with VerifiedFiles(place) as memory:
        assert memory.known(path.stat()) == md5 == hash_file(path)


def test_hard_link_is_recognised(tmp_path, place):
    path = aged(tmp_path / "x", "x")
    with VerifiedFiles(place) as memory:
        memory.md5(path)
        os.link(path, tmp_path / "y")
        assert memory.known((tmp_path / "y").stat()) == hash_file(path)


def test_changed_file_is_hashed_again(tmp_path, place):
    path = aged(tmp_path / "x", "x")
    with VerifiedFiles(place) as memory:
        memory.md5(path)
        path.write_text("y")
        assert memory.known(path.stat()) is None
        assert memory.md5(path) == hash_file(path)


def test_fresh_file_is_never_remembered(tmp_path, place):
    (tmp_path / "x").write_text("x")
    with VerifiedFiles(place) as memory:
        memory.md5(tmp_path / "x")
        assert memory.known((tmp_path / "x").stat()) is None


def test_many_files_keep_their_order(tmp_path, place):
    paths = [aged(tmp_path / str(number), str(number % 7)) for number in range(50)]
    with VerifiedFiles(place) as memory:
        memory.md5s(paths[::2])
        assert memory.md5s(paths) == [hash_file(path) for path in paths]


def test_damaged_memory_is_thrown_away(tmp_path, place):
    place.parent.mkdir()
    place.write_bytes(b"no database at all" * 100)
    path = aged(tmp_path / "x", "x")
    with VerifiedFiles(place) as memory:
        assert memory.md5(path) == hash_file(path)
    with VerifiedFiles(place) as memory:
        assert memory.known(path.stat()) is not None


@pytest.mark.parametrize("where", ["file/verified.db", "folder"])
def test_memory_that_cannot_be_kept_costs_nothing_else(tmp_path, where):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    path = aged(tmp_path / "x", "x")
    with VerifiedFiles(tmp_path / where) as memory:
        assert memory.md5(path) == hash_file(path)


def test_several_at_once_lose_nothing(tmp_path, place):
    paths = [aged(tmp_path / str(number), str(number)) for number in range(8)]

    def learn(path):
        with VerifiedFiles(place) as memory:
            memory.md5(path)

    threads = [threading.Thread(target=learn, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with VerifiedFiles(place) as memory:
        assert None not in [memory.known(path.stat()) for path in paths]


def test_a_missing_file_is_an_error(tmp_path, place):
    with VerifiedFiles(place) as memory, pytest.raises(FileNotFoundError):
        memory.md5(tmp_path / "absent")
